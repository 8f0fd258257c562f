"""The commands, each its arguments and its call. What a command needs is imported when it runs: ``--help`` is quick."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gwstream.cli import asking, compiling, drawing, measuring, publishing, watching
from gwstream.cli.base import Commands, add_command, add_engine
from gwstream.cli.values import positive, seconds, whole_from
from gwstream.errors import ConfigError

if TYPE_CHECKING:
    from gwstream.config import Config


def add_all(commands: Commands) -> None:
    """Every command, in the order of the help."""
    look = (watching.watch, asking.ask, drawing.get, drawing.plot)
    make = (measuring.new_model, _train, measuring.validate, measuring.compare, compiling.compile_model)
    for add in (_run, _demo, *look, _replay, _simulate, publishing.publish, *make, _check_config, _schema):
        add(commands)


def _run(commands: Commands) -> None:
    command = add_command(
        commands,
        "run",
        _call_run,
        "Run the daemon. SIGTERM or Ctrl-C lets it finish what it has read; a second one ends it at once."
        "\nSIGHUP lets it read CONFIG again: model, engine and thresholds change between two windows. Where something"
        "\nis wrong, or cannot change without a restart, all goes on as it was, and the log says why.",
        "  gwstream run /etc/gwstream/gwstream.toml\n",
    )
    command.add_argument("config", type=Path, metavar="CONFIG", help="settings, such as deploy/gwstream.toml")


def _call_run(args: argparse.Namespace) -> int:
    from gwstream.config import load

    def read() -> Config:
        return _spoken(load(args.config), args)

    config = read()
    from gwstream import daemon  # takes seconds: a wrong setting is said first

    return daemon.run(config, read=read)


def _spoken(config: Config, args: argparse.Namespace) -> Config:
    """``--debug`` and ``log_level = "debug"`` mean the same."""
    args.debug = args.debug or config.service.log_level == "debug"
    if not args.debug:
        return config
    return config.model_copy(update={"service": config.service.model_copy(update={"log_level": "debug"})})


def _demo(commands: Commands) -> None:
    command = add_command(
        commands,
        "demo",
        _call_demo,
        "See it work on GW150914. Plays the recording as live frames to a daemon with a broker of its own, prints each"
        "\nposterior as it arrives, and leaves pictures and messages. Needs: pip install 'gwstream[demo]'.",
        "  gwstream demo\n  gwstream demo --loop          until Ctrl-C\n"
        "  gwstream demo --frames /dev/shm/kafka     frames of now, in H1 and L1 there, for a running daemon\n",
    )
    command.add_argument("--loop", action="store_true", help="play the recording again and again, GPS going on")
    command.add_argument("--speed", type=positive, default=1.0, help="times real time (default: %(default)g)")
    to = command.add_mutually_exclusive_group()
    to.add_argument(
        "--output",
        type=Path,
        default=Path("demo-output"),
        help="folder for pictures, messages and log (default: %(default)s)",
    )
    to.add_argument(
        "--frames",
        type=Path,
        metavar="DIR",
        help="only write the frames, in DIR/H1 and DIR/L1; the daemon that reads them tells of an event of now, marked"
        " in no way, so let its broker be your own",
    )


def _call_demo(args: argparse.Namespace) -> int:
    from gwstream import demo

    if args.frames is not None:
        return demo.feed(args.frames, speed=args.speed, loop=args.loop)
    return demo.run(args.output, speed=args.speed, loop=args.loop)


def _replay(commands: Commands) -> None:
    command = add_command(
        commands,
        "replay",
        _call_replay,
        "Put recorded strain through the daemon. Reads any file gwpy reads, in time order.",
        "  gwstream replay H-H1_GWOSC_4KHZ_R1-1126259447-32.hdf5 L-L1_GWOSC_4KHZ_R1-1126259447-32.hdf5\n"
        "  gwstream replay day/*.gwf --detector H1 --channel H1:GDS-CALIB_STRAIN_CLEAN --broker localhost:1883\n",
    )
    command.add_argument("files", type=Path, nargs="+", metavar="FILE", help="strain, in time order")
    command.add_argument("--detector", help="of all files (default: from each file's name, H-H1_...: H1)")
    command.add_argument("--channel", default="", help="strain channel of GWF files (default: the usual one)")
    _stream_options(command)


def _call_replay(args: argparse.Namespace) -> int:
    from gwstream import daemon, settings

    config = settings.replay_config(args.files, detector=args.detector, channel=args.channel, **_stream(args))
    return daemon.run(_spoken(config, args), print_messages=args.broker is None)


def _simulate(commands: Commands) -> None:
    command = add_command(
        commands,
        "simulate",
        _call_simulate,
        "Put made-up strain through the daemon. Gaussian noise and signals; all messages are marked simulated.",
        "  gwstream simulate --duration 600 --interval 30 | grep gwstream.event\n"
        "  gwstream simulate --detectors H1 L1 --duration 0 --speed 1 --broker localhost:1883\n",
    )
    command.add_argument("--detectors", nargs="+", default=["H1"], metavar="D", help="(default: H1)")
    command.add_argument("--duration", type=seconds, default=600.0, help="of strain; 0: for ever (default: 10m)")
    command.add_argument(
        "--interval",
        type=seconds,
        default=0.0,
        help="between injections, of each detector its own; 0: none (default: 0)",
    )
    command.add_argument(
        "--injections", type=Path, metavar="FILE", help="JSON lines of injections (docs/quickstart.md)"
    )
    command.add_argument("--seed", type=whole_from(0), default=1, help="of noise and injections (default: %(default)s)")
    command.add_argument("--rate", type=int, default=4096, help="sample rate in Hz (default: %(default)s)")
    command.add_argument("--asd", default="aLIGO_O4_high", help="shipped noise spectrum (default: %(default)s)")
    _stream_options(command)


def _call_simulate(args: argparse.Namespace) -> int:
    from gwstream import daemon, settings

    source = {
        "seed": args.seed,
        "rate": args.rate,
        "duration": args.duration,
        "injection_interval": args.interval,
        "injection_file": args.injections and args.injections.resolve(),
    }
    config = settings.simulated_config(args.detectors, args.asd, source, **_stream(args))
    return daemon.run(_spoken(config, args), print_messages=args.broker is None)


def _stream_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--model", type=Path, help="model folder (default: the shipped models/bbh-1det)")
    add_engine(command)
    command.add_argument("--gate-snr", type=float, default=6.5, metavar="SNR", help="(default: %(default)s)")
    command.add_argument(
        "--speed", type=float, default=0.0, help="times real time; 0: as fast as possible (default: %(default)g)"
    )
    to = command.add_mutually_exclusive_group()
    to.add_argument("--broker", metavar="HOST[:PORT]", help="publish to this MQTT broker")
    to.add_argument("--json", action="store_true", help="print messages as JSON lines (default without --broker)")


def _stream(args: argparse.Namespace) -> dict[str, Any]:
    return {name: getattr(args, name) for name in ("model", "engine", "gate_snr", "speed", "broker")}


def _train(commands: Commands) -> None:
    command = add_command(
        commands,
        "train",
        _call_train,
        "Train a model by its model.toml. Checkpoints as it goes; the weights are written beside the recipe.",
        "  gwstream train models/bbh-1det/model.toml\n"
        "  gwstream train models/bbh-1det/model.toml --budget 30m --resume\n"
        "  gwstream train models/bbh-1det/model.toml --data runs/data --stored 3000000\n",
    )
    command.add_argument("recipe", type=Path, metavar="MODEL.toml", help="conditioning, prior, network and training")
    command.add_argument("--output", type=Path, metavar="DIR", help="for checkpoint and log (default: runs/NAME)")
    command.add_argument("--budget", type=seconds, help="stop after so long, as 90s, 30m or 1h30m (default: none)")
    command.add_argument("--samples", type=whole_from(1000), metavar="N", help="instead of the recipe's")
    command.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    command.add_argument("--seed", type=whole_from(0), help="instead of the recipe's")
    command.add_argument("--data", type=Path, metavar="DIR", help="learn from stored examples, made if missing")
    command.add_argument("--stored", type=whole_from(1), metavar="N", help="of them (default: training.samples)")
    command.add_argument("--prepare", action="store_true", help="make the examples of --data, and stop")


def _call_train(args: argparse.Namespace) -> int:
    from gwstream.training.train import Data, prepare, train

    if args.data is None and (args.prepare or args.stored is not None):
        raise ConfigError("--prepare and --stored tell of stored examples: add --data DIR")
    data = None if args.data is None else Data(args.data, args.stored)
    if data is not None and args.prepare:
        print(f"{args.data}: {prepare(args.recipe, data)} examples")
        return 0
    names = ("output", "budget", "samples", "resume", "seed")
    weights = train(args.recipe, **{name: getattr(args, name) for name in names}, data=data)
    print(f"{weights}: written; now see whether it is calibrated: gwstream validate {weights.parent}")
    return 0


def _check_config(commands: Commands) -> None:
    command = add_command(
        commands,
        "check-config",
        _call_check_config,
        "Say whether settings, model and directories are right. Starts nothing.",
        "  gwstream check-config deploy/gwstream.toml\n",
    )
    command.add_argument("config", type=Path, metavar="CONFIG")


def _call_check_config(args: argparse.Namespace) -> int:
    from gwstream import settings
    from gwstream.config import load

    settings.check(args.config, _spoken(load(args.config), args))
    return 0


def _schema(commands: Commands) -> None:
    text = "Print the JSON Schema of every message."
    add_command(commands, "schema", _call_schema, text, "  gwstream schema > gwstream.schema.json\n")


def _call_schema(args: argparse.Namespace) -> int:
    import json

    from gwstream.summary import schema

    print(json.dumps(schema(), indent=2))
    return 0
