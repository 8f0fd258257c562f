"""The daemon as a user starts it, ``gwstream run CONFIG``, in a process of its own on loopback."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from gwstream.errors import GwstreamError

START_LIMIT = 90.0
STOP_LIMIT = 30.0


def free_port() -> int:
    """A TCP port on loopback that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What differs between one trial daemon and the next; ``state``: directory that outlives it; none: it leaves
    nothing behind but what it compiled. ``more`` is added to the TOML as it stands."""

    directories: Mapping[str, Path]
    model: Path
    broker_port: int
    http_port: int
    source: str = ""
    more: str = ""
    state: str = ""

    def toml(self) -> str:
        """A ``gwstream.toml`` for frames in ``directories`` and a broker and page on loopback."""
        detectors = "".join(
            f"\n[source.detectors.{name}]\ndirectory = {json.dumps(str(path))}\n"
            for name, path in self.directories.items()
        )
        return (
            f'[source]\nkind = "frames"\n{self.source}{detectors}\n'
            f"[inference]\nmodel = {json.dumps(str(self.model))}\n\n"
            f'[publish]\nhost = "127.0.0.1"\nport = {self.broker_port}\n\n'
            f'[metrics]\nhost = "127.0.0.1"\nport = {self.http_port}\n\n'
            f"[service]\nstate = {json.dumps(self.state)}\n{self.more}"
        )


@asynccontextmanager
async def daemon(
    config: Path, log: Path, http_port: int, program: Sequence[str] = (sys.executable, "-m", "gwstream")
) -> AsyncIterator[Process]:
    """The running daemon, ready to take frames; its output goes to ``log``. It is stopped at the end, if it still runs.

    ``program``: what to start in place of ``gwstream``. Raises `GwstreamError` with the end of the log if it does not
    come up.
    """
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *program,
            "run",
            str(config),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=asyncio.subprocess.STDOUT,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
            start_new_session=True,  # Ctrl-C in the terminal is ours: we stop the daemon in good order
        )
        try:
            await _up(process, log, http_port)
            yield process
        finally:
            await stop(process)


async def _up(process: Process, log: Path, port: int) -> None:
    """Wait until /healthz answers."""
    import aiohttp

    limit = asyncio.get_running_loop().time() + START_LIMIT
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as session:
        while asyncio.get_running_loop().time() < limit:
            check(process, log)
            with suppress(aiohttp.ClientError, TimeoutError):
                async with session.get(f"http://127.0.0.1:{port}/healthz") as answer:
                    if answer.status == 200:
                        return
            await asyncio.sleep(0.1)
    raise GwstreamError(f"the daemon did not come up within {START_LIMIT:g} s:\n{tail(log)}")


def check(process: Process, log: Path) -> None:
    """Raise `GwstreamError` with the end of the log if the daemon has ended."""
    if process.returncode is not None:
        raise GwstreamError(f"the daemon ended with status {process.returncode}:\n{tail(log)}")


def tail(log: Path, lines: int = 15) -> str:
    """The last lines of a log."""
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])


async def stop(process: Process) -> int:
    """SIGTERM, then wait for the drain; SIGKILL when that takes too long. Returns the exit status."""
    if process.returncode is None:
        with suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(STOP_LIMIT):
                await process.wait()
        except TimeoutError:
            process.kill()
    return await process.wait()
