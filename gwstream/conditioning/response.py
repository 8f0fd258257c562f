"""A template through the very filters of a window: what `inference` takes from this stage.

Pure: anti-alias filter, folding at the model's Nyquist frequency, and the live whitening taps, in the frequency domain.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from gwstream.conditioning.resample import anti_alias
from gwstream.model import ConditioningSpec
from gwstream.records import Floats

DESIGN_RATE = 16  # times the model's rate: where the anti-alias filter's response is evaluated
Spectrum = NDArray[np.complex128]


@lru_cache(maxsize=8)
def gain(spec: ConditioningSpec, bins: int) -> Floats:
    """Zero-phase gain of the anti-alias filter at ``bins`` frequencies from 0 to ``spec.rate``."""
    rate = DESIGN_RATE * spec.rate
    taps = anti_alias(spec, rate)
    m = len(taps) // 2
    f = np.linspace(0.0, spec.rate, bins)
    return np.asarray(taps[m] + 2 * np.cos(2 * np.pi * np.outer(f, np.arange(1, m + 1)) / rate) @ taps[m + 1 :])


def decimate(spec: ConditioningSpec, spectrum: Spectrum) -> Spectrum:
    """Spectra of strain, (…, 2 m + 1) on 0 … spec.rate Hz, as spectra of the decimated stream, (…, m + 1)."""
    shaped = spectrum * gain(spec, spectrum.shape[-1])
    middle = spectrum.shape[-1] // 2
    out = shaped[..., : middle + 1].copy()
    out[..., 1:] += np.conj(shaped[..., -2 : middle - 1 : -1])
    out[..., middle] = out[..., middle].real
    return np.asarray(out)


def transfer(spec: ConditioningSpec, taps: Floats, bins: int) -> Spectrum:
    """What times *decimated* spectra (…, bins) in 1/Hz is the discrete transform of whitened waveforms, (bins,).

    Those are 2 (bins - 1) samples at ``spec.rate``, which must leave room for signal and filter together, or the end
    wraps around to the beginning.
    """
    return np.asarray(np.fft.rfft(taps * spec.rate, 2 * (bins - 1)))


def response(spec: ConditioningSpec, spectrum: Spectrum, taps: Floats) -> Floats:
    """Whitened waveform in the time domain, (…, n) at ``spec.rate``, of *decimated* spectra (…, n / 2 + 1) in 1/Hz."""
    return np.fft.irfft(spectrum * transfer(spec, taps, spectrum.shape[-1]))
