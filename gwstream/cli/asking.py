"""``ask``: the posterior at a time of the last minute."""

from __future__ import annotations

import argparse
import sys

from gwstream.cli.base import Commands, add_command
from gwstream.cli.values import gps, positive
from gwstream.cli.watching import broker_of, broker_options


def ask(commands: Commands) -> None:
    """Add ``ask``."""
    command = add_command(
        commands,
        "ask",
        _call,
        "Ask a daemon for the posterior at a time, even where its gate stayed shut. It has the windows of its last"
        "\nminute (publish.triggers.buffer), and takes triggers only where publish.triggers.enabled says so. Prints the"
        "\nanswers, a line of JSON a detector.",
        "  gwstream ask 1126259462.42 --detector H1 --broker broker.example.org\n"
        "  gwstream ask 1126259462.42 --detector H1 --detector L1 --distance-prior volume | jq .posterior.snr\n",
    )
    command.add_argument("gps", type=gps, metavar="GPS", help="s of coalescence at the detectors")
    command.add_argument("--detector", action="append", required=True, metavar="D", help="may be given several times")
    command.add_argument(
        "--distance-prior", choices=("uniform", "volume"), help="density of the distance (default: the daemon's)"
    )
    command.add_argument(
        "--timeout", type=positive, default=30.0, metavar="S", help="to wait for the answers (default: %(default)g)"
    )
    broker_options(command, stays=False)


def _call(args: argparse.Namespace) -> int:
    import asyncio
    import json

    from gwstream import client
    from gwstream.client.messages import NANO
    from gwstream.errors import AskError

    def show(answers: dict[str, client.Answer]) -> None:
        for one in answers.values():
            sys.stdout.write(json.dumps(one.body, separators=(",", ":")) + "\n")
        sys.stdout.flush()

    question = client.ask(
        args.gps / NANO,
        dict.fromkeys(args.detector),
        broker_of(args),
        distance_prior=args.distance_prior,
        timeout=args.timeout,
    )
    try:
        show(asyncio.run(question))
    except AskError as problem:
        show(problem.answers)
        raise
    return 0
