"""Finite mixtures with exact densities: the decoder over L latents, and the kernels of an adapted proposal."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.random import Generator
from scipy.special import i0e
from torch import Tensor

from gwstream.records import Floats

STRAIGHT = 4
LOG_TWO_PI = math.log(2 * math.pi)
ROUNDS = 6  # of rejection at a time, after the first
BLOCK = 64  # rows at a time: the table stays in the cache
FAINT = 1e-28  # a sum in single precision below which digits are lost
LOWEST = -87.0  # exponents below it make subnormal numbers, each of which takes a processor a hundred times as long
TINY = 1e-300


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
        return np.column_stack([straight, von_mises(rng, self.angle[which], self.kappa[which])])

    def log_density(self, e: Floats) -> Floats:
        """ln q, (n,), of (n, 5): one matrix product, as a component's exponent is linear in (e, e^2, cos, sin).

        In double precision, for large terms cancel; then relative to the highest peak, in single.
        """
        centre = np.median(self.mean, axis=0)
        x, mean = e[:, :STRAIGHT] - centre, self.mean - centre
        precision = self.sigma**-2
        peak = -np.log(self.sigma).sum(1) - np.log(i0e(self.kappa)) - 0.5 * (STRAIGHT + 2) * LOG_TWO_PI
        top = float(peak.max())
        constant = peak - top - 0.5 * (mean**2 * precision).sum(1) - self.kappa
        left = np.column_stack([x**2, x, np.cos(e[:, STRAIGHT]), np.sin(e[:, STRAIGHT]), np.ones(len(e))])
        cyclic = np.stack([self.kappa * np.cos(self.angle), self.kappa * np.sin(self.angle), constant])
        right = np.vstack([-0.5 * precision.T, (mean * precision).T, cyclic])
        with torch.inference_mode():
            found = _log_sums(torch.from_numpy(left), torch.from_numpy(right)).numpy()
        return np.asarray(found + (top - math.log(len(self.mean))))


def _log_sums(left: Tensor, right: Tensor) -> Tensor:
    """ln of the sum of exponentials along the rows of left @ right, (n,), none of whose elements is much above 0."""
    table = torch.empty(min(BLOCK, len(left)), right.shape[1], dtype=torch.float64)
    small = torch.empty(table.shape)
    out = torch.empty(len(left), dtype=torch.float64)
    for low in range(0, len(left), BLOCK):
        part = left[low : low + BLOCK]
        torch.mm(part, right, out=table[: len(part)])
        sums = small[: len(part)].copy_(table[: len(part)]).clamp_(min=LOWEST).exp_().sum(1)
        torch.log(sums.double(), out=out[low : low + BLOCK])
        if float(sums.min()) < FAINT:  # far from every component: relative to each row's own highest
            rows = torch.nonzero(~(sums >= FAINT))[:, 0]
            out[low + rows] = torch.logsumexp(table[rows], 1)
    return out


def von_mises(rng: Generator, angle: Floats, kappa: Floats) -> Floats:
    """Draws (n,) of von Mises distributions, in (-pi, pi], by rejection from wrapped Cauchys (Best & Fisher 1979).

    Each draw has random numbers of its own, so what rounding does to one leaves the others alone: numpy's, where one
    that is accepted or not moves all that follow, make another posterior of the same window on another engine.
    """
    n = len(angle)
    side = np.where(rng.random(n) < 0.5, -1.0, 1.0)
    tau = 1 + np.sqrt(1 + 4 * kappa**2)
    rho = (tau - np.sqrt(2 * tau)) / (2 * kappa)
    r = (1 + rho**2) / (2 * rho)
    cosine = np.empty(n)
    left, rounds = np.arange(n), 1
    while len(left):
        first, second = rng.random((2, rounds, n))[:, :, left]
        z, wide = np.cos(math.pi * first), r[left]
        found = (1 + wide * z) / (wide + z)
        c = kappa[left] * (wide - found)
        accepted = np.log(np.maximum(c, TINY) / np.maximum(second, TINY)) + 1 - c >= 0
        soonest = accepted.argmax(0)  # 0, too, where none was
        cosine[left] = found[soonest, np.arange(len(left))]
        left, rounds = left[~accepted.any(0)], ROUNDS
    turned = angle + side * np.arccos(np.clip(cosine, -1.0, 1.0))
    return np.asarray(math.pi - np.mod(math.pi - turned, 2 * math.pi))


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
        """ln q, (n,), of (n, 5): the sum over one turn either way, by one matrix product in whitened coordinates."""
        inverse = np.linalg.inv(self.factor)
        middle = np.median(self.centres, axis=0)  # large terms cancel less
        turns = (self.centres - middle) + 2 * math.pi * np.array([-1, 0, 1])[:, None, None] * np.eye(5)[4]
        at, centres = (e - middle) @ inverse.T, turns.reshape(-1, 5) @ inverse.T
        left = np.column_stack([at, -0.5 * (at**2).sum(1), np.ones(len(e))])
        right = np.vstack([centres.T, np.ones(len(centres)), -0.5 * (centres**2).sum(1)])
        with torch.inference_mode():
            found = _log_sums(torch.from_numpy(left), torch.from_numpy(right)).numpy()
        constant = -2.5 * LOG_TWO_PI - np.log(np.diag(self.factor)).sum() - math.log(len(self.centres))
        return np.asarray(found + constant)
