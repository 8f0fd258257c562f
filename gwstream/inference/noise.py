"""What the noise of a whitened window is taken for: Gaussian, or Student-t where few segments made its spectrum.

The likelihood is that of what a window has left over once a waveform is taken out. With a known spectrum it is white
and Gaussian. A spectrum estimated from n segments leaves every frequency with an unknown factor; integrated over what
the estimate allows, the two real Fourier coefficients of a frequency follow a Student-t together (Röver et al.,
arXiv:0804.3853; for median spectra Talbot & Thrane, arXiv:2006.05292). Both have the evidence of noise in closed form.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import scipy.fft
from numpy.typing import NDArray
from scipy.special import gammaln

from gwstream.inference.likelihood import Singles, log_ratio
from gwstream.records import Floats

Reals = NDArray[np.floating[Any]]

FREEDOM = 1.8
"""Degrees of freedom for each segment. A median of n has relative variance 1 / (n ln^2 2), which a window of a second
sees averaged over a hertz or so; fits to the chain's own whiteners over a family of detectors give 21, 28, 41, 57 and
110 for n = 11, 15, 23, 31 and 63 (`tests/test_noise.py`)."""


class Noise(Protocol):
    """A density of the noise in a window of unit variance; ``freedom``: degrees of freedom, infinite if Gaussian."""

    @property
    def freedom(self) -> float: ...

    def log_density(self, window: Floats) -> float:
        """ln likelihood of a window (n,) under noise alone."""
        ...

    def log_ratio(self, window: Floats, waveforms: Singles) -> Floats:
        """ln of likelihood of signal over noise, (S,), of a window (n,) for whitened waveforms (S, n)."""
        ...


@dataclass(frozen=True, slots=True)
class Gaussian:
    """White noise of the spectrum the filter was made from."""

    freedom: float = math.inf

    def log_density(self, window: Floats) -> float:
        """See `Noise`."""
        return -0.5 * float(window @ window) - 0.5 * len(window) * math.log(2 * math.pi)

    def log_ratio(self, window: Floats, waveforms: Singles) -> Floats:
        """See `Noise`."""
        return log_ratio(window, waveforms)


@dataclass(frozen=True, slots=True)
class StudentT:
    """Frequencies independent, the two coefficients of each a bivariate Student-t of unit variance, ``freedom`` > 2.

    ln p = -(freedom + d) / 2 ln(1 + r^2 / (freedom - 2)) + constant, with r^2 the power of a frequency's d coefficients
    (one at zero and at the Nyquist frequency). ``freedom`` towards infinity is `Gaussian`.
    """

    freedom: float

    def __post_init__(self) -> None:
        if not self.freedom > 2:
            raise ValueError(f"a Student-t of unit variance needs more than 2 degrees of freedom, got {self.freedom}")

    def log_density(self, window: Floats) -> float:
        """See `Noise`."""
        d, nu = _coefficients(len(window)), self.freedom
        constant = gammaln((nu + d) / 2) - gammaln(nu / 2) - d / 2 * np.log(np.pi * (nu - 2))
        power = _powers(window.astype(np.float64))
        return float(np.sum(constant - (nu + d) / 2 * np.log1p(power / (nu - 2))))

    def log_ratio(self, window: Floats, waveforms: Singles) -> Floats:
        """See `Noise`."""
        share = ((self.freedom + _coefficients(len(window))) / 2).astype(np.float32)
        noise, left = _powers(window.astype(np.float32)), _powers(window.astype(np.float32) - waveforms)
        width = np.float32(self.freedom - 2)
        logs = np.log1p(noise / width) - np.log1p(left / width)
        return np.asarray((logs * share).sum(axis=-1, dtype=np.float64))


def _coefficients(n: int) -> Floats:
    """Real Fourier coefficients (n // 2 + 1,) of each frequency of ``n`` samples."""
    d = np.full(n // 2 + 1, 2.0)
    d[0] = 1.0
    if n % 2 == 0:
        d[-1] = 1.0
    return d


def _powers(samples: Reals) -> Reals:
    """Summed squares (…, n // 2 + 1) of each frequency's orthonormal real Fourier coefficients of (…, n) samples."""
    n = samples.shape[-1]
    spectrum = scipy.fft.rfft(samples, axis=-1, norm="ortho")
    power = spectrum.real**2 + spectrum.imag**2
    return np.asarray(power * _coefficients(n).astype(samples.dtype))


def noise_model(kind: Literal["gaussian", "student"], averages: int) -> Noise:
    """The noise of windows whose spectrum is the median of so many segments."""
    return Gaussian() if kind == "gaussian" else StudentT(max(FREEDOM * averages, 3.0))
