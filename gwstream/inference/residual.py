"""What the best waveform leaves over: noise, if the window holds such a signal.

To first order the waveforms near the best one are it and its five derivatives. The residual orthogonal to these does
not depend on which draw was the best nor on the noise it fitted, and in white noise the squared length of its part in
any subspace, in units of its covariance there, is a chi-square of known degrees of freedom. Two subspaces are tested:
the whole window, and the tenth of a second around coalescence where heavy systems have their power. A glitch that
looks like a merger is fitted by one, and betrays itself in the second: the test is Allen's power test (gr-qc/0405045)
with the division in time instead of frequency.

Whitened noise is not quite white: the filter comes from an estimated spectrum and the stream is empty below 18 Hz. So
the chi-squares are scaled: their mean and variance are those measured on the chain's own noise, by averages.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.fft import dct
from scipy.special import chdtrc

from gwstream.inference.likelihood import Templates
from gwstream.records import Floats
from gwstream.waveforms import chirp_mass, component_masses


@dataclass(frozen=True, slots=True)
class Stretch:
    """What is tested: a band (Hz), and its mean power and variance in units of white noise's.

    The variance has a part that goes with 1 / averages: a filter too loud is too loud over the whole band.
    """

    band: tuple[float, float]
    mean: float
    variance: float
    by_averages: float


# measured over 240 detectors of the training family with 12 to 64 s of history (`tests/test_residual.py`)
WHOLE = Stretch((20.0, 110.0), mean=0.981, variance=1.0, by_averages=2.3)
AROUND_PEAK = Stretch((15.0, 128.0), mean=0.953, variance=0.945, by_averages=0.0)  # the stream is empty below 18 Hz
PEAK = 0.047  # s on either side of coalescence
STEPS = (1e-3, 5e-3, 2e-5)  # of ln chirp mass, ratio and time (s) for the derivatives
SPENT = 1e-3  # a direction that keeps less than this of its variance has been fitted away


def p_values(window: Floats, templates: Templates, x: Floats, averages: int) -> tuple[float, float]:
    """Chances that noise leaves more than the waveform of ``x`` (5,) does: in the window (n,), and around its peak.

    ``averages``: segments in the spectrum of the window's filter.
    """
    waveform, tangents = _tangents(templates, x)
    residual = window - waveform
    residual = residual - tangents @ (tangents.T @ residual)
    n, rate = len(window), templates.rate
    centre, half = round(float(x[3]) * rate), round(PEAK * rate)
    first, last = max(centre - half, 0), min(centre + half, n)
    whole = _chi_square(residual, tangents, WHOLE.band, rate)
    peak = _chi_square(residual[first:last], tangents[first:last], AROUND_PEAK.band, rate)
    return _p_value(*whole, WHOLE, averages), _p_value(*peak, AROUND_PEAK, averages)


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
