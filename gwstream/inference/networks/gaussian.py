"""One multivariate normal of full covariance, after Chua & Vallisneri (arXiv:1909.05966): mean and factor of a window.

Its last coordinate is wound onto the circle. With d = e - mean, and T unit lower triangular,

    u_i = (d_i - sum_{j<i} T_ij d_j) / sigma_i

are independent standard normals; the last difference is taken on the circle, and its density summed over the turns.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor, nn
from torch.nn import functional

from gwstream.inference.networks.base import (
    DIMENSIONS,
    LOG_TWO_PI,
    MOST_ANGLE,
    STRAIGHT,
    Inputs,
    Network,
    Objective,
    Pace,
    Tensors,
    normals,
    wrap,
    wrapped_normal,
)
from gwstream.inference.networks.layers import LEAST_SIGMA, MOST_SIGMA, Residual, bounded, trunk
from gwstream.model import GaussianSpec, MixtureSpec

SLOPES = DIMENSIONS * (DIMENSIONS - 1) // 2
SIZE = 1 + STRAIGHT + 2 + DIMENSIONS + SLOPES


@dataclass(frozen=True, slots=True)
class Normals:
    """M normals a window: ln weights (B, M); mean (B, M, 5); ln sigma (B, M, 5); T (B, M, 5, 5) below its diagonal."""

    log_weights: Tensor
    mean: Tensor
    log_sigma: Tensor
    slopes: Tensor

    @classmethod
    def of(cls, raw: Tensor) -> Normals:
        """From a network's output (B, M, `SIZE`)."""
        weight, mean, wave, log_sigma, slopes = torch.split(raw, [1, STRAIGHT, 2, DIMENSIONS, SLOPES], -1)
        angle = torch.atan2(wave[..., 0], wave[..., 1] + 1e-3)
        low, column = torch.tril_indices(DIMENSIONS, DIMENSIONS, -1)
        square = raw.new_zeros(*raw.shape[:-1], DIMENSIONS, DIMENSIONS)
        square[..., low, column] = slopes
        straight = bounded(log_sigma[..., :STRAIGHT], LEAST_SIGMA, MOST_SIGMA)
        circle = bounded(log_sigma[..., STRAIGHT:], LEAST_SIGMA, MOST_ANGLE)
        return cls(
            functional.log_softmax(weight[..., 0], -1),
            torch.cat([10 * torch.sinh(mean / 10), angle[..., None]], -1),
            torch.cat([straight, circle], -1),
            square,
        )

    def log_density(self, e: Tensor) -> Tensor:
        """ln q, (B,), of e (B, 5)."""
        difference = e[:, None, :STRAIGHT] - self.mean[..., :STRAIGHT]
        expected = (self.slopes[..., :STRAIGHT] * difference[..., None, :]).sum(-1)
        straight = (difference - expected[..., :STRAIGHT]) * torch.exp(-self.log_sigma[..., :STRAIGHT])
        log_straight = -0.5 * (straight.square() + LOG_TWO_PI) - self.log_sigma[..., :STRAIGHT]
        turned = e[:, None, STRAIGHT] - self.mean[..., STRAIGHT] - expected[..., STRAIGHT]
        log_circle = wrapped_normal(turned, self.log_sigma[..., STRAIGHT])
        return torch.logsumexp(self.log_weights + log_straight.sum(-1) + log_circle, -1)

    def draw(self, uniform: Tensor, noise: Tensor) -> Tensor:
        """(n, 5) draws of ONE window from uniform (n,), which picks the normal, and standard normal (n, 5) numbers."""
        steps = torch.cumsum(self.log_weights[0].double().exp(), 0)
        chosen = torch.searchsorted(steps, uniform).clamp(max=len(steps) - 1)
        mixing = torch.linalg.inv(torch.eye(DIMENSIONS) - self.slopes[0])[chosen]
        scaled = noise * torch.exp(self.log_sigma[0, chosen])
        e = self.mean[0, chosen] + (mixing * scaled[:, None]).sum(-1)
        return torch.cat([e[:, :STRAIGHT], wrap(e[:, STRAIGHT:])], 1)


class Gaussian(Network):
    """A trunk and a head that gives one normal, or M with their weights."""

    def __init__(self, spec: GaussianSpec | MixtureSpec, features: int, components: int = 1) -> None:
        super().__init__(features)
        self.trunk = trunk(features, spec.width, spec.depth)
        last = nn.Linear(spec.width, components * SIZE)
        self.head = nn.Sequential(Residual(spec.width), nn.LayerNorm(spec.width), last)
        with torch.no_grad():
            last.weight.mul_(0.1)
            last.bias.normal_(0.0, 0.5 if components > 1 else 0.0)

    def normals(self, inputs: Inputs) -> Normals:
        """What is said of B windows."""
        return Normals.of(*self(inputs.y, inputs.windows))

    def loss(self, inputs: Inputs, e: Tensor, pace: Pace) -> Objective:
        """The mean of -ln q(e|y)."""
        return Objective.of(self.normals(inputs).log_density(e))

    def forward(self, y: Tensor, windows: Tensor, *noise: Tensor) -> tuple[Tensor, ...]:
        """The head's numbers (B, M, `SIZE`)."""
        raw = self.head(self.trunk((y - self.shift) * self.scale))
        return (raw.unflatten(-1, (-1, SIZE)),)

    def density(self, *made: Tensor) -> Tensors:
        """The normals of one window."""
        found = Normals.of(*made)

        def draw(rng: Generator, n: int) -> tuple[Tensor, Tensor]:
            uniform = torch.from_numpy((np.arange(n) + rng.random(n)) / n)
            e = found.draw(uniform, normals(rng, n, DIMENSIONS))
            return e, found.log_density(e)

        return Tensors(draw, found.log_density, stratified=len(found.log_weights[0]) > 1)
