"""What all commands share: how help looks, what an exit status means."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TypeAlias

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

EXIT_CODES = """exit status:
  0    done, or told to stop and drained
  1    validate: the model is not calibrated
  2    a wrong argument on the command line
  65   the model is missing, broken, or does not match its conditioning
  66   strain, draws or an answer cannot be had: directory, file, channel, id or time
  69   the broker cannot be reached, or refuses us
  70   the daemon failed in operation: worth a restart
  78   a setting is wrong
  130  interrupted
"""


class HelpFormat(argparse.RawDescriptionHelpFormatter):
    """Keeps examples as written, and a command with its help on one line."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28)


def add_engine(command: argparse.ArgumentParser) -> None:
    """The option that chooses what runs the network."""
    command.add_argument("--engine", default="auto", help="as inference.engine of the settings (default: %(default)s)")


def add_command(
    commands: Commands, name: str, call: Callable[[argparse.Namespace], int], text: str, examples: str
) -> argparse.ArgumentParser:
    """A subcommand whose help ends with examples."""
    command = commands.add_parser(
        name,
        help=text.split(". ")[0].removesuffix("."),
        description=text,
        epilog="examples:\n" + examples + "\n" + EXIT_CODES,
        formatter_class=HelpFormat,
    )
    command.set_defaults(call=call)
    command.add_argument("--debug", action="store_true", help="show tracebacks and log everything")
    return command
