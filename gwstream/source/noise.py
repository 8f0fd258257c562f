"""Coloured Gaussian noise that depends on the seed, the detector and the absolute sample count, and on nothing else.

White noise comes in blocks of 4 s on the grid of GPS time, each from a counter-based generator keyed by seed and
detector with the block's number as counter. A symmetric FIR of 8 s gives it the colour: block ``j`` of the output is
made, once and always in the same way, from the white blocks ``j - 1``, ``j`` and ``j + 1``. So the noise is stationary
across the borders of blocks, and chunks of any size are equal bit for bit.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

import numpy as np
import scipy.fft
from scipy.signal import windows

from gwstream import spectra
from gwstream.records import Floats

BLOCK = 4  # s
KAISER = 20.0
"""Shape of the window on the FIR: its side lobes, at -155 dB, keep the seismic wall out of the sensitive band."""


class Noise:
    """Noise of one detector at ``rate`` Hz with the shipped spectrum ``asd``; raises `ConfigError` for unknown ones."""

    def __init__(self, asd: str, rate: int, seed: int, detector: str) -> None:
        self._size = BLOCK * rate
        digest = hashlib.sha256(f"gwstream noise {seed} {detector}".encode()).digest()
        self._key = np.frombuffer(digest[:16], np.uint64)
        self._response = _response(asd, rate)
        self._white = lru_cache(maxsize=3)(self._make_white)
        self._block = lru_cache(maxsize=2)(self._make_block)

    def samples(self, start: int, n: int) -> Floats:
        """``n`` samples of strain from ``start`` (samples since GPS 0), (n,)."""
        first, last = start // self._size, (start + n - 1) // self._size
        blocks = [self._block(index) for index in range(first, last + 1)]
        offset = start - first * self._size
        joined = blocks[0] if len(blocks) == 1 else np.concatenate(blocks)
        return joined[offset : offset + n].copy()

    def _make_white(self, index: int) -> Floats:
        bits = np.random.Philox(key=self._key, counter=[0, 0, index % 2**64, 0])
        return np.random.Generator(bits).standard_normal(self._size)

    def _make_block(self, index: int) -> Floats:
        white = np.concatenate([self._white(index + step) for step in (-1, 0, 1)])
        coloured = scipy.fft.irfft(scipy.fft.rfft(white) * self._response, len(white))
        return np.asarray(coloured[self._size : 2 * self._size])


@lru_cache(maxsize=16)
def _response(asd: str, rate: int) -> Floats:
    """Transfer function, (12 s * rate / 2 + 1,), real, from unit white noise to strain with the one-sided ``asd``."""
    taps = 2 * BLOCK * rate
    wanted = spectra.asd(asd, scipy.fft.rfftfreq(taps, 1 / rate)) * np.sqrt(rate / 2)
    fir = scipy.fft.irfft(wanted, taps) * scipy.fft.ifftshift(windows.kaiser(taps, KAISER, sym=False))
    fir[taps // 2] = 0.0  # the one tap without a partner
    padded = np.zeros(3 * BLOCK * rate)
    padded[: taps // 2] = fir[: taps // 2]
    padded[-(taps // 2) + 1 :] = fir[taps // 2 + 1 :]
    return np.asarray(scipy.fft.rfft(padded).real)
