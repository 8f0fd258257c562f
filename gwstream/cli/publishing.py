"""The command that sends stored messages again."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

from gwstream.cli.base import Commands, add_command
from gwstream.cli.values import gps, positive

FOREVER = 2**63 - 1  # ns


def publish(commands: Commands) -> None:
    """Add ``publish``."""
    command = add_command(
        commands,
        "publish",
        _call,
        "Send stored messages again, byte for byte. Those whose coalescence lies in [FROM, TO), to the same topics.\n"
        "They have the ids and bytes they had, and the MQTT user property 'repeat'. A daemon may run beside it.",
        "  gwstream publish /etc/gwstream/gwstream.toml --from 1126259460 --to 1126259470\n"
        "  gwstream publish gwstream.toml --from 1126259460 --json > messages.jsonl\n"
        "  gwstream publish /etc/gwstream/gwstream.toml --from 1126259460 --state /var/lib/gwstream   under systemd\n",
    )
    command.add_argument("config", type=Path, metavar="CONFIG", help="the daemon's settings")
    command.add_argument("--from", dest="begin", type=gps, required=True, metavar="GPS", help="s, included")
    command.add_argument("--to", dest="end", type=gps, default=FOREVER, metavar="GPS", help="s, not included")
    command.add_argument("--detectors", nargs="+", default=[], metavar="D", help="only of these, 'network' is one")
    command.add_argument(
        "--rate", type=positive, default=100.0, help="messages a second at most (default: %(default)g)"
    )
    command.add_argument(
        "--state", type=Path, metavar="DIR", help="where the daemon keeps its state (default: CONFIG's)"
    )
    instead = command.add_mutually_exclusive_group()
    instead.add_argument("--json", action="store_true", help="print messages as JSON lines, and send none")
    instead.add_argument(
        "--samples", type=Path, metavar="DIR", help="write posteriors' draws to DIR/<id>.safetensors, and send none"
    )


def _call(args: argparse.Namespace) -> int:
    import asyncio

    from gwstream.config import load
    from gwstream.errors import ConfigError
    from gwstream.publish.archive import Archive, send
    from gwstream.settings import state_directory

    config = load(args.config)
    if args.state is not None:
        config = config.model_copy(update={"service": config.service.model_copy(update={"state": str(args.state)})})
    directory = state_directory(config)
    if directory is None:
        raise ConfigError(f"{args.config}: service.state: a daemon of these settings stores nothing; name a directory")
    if args.begin >= args.end:
        raise ConfigError("--from and --to: nothing lies between them; --from is the earlier one")
    archive = Archive(directory, args.begin, args.end, frozenset(args.detectors))
    if args.json:
        for one in archive:
            sys.stdout.buffer.write(one.payload + b"\n")
        sys.stdout.buffer.flush()
        return 0
    if args.samples is not None:
        print(f"draws of {_write(archive.samples(), args.samples)} posteriors in {args.samples}")
        return 0
    sent = asyncio.run(send(config.publish, archive, rate=args.rate))
    print(f"{sent} messages sent again to {config.publish.host}:{config.publish.port}")
    if archive.waiting:
        print(f"{archive.waiting} wait in the outbox: the daemon sends them itself")
    return 0


def _write(samples: Iterable[tuple[str, bytes]], folder: Path) -> int:
    """A file each; returns how many. Raises `ConfigError` where they cannot be written."""
    from gwstream.errors import ConfigError

    count = 0
    for name, body in samples:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{name}.safetensors").write_bytes(body)
        except OSError as problem:
            raise ConfigError(f"--samples {folder}: cannot be written: {problem.strerror}") from problem
        count += 1
    return count
