"""Real brokers for the tests."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gwstream.demo.child import free_port

MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")


class Mosquitto:
    """Debian's broker on loopback; it can be killed and started again on its port."""

    def __init__(self, folder: Path, extra: str, port: int | None) -> None:
        self.port = port or free_port()
        self._settings = folder / "mosquitto.conf"
        self._settings.write_text(f"listener {self.port} 127.0.0.1\npersistence false\n{extra}")
        self.process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        assert MOSQUITTO is not None
        self.process = await asyncio.create_subprocess_exec(
            MOSQUITTO, "-c", str(self._settings), stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
        )
        for _ in range(100):
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", self.port)
            except OSError:
                await asyncio.sleep(0.05)
            else:
                writer.close()
                await writer.wait_closed()
                return
        raise RuntimeError("mosquitto does not start")

    async def kill(self) -> None:
        """SIGKILL, as the kernel does when memory is short."""
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
            await self.process.wait()


def rights(folder: Path, *rules: str) -> str:
    """Settings of a broker where nobody has other rights than these."""
    file = folder / "acl"
    file.write_text("".join(f"topic {rule}\n" for rule in rules))
    file.chmod(0o644)
    folder.chmod(0o755)
    return f"allow_anonymous true\nacl_file {file}\nuser root\n"


@asynccontextmanager
async def mosquitto(
    folder: Path, extra: str = "allow_anonymous true\n", port: int | None = None
) -> AsyncIterator[Mosquitto]:
    if MOSQUITTO is None:
        pytest.skip("mosquitto is not installed: apt-get install mosquitto")
    broker = Mosquitto(folder, extra, port)
    await broker.start()
    try:
        yield broker
    finally:
        await broker.kill()
