"""A neural spline flow, after Green & Gair (arXiv:2008.03312) and Durkan et al. (arXiv:1906.04032).

Coordinate by coordinate, each given the window and those before it: brought to mean 0 and width 1, then bent by a
monotonic rational-quadratic spline into a standard normal. The angle comes last, and is wound onto the circle. One
autoregressive step says all that any chain of steps can; what bends is the spline of each coordinate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from numpy.random import Generator
from torch import Tensor
from zuko.transforms import MonotonicRQSTransform

from gwstream.inference.networks.base import (
    DIMENSIONS,
    LOG_TWO_PI,
    STRAIGHT,
    normals,
    wrap,
)
from gwstream.inference.networks.flow import Flow
from gwstream.inference.networks.layers import LEAST_SIGMA, MOST_SIGMA, Autoregression, bounded
from gwstream.model import SplineSpec

BOUND = 6.0  # widths within which the spline bends; beyond it is straight
MOST_TURN = 2.0  # rad, before the spline
TURNS = (-2 * math.pi, 0.0, 2 * math.pi)


class Nsf(Flow):
    """Splines of ``bins`` pieces."""

    def __init__(self, spec: SplineSpec, features: int, extra: int = 0) -> None:
        super().__init__(spec, features, extra)
        self.bins = spec.bins
        outputs = 2 + 3 * spec.bins - 1
        self.flow = Autoregression(spec.width, (0, DIMENSIONS), spec.hidden, spec.layers, outputs)

    def prepare(self, context: Tensor) -> list[Tensor]:
        """For the five coordinates."""
        return [self.flow.prepare(context)]

    def log_density(self, prepared: list[Tensor], e: Tensor) -> Tensor:
        """ln q, (B,), of e (B, 5)."""
        raw = self.flow(prepared[0], e)
        straight = self._coordinate(raw[:, :STRAIGHT])
        return straight.log_density(e[:, :STRAIGHT]).sum(-1) + self._angle(raw[:, STRAIGHT], e[:, STRAIGHT])

    def draw(self, prepared: list[Tensor], rng: Generator, n: int) -> tuple[Tensor, Tensor]:
        """n draws of ONE window, (n, 5), and their ln densities (n,)."""
        u = normals(rng, n, DIMENSIONS)
        e, total = u[:, :0], u.new_zeros(n)
        for d in range(STRAIGHT):
            one = self._coordinate(self.flow.one(d, prepared[0], e[: n if d else 1]))
            x = one.draw(u[:, d])
            e, total = torch.cat([e, x[:, None]], 1), total + one.log_density(x)
        raw = self.flow.one(STRAIGHT, prepared[0], e)
        angle = wrap(self._coordinate(raw, MOST_TURN).draw(u[:, STRAIGHT]))
        return torch.cat([e, angle[:, None]], 1), total + self._angle(raw, angle)

    def _angle(self, raw: Tensor, angle: Tensor) -> Tensor:
        """ln density (B,) of angles (B,): the sum over their turns, of which one either way matters."""
        one = self._coordinate(raw[:, None], MOST_TURN)
        turned = one.mean + wrap(angle[:, None] - one.mean) + torch.tensor(TURNS)
        return torch.logsumexp(one.log_density(turned), -1)

    def _coordinate(self, raw: Tensor, most: float = MOST_SIGMA) -> Coordinate:
        """From what is said of coordinates, (…, P)."""
        shift, width, *spline = torch.split(raw, [1, 1, self.bins, self.bins, self.bins - 1], -1)
        log_width = bounded(width[..., 0], LEAST_SIGMA, most)
        return Coordinate(10 * torch.sinh(shift[..., 0] / 10), log_width, MonotonicRQSTransform(*spline, BOUND))


@dataclass(frozen=True, slots=True)
class Coordinate:
    """The density of one number: mean and ln width (…), and the spline from there to a standard normal."""

    mean: Tensor
    log_width: Tensor
    spline: MonotonicRQSTransform

    def log_density(self, x: Tensor) -> Tensor:
        """(…) of numbers (…)."""
        u, log_slope = self.spline.call_and_ladj((x - self.mean) * torch.exp(-self.log_width))
        found: Tensor = log_slope - 0.5 * (u.square() + LOG_TWO_PI) - self.log_width
        return found

    def draw(self, u: Tensor) -> Tensor:
        """From standard normal numbers (…)."""
        found: Tensor = self.mean + torch.exp(self.log_width) * self.spline.inv(u)
        return found
