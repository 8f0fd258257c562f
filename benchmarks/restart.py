"""How soon a daemon that was killed is back: from starting its process to its first posterior at a subscriber.

The recording of GW150914 as one-second frames, both detectors; a gate so low that noise brings posteriors all the
time. The daemon is killed (``kill -9``) once it has saved how far it got, the rest of the frames come while it is down,
and it is started again: with its state, and, side by side, without. How long Python takes to import what the daemon
needs is measured too, for that is no work of the daemon's own. Exit status 1: with its state it took longer than `BAR`
beyond that, in the median.

    python benchmarks/restart.py --rounds 5
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import aiomqtt
import common
import numpy as np
from drawings import bars

from gwstream.demo import child
from gwstream.demo.broker import Broker
from gwstream.pipeline import progress
from gwstream.source import recording, writer

BEFORE = 20  # s of the recording that the first daemon reads
LIMIT = 120.0  # s
BAR = 3.0  # s that the first posterior with saved state may take beyond Python and its imports
IMPORTS = "import gwstream.daemon, gwstream.inference, gwstream.web"


def frames(directories: dict[str, Path], seconds: slice) -> None:
    """Write these seconds of the recording."""
    for name, directory in directories.items():
        for gps, samples in list(writer.split(recording.read(name)))[seconds]:
            writer.write_frame(directory, name, gps, samples, 4096)


def appear(path: Path) -> None:
    """Wait until a file is there."""
    end = time.monotonic() + LIMIT
    while not path.exists():
        if time.monotonic() > end:
            raise SystemExit(f"{path}: not after {LIMIT:g} s")
        time.sleep(0.05)


async def first(port: int, config: Path, log: Path, page: int, kill_after: Path | None) -> float:
    """Start a daemon; s until its first new posterior. It is killed once ``kill_after`` is there, else stopped."""
    async with aiomqtt.Client("127.0.0.1", port, protocol=aiomqtt.ProtocolVersion.V5) as client:
        await client.subscribe("gwstream/+/posterior", qos=1)
        began = time.monotonic()
        async with child.daemon(config, log, page) as daemon:
            async with asyncio.timeout(LIMIT):
                await anext(aiter(client.messages))
            took = time.monotonic() - began
            if kill_after is not None:
                await asyncio.to_thread(appear, kill_after)
                daemon.kill()
                await daemon.wait()
    return took


async def one(folder: Path, keep: bool) -> float:
    """Kill a daemon and start it again, with its state or without; s to the first posterior of the second."""
    directories = {name: folder / name for name in recording.DETECTORS}
    for directory in directories.values():
        directory.mkdir(parents=True)
    state = folder / "state"
    async with Broker() as broker:
        page = child.free_port()
        settings = child.Settings(
            directories=directories,
            model=common.MODEL,
            broker_port=broker.port,
            http_port=page,
            state=str(state),
            more="\n[calibration]\ninterval = 0\n",
        )
        config = folder / "gwstream.toml"
        config.write_text(settings.toml().replace("[inference]\n", "[inference]\ngate_snr = 4.5\n"), encoding="utf-8")
        frames(directories, slice(0, BEFORE))
        saved = state / "gwstream-gwstream" / progress.NAME
        await first(broker.port, config, folder / "first.log", page, saved)
        if not keep:
            shutil.rmtree(state)
        frames(directories, slice(BEFORE, None))
        took = await first(broker.port, config, folder / "second.log", page, None)
        resumed = "without a new warm-up" in (folder / "second.log").read_text(encoding="utf-8")
        if resumed != keep:
            raise SystemExit(f"the second daemon {'did not go' if keep else 'went'} on from a saved state")
        return took


def imports() -> float:
    """Seconds to start Python and import what the daemon needs."""
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", IMPORTS], check=True)
    return time.monotonic() - began


async def measure(rounds: int) -> dict[str, list[float]]:
    """Every figure, ``rounds`` times, in turn."""
    labels = ("Python and its imports", "first posterior, with saved state", "first posterior, without")
    found: dict[str, list[float]] = {label: [] for label in labels}
    for _ in range(rounds):
        found[labels[0]].append(await asyncio.to_thread(imports))
        for label, keep in zip(labels[1:], (True, False), strict=True):
            with tempfile.TemporaryDirectory(prefix="gwstream-restart-", dir="/dev/shm") as folder:
                found[label].append(await one(Path(folder), keep))
    return found


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="(default: %(default)s)")
    found = asyncio.run(measure(parser.parse_args().rounds))
    print(common.machine())
    rows = [
        (label, *(f"{value:.2f}" for value in (np.median(times), min(times), max(times))))
        for label, times in found.items()
    ]
    beyond = [late - early for early, late in zip(*list(found.values())[:2], strict=True)]
    rows.append(("of this beyond the imports", *(f"{v:.2f}" for v in (np.median(beyond), min(beyond), max(beyond)))))
    print(common.table(("s from starting the process", "median", "least", "most"), rows))
    bars(common.picture("restart"), [label for label, *_ in rows], {"": [float(row[1]) for row in rows]}, "s, median")
    return int(np.median(beyond) > BAR)


if __name__ == "__main__":
    raise SystemExit(main())
