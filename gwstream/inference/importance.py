"""The network proposes, the likelihood disposes: weighted draws, evidence, and a second look where the first was poor.

weight = likelihood * prior / proposal. The mean weight is the evidence (here against noise, so its ln is the ln Bayes
factor); (sum w)^2 / sum w^2 is the effective sample size, and with it comes the evidence's error. If it is small,
kernels around the weighted draws make the next proposal (population Monte Carlo, Cappé et al. 2004), with a tenth of
the draws still from the first, so that nothing is lost; the last round alone is reported.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.random import Generator

from gwstream.inference.mixture import Kernels, log_sum_exp
from gwstream.records import Floats

ENOUGH = 0.2  # effective fraction of the draws at which no further round is made
ROUNDS = 4
CENTRES = 400
BANDWIDTH = 0.6  # of the weighted covariance: Silverman's rule in five dimensions for some hundred draws
DEFENSIVE = 0.1
TEMPERED = 80.0  # effective draws the kernels are made from, at least
TELLING = 10.0  # effective draws below which the spread of the weights says nothing of the evidence's error


class Proposal(Protocol):
    """Seeded draws with an exact density."""

    @property
    def stratified(self) -> bool:
        """Whether draws are spread evenly over the parts of a mixture, rather than independent."""
        ...

    def draw(self, rng: Generator, n: int) -> Floats:
        """(n, 5)."""
        ...

    def log_density(self, e: Floats) -> Floats:
        """(n,)."""
        ...


@dataclass(frozen=True, slots=True)
class Weighted:
    """Draws ``e`` (S, 5), ln of target and of proposal density (S,) each, and the number of rounds it took.

    ``stratified``: the draws were spread evenly over the parts of a mixture.
    """

    e: Floats
    log_target: Floats
    log_proposal: Floats
    rounds: int
    stratified: bool = False

    @property
    def log_weights(self) -> Floats:
        """Unnormalised."""
        return self.log_target - self.log_proposal

    @property
    def weights(self) -> Floats:
        """Normalised to sum 1; equal where every weight is zero."""
        return normalised(self.log_weights)

    @property
    def log_evidence(self) -> float:
        """ln of the mean weight; -inf where every weight is zero."""
        if not np.isfinite(self.log_target).any():
            return -math.inf
        return float(log_sum_exp(self.log_weights[None])[0]) - math.log(len(self.e))

    @property
    def log_evidence_error(self) -> float:
        """Standard error of `log_evidence`: see `log_mean_error`."""
        return log_mean_error(self.weights)


def normalised(log_weights: Floats) -> Floats:
    """Weights of sum 1."""
    top = log_weights.max()
    if not np.isfinite(top):
        return np.full(len(log_weights), 1.0 / len(log_weights))
    weights = np.exp(log_weights - top)
    return np.asarray(weights / weights.sum())


def effective(weights: Floats) -> float:
    """Effective sample size of normalised weights."""
    return float(1.0 / np.sum(weights**2))


def log_mean_error(weights: Floats) -> float:
    """Standard error of the ln of the mean of weights, given their normalised values (n,).

    The mean's relative variance is (1 / ESS - 1 / n) n / (n - 1), and for the ln it is the same to first order (delta
    method). Strata make the true error smaller, if anything. Infinite below `TELLING` effective draws: heavy tails that
    no draw has met yet do not show in the spread.
    """
    n, ess = len(weights), effective(weights)
    if ess < TELLING:
        return math.inf
    return math.sqrt(max(1 / ess - 1 / n, 0.0) * n / (n - 1))


Target = Callable[[Floats], Floats]
"""ln of likelihood ratio * prior density in the coordinates e: (n, 5) to (n,), -inf outside the prior."""


def sample(proposal: Proposal, target: Target, n: int, rng: Generator) -> Weighted:
    """``n`` weighted draws from ``target``."""
    e = proposal.draw(rng, n)
    found = Weighted(e, target(e), proposal.log_density(e), 1, proposal.stratified)
    while found.rounds < ROUNDS and np.isfinite(found.log_weights).any():
        if effective(found.weights) >= ENOUGH * n:
            break
        found = _again(found, proposal, target, rng)
    return found


def _again(found: Weighted, proposal: Proposal, target: Target, rng: Generator) -> Weighted:
    """One more round from kernels around what was found."""
    n = len(found.e)
    kernels = _kernels(found, rng)
    kept = round(DEFENSIVE * n)
    e = np.concatenate([proposal.draw(rng, kept), kernels.draw(rng, n - kept)])
    share = np.log([kept / n, 1 - kept / n])
    log_q = log_sum_exp(np.stack([proposal.log_density(e) + share[0], kernels.log_density(e) + share[1]], axis=-1))
    return Weighted(e, target(e), log_q, found.rounds + 1, stratified=True)


def _kernels(found: Weighted, rng: Generator) -> Kernels:
    """Kernels of the weighted draws' own covariance; weights flattened until enough draws carry it."""
    weights = normalised(_flattened(found.log_weights))
    e: Floats = found.e.copy()
    middle = np.angle(np.sum(weights * np.exp(1j * e[:, 4])))
    e[:, 4] = middle + np.mod(e[:, 4] - middle + math.pi, 2 * math.pi) - math.pi
    mean = weights @ e
    spread = e - mean
    covariance = (weights[:, None] * spread).T @ spread * BANDWIDTH**2
    covariance += np.diag(1e-9 + 1e-6 * np.diag(covariance))
    positions = (np.arange(CENTRES) + rng.random()) / CENTRES
    chosen = np.searchsorted(np.cumsum(weights), positions).clip(max=len(e) - 1)
    return Kernels(e[chosen], np.asarray(np.linalg.cholesky(covariance)))


def _flattened(log_weights: Floats) -> Floats:
    """ln weights times the largest power <= 1 that leaves `TEMPERED` effective draws."""
    low, high = 0.0, 1.0
    if effective(normalised(log_weights)) >= TEMPERED:
        return log_weights
    possible = np.isfinite(log_weights)
    finite = np.where(possible, log_weights, 0.0)
    for _ in range(30):
        middle = 0.5 * (low + high)
        powered = np.where(possible, finite * middle, -np.inf)
        low, high = (middle, high) if effective(normalised(powered)) >= TEMPERED else (low, middle)
    return np.where(possible, finite * low, -np.inf)
