"""A masked autoregressive flow, after Green, Simpson & Gair (arXiv:2002.07656) and Papamakarios et al. (1705.07057).

Several steps, each shifting and scaling every coordinate by what the window and the coordinates before it say, and each
in the opposite order of the last. The angle comes last of all: a Gaussian wound onto the circle, given the other four.
"""

from __future__ import annotations

import torch
from numpy.random import Generator
from torch import Tensor

from gwstream.inference.networks.base import (
    MOST_ANGLE,
    STRAIGHT,
    normals,
    wrap,
    wrapped_normal,
)
from gwstream.inference.networks.flow import Flow, standard_normal
from gwstream.inference.networks.layers import LEAST_SIGMA, Autoregression, Chain, bounded
from gwstream.model import MafSpec


class Maf(Flow):
    """``steps`` affine steps on the straight coordinates."""

    def __init__(self, spec: MafSpec, features: int) -> None:
        super().__init__(spec, features)
        self.chain = Chain(spec.steps, spec.width, STRAIGHT, spec.hidden, spec.layers)
        self.circle = Autoregression(spec.width, (STRAIGHT, 1), spec.hidden, spec.layers, 2)

    def prepare(self, context: Tensor) -> list[Tensor]:
        """For every step, and for the angle."""
        return [*self.chain.prepare(context), self.circle.prepare(context)]

    def log_density(self, prepared: list[Tensor], e: Tensor) -> Tensor:
        """ln q, (B,), of e (B, 5)."""
        u, log_width = self.chain.inward(prepared[:-1], e[:, :STRAIGHT])
        shift, log_sigma = self.circle(prepared[-1], e)[:, 0].unbind(-1)
        log_circle = wrapped_normal(e[:, STRAIGHT] - shift, bounded(log_sigma, LEAST_SIGMA, MOST_ANGLE))
        return standard_normal(u) - log_width + log_circle

    def draw(self, prepared: list[Tensor], rng: Generator, n: int) -> tuple[Tensor, Tensor]:
        """n draws of ONE window, (n, 5), and their ln densities (n,)."""
        noise = normals(rng, n, STRAIGHT + 1)
        x, log_width = self.chain.outward(prepared[:-1], noise[:, :STRAIGHT])
        shift, log_sigma = self.circle.one(0, prepared[-1], x).unbind(-1)
        log_sigma = bounded(log_sigma, LEAST_SIGMA, MOST_ANGLE)
        turned = torch.exp(log_sigma) * noise[:, STRAIGHT]
        e = torch.cat([x, wrap(shift + turned)[:, None]], 1)
        return e, standard_normal(noise[:, :STRAIGHT]) - log_width + wrapped_normal(turned, log_sigma)
