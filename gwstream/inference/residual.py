"""What the best waveform leaves over: noise, if the window holds such a signal.

To first order the waveforms near the best one are it and its five derivatives. The residual orthogonal to these does
not depend on which draw was the best nor on the noise it fitted, and in white noise the squared length of its part in
any subspace, in units of its covariance there, is a chi-square of known degrees of freedom. Two subspaces are tested:
the whole window, and the tenth of a second around coalescence where heavy systems have their power. A glitch that
looks like a merger is fitted by one, and betrays itself in the second: the test is Allen's power test (gr-qc/0405045)
with the division in time instead of frequency.

Whitened noise is not quite white: the filter comes from an estimated spectrum and the stream is empty below 18 Hz. So
the chi-squares are scaled: their mean and variance are those measured on the chain's own noise, by averages, at the
end of a model's training (`gwstream.training.leftover`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.fft import dct
from scipy.special import chdtrc

from gwstream.inference.likelihood import Templates
from gwstream.records import Floats
from gwstream.waveforms import chirp_mass, component_masses


@dataclass(frozen=True, slots=True)
class Stretch:
    """Power of the chain's noise in what is tested: mean and variance in units of white noise's.

    The variance has a part that goes with 1 / averages: a filter too loud is too loud over the whole band.
    """

    mean: float
    variance: float
    by_averages: float


@dataclass(frozen=True, slots=True)
class Leftover:
    """What a model's noise leaves in the two stretches: the whole window, and around the peak."""

    whole: Stretch
    peak: Stretch

    def tensors(self) -> dict[str, Floats]:
        """By the name they have in ``weights.safetensors``."""
        return {NAME: np.array([[one.mean, one.variance, one.by_averages] for one in (self.whole, self.peak)])}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Floats]) -> Leftover:
        """From tensors by that name; for older weights, those of the first model."""
        if NAME not in tensors:
            return FIRST
        whole, peak = (Stretch(*map(float, row)) for row in tensors[NAME])
        return cls(whole, peak)


@dataclass(frozen=True, slots=True)
class Power:
    """Of what is left of a window: power and degrees of freedom, in the whole of it and around the peak."""

    whole: tuple[float, int]
    peak: tuple[float, int]


NAME = "residual.stretches"
# measured over 240 detectors of the training family with 12 to 64 s of history (`tests/test_residual.py`)
FIRST = Leftover(Stretch(0.981, 1.0, by_averages=2.3), Stretch(0.953, 0.945, by_averages=0.0))
PEAK = 0.047  # s on either side of coalescence
BEGINNING = 5 / 6  # of the floor frequency: a tenth of a second has bins of 5 Hz
STEPS = (1e-3, 5e-3, 2e-5)  # of ln chirp mass, ratio and time (s) for the derivatives
SPENT = 1e-3  # a direction that keeps less than this of its variance has been fitted away


def p_values(
    window: Floats, templates: Templates, x: Floats, averages: int, usual: Leftover = FIRST
) -> tuple[float, float]:
    """Chances that noise leaves more than the waveform of ``x`` (5,) does: in the window (n,), and around its peak.

    ``averages``: segments in the spectrum of the window's filter; ``usual``: what the model's noise leaves.
    """
    found = leftover(window, templates, x)
    return _p_value(*found.whole, usual.whole, averages), _p_value(*found.peak, usual.peak, averages)


def leftover(window: Floats, templates: Templates, x: Floats) -> Power:
    """What the waveform of ``x`` (5,) leaves of a window (n,).

    The whole of it is looked at in the band where any detector's stream is white, the peak from where it begins to be.
    """
    waveform, tangents = _tangents(templates, x)
    residual = window - waveform
    residual = residual - tangents @ (tangents.T @ residual)
    n, rate = len(window), templates.rate
    centre, half = round(float(x[3]) * rate), round(PEAK * rate)
    first, last = max(centre - half, 0), min(centre + half, n)
    beginning = templates.floor * BEGINNING, rate / 2
    return Power(
        _chi_square(residual, tangents, templates.band, rate),
        _chi_square(residual[first:last], tangents[first:last], beginning, rate),
    )


def _tangents(templates: Templates, x: Floats) -> tuple[Floats, Floats]:
    """The waveform (n,) and an orthonormal basis (n, 5) of it and its derivatives."""
    chirp, ratio = float(chirp_mass(x[:1], x[1:2])[0]), float(x[1] / x[0])
    rows = [x, x + np.array([0, 0, 0, 0, math.pi / 4])]  # the second is the derivative by phase, halved
    for sign in (1, -1):
        for axis, step in enumerate(STEPS):
            moved = np.zeros(3)
            moved[axis] = sign * step
            mass_1, mass_2 = component_masses(np.array([chirp * math.exp(moved[0])]), np.array([ratio + moved[1]]))
            rows.append(np.array([mass_1[0], mass_2[0], x[2], x[3] + moved[2], x[4]]))
    waveforms = templates.waveforms(np.array(rows)).astype(np.float64)
    columns = np.vstack([waveforms[:2], waveforms[2:5] - waveforms[5:]])
    lengths = np.linalg.norm(columns, axis=1, keepdims=True)
    basis, _ = np.linalg.qr((columns / np.maximum(lengths, 1e-30)).T)
    return waveforms[0], np.asarray(basis)


def _p_value(power: float, freedom: int, stretch: Stretch, averages: int) -> float:
    """Chance of more power, by the scaled chi-square of the stretch's mean and variance."""
    mean = stretch.mean * freedom
    variance = 2 * freedom * (stretch.variance + stretch.by_averages / averages)
    scale = variance / (2 * mean)
    return float(chdtrc(mean / scale, power / scale))


def _chi_square(residual: Floats, tangents: Floats, band: tuple[float, float], rate: int) -> tuple[float, int]:
    """Power and degrees of freedom of the residual (m,) of a stretch in a band (Hz).

    ``tangents``: the directions (m, 5) taken out of the whole.
    """
    m = len(residual)
    frequency = np.arange(m) * rate / (2 * m)
    chosen = (frequency >= band[0]) & (frequency <= band[1])
    z = dct(residual, norm="ortho")[chosen]
    # the covariance is 1 - g g': along the singular directions of g, 1 - s^2, and 1 across them
    directions, s, _ = np.linalg.svd(dct(tangents, axis=0, norm="ortho")[chosen], full_matrices=False)
    along, left = (directions.T @ z) ** 2, 1 - s**2
    kept = left > SPENT
    power = float(z @ z - along.sum() + np.sum(along[kept] / left[kept]))
    return power, int(chosen.sum()) - int(np.sum(~kept))
