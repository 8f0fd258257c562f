"""``completion``: what a shell needs to complete commands, options and file names."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from gwstream.cli.base import Commands, add_command

SHELLS = ("bash", "zsh", "fish")


def completion(commands: Commands, whole: argparse.ArgumentParser) -> None:
    """Add ``completion``; ``whole``: the parser of all commands."""
    command = add_command(
        commands,
        "completion",
        lambda args: _print(whole, args.shell),
        "Print what lets a shell complete commands, options and files. Its output goes where the shell looks for it.",
        "  mkdir -p ~/.local/share/bash-completion/completions ~/.zfunc ~/.config/fish/completions\n"
        "  gwstream completion bash > ~/.local/share/bash-completion/completions/gwstream\n"
        "  gwstream completion zsh > ~/.zfunc/_gwstream      and in ~/.zshrc, before compinit: fpath+=(~/.zfunc)\n"
        "  gwstream completion fish > ~/.config/fish/completions/gwstream.fish\n",
    )
    command.add_argument("shell", choices=SHELLS)


def _print(parser: argparse.ArgumentParser, shell: str) -> int:
    import shtab

    for action in _actions(parser):
        if action.type is Path or action.metavar in ("FILE", "ID|FILE"):
            action.complete = shtab.DIRECTORY if action.metavar == "DIR" else shtab.FILE  # type: ignore[attr-defined]
    print(shtab.complete(parser, shell))
    return 0


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Of the parser and its commands."""
    for action in parser._actions:  # argparse shows them nowhere else
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for told in action._choices_actions:
                action.choices[told.dest].description = told.help  # a line, not all of it
            for command in action.choices.values():
                yield from _actions(command)
