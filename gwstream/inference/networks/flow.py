"""What normalizing flows share: a context made once a window, and a density that is a change of variables on it."""

from __future__ import annotations

from abc import abstractmethod

import torch
from numpy.random import Generator
from torch import Tensor

from gwstream.inference.networks.base import Inputs, Network, Objective, Pace, Tensors
from gwstream.inference.networks.layers import trunk
from gwstream.model import FlowSpec


class Flow(Network):
    """A trunk on the features, and a flow of the coordinates given what it says."""

    def __init__(self, spec: FlowSpec, features: int, extra: int = 0) -> None:
        """``extra``: numbers beside the features that the trunk sees."""
        super().__init__(features)
        self.trunk = trunk(features + extra, spec.width, spec.depth)

    def context(self, inputs: Inputs) -> Tensor:
        """(B, width)."""
        found: Tensor = self.trunk((inputs.y - self.shift) * self.scale)
        return found

    @abstractmethod
    def prepare(self, context: Tensor) -> list[Tensor]:
        """What the context says to each part of the flow: once a window."""

    @abstractmethod
    def log_density(self, prepared: list[Tensor], e: Tensor) -> Tensor:
        """ln q, (B,), of e (B, 5)."""

    @abstractmethod
    def draw(self, prepared: list[Tensor], rng: Generator, n: int) -> tuple[Tensor, Tensor]:
        """n draws of ONE window, (n, 5), and their ln densities (n,)."""

    def loss(self, inputs: Inputs, e: Tensor, pace: Pace) -> Objective:
        """The mean of -ln q(e|y)."""
        return Objective.of(self.log_density(self.prepare(self.context(inputs)), e))

    def forward(self, y: Tensor, windows: Tensor, *noise: Tensor) -> tuple[Tensor, ...]:
        """What the window says to each part of the flow."""
        return tuple(self.prepare(self.context(Inputs(y, windows))))

    def density(self, *made: Tensor) -> Tensors:
        """The flow of one window."""
        prepared = list(made)
        return Tensors(lambda rng, n: self.draw(prepared, rng, n), lambda e: self.log_density(prepared, e))


def standard_normal(u: Tensor) -> Tensor:
    """ln density, (…), of independent standard normals (…, D)."""
    return -0.5 * u.square().sum(-1) - 0.5 * u.shape[-1] * torch.log(torch.tensor(2 * torch.pi))
