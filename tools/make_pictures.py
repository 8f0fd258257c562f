"""Take the pictures of the documents from ``gwstream demo``: the live page a moment after GW150914 in Chromium, what
``gwstream watch`` shows then, and what ``gwstream plot`` draws of H1's event.

python tools/make_pictures.py        # or: make pictures
"""

from __future__ import annotations

import asyncio
import io
import re
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image
from rich.console import Console

from gwstream.client import Event, everything
from gwstream.client.connection import Broker
from gwstream.terminal.known import Known
from gwstream.terminal.view import frame

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
COLOURS = 256  # of a picture: keeps it small, and nobody sees the difference
LARGEST = 250_000  # bytes
ROUND = 75.0  # s until the second merger of the demo, whose spectrum has enough history, and more on a busy machine
TERMINAL = (168, 40)  # columns and rows
PLOTS = ("corner", "waveform")
PICTURES = {"page-light": ("light", 1440, 2160), "page-dark": ("dark", 1440, 900), "page-phone": ("phone", 390, 844)}


async def main() -> None:
    """Run the demo, wait for two rounds of it, and take each picture of the same moment."""
    sys.path.insert(0, str(ROOT / "tests"))
    from browser import browser  # type: ignore[import-not-found]

    with tempfile.TemporaryDirectory() as folder:
        demo = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "gwstream", "demo", "--loop", "--output", folder, stdout=asyncio.subprocess.DEVNULL
        )
        try:
            url = await _url(Path(folder) / "daemon.log")
            known = Known(where="127.0.0.1:1883")
            watching = asyncio.create_task(_watch(known, _broker(Path(folder) / "daemon.log")))
            async with browser(Path(folder)) as page:
                await _take(page, url)
            watching.cancel()
            await _plot(url, _terminal(known, DOCS / "watch.svg"))
        finally:
            demo.send_signal(signal.SIGINT)
            await demo.wait()


async def _take(page: Any, url: str) -> None:
    await page.size(1440, 2160)
    await page.open(url)
    good = "[...document.querySelectorAll('#network-list .good')].length"
    await page.until(good, ROUND)
    await page.until("!!document.querySelector('.corner canvas')", 30)
    await asyncio.sleep(3)  # until the merger has come half way
    await page.press("f")
    for name, (theme, width, height) in PICTURES.items():
        await page.theme("dark" if theme == "dark" else "light")
        await page.size(width, height)
        await asyncio.sleep(1.0)
        await page.picture(DOCS / f"{name}.png")
        size = _shrink(DOCS / f"{name}.png")
        print(f"docs/{name}.png  {width} x {height}, {size / 1000:.0f} kB")
        assert size < LARGEST
    assert page.complaints == [], page.complaints


async def _watch(known: Known, port: int) -> None:
    """Follow the demo's messages, as the live view does."""
    async for message in everything(Broker(port=port), on_link=lambda reason: setattr(known, "link", reason)):
        known.take(message)


def _terminal(known: Known, path: Path) -> str:
    """The live view with details of H1's latest event, as a terminal's picture that loads no font; the event's id."""
    messages = [row.message for row in known.rows()]
    found = next(one for one in messages if isinstance(one, Event) and one.detector == "H1")
    for _ in range(messages.index(found)):
        known.press("down")
    known.press("enter")
    console = Console(record=True, width=TERMINAL[0], height=TERMINAL[1], file=io.StringIO(), force_terminal=True)
    console.print(frame(known, console.size))
    drawn = console.export_svg(title="gwstream watch", unique_id="watch")
    path.write_text(re.sub(r"@font-face \{.*?\}\n?", "", drawn, flags=re.DOTALL), encoding="utf-8")
    print(f"docs/{path.name}  {TERMINAL[0]} x {TERMINAL[1]}, {path.stat().st_size / 1000:.0f} kB")
    return found.id


async def _plot(url: str, name: str) -> None:
    """Of one posterior, by its id."""
    with tempfile.TemporaryDirectory() as folder:
        words = ("plot", name, "--url", url.rstrip("/"), "--output", folder, "--what", *PLOTS)
        plot = await asyncio.create_subprocess_exec(sys.executable, "-m", "gwstream", *words)
        assert await plot.wait() == 0
        _keep(Path(folder))


def _keep(folder: Path) -> None:
    for what in PLOTS:
        (made,) = folder.glob(f"*{what}.png")
        target = DOCS / f"plot-{what}.png"
        target.write_bytes(made.read_bytes())
        print(f"docs/{target.name}  {_shrink(target) / 1000:.0f} kB")


def _broker(log: Path) -> int:
    """The port of the demo's broker."""
    (found,) = set(re.findall(r"connected to 127\.0\.0\.1:(\d+)", log.read_text(encoding="utf-8")))
    return int(found)


def _shrink(path: Path) -> int:
    """With few colours and no more bytes than needed; returns how many."""
    out = io.BytesIO()
    whole = Image.open(path).convert("RGB")
    whole.quantize(COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(out, "PNG", optimize=True)
    path.write_bytes(out.getvalue())
    return len(out.getvalue())


async def _url(log: Path) -> str:
    """Of the live page, once the daemon's log names it."""
    async with asyncio.timeout(60):
        while not (found := _named(log)):  # noqa: ASYNC110 - another process writes it
            await asyncio.sleep(0.2)
    return found


def _named(log: Path) -> str:
    found = re.search(r"http://\S+/", log.read_text() if log.exists() else "")
    return found[0] if found else ""


if __name__ == "__main__":
    asyncio.run(main())
