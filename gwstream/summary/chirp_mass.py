"""The chirp mass of several detectors together: a likelihood from the draws of each, and one prior for all.

The mass ratio is common as well and moves the chirp mass of all detectors the same way: taken for each its own, it
makes the common interval too narrow.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gwstream.prior import Prior
from gwstream.records import Floats
from gwstream.summary.message import chirp_mass
from gwstream.summary.statistics import mean_sd, quantiles

POINTS = 800  # of ln chirp mass, 0.002 apart
RATIOS = 96  # of the mass ratio
# A posterior of few effective draws knows its own deviation too badly, so these are the least, of ln chirp mass.
LEAST_SD = 0.01
LEAST_SPREAD = 0.005
RIDGE = 1e-9  # holds the curve where the draws do not
LEAST_LOG = -30.0  # ln likelihood of a ratio without draws, below the largest


@dataclass(frozen=True, slots=True)
class Likelihood:
    """A likelihood of ln(chirp mass / Msun): ``mean`` and ``sd`` of it, and how both go with the mass ratio.

    ``curve``: coefficients of the mean at a mass ratio, highest power first; ``spread``: deviation around it;
    ``log_ratio``: ln likelihood of the mass ratio at the points of `ChirpMasses.ratios`.
    """

    mean: float
    sd: float
    curve: tuple[float, ...]
    spread: float
    log_ratio: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Combined:
    """Posterior of a chirp mass, Msun; ``p5`` to ``p95`` hold 90 %."""

    median: float
    mean: float
    sd: float
    p5: float
    p95: float


class ChirpMasses:
    """Chirp masses under ``prior``, of which only the masses count."""

    def __init__(self, prior: Prior) -> None:
        low, high = prior.chirp_mass
        self._x = np.linspace(math.log(low), math.log(high), POINTS)
        self.ratios = np.linspace(prior.min_ratio, 1.0, RATIOS)
        mass_1 = np.exp(self._x)[:, None] * self.ratios**-0.6 * (1 + self.ratios) ** 0.2
        inside = (mass_1 <= prior.mass[1]) & (mass_1 * self.ratios >= prior.mass[0])
        self._density = mass_1**2 * inside  # dm1 dm2 = m1^2 dq dx

    def likelihood(self, samples: Floats, weights: Floats) -> Likelihood:
        """That of the posterior with draws (n, 5) and weights (n,): the prior is divided out."""
        x, ratio = np.log(chirp_mass(samples)), samples[:, 1] / samples[:, 0]
        flat = weights / samples[:, 0] ** 2
        flat /= flat.sum()
        mean, sd = mean_sd(x, flat)
        powers = np.vander(ratio, 3)
        normal = powers.T @ (flat[:, None] * powers) + RIDGE * np.eye(3)
        curve = np.linalg.solve(normal, powers.T @ (flat * (x - mean)))
        spread = math.sqrt(float(flat @ (x - mean - powers @ curve) ** 2))
        curve[-1] += mean
        return Likelihood(
            mean, max(sd, LEAST_SD), tuple(curve), max(spread, LEAST_SPREAD), tuple(self._log_ratio(ratio, flat))
        )

    def posterior(self, likelihoods: Sequence[Likelihood]) -> Combined:
        """Of one chirp mass and ratio that all ``likelihoods`` are of, noise of the detectors being independent."""
        log_likelihood = np.zeros(self._density.shape)
        for one in likelihoods:
            centre = np.polyval(one.curve, self.ratios)
            log_likelihood += np.asarray(one.log_ratio) - 0.5 * ((self._x[:, None] - centre) / one.spread) ** 2
        log_likelihood -= np.max(log_likelihood[self._density > 0])
        weights = (np.exp(np.minimum(log_likelihood, 0.0)) * self._density).sum(axis=1)
        weights /= weights.sum()
        mass = np.exp(self._x)
        mean, sd = mean_sd(mass, weights)
        p5, median, p95 = map(float, quantiles(mass, weights, (0.05, 0.5, 0.95)))
        return Combined(median=median, mean=mean, sd=sd, p5=p5, p95=p95)

    def _log_ratio(self, ratio: Floats, weights: Floats) -> Floats:
        """ln likelihood (RATIOS,) of the mass ratio: a histogram smoothed as draws are few, mirrored at the ends."""
        step = self.ratios[1] - self.ratios[0]
        edges = np.append(self.ratios - 0.5 * step, self.ratios[-1] + 0.5 * step)
        counts = np.histogram(ratio, edges, weights=weights)[0]
        width = max(1.06 * mean_sd(ratio, weights)[1] * float(weights @ weights) ** 0.2, step)  # Silverman's rule
        images = (self.ratios, 2 * self.ratios[0] - self.ratios, 2 * self.ratios[-1] - self.ratios)
        kernel = sum(np.exp(-0.5 * ((self.ratios[:, None] - image) / width) ** 2) for image in images)
        smooth = np.asarray(kernel @ counts)
        return np.asarray(np.maximum(np.log(np.maximum(smooth, 1e-300) / smooth.max()), LEAST_LOG))
