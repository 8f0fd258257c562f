"""``watch``, and the options of all that subscribe."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from gwstream.cli.base import Commands, add_command
from gwstream.cli.values import number
from gwstream.errors import ConfigError

if TYPE_CHECKING:
    from gwstream.client import Broker, Filters


def watch(commands: Commands) -> None:
    """Add ``watch``."""
    command = add_command(
        commands,
        "watch",
        _call_watch,
        "See posteriors and events as they come, in a terminal. Detectors with the state of their spectrum, latency and"
        "\ncalibration, and what they tell; arrow keys select, Enter shows all of it, q quits. Where stdout is no"
        "\nterminal: each message on a line of JSON, as it was published, warnings on stderr.",
        "  gwstream watch --broker broker.example.org\n"
        "  gwstream watch --broker broker.example.org:8883 --tls --username ann --password-file ~/.gwstream-password\n"
        "  gwstream watch --events --good | jq -r '[.posterior.detector, .posterior.coalescence.gps] | @tsv'\n"
        "  gwstream watch --json --identifier archive-1 >> messages.jsonl\n",
    )
    command.add_argument("--events", action="store_true", help="events only (live: the key e brings posteriors)")
    command.add_argument("--detectors", nargs="+", default=[], metavar="D", help="only these; network events: with all")
    command.add_argument("--good", action="store_true", help="only what is not suspect")
    command.add_argument("--snr", type=number, help="only from this SNR on")
    command.add_argument("--log-bayes", type=number, metavar="X", help="only from this ln Bayes factor on")
    command.add_argument("--json", action="store_true", help="lines of JSON in a terminal too")
    broker_options(command)


def _call_watch(args: argparse.Namespace) -> int:
    broker = broker_of(args)
    filters: Filters = {"detectors": args.detectors, "good": args.good}
    if args.snr is not None:
        filters["snr"] = args.snr
    if args.log_bayes is not None:
        filters["log_bayes"] = args.log_bayes
    from gwstream.terminal import watch

    return watch(broker, filters, events_only=args.events, json_lines=args.json)


def broker_options(command: argparse.ArgumentParser, *, stays: bool = True) -> None:
    """What says where to subscribe, and as whom; ``stays``: for longer than an answer takes."""
    broker = command.add_argument_group("broker")
    broker.add_argument("--broker", default="127.0.0.1", metavar="HOST[:PORT]", help="(default: 127.0.0.1:1883)")
    broker.add_argument("--prefix", default="gwstream", help="of the topics (default: %(default)s)")
    broker.add_argument("--username", metavar="NAME")
    broker.add_argument("--password-file", type=Path, metavar="FILE", help="a file with the password alone")
    broker.add_argument("--tls", action="store_true", help="encrypt; the port is 8883 unless given")
    broker.add_argument("--ca-file", type=Path, metavar="FILE", help="who signs for the broker (default: the system's)")
    broker.add_argument("--certificate-file", type=Path, metavar="FILE", help="our own, for brokers that ask for one")
    broker.add_argument("--key-file", type=Path, metavar="FILE", help="of that certificate")
    if not stays:
        command.set_defaults(identifier="")
        return
    broker.add_argument(
        "--identifier",
        default="",
        metavar="NAME",
        help="of this program alone: the broker keeps messages for it, an hour, while it is away",
    )


def broker_of(args: argparse.Namespace) -> Broker:
    """The broker these options name. Raises `ConfigError` that names the wrong one."""
    from gwstream.client import Broker
    from gwstream.client.connection import host_and_port
    from gwstream.secrets import secret, tls

    if not args.tls and (args.ca_file or args.certificate_file):
        raise ConfigError("--ca-file and --certificate-file mean nothing without --tls")
    if (args.certificate_file is None) != (args.key_file is None):
        raise ConfigError("--certificate-file and --key-file go together: one of them is missing")
    if args.password_file is not None and args.username is None:
        raise ConfigError("--password-file: whose password is it? Add --username NAME")
    host, port = host_and_port(args.broker)
    context = tls(_option, args.ca_file, args.certificate_file, args.key_file) if args.tls else None
    return Broker(
        host=host,
        port=port or (8883 if args.tls else 1883),
        prefix=args.prefix,
        username=args.username,
        password=secret(_option("password_file"), args.password_file),
        tls=context,
        identifier=args.identifier,
    )


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
