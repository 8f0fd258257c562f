"""Headless Chromium over its debugging protocol: no driver, no further package."""

from __future__ import annotations

import asyncio
import base64
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
COMPLAINTS = {"Runtime.exceptionThrown", "Log.entryAdded"}


class Page:
    """One tab. ``complaints``: uncaught exceptions, console errors, refused resources."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._number = 0
        self._password = ""
        self.asked = 0  # how often the browser asked for a password
        self.complaints: list[str] = []

    async def _send(self, method: str, **parameters: Any) -> int:
        self._number += 1
        await self._socket.send_json({"id": self._number, "method": method, "params": parameters})
        return self._number

    async def call(self, method: str, **parameters: Any) -> Any:
        number = await self._send(method, **parameters)
        async with asyncio.timeout(20):
            while True:
                answer = await self._socket.receive_json()
                if answer.get("id") == number:
                    return answer["result"]
                told = answer.get("params", {})
                await self._dialog(answer.get("method"), told)
                if answer.get("method") in COMPLAINTS or told.get("type") == "error":
                    self.complaints.append(str(told))

    async def _dialog(self, method: str | None, told: dict[str, Any]) -> None:
        """Do what a user does who is asked for a password."""
        if method == "Fetch.requestPaused":
            await self._send("Fetch.continueRequest", requestId=told["requestId"])
        elif method == "Fetch.authRequired":
            self.asked += 1
            answer = {"response": "ProvideCredentials", "username": "any", "password": self._password}
            await self._send("Fetch.continueWithAuth", requestId=told["requestId"], authChallengeResponse=answer)

    async def password(self, text: str) -> None:
        """Answer the browser's dialog with this from now on."""
        self._password = text
        await self.call("Fetch.enable", handleAuthRequests=True)

    async def open(self, url: str) -> None:
        await self.call("Page.navigate", url=url)

    async def run(self, script: str) -> Any:
        """The value of a JavaScript expression."""
        done = await self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    async def until(self, script: str, limit: float = 15.0) -> Any:
        """Wait until the expression is true; returns its value."""
        async with asyncio.timeout(limit):
            while not (value := await self.run(script)):
                await asyncio.sleep(0.05)
        return value

    async def size(self, width: int, height: int) -> None:
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500
        )

    async def theme(self, name: str) -> None:
        await self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": name}])

    async def press(self, key: str) -> None:
        for kind in ("keyDown", "keyUp"):
            await self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key)

    async def picture(self, path: Path) -> None:
        shot = await self.call("Page.captureScreenshot")
        path.write_bytes(base64.b64decode(shot["data"]))


@asynccontextmanager
async def browser(folder: Path) -> AsyncIterator[Page]:
    if CHROMIUM is None:
        pytest.skip("chromium is not installed: apt-get install chromium")
    options = ("--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0", "--mute-audio")
    process = await asyncio.create_subprocess_exec(
        CHROMIUM,
        *options,
        f"--user-data-dir={folder / 'profile'}",
        "about:blank",
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        port = await _port(folder / "profile" / "DevToolsActivePort")
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{port}/json") as answer:
                tabs = await answer.json()
            address = next(tab["webSocketDebuggerUrl"] for tab in tabs if tab["type"] == "page")
            async with session.ws_connect(address, max_msg_size=0) as socket:
                page = Page(socket)
                for domain in ("Page", "Runtime", "Log"):
                    await page.call(f"{domain}.enable")
                yield page
    finally:
        process.terminate()
        await process.wait()


async def _port(file: Path) -> int:
    async with asyncio.timeout(30):
        while not (file.exists() and file.read_text().strip()):
            await asyncio.sleep(0.05)
    return int(file.read_text().split()[0])
