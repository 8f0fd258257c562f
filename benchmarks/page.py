"""What the live page costs: the daemon for each second of strain, bytes to a page, and the time of a frame in Chromium.

python benchmarks/page.py [--detectors 32] [--seconds 20]
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path

import common
import numpy as np
from drawings import COLOURS, panels

from gwstream.config import MetricsConfig
from gwstream.records import Batch, Strain, Trigger, Whitener, Window
from gwstream.web import Feed, Watch, serving

ROOT = Path(__file__).parent.parent
RATE, HOP, GPS = 256, 16, 1_400_000_000
BROWSER = ("H1", "L1", "V1")


def second(watch: Watch, name: str, number: int, psd: np.ndarray) -> None:
    """All that the pipeline tells of one second of a detector's strain: sixteen windows, none behind the gate."""
    start = (GPS + number) * RATE
    whitener = Whitener(
        id=f"{name}-{number}", detector=name, rate=RATE, taps=psd, psd=psd, averages=63, history=64.0, end=start,
        state="full", range_mpc=1000.0,
    )  # fmt: skip
    rng = np.random.default_rng(number)
    windows = tuple(
        Window(detector=name, start=start + k * HOP, rate=RATE, samples=samples, whitener=whitener, context=psd)
        for k, samples in enumerate(rng.normal(size=(16, RATE)))
    )
    strain = Strain(detector=name, start=start, rate=RATE, samples=windows[0].samples)
    triggers = [Trigger(window=w, snr=4.0, time=0.75, phase=0.0, template=0, passed=False) for w in windows]
    begin = time.process_time()
    watch.record(strain)
    watch.conditioned(name, windows, whitener)
    watch.gated(Batch(windows, 16), triggers)
    second.spent += time.process_time() - begin  # type: ignore[attr-defined]


def daemon(detectors: int, seconds: int, looked_at: bool) -> tuple[float, float]:
    """Microseconds of processor a detector's second, and bytes a second to one page."""
    names = tuple(f"X{k}" for k in range(detectors))
    now = 0.0
    feed = Feed(names, monotonic=lambda: now)
    watch = Watch(feed, detectors=names, clock=lambda: now)
    second.spent, size = 0.0, 0  # type: ignore[attr-defined]
    block = feed.page()
    if looked_at:
        block.__enter__()
    page = next(iter(feed._pages), None)
    for number in range(seconds):
        now += 1.0
        for name in names:
            second(watch, name, number, np.ones(257))
            while page is not None and not page._queue.empty():
                size += len(page._queue.get_nowait() or b"")
    return second.spent / (seconds * detectors) * 1e6, size / seconds  # type: ignore[attr-defined]


async def frames(seconds: float) -> tuple[np.ndarray, np.ndarray]:
    """Of three detectors that tell ten times a second: ms between two frames, and of drawing one."""
    sys.path.insert(0, str(ROOT / "tests"))
    from browser import browser  # type: ignore[import-not-found]
    from lively import Lively  # type: ignore[import-not-found]

    feed = Feed(BROWSER)
    lively = Lively(feed, BROWSER)
    for _ in range(100):
        lively.tell()
    with tempfile.TemporaryDirectory() as folder:
        async with (
            browser(Path(folder)) as page,
            serving(MetricsConfig(port=0), feed=feed, exposition=bytes) as port,
        ):
            await page.size(1440, 1000)
            await page.open(f"http://127.0.0.1:{port}/")
            await page.until("document.querySelectorAll('#rows tr').length > 1")
            await lively.run(3)  # until all is compiled
            told = "import('/static/frames.js').then(({ measured: m }) => [m.intervals, m.costs])"
            await page.run(told + ".then((all) => all.forEach((one) => (one.length = 0)))")
            await lively.run(seconds)
            intervals, costs = await page.run(told)
            assert page.complaints == [], page.complaints
    return np.array(intervals), np.array(costs)


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--detectors", type=int, default=32)
    parser.add_argument("--seconds", type=int, default=20)
    arguments = parser.parse_args()
    print(common.machine())
    for looked_at in (False, True):
        spent, size = daemon(arguments.detectors, arguments.seconds, looked_at)
        whole = spent * arguments.detectors / 1e4
        print(
            f"daemon, {arguments.detectors} detectors, {'one page' if looked_at else 'no page'}: "
            f"{spent:.0f} us a detector's second, {whole:.2f} % of a core; {size / 1000:.1f} kB/s"
        )
    intervals, costs = asyncio.run(frames(arguments.seconds))
    for what, values in (("between two frames", intervals), ("drawing a frame", costs)):
        middle, high = np.percentile(values, [50, 95])
        print(
            f"browser, 3 detectors at 10 Hz, {what}: median {middle:.1f} ms, 95 % {high:.1f}, most {values.max():.1f}"
        )
    with panels(common.picture("page"), 2, (8.0, 3.4)) as axes:
        for axis, values, what in zip(axes, (intervals, costs), ("between two frames", "drawing one"), strict=True):
            axis.hist(values, bins=40, color=COLOURS[0])
            axis.set(xlabel=f"{what}, ms", ylabel="frames")
    print(f"browser: {1000 / intervals.mean():.1f} frames a second, {len(intervals)} frames")


if __name__ == "__main__":
    main()
