"""How a detector has been doing: loudness, range and spectrum, bounded, for a page that opens now."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gwstream import spectra
from gwstream.records import NANO, Floats, Whitener
from gwstream.web.pages import packed

SECONDS = 600  # of loudness kept, one value a second
RANGES = 720  # values of the range kept, one each RANGE_STEP s: six hours
RANGE_STEP = 30
BAYES = 256  # posteriors of which the ln Bayes factor is kept
LOWEST = 16.0  # Hz; below, the whitened stream is empty
HIGHEST = 0.43  # of the rate; above, the filter before the decimation cuts in
RESOLUTION = 0.004  # of log10 of an amplitude: a third of a pixel
USUAL = {
    "H1": "O3_H1",
    "L1": "O3_L1",
    "V1": "O3_V1",
    "K1": "KAGRA",
}  # curves of `spectra` to hold a detector against


@dataclass(slots=True)
class Trend:
    """Of one detector. Times are GPS seconds; a recording that starts again begins a new one."""

    loudness: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=SECONDS))
    ranges: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=RANGES))
    bayes: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=BAYES))

    def add(self, peak: tuple[int, float] | None, gps: int, range_mpc: float) -> None:
        """What was seen by GPS second ``gps``: the greatest SNR since the last time, with its GPS ns, and the range."""
        if self.ranges and gps < self.ranges[-1][0]:
            self.ranges.clear()
            self.loudness.clear()
        if peak is not None and math.isfinite(peak[1]):
            self.loudness.append((round(peak[0] / NANO, 2), round(peak[1], 2)))
        if range_mpc and (not self.ranges or gps - self.ranges[-1][0] >= RANGE_STEP):
            self.ranges.append((gps, round(range_mpc, 1)))

    def part(self) -> dict[str, Any]:
        """Fit for JSON."""
        return {"loudness": list(self.loudness), "ranges": list(self.ranges), "bayes": list(self.bayes)}


def spectrum(whitener: Whitener) -> dict[str, Any]:
    """The noise the detector is whitened with, and what it is held against: log10 of amplitudes (1/sqrt(Hz)) at
    ``low`` Hz and each ``width`` Hz on."""
    width = whitener.rate / 2 / (len(whitener.psd) - 1)
    frequencies: Floats = width * np.arange(len(whitener.psd), dtype=np.float64)
    shown = (frequencies >= LOWEST) & (frequencies <= HIGHEST * whitener.rate)
    frequencies = frequencies[shown]
    usual = USUAL.get(whitener.detector)
    return {
        "detector": whitener.detector,
        "low": float(frequencies[0]) if len(frequencies) else LOWEST,
        "width": width,
        "noise": _logarithm(np.sqrt(whitener.psd[shown])),
        "usual": usual and {"name": usual, **_logarithm(spectra.asd(usual, frequencies))},
    }


def _logarithm(amplitude: Floats) -> dict[str, Any]:
    with np.errstate(divide="ignore", invalid="ignore"):
        return packed(np.log10(amplitude), RESOLUTION)
