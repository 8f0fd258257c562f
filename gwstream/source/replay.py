"""Strain from recorded files, in real time, faster, or as fast as it is taken."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace

import numpy as np

from gwstream.config import SourceConfig
from gwstream.errors import SourceError
from gwstream.health import Health
from gwstream.records import Gap, Strain, Tally, gps_ns, silent
from gwstream.source import files, quality
from gwstream.source.pace import Pace
from gwstream.source.quality import Stretch
from gwstream.source.report import Report

READING = 60.0  # s that a piece of a file may take: gwpy reads some formats whole


class Replay:
    """The files of several detectors, played from the earliest sample of all.

    Use as an async context manager. Quality masks are honoured where the files have them; strain without one is played
    with unknown quality, because who names a file has chosen it. Time between files becomes a `Gap`.
    """

    live = False
    simulated = False

    def __init__(self, config: SourceConfig, tally: Tally = silent, health: Health | None = None) -> None:
        self.detectors = tuple(config.detectors)
        for name, one in config.detectors.items():
            for path in one.files:
                if not path.is_file():
                    raise SourceError(f"{path}: no such file: correct source.detectors.{name}.files")
        self._config = config
        self._report = Report(tally)
        self._health = health or Health()
        self._pace = Pace(config.speed, 0)

    async def __aenter__(self) -> Replay:
        firsts = await asyncio.gather(*(asyncio.to_thread(self._first, name) for name in self.detectors))
        self._pace = Pace(self._config.speed, min(firsts))
        return self

    async def __aexit__(self, *raised: object) -> None:
        return

    async def stream(self, detector: str) -> AsyncIterator[Strain | Gap]:
        """The contiguous records of one detector; ends after its last file."""
        pieces = self._stretches(detector)
        position: tuple[int, int] | None = None  # end of the last record, and its rate
        while (stretch := await self._next(pieces, detector)) is not None:
            begin = stretch.start if position is None else -(-position[0] * stretch.rate // position[1])
            if begin < stretch.start:
                yield await self._paced(self._gap(stretch, begin))
            elif begin > stretch.start:
                stretch = self._trimmed(stretch, begin)
            for record in quality.records(stretch):
                if isinstance(record, Gap):
                    self._report(record.reason, detector, f"from GPS {record.start / record.rate:.3f}")
                yield await self._paced(record)
                position = record.end, record.rate

    async def _next(self, pieces: Iterator[Stretch], detector: str) -> Stretch | None:
        with self._health.work(f"source {detector}", READING):
            return await asyncio.to_thread(next, pieces, None)

    def _stretches(self, detector: str) -> Iterator[Stretch]:
        settings = self._config.detectors[detector]
        wanted = files.Wanted(detector, settings.channel, settings.state_channel, self._config.state_mask)
        for path in settings.files:
            yield from files.stretches(path, wanted)

    def _first(self, detector: str) -> int:
        """GPS ns of the first sample. Raises `SourceError`."""
        first = next(self._stretches(detector))
        return gps_ns(first.start, first.rate)

    async def _paced(self, record: Strain | Gap) -> Strain | Gap:
        return replace(record, arrived=await self._pace.until(gps_ns(record.end, record.rate)))

    def _gap(self, stretch: Stretch, begin: int) -> Gap:
        length = stretch.start - begin
        text = f"{length / stretch.rate:g} s before GPS {stretch.start / stretch.rate:.3f} are in no file"
        self._report("missing", stretch.detector, text, max(1, length // stretch.rate))
        return Gap(detector=stretch.detector, start=begin, rate=stretch.rate, length=length, reason="missing")

    def _trimmed(self, stretch: Stretch, begin: int) -> Stretch:
        """What of the stretch lies at or after sample ``begin``."""
        skip = min(begin - stretch.start, len(stretch.samples))
        late = skip == len(stretch.samples)
        text = f"GPS {stretch.start / stretch.rate:.3f}: {skip / stretch.rate:g} s were played before"
        self._report("late" if late else "overlap", stretch.detector, text)
        state = stretch.state
        if state is not None:  # one value a sample, because the values may not divide what is left
            state = state[np.arange(len(stretch.samples)) * len(state) // len(stretch.samples)][skip:]
        return replace(stretch, start=begin, samples=stretch.samples[skip:], state=state)
