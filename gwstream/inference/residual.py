"""What the best waveform leaves over: noise, if the window holds such a signal.

To first order the waveforms near the best one are it and its five derivatives. The residual orthogonal to these does
not depend on which draw was the best nor on the noise it fitted, and in white noise the squared length of its part in
any subspace, in units of its covariance there, is a chi-square of known degrees of freedom. Two subspaces are tested:
the whole window, and the tenth of a second around coalescence where heavy systems have their power. A glitch that
looks like a merger is fitted by one, and betrays itself in the second: the test is Allen's power test (gr-qc/0405045)
with the division in time instead of frequency.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.fft import dct
from scipy.stats import chi2

from gwstream.inference.likelihood import Templates
from gwstream.records import Floats
from gwstream.waveforms import chirp_mass, component_masses

BAND = (20.0, 110.0)  # Hz, of the test over the window
PEAK = 0.047  # s on either side of coalescence
PEAK_LEAST = 15.0  # Hz: the stream is empty below
STEPS = (1e-3, 5e-3, 2e-5)  # of ln chirp mass, ratio and time (s) for the derivatives
SPENT = 1e-3  # a direction that keeps less than this of its variance has been fitted away


def p_values(window: Floats, templates: Templates, x: Floats) -> tuple[float, float]:
    """Chances that noise leaves more than the waveform of ``x`` (5,) does: in the window (n,), and around its peak."""
    waveform, tangents = _tangents(templates, x)
    residual = window - waveform
    residual = residual - tangents @ (tangents.T @ residual)
    n, rate = len(window), templates.rate
    centre, half = round(float(x[3]) * rate), round(PEAK * rate)
    first, last = max(centre - half, 0), min(centre + half, n)
    whole = _chi_square(residual, tangents, BAND, rate)
    peak = _chi_square(residual[first:last], tangents[first:last], (PEAK_LEAST, rate / 2), rate)
    return whole, peak


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


def _chi_square(residual: Floats, tangents: Floats, band: tuple[float, float], rate: int) -> float:
    """p-value of the residual (m,) of a stretch in a band (Hz), given the directions (m, 5) taken out of the whole."""
    m = len(residual)
    frequency = np.arange(m) * rate / (2 * m)
    chosen = (frequency >= band[0]) & (frequency <= band[1])
    z = dct(residual, norm="ortho")[chosen]
    # the covariance is 1 - g g': along the singular directions of g, 1 - s^2, and 1 across them
    directions, s, _ = np.linalg.svd(dct(tangents, axis=0, norm="ortho")[chosen], full_matrices=False)
    along, left = (directions.T @ z) ** 2, 1 - s**2
    kept = left > SPENT
    power = float(z @ z - along.sum() + np.sum(along[kept] / left[kept]))
    return float(chi2.sf(power, int(chosen.sum()) - int(np.sum(~kept))))
