"""Statistics of weighted draws. Weights sum to one; a draw without weight counts for nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from gwstream.records import Floats


def quantiles(x: Floats, weights: Floats, probabilities: tuple[float, ...]) -> Floats:
    """Weighted quantiles of ``x`` (n,), one for each probability.

    A draw stands at the middle of its own weight (Hazen's rule for equal weights), with straight lines between: so
    a small change of the weights is a small change of the quantile, which a step function would not give.
    """
    kept = weights > 0
    x, weights = x[kept], weights[kept]
    order = np.argsort(x)
    cumulative = np.cumsum(weights[order])
    middle = (cumulative - 0.5 * weights[order]) / cumulative[-1]
    return np.asarray(np.interp(probabilities, middle, x[order]))


def mean_sd(x: Floats, weights: Floats) -> tuple[float, float]:
    """Weighted mean and standard deviation of ``x`` (n,)."""
    mean = float(weights @ x)
    return mean, math.sqrt(float(weights @ (x - mean) ** 2))


def correlation(x: Floats, weights: Floats) -> Floats:
    """Weighted correlation matrix (k, k) of the columns of ``x`` (n, k); NaN where a column does not vary."""
    centred = x - weights @ x
    covariance = (centred * weights[:, None]).T @ centred
    sd = np.sqrt(np.diag(covariance))
    with np.errstate(invalid="ignore", divide="ignore"):
        out: Floats = covariance / np.outer(sd, sd)
    np.fill_diagonal(out, 1.0)
    return out


def ranks(samples: Floats, weights: Floats, truth: Floats, rng: np.random.Generator) -> Floats:
    """Where the truth (k,) lies among weighted draws (S, k), each in [0, 1]: uniform, where the draws are right.

    Among n draws a truth has n + 1 equally likely places, so a bare fraction below it is not uniform: 5 % of n = 100 is
    met with chance 6 / 101. The effective number stands for n, and the place is spread over its own width.
    """
    n = 1.0 / np.sum(weights**2)
    return np.asarray((n * (weights @ (samples < truth)) + rng.random(truth.shape[-1])) / (n + 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Circular:
    """Of an angle with a period: ``mean`` in [0, period); ``resultant`` length, 1 where all draws agree and 0 where
    they cancel; the shortest arc with the asked probability, from ``start`` in [0, period) to ``end`` >= start."""

    mean: float
    resultant: float
    start: float
    end: float


def circular(x: Floats, weights: Floats, period: float, probability: float = 0.9) -> Circular:
    """Circular statistics of the weighted angles ``x`` (n,), in any branch."""
    turn = 2 * math.pi / period
    vector = complex(weights @ np.exp(1j * turn * x))
    mean = math.atan2(vector.imag, vector.real) / turn
    start, end = _shortest_arc(np.mod(x, period), weights, period, probability)
    return Circular(mean=_wrapped(mean, period), resultant=min(abs(vector), 1.0), start=start, end=end)


def deviation(x: Floats, mean: float, period: float) -> Floats:
    """How far each angle lies from ``mean`` the short way round, in [-period/2, period/2)."""
    return np.asarray(np.mod(x - mean + 0.5 * period, period) - 0.5 * period)


def _wrapped(x: float, period: float) -> float:
    inside = math.fmod(x, period)
    inside += period if inside < 0 else 0.0
    return inside if inside < period else 0.0  # -1e-20 + period is period


def _shortest_arc(x: Floats, weights: Floats, period: float, probability: float) -> tuple[float, float]:
    """Ends of the shortest arc whose draws, those at the ends included, hold ``probability``."""
    kept = weights > 0
    x, weights = x[kept], weights[kept]
    order = np.argsort(x)
    twice = np.concatenate([x[order], x[order] + period])
    before = np.concatenate([[0.0], np.cumsum(np.tile(weights[order], 2))])
    first = np.arange(len(x))
    needed = before[first] + probability * before[len(x)] * (1 - 1e-12)
    last = np.searchsorted(before, needed) - 1  # least index whose own weight included reaches what is needed
    best = int(np.argmin(twice[last] - twice[first]))
    return float(twice[best]), float(twice[last[best]])
