"""Decimation to the model's rate by one linear-phase FIR on absolute sample counts.

The filter is a Kaiser-windowed sinc given in continuous time, so its response is the same whatever rate the strain
comes at: flat to ``pass_hz``, 80 dB down from ``stop_hz``. Between the two the stream is aliased, on purpose: the PSD
is that of the decimated stream, templates take the same path (`response`), and the result is white to Nyquist.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from scipy.signal import upfirdn

from gwstream.errors import SourceError
from gwstream.model import ConditioningSpec
from gwstream.records import Floats

ATTENUATION_DB = 80.0


@lru_cache(maxsize=32)
def anti_alias(spec: ConditioningSpec, rate: int) -> Floats:
    """Taps at ``rate`` Hz, (2 m + 1,), symmetric, of unit gain at zero frequency."""
    transition = spec.stop_hz - spec.pass_hz
    half = (ATTENUATION_DB - 7.95) / (2 * 2.285 * 2 * math.pi * transition)  # s, after Kaiser
    m = math.ceil(half * rate)
    t = np.arange(-m, m + 1) / rate
    taps = np.sinc((spec.pass_hz + spec.stop_hz) * t) * np.kaiser(2 * m + 1, 0.1102 * (ATTENUATION_DB - 8.7))
    return np.asarray(taps / taps.sum())


class Decimator:
    """Strain at one rate in, the decimated stream out; every output sample is one dot product over absolute counts.

    Output sample k stands at GPS ``k / spec.rate``: the filter's delay is removed. Since `upfirdn` sums each output in
    the same order whatever it is given, the stream does not depend on how the strain was cut, to the last bit.
    """

    def __init__(self, spec: ConditioningSpec, rate: int) -> None:
        if rate % spec.rate or rate < spec.rate:
            raise SourceError(f"strain at {rate} Hz: the model needs a whole multiple of {spec.rate} Hz")
        self.factor = rate // spec.rate
        self.rate = rate
        self._taps = anti_alias(spec, rate) if self.factor > 1 else np.ones(1)
        self._kept = np.empty(0)
        self._start = 0  # count, at the input rate, of _kept[0]

    @property
    def reach(self) -> int:
        """Input samples needed on each side of an output sample."""
        return len(self._taps) // 2

    @property
    def kept(self) -> tuple[Floats, int]:
        """The strain that outputs to come need, and the count of its first sample."""
        return self._kept, self._start

    @kept.setter
    def kept(self, past: tuple[Floats, int]) -> None:
        self._kept, self._start = past

    def reset(self) -> None:
        """Forget the past: the next strain stands alone."""
        self._kept = np.empty(0)

    def push(self, start: int, samples: Floats) -> tuple[int, Floats]:
        """Add strain that follows on (or starts afresh after `reset`).

        Returns the count (at the model's rate) of the first new output sample and the samples, possibly none.
        """
        if not len(self._kept):
            self._start = start
        self._kept = np.concatenate([self._kept, samples])
        reach, factor = self.reach, self.factor
        first = -(-(self._start + reach) // factor)
        last = (self._start + len(self._kept) - 1 - reach) // factor
        if last < first:
            return first, np.empty(0)
        begin = first * factor - reach - self._start
        stop = last * factor + reach + 1 - self._start
        out = upfirdn(self._taps, self._kept[begin:stop], 1, 1) if factor == 1 else self._filter(begin, stop)
        keep = (last + 1) * factor - reach
        self._kept = self._kept[keep - self._start :].copy()
        self._start = keep
        return first, out

    def _filter(self, begin: int, stop: int) -> Floats:
        """Outputs whose support is exactly ``begin:stop``; input is shifted so that they fall on the polyphase grid."""
        reach, factor = self.reach, self.factor
        lead = -2 * reach % factor
        block = np.concatenate([np.zeros(lead), self._kept[begin:stop]])
        full = upfirdn(self._taps, block, 1, factor)
        skip = (2 * reach + lead) // factor
        count = (stop - begin - 2 * reach - 1) // factor + 1
        return np.asarray(full[skip : skip + count])
