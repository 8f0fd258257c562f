"""Single keys from a terminal, by name, on the event loop."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import termios
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

PATIENCE = 0.05  # s for the rest of a key's sequence, on a slow line; then it was the Escape key
NAMES = {
    "\x1b[A": "up",
    "\x1bOA": "up",
    "\x1b[B": "down",
    "\x1bOB": "down",
    "\x1b[5~": "page up",
    "\x1b[6~": "page down",
    "\x1b[H": "home",
    "\x1bOH": "home",
    "\x1b[1~": "home",
    "\x1b[F": "end",
    "\x1bOF": "end",
    "\x1b[4~": "end",
    "\r": "enter",
    "\n": "enter",
    " ": "enter",
    "\x1b": "escape",
    "\x04": "q",
}
_KEY = re.compile(r"\x1b(?:\[[0-9;]*[A-Za-z~]|O[A-Za-z])|\x1b(?![\[O])|[^\x1b]", re.DOTALL)


def split(text: str) -> tuple[list[str], str]:
    """Names of the keys in ``text``, and what may yet become one more. A key without a name is its own."""
    found, end = [], 0
    for match in _KEY.finditer(text):
        if match.start() != end:
            break
        if match[0] == "\x1b" and match.end() == len(text):
            break
        found.append(NAMES.get(match[0], match[0]))
        end = match.end()
    return found, text[end:]


@contextmanager
def keys(source: TextIO, press: Callable[[str], None]) -> Iterator[None]:
    """While the block lasts, call ``press`` for each key; never where ``source`` is no terminal."""
    if not source.isatty():
        yield
        return
    loop, number = asyncio.get_running_loop(), source.fileno()
    reader = _Reader(loop, number, press)
    before = termios.tcgetattr(number)
    suspended = signal.signal(signal.SIGTSTP, signal.SIG_IGN)  # Ctrl-Z would leave the terminal without echo
    try:
        tty.setcbreak(number)
        loop.add_reader(number, reader.read)
        yield
    finally:
        loop.remove_reader(number)
        termios.tcsetattr(number, termios.TCSADRAIN, before)
        signal.signal(signal.SIGTSTP, suspended)


class _Reader:
    """Keeps the beginning of a sequence until its rest has come."""

    def __init__(self, loop: asyncio.AbstractEventLoop, number: int, press: Callable[[str], None]) -> None:
        self._loop, self._number, self._press = loop, number, press
        self._rest = ""
        self._timer: asyncio.TimerHandle | None = None

    def read(self) -> None:
        try:
            new = os.read(self._number, 256).decode("utf-8", errors="replace")
        except OSError:
            new = ""
        if not new:  # the terminal is gone
            self._loop.remove_reader(self._number)
            self._press("q")
            return
        if self._timer is not None:
            self._timer.cancel()
        found, self._rest = split(self._rest + new)
        for key in found:
            self._press(key)
        if self._rest:
            self._timer = self._loop.call_later(PATIENCE, self._give_up)

    def _give_up(self) -> None:
        self._rest = ""
        self._press("escape")
