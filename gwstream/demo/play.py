"""The recording of GW150914 as live frames, written a second at a time as a low-latency distribution does."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gwstream import clock
from gwstream.errors import SourceError
from gwstream.records import NANO, Floats, Strain
from gwstream.source import recording, writer

if TYPE_CHECKING:
    from rich.console import Console

GOOD = 3  # state vector: strain good, observing
PAUSE = 1  # s marked as not observing between two rounds, so that the cut in the noise is not taken for strain
KEPT = 60  # frames left in a directory, as the distribution unlinks old ones
READ = 2.0  # s that readers of the last frames have before these go


@dataclass(frozen=True, slots=True)
class Tick:
    """One second of the play: strain of each detector from GPS second ``gps``, with its state vector."""

    gps: int
    strain: dict[str, Floats]
    state: int = GOOD


@dataclass(frozen=True, slots=True, kw_only=True)
class How:
    """``speed`` times real time, again and again with ``loop``; ``check`` raises where going on is no use."""

    speed: float = 1.0
    loop: bool = False
    check: Callable[[], None] = lambda: None


def score(strains: dict[str, Strain], loop: bool, later: int = 0) -> Iterator[Tick]:
    """The recording in seconds, ``later`` s after it was made; with ``loop`` for ever, GPS going on, a second of bad
    state between two rounds."""
    pieces = {name: list(writer.split(strain)) for name, strain in strains.items()}
    length = min(len(part) for part in pieces.values())
    for turn in count() if loop else range(1):
        shift = later + turn * (length + PAUSE)
        for index in range(length):
            gps = next(iter(pieces.values()))[index][0]
            yield Tick(gps + shift, {name: part[index][1] for name, part in pieces.items()})
        if loop:
            silence = {name: np.zeros_like(part[0][1]) for name, part in pieces.items()}
            yield Tick(gps + shift + 1, silence, state=0)


def seconds(strains: Mapping[str, Strain]) -> int:
    """Whole seconds that all detectors have."""
    return min(len(strain.samples) // strain.rate for strain in strains.values())


async def play(
    directories: Mapping[str, Path], console: Console, stop: asyncio.Event, how: How, later: int = 0
) -> list[Path]:
    """Write a frame of each detector a second under a progress bar, until the end or ``stop``; the frames left.

    ``later``: s of GPS time after the recording was made.
    """
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    strains = {name: recording.read(name) for name in directories}
    columns = (TextColumn("GW150914  GPS {task.fields[gps]}"), BarColumn(), TimeElapsedColumn())
    written: deque[Path] = deque()
    time = asyncio.get_running_loop().time
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=None if how.loop else seconds(strains), gps="")
        begin = time()
        for number, tick in enumerate(score(strains, how.loop, later), 1):
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, begin + number / how.speed - time())):
                    await stop.wait()
            if stop.is_set():
                break
            how.check()
            for name, samples in tick.strain.items():
                rate = strains[name].rate
                written.append(writer.write_frame(directories[name], name, tick.gps, samples, rate, tick.state))
            while len(written) > KEPT * len(directories):
                written.popleft().unlink(missing_ok=True)
            progress.update(task, completed=number, gps=tick.gps)
    return list(written)


async def feed(folder: Path, console: Console, stop: asyncio.Event, how: How) -> None:
    """The recording as strain of now in ``folder``/H1 and L1, made if missing, for a daemon that runs already.

    Its frames are removed at the end. Raises `SourceError` where they cannot be written.
    """
    directories = {name: folder / name for name in recording.DETECTORS}
    now = clock.gps_now_ns() // NANO
    first = recording.read(recording.DETECTORS[0])
    left: list[Path] = []
    try:
        for directory in directories.values():
            directory.mkdir(parents=True, exist_ok=True)
        console.print(f"frames      {folder}/H1 and L1: GW150914 as if it were GPS {now}", soft_wrap=True)
        left = await play(directories, console, stop, how, now - first.start // first.rate)
        await asyncio.sleep(READ)
    except OSError as problem:
        raise SourceError(f"{folder}: frames cannot be written there: {problem}") from None
    finally:
        for path in left:
            path.unlink(missing_ok=True)
