"""The chirp mass of several detectors together: a likelihood from the draws of each, and one prior for all."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gwstream.prior import Prior
from gwstream.records import Floats
from gwstream.summary.message import chirp_mass
from gwstream.summary.statistics import mean_sd, quantiles

POINTS = 2048  # of ln chirp mass, less than a thousandth apart
RATIOS = 512
LEAST_DENSITY = 0.01  # of the largest: below, at the edges, one draw would outweigh all others
LEAST_SD = 0.01  # of ln chirp mass: a posterior of few effective draws knows its own deviation too badly


@dataclass(frozen=True, slots=True)
class Likelihood:
    """Mean and standard deviation of a likelihood taken as normal in ln(chirp mass / Msun)."""

    mean: float
    sd: float


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
        self._density = _density(self._x, prior)

    def likelihood(self, samples: Floats, weights: Floats) -> Likelihood:
        """That of the posterior with draws (n, 5) and weights (n,): the prior is divided out."""
        x = np.log(chirp_mass(samples))
        prior = np.maximum(np.interp(x, self._x, self._density), LEAST_DENSITY * self._density.max())
        flat = weights / prior
        mean, sd = mean_sd(x, flat / flat.sum())
        return Likelihood(mean, max(sd, LEAST_SD))

    def posterior(self, likelihoods: Sequence[Likelihood]) -> Combined:
        """Of one chirp mass that all ``likelihoods`` are of, noise of the detectors being independent."""
        log_likelihood = -0.5 * sum(((self._x - one.mean) / one.sd) ** 2 for one in likelihoods)
        weights = np.exp(log_likelihood - np.max(log_likelihood)) * self._density
        weights /= weights.sum()
        mass = np.exp(self._x)
        mean, sd = mean_sd(mass, weights)
        p5, median, p95 = map(float, quantiles(mass, weights, (0.05, 0.5, 0.95)))
        return Combined(median=median, mean=mean, sd=sd, p5=p5, p95=p95)


def _density(x: Floats, prior: Prior) -> Floats:
    """Prior density of ln chirp mass at ``x`` (n,), up to a factor: dm1 dm2 = m1^2 dq dx."""
    ratio = np.linspace(prior.min_ratio, 1.0, RATIOS)
    mass_1 = np.exp(x)[:, None] * ratio**-0.6 * (1 + ratio) ** 0.2
    inside = (mass_1 <= prior.mass[1]) & (mass_1 * ratio >= prior.mass[0])
    return np.asarray((mass_1**2 * inside).sum(axis=1))
