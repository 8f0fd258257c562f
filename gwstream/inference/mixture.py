"""Finite mixtures with exact densities: the decoder over L latents, and the kernels of an adapted proposal."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.random import Generator
from scipy.special import i0e

from gwstream.records import Floats

STRAIGHT = 4
LOG_TWO_PI = math.log(2 * math.pi)
BLOCK = 64  # rows at a time: the table stays in the cache


@dataclass(frozen=True, slots=True)
class Mixture:
    """L equally weighted products of four Gaussians and a von Mises.

    ``mean``, ``sigma``: (L, 4); ``angle``, ``kappa``: (L,).
    """

    stratified: ClassVar[bool] = True

    mean: Floats
    sigma: Floats
    angle: Floats
    kappa: Floats

    def draw(self, rng: Generator, n: int) -> Floats:
        """(n, 5) draws; components are taken in turn, which is a draw of lower variance from the same mixture."""
        which = np.arange(n) % len(self.mean)
        straight = self.mean[which] + self.sigma[which] * rng.standard_normal((n, STRAIGHT))
        return np.column_stack([straight, rng.vonmises(self.angle[which], self.kappa[which])])

    def log_density(self, e: Floats) -> Floats:
        """ln q, (n,), of (n, 5): one matrix product, as a component's exponent is linear in (e, e^2, cos, sin)."""
        centre = np.median(self.mean, axis=0)
        x, mean = e[:, :STRAIGHT] - centre, self.mean - centre
        precision = self.sigma**-2
        constant = (
            -0.5 * (mean**2 * precision + LOG_TWO_PI).sum(1)
            - np.log(self.sigma).sum(1)
            - self.kappa
            - LOG_TWO_PI
            - np.log(i0e(self.kappa))
            - math.log(len(self.mean))
        )
        ones = np.ones((len(e), 1))
        left = np.hstack([x**2, x, np.cos(e[:, 4:5]), np.sin(e[:, 4:5]), ones])
        cyclic = np.stack([self.kappa * np.cos(self.angle), self.kappa * np.sin(self.angle), constant])
        right = np.vstack([-0.5 * precision.T, (mean * precision).T, cyclic])
        out = np.empty(len(e))
        for low in range(0, len(e), BLOCK):
            out[low : low + BLOCK] = log_sum_exp(left[low : low + BLOCK] @ right)
        return out


def log_sum_exp(table: Floats) -> Floats:
    """ln of the sum of exponentials along the last axis; the exponentials in single precision, their sum in double."""
    top = table.max(axis=-1, keepdims=True)
    small = (table - top).astype(np.float32)
    np.exp(small, out=small)
    return np.asarray(np.log(small.sum(axis=-1, dtype=np.float64)) + top[..., 0])


@dataclass(frozen=True, slots=True)
class Kernels:
    """K equally weighted Gaussians of one covariance around weighted draws, the last coordinate wrapped on the circle.

    ``centres``: (K, 5); ``factor``: (5, 5) lower Cholesky factor of the covariance.
    """

    stratified: ClassVar[bool] = True

    centres: Floats
    factor: Floats

    def draw(self, rng: Generator, n: int) -> Floats:
        """(n, 5) draws."""
        which = np.arange(n) % len(self.centres)
        return np.asarray(self.centres[which] + rng.standard_normal((n, 5)) @ self.factor.T)

    def log_density(self, e: Floats) -> Floats:
        """ln q, (n,), of (n, 5): the sum over one turn either way."""
        inverse = np.linalg.inv(self.factor)
        centres = self.centres @ inverse.T
        turns = []
        for turn in (-2 * math.pi, 0.0, 2 * math.pi):
            at = (e + np.array([0, 0, 0, 0, turn])) @ inverse.T
            squares = (at**2).sum(1)[:, None] + (centres**2).sum(1) - 2 * at @ centres.T
            turns.append(log_sum_exp(-0.5 * squares))
        constant = -2.5 * LOG_TWO_PI - np.log(np.diag(self.factor)).sum() - math.log(len(self.centres))
        return np.asarray(log_sum_exp(np.stack(turns, axis=-1)) + constant)
