"""Detectors that tell a live page of themselves ten times a second, with a signal now and then."""

from __future__ import annotations

import asyncio
import time

import fakes
import numpy as np

from gwstream import spectra
from gwstream.config import SummaryConfig
from gwstream.prior import Prior
from gwstream.publish import Delivered, message
from gwstream.records import NANO, Floats, Outgoing, Waveform
from gwstream.summary import Summarizer
from gwstream.web import DetectorState, Feed

RATE = fakes.RATE
BEAT = 0.1  # s
STEPS = ("source", "conditioning_queue", "conditioning", "batching", "inference_queue", "inference", "summary")
USUAL = {"H1": "O3_H1", "L1": "O3_L1", "V1": "O3_V1"}


def chirp() -> Floats:
    """A whitened merger as it may look, (256,), that peaks 0.75 s into the window."""
    time = np.arange(RATE) / RATE - 0.75
    before = np.clip(-time, 1e-3, None)
    phase = 2 * np.pi * 55 * before**0.6
    return np.asarray(np.where(time < 0, 5 * np.exp(time / 0.08), 5 * np.exp(-time / 0.012)) * np.cos(phase))


class Lively:
    """Tells ``live`` of ``names`` as if their strain came in pieces of `BEAT`."""

    def __init__(self, live: Feed, names: tuple[str, ...], *, every: float = 5.0) -> None:
        self.live = live
        self.names = names
        self._every = round(every / BEAT)
        self._rng = np.random.default_rng(5)
        self._told = 0
        self._noise = {name: self._rng.normal(size=8 * RATE) for name in names}
        self._summarizer = Summarizer(SummaryConfig(), Prior())
        frequencies = np.arange(257) * 0.5
        self._psd = {name: spectra.asd(USUAL[name], frequencies) ** 2 for name in names}

    def tell(self) -> None:
        """The next tenth of a second of all."""
        start = fakes.GPS * RATE + round(self._told * BEAT * RATE)
        end = fakes.GPS * RATE + round((self._told + 1) * BEAT * RATE)
        self._told += 1
        for name in self.names:
            at = np.arange(start, end)
            self.live.strain(name, start * NANO // RATE, RATE, self._noise[name][at % (8 * RATE)])
            if self._told % 10 == 0:
                self._state(name, end)
        if self._told % self._every == 0:
            for name in self.names[:2]:
                self._signal(name, end - RATE)
        self.live.stage("inference", 0.08)
        if self._told % 5 == 0:
            self.live.health([])

    async def run(self, seconds: float) -> None:
        """Go on for so long."""
        begin = time.monotonic()
        for beat in range(round(seconds / BEAT)):
            self.tell()
            await asyncio.sleep(max(0.0, begin + (beat + 1) * BEAT - time.monotonic()))

    def _state(self, name: str, end: int) -> None:
        noise = self._psd[name] * float(self._rng.uniform(0.8, 1.4))
        self.live.whitener(fakes.whitener(name, id=f"{name}-{end}", psd=noise))
        now = end * NANO // RATE
        peak = (now - NANO // 3, float(self._rng.uniform(3, 5)))
        self.live.detector(name, DetectorState(
            state="full", averages=63, history=64.0, range_mpc=1200 + 30 * self._rng.normal(), data_end_ns=now,
            snr=peak[1], peak=peak, windows=self._told, triggers=2,
        ))  # fmt: skip

    def _signal(self, name: str, start: int) -> None:
        wave = chirp()
        window = fakes.window(0, name, start=start, samples=wave + self._rng.normal(size=RATE))
        curves = Waveform(median=wave, lower=wave - 0.4, upper=wave + 0.4)
        posterior = fakes.posterior(window, waveform=curves, snr=15.0 if name == "H1" else 11.0)
        for summary in self._summarizer.add(posterior):
            self.live.posterior(summary, window.samples)
            if summary.kind == "posterior":
                arrived = time.monotonic_ns() - 60_000_000
                marks = tuple((step, arrived + (k + 1) * 7_000_001) for k, step in enumerate(STEPS))
                out = Outgoing(summary=summary, arrived=arrived, marks=marks, data_end_ns=window.gps_ns + NANO)
                part = message.delivery(
                    out, sequence=1, attempt=1, monotonic_ns=time.monotonic_ns(), gps_ns=summary.gps_ns + NANO
                )
                self.live.delivered(Delivered(outgoing=out, delivery=part, latency=0.08))
