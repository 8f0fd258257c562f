"""A program in a terminal: a pseudo-terminal on its side, a screen to read on ours."""

from __future__ import annotations

import asyncio
import fcntl
import os
import pty
import struct
import sys
import termios
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pyte


class Terminal:
    """``screen``: what a person sees. ``size``: columns, rows."""

    def __init__(self, size: tuple[int, int]) -> None:
        self.screen = pyte.Screen(*size)
        self._stream = pyte.ByteStream(self.screen)
        self.main, self.side = pty.openpty()
        self.said = b""
        self.process: Process | None = None
        self._set(size)

    def _set(self, size: tuple[int, int]) -> None:
        fcntl.ioctl(self.side, termios.TIOCSWINSZ, struct.pack("HHHH", size[1], size[0], 0, 0))

    def read(self) -> None:
        try:
            new = os.read(self.main, 65536)
        except OSError:
            return
        self.said += new
        self._stream.feed(new)

    @property
    def lines(self) -> list[str]:
        return [line.rstrip() for line in self.screen.display]

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def press(self, keys: str) -> None:
        os.write(self.main, keys.encode())

    def resize(self, columns: int, rows: int) -> None:
        self.screen.resize(rows, columns)
        self._set((columns, rows))

    async def until(self, true: Callable[[str], object], limit: float = 60.0) -> None:
        """Wait until the screen is so; fails with what is on it."""
        end = asyncio.get_running_loop().time() + limit
        while not true(self.text):
            assert asyncio.get_running_loop().time() < end, f"the screen says:\n{self.text}"
            await asyncio.sleep(0.05)

    async def shows(self, *words: str) -> None:
        await self.until(lambda text: all(word in text for word in words))


@asynccontextmanager
async def terminal(
    *arguments: str, size: tuple[int, int] = (100, 30), program: tuple[str, ...] = (sys.executable, "-m", "gwstream")
) -> AsyncIterator[Terminal]:
    """``program``, with these arguments, in a terminal of its own."""
    made = Terminal(size)
    loop = asyncio.get_running_loop()
    made.process = await asyncio.create_subprocess_exec(
        *(*program, *arguments),
        stdin=made.side,
        stdout=made.side,
        stderr=made.side,
        env={name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
        | {"TERM": "xterm-256color"},
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # so that Ctrl-C and a new size are signals
    )
    loop.add_reader(made.main, made.read)
    try:
        yield made
    finally:
        if made.process.returncode is None:
            made.process.kill()
        await made.process.wait()
        loop.remove_reader(made.main)
        os.close(made.main)
        os.close(made.side)
