"""Simulated strain: coloured Gaussian noise with known signals, every record marked as simulated."""

from __future__ import annotations

import asyncio
import hashlib
import heapq
import math
from collections.abc import AsyncIterator, Iterator
from itertools import count, takewhile

import numpy as np

from gwstream import injection
from gwstream.config import SourceConfig
from gwstream.errors import ConfigError
from gwstream.health import Health
from gwstream.injection import Injection
from gwstream.prior import Prior
from gwstream.records import NANO, Floats, Gap, Strain
from gwstream.source.noise import Noise
from gwstream.source.pace import Pace
from gwstream.source.quality import MIN_RATE

JITTER = 0.5  # of the interval between injections, so that they fall anywhere between the samples and windows


class Simulated:
    """Noise and injections of several detectors, with independent streams a detector; equal settings, equal strain.

    Use as an async context manager. ``prior``: what injections are drawn from, best the served model's.
    """

    live = False
    simulated = True

    def __init__(self, config: SourceConfig, prior: Prior | None = None, health: Health | None = None) -> None:
        if config.rate < MIN_RATE:
            raise ConfigError(f"source.rate = {config.rate}: must be at least {MIN_RATE} Hz")
        self.detectors = tuple(config.detectors)
        self._config = config
        self._prior = prior or Prior()
        self._health = health or Health()
        self._noise = {name: Noise(one.asd, config.rate, config.seed, name) for name, one in config.detectors.items()}
        self._listed = _listed(config)
        self._pace = Pace(config.speed, config.start * NANO)

    async def __aenter__(self) -> Simulated:
        self._pace = Pace(self._config.speed, self._config.start * NANO)
        return self

    async def __aexit__(self, *raised: object) -> None:
        return

    async def stream(self, detector: str) -> AsyncIterator[Strain | Gap]:
        """Strain in records of one second, for ever or for the duration that was set."""
        config = self._config
        rate = config.rate
        signals = Signals(
            heapq.merge(self._listed.get(detector, ()), drawn(config, detector, self._prior), key=_time), rate
        )
        start = config.start * rate
        end = None if config.duration == 0 else start + math.ceil(config.duration * rate)
        while end is None or start < end:
            n = rate if end is None else min(rate, end - start)
            with self._health.work(f"source {detector}"):
                samples = await asyncio.to_thread(self._samples, detector, signals, start, n)
            arrived = await self._pace.until((start + n) * NANO // rate)
            yield Strain(
                detector=detector,
                start=start,
                rate=rate,
                samples=samples,
                dq=config.state_mask,
                simulated=True,
                arrived=arrived,
            )
            start += n

    def _samples(self, detector: str, signals: Signals, start: int, n: int) -> Floats:
        return self._noise[detector].samples(start, n) + signals.samples(start, n)


class Signals:
    """The sum of injections, asked for in order of time."""

    def __init__(self, injections: Iterator[Injection], rate: int) -> None:
        self._coming = injections
        self._next = next(injections, None)
        self._rate = rate
        self._present: list[tuple[int, Floats]] = []

    def samples(self, start: int, n: int) -> Floats:
        """``n`` samples from ``start`` (samples since GPS 0), (n,)."""
        end = start + n
        while self._next is not None and _time(self._next) - _LEAD <= end * NANO // self._rate:
            self._present.append(self._next.strain(self._rate))
            self._next = next(self._coming, None)
        self._present = [one for one in self._present if one[0] + len(one[1]) > start]
        out = np.zeros(n)
        for first, signal in self._present:
            low, high = max(first, start), min(first + len(signal), end)
            if low < high:
                out[low - start : high - start] += signal[low - first : high - first]
        return out


_LEAD = round(injection.LONGEST * NANO)


def injections(config: SourceConfig, prior: Prior | None = None) -> tuple[Injection, ...]:
    """Every injection that a simulation of finite duration holds, in order of time.

    Those whose coalescence lies outside the simulation are left out. Raises `ConfigError` where the duration is 0.
    """
    if config.duration == 0:
        raise ConfigError("source.duration = 0: a simulation without end has no list of injections")
    begin, end = config.start * NANO, round((config.start + config.duration) * NANO)
    listed = _listed(config)
    found: list[Injection] = []
    for name in config.detectors:
        found += listed.get(name, ())
        found += takewhile(lambda one: one.gps_ns < end, drawn(config, name, prior or Prior()))
    return tuple(sorted((one for one in found if begin <= one.gps_ns < end), key=_time))


def drawn(config: SourceConfig, detector: str, prior: Prior) -> Iterator[Injection]:
    """The injections of one detector at the rate that was set, drawn from ``prior``; without end, in order of time.

    One an interval, coalescing within the middle half of it. Number k depends on seed, detector and k alone.
    """
    if config.injection_interval == 0:
        return
    for k in count():
        digest = hashlib.sha256(f"gwstream injection {config.seed} {detector} {k}".encode()).digest()
        rng = np.random.default_rng(list(digest))
        mass_1, mass_2, distance, _, phase = (float(value) for value in prior.draw(rng, 1)[0])
        offset = (k + 0.5 + JITTER * rng.uniform(-0.5, 0.5)) * config.injection_interval
        yield Injection(
            detector=detector,
            gps_ns=config.start * NANO + round(offset * NANO),
            mass_1=mass_1,
            mass_2=mass_2,
            effective_distance=distance,
            phase=phase,
        )


def _listed(config: SourceConfig) -> dict[str, list[Injection]]:
    """The injections of the file by detector, in order of time. Raises `ConfigError`."""
    found: dict[str, list[Injection]] = {name: [] for name in config.detectors}
    if config.injection_file is not None:
        for one in injection.read(config.injection_file):
            if one.detector not in found:
                raise ConfigError(
                    f"{config.injection_file}: an injection is for {one.detector}; simulated are {', '.join(found)}"
                )
            found[one.detector].append(one)
    return {name: sorted(ones, key=_time) for name, ones in found.items()}


def _time(one: Injection) -> int:
    return one.gps_ns
