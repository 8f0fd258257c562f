"""The command that compiles a model ahead of the daemon's start."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from gwstream.cli.base import Commands, add_command
from gwstream.cli.values import whole_from

if TYPE_CHECKING:
    from gwstream.config import InferenceConfig


def compile_model(commands: Commands) -> None:
    """Add ``compile``."""
    command = add_command(
        commands,
        "compile",
        _call,
        "Compile a model with TensorRT for this machine's NVIDIA GPU. The daemon does it at its first start, which\n"
        "then takes minutes; done before, it starts in seconds. Compiled networks are kept in the state directory's\n"
        "'engines' (mode 0700), and used by whoever owns it, for this GPU, these versions, this precision and number\n"
        "of latents, and these weights: after a change of any of them, compile again. What is compiled is compared\n"
        "with PyTorch, and refused where it is too far off or cannot be kept.\n"
        "Needs: pip install 'gwstream[tensorrt]'; docs/engines.md.",
        "  gwstream compile models/bbh-1det\n"
        "  gwstream compile models/bbh-1det --precision bf16 --latents 2000\n"
        "  gwstream compile --config gwstream.toml       model, precision, latents and place as the daemon has them\n"
        "  sudo -u gwstream STATE_DIRECTORY=/var/lib/gwstream gwstream compile --config /etc/gwstream/gwstream.toml\n",
    )
    command.add_argument("model", type=Path, nargs="?", metavar="MODEL", help="model folder (default: CONFIG's)")
    command.add_argument("--config", type=Path, help="the daemon's settings")
    command.add_argument("--precision", choices=("fp32", "fp16", "bf16"), help="(default: CONFIG's, or fp32)")
    command.add_argument("--latents", type=whole_from(10), metavar="N", help="(default: CONFIG's, or 1000)")
    command.add_argument("--cache", type=Path, metavar="DIR", help="for what is compiled (default: CONFIG's, as above)")


def _call(args: argparse.Namespace) -> int:
    from gwstream.errors import ConfigError
    from gwstream.inference.engine_tensorrt import TensorRtEngine

    if missing := TensorRtEngine.missing():
        raise ConfigError(f"TensorRT cannot run here: {missing}")
    config = _settings(args)
    from gwstream import logs
    from gwstream.config import ServiceConfig
    from gwstream.inference import load_model
    from gwstream.inference.compiling import compile_for_start

    logs.configure(ServiceConfig(log_level="debug" if args.debug else "info"))
    for line in compile_for_start(load_model(config.model), config):
        print(line)
    return 0


def _settings(args: argparse.Namespace) -> InferenceConfig:
    """Those of CONFIG, with what the command line says in their place."""
    from gwstream.config import InferenceConfig, load
    from gwstream.settings import inference_config

    config = InferenceConfig() if args.config is None else inference_config(load(args.config))
    given = {"model": args.model, "precision": args.precision, "latents": args.latents, "cache": args.cache}
    return config.model_copy(update={name: value for name, value in given.items() if value is not None})
