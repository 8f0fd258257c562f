"""The commands that measure models."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from gwstream.cli.base import Commands, add_command, add_engine
from gwstream.cli.values import positive, seconds, whole_from

if TYPE_CHECKING:
    from gwstream.training.validate import Plan


def new_model(commands: Commands) -> None:
    """Add ``new-model``."""
    command = add_command(
        commands,
        "new-model",
        _call_new_model,
        "Write a recipe to train by: model.toml in a new folder, with every setting explained. Change what you like.",
        "  gwstream new-model models/heavy --mass 40 150\n  gwstream new-model models/fine --rate 512 --mass 30 80\n",
    )
    command.add_argument("folder", type=Path, metavar="DIR", help="its last part becomes the model's name")
    command.add_argument("--rate", type=int, choices=(256, 512, 1024), default=256, help="Hz (default: %(default)s)")
    command.add_argument("--window", type=seconds, default=1.0, help="its length (default: 1s)")
    command.add_argument(
        "--mass", type=positive, nargs=2, default=(20.0, 100.0), metavar=("LOW", "HIGH"), help="Msun (default: 20 100)"
    )


def _call_new_model(args: argparse.Namespace) -> int:
    from gwstream.training.recipe import Wish, write

    low, high = args.mass
    path = write(args.folder, Wish(rate=args.rate, seconds=args.window, mass=(low, high)))
    print(f"{path}: written; look it over, then: gwstream train {path} --budget 20m")
    return 0


def validate(commands: Commands) -> None:
    """Add ``validate``."""
    command = add_command(
        commands,
        "validate",
        _call_validate,
        "Measure a model on injections from its prior. Writes its report and pictures.",
        "  gwstream validate models/bbh-1det\n"
        "  gwstream validate models/bbh-1det --injections 300 --fixed 0 --exact 0       a quick look\n",
    )
    command.add_argument("model", type=Path, metavar="MODEL", help="model folder")
    _plan_options(command, injections=2000)
    command.add_argument("--output", type=Path, metavar="DIR", help="for report and pictures (default: the model's)")


def _plan_options(command: argparse.ArgumentParser, *, injections: int) -> None:
    command.add_argument(
        "--injections", type=whole_from(1), default=injections, metavar="N", help="(default: %(default)s)"
    )
    command.add_argument("--seed", type=whole_from(0), default=1, help="(default: %(default)s)")
    command.add_argument(
        "--fixed",
        type=whole_from(0),
        default=1000,
        metavar="N",
        help="injections into one fixed spectrum, those of SNR 6 to 30 measured (default: %(default)s)",
    )
    command.add_argument(
        "--exact",
        type=whole_from(0),
        default=12,
        metavar="N",
        help="signals to compare with their exact posterior (default: %(default)s)",
    )
    command.add_argument("--cache", type=Path, metavar="DIR", help="for exact posteriors (default: runs/exact)")
    command.add_argument("--jobs", type=whole_from(1), default=1, metavar="N", help="processes (default: %(default)s)")
    add_engine(command)


def _plan(args: argparse.Namespace) -> Plan:
    from gwstream.training.validate import Plan

    names = ("injections", "seed", "fixed", "exact", "jobs", "engine")
    cache = {} if args.cache is None else {"cache": args.cache}
    return Plan(**{name: getattr(args, name) for name in names}, **cache)


def _call_validate(args: argparse.Namespace) -> int:
    from gwstream.training.validate import validate

    folder = args.output or args.model
    passed = validate(args.model, _plan(args), folder)
    print(f"{'calibrated' if passed else 'NOT calibrated'}; see {folder / 'report.md'}")
    return 0 if passed else 1


def compare(commands: Commands) -> None:
    """Add ``compare``."""
    command = add_command(
        commands,
        "compare",
        _call_compare,
        "One table over networks. The same injections and exact posteriors for all; writes table and loss curves.",
        "  gwstream compare models/*/\n  gwstream compare models/bbh-1det models/nsf-1 --output /tmp/compared\n",
    )
    command.add_argument("models", type=Path, nargs="+", metavar="MODEL", help="model folders")
    _plan_options(command, injections=1000)
    command.add_argument("--output", type=Path, default=Path("models"), metavar="DIR", help="(default: %(default)s)")


def _call_compare(args: argparse.Namespace) -> int:
    from gwstream.training.compare import compare

    print(f"see {compare(args.models, _plan(args), args.output)}")
    return 0
