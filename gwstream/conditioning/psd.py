"""Running median of Welch periodograms on absolute sample counts, blind to gaps.

Segments of ``spec.taps`` samples start at multiples of ``spec.update``; a PSD stands at each multiple of
``spec.update`` and uses the clean segments that ended by then and began within the last ``spec.full`` seconds. So it
depends on the data alone, never on how they were cut or (after ``spec.full`` seconds) when the daemon started.
"""

from __future__ import annotations

import itertools
from collections import deque

import numpy as np
from scipy.signal import get_window

from gwstream.model import ConditioningSpec
from gwstream.records import Floats

RECENT = 4  # segments that make up "now" for the drift


def median_bias(n: int) -> float:
    """Expected median of ``n`` unit-mean exponential variables: the bias of a median PSD (Allen et al., gr-qc/0509116).

    For even n the median is the mean of the two middle order statistics. Segments under a squared Hann window that
    overlap by half are nearly independent (correlation of power below 1/100), so their actual count is used.
    """
    low = (n + 1) // 2  # order statistic k of n: sum_{i=n-k+1}^{n} 1 / i
    high = n // 2 + 1
    orders = [sum(1.0 / i for i in range(n - k + 1, n + 1)) for k in (low, high)]
    return 0.5 * sum(orders)


class RunningPsd:
    """Periodograms of the last ``spec.full`` seconds, one-sided, in 1/Hz at ``spec.rate * k / spec.taps`` Hz."""

    def __init__(self, spec: ConditioningSpec) -> None:
        self._spec = spec
        # Hann's side lobes carry a seismic wall, 110 dB above the quiet band, into it; those of its square do not
        window = get_window("hann", spec.taps) ** 2
        self.window = window
        self._norm = 2.0 / (spec.rate * float(np.sum(window**2)))
        self._span = round(spec.full * spec.rate)
        self._segments: deque[tuple[int, Floats]] = deque(maxlen=self._span // spec.update + 1)

    @property
    def segments(self) -> tuple[tuple[int, Floats], ...]:
        """Start and periodogram of each segment, oldest first."""
        return tuple(self._segments)

    @segments.setter
    def segments(self, past: tuple[tuple[int, Floats], ...]) -> None:
        self._segments.clear()
        self._segments.extend(past)

    def add(self, start: int, samples: Floats) -> None:
        """Take one clean segment, (spec.taps,), from count ``start`` on; silence and absurdities are left out."""
        power = np.abs(np.fft.rfft(samples * self.window)) ** 2 * self._norm
        power[0] *= 0.5
        power[-1] *= 0.5
        if power.min() > 0 and np.isfinite(power).all():
            self._segments.append((start, power))

    def at(self, end: int) -> tuple[Floats, int, float, Floats] | None:
        """Of the PSD that stands at count ``end``: median (bias removed), averages, seconds they cover, recent mean.

        None where fewer clean segments are at hand than ``spec.ready`` seconds hold.
        """
        while self._segments and self._segments[0][0] < end - self._span:
            self._segments.popleft()
        count = len(self._segments)
        spec = self._spec
        needed = (round(spec.ready * spec.rate) - spec.taps) // spec.update + 1
        if count < needed:
            return None
        powers = np.stack([power for _, power in self._segments])
        median = np.median(powers, axis=0) / median_bias(count)
        covered = self._covered() / spec.rate
        return median, count, covered, powers[-RECENT:].mean(axis=0)

    def _covered(self) -> int:
        """Samples covered by the union of the segments."""
        starts = [start for start, _ in self._segments]
        length = self._spec.taps
        return length + sum(min(length, after - before) for before, after in itertools.pairwise(starts))
