"""The command line: parses, calls, and turns whatever goes wrong into a message and an exit status."""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Iterator, Sequence

from gwstream import __version__
from gwstream.cli import commands
from gwstream.cli.base import EXIT_CODES, HelpFormat
from gwstream.cli.completion import completion
from gwstream.errors import GwstreamError

_OVERVIEW = """Turns detector strain into posteriors of compact binaries, streamed over MQTT.

examples:
  gwstream demo                                 GW150914 through the whole daemon, about a minute
  gwstream check-config gwstream.toml           are settings, model and directories right?
  gwstream run gwstream.toml                    the daemon
  gwstream watch --broker HOST                  what it tells, live in this terminal
  gwstream replay H-H1_GWOSC_4KHZ_*.hdf5        posteriors of a file, as JSON lines
  gwstream COMMAND --help                       options and examples of one command
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status. Errors become one message on stderr."""
    args = parser().parse_args(argv)
    try:
        code: int = args.call(args)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of our JSON lines has gone, as with `| head`
        sys.stderr.close()
        return 0
    except Exception as problem:  # noqa: BLE001  (the one place for it: message and status)
        return _report(problem, args)
    return code


def _report(problem: Exception, args: argparse.Namespace) -> int:
    """Say what went wrong: our own errors in their own words, a bug with its traceback."""
    known = next((leaf for leaf in _leaves(problem) if isinstance(leaf, GwstreamError)), None)
    if known is None or args.debug:
        traceback.print_exception(problem)
    if known is None:
        print(f"gwstream {args.command}: a bug in gwstream {__version__}, please report it", file=sys.stderr)
        return GwstreamError.exit_code
    print(f"gwstream {args.command}: {known}", file=sys.stderr)
    return known.exit_code


def _leaves(problem: BaseException) -> Iterator[BaseException]:
    """The exceptions inside nested groups, as a TaskGroup raises them."""
    if isinstance(problem, BaseExceptionGroup):
        for inner in problem.exceptions:
            yield from _leaves(inner)
    else:
        yield problem


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = argparse.ArgumentParser("gwstream", description=_OVERVIEW, epilog=EXIT_CODES, formatter_class=HelpFormat)
    top.add_argument("--version", action="version", version=f"gwstream {__version__}")
    found = top.add_subparsers(dest="command", metavar="COMMAND", required=True, title="commands")
    commands.add_all(found)
    completion(found, top)
    return top
