"""Take the pictures of docs/page.md: the live page of ``gwstream demo``, a moment after GW150914, in Chromium.

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

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
COLOURS = 256  # of a picture: keeps it small, and nobody sees the difference
LARGEST = 250_000  # bytes
ROUND = 75.0  # s until the second merger of the demo, whose spectrum has enough history, and more on a busy machine
PICTURES = {"page-light": ("light", 1440, 1960), "page-dark": ("dark", 1440, 900), "page-phone": ("phone", 390, 844)}


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
            async with browser(Path(folder)) as page:
                await _take(page, url)
        finally:
            demo.send_signal(signal.SIGINT)
            await demo.wait()


async def _take(page: Any, url: str) -> None:
    await page.size(1440, 1960)
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
