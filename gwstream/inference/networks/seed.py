"""The recipe this project grew from, untouched: the yardstick for all that was changed since.

Gabbard et al. (arXiv:1909.06296) as it is usually copied: fully connected E1, E2 and D on the bare window, parameters
scaled by the limits of the prior, one anchor for all windows, latent 8. `models/seed` trains it on 10^6 samples by the
plain ELBO.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from gwstream.inference.networks.autoencoder import DECODED, Decoded, Diagonal, Latent, gaussian
from gwstream.inference.networks.base import DIMENSIONS, STRAIGHT, Inputs
from gwstream.model import SeedSpec
from gwstream.prior import Prior
from gwstream.records import Floats


@dataclass(frozen=True, slots=True)
class Fixed:
    """Parameters scaled by the prior: e1 … e4 from -1 to 1 over its limits, e5 twice the phase."""

    prior: Prior

    def _limits(self) -> tuple[Floats, Floats]:
        prior = self.prior
        edges = np.array([prior.mass, prior.mass, prior.distance, prior.time])
        return edges.mean(axis=1), 0.5 * (edges[:, 1] - edges[:, 0])

    def encode(self, x: Floats) -> Floats:
        """Coordinates (S, 5) of parameters (S, 5)."""
        middle, half = self._limits()
        angle = math.pi - np.mod(math.pi - 2 * x[:, STRAIGHT], 2 * math.pi)
        return np.column_stack([(x[:, :STRAIGHT] - middle) / half, angle])

    def decode(self, e: Floats) -> tuple[Floats, Floats]:
        """Parameters (S, 5) of coordinates (S, 5), and ln |de / dx| (S,)."""
        return self.parameters(e), np.full(len(e), math.log(2.0) - float(np.log(self._limits()[1]).sum()))

    def parameters(self, e: Floats) -> Floats:
        """Parameters (S, 5) of coordinates (S, 5) alone."""
        middle, half = self._limits()
        return np.column_stack([middle + half * e[:, :STRAIGHT], np.mod(0.5 * e[:, STRAIGHT], math.pi)])


def connected(inputs: int, width: int, depth: int, outputs: int) -> nn.Sequential:
    """``depth`` hidden layers."""
    sizes = [inputs] + [width] * depth
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(sizes):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], outputs))


class Seed(Diagonal):
    """Three fully connected networks, each on the window itself."""

    def __init__(self, spec: SeedSpec, features: int, samples: int, prior: Prior) -> None:
        """``samples`` of a window."""
        super().__init__(features)
        self.latent, self.components = spec.latent, spec.components
        self.fixed = Fixed(prior)
        width, depth = spec.width, spec.depth
        self.e1 = connected(samples, width, depth, spec.components * (2 * spec.latent + 1))
        self.e2 = connected(samples + DIMENSIONS, width, depth, 2 * spec.latent)
        self.d = connected(samples + spec.latent, width, depth, DECODED)

    def embed(self, inputs: Inputs) -> Tensor:
        """The window."""
        return inputs.windows

    def log_prior(self, window: Tensor, z: Tensor) -> Tensor:
        """ln r(z|y), (B, L)."""
        return Latent.of(self.e1(window), self.components).log_density(z)

    def draw_prior(self, window: Tensor, noise: Tensor, uniform: Tensor) -> Tensor:
        """Latents (B, L, latent)."""
        return Latent.of(self.e1(window), self.components).draw(noise, uniform)

    def encode(self, window: Tensor, e: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """E2: latents (B, L, latent), and ln q(z|e,y), (B, L)."""
        mean, log_sigma = self.e2(torch.cat([window, e], -1)).chunk(2, dim=-1)
        return gaussian(mean, log_sigma.clamp(-7.0, 2.0), noise)

    def decode(self, window: Tensor, z: Tensor) -> Decoded:
        """D for latents (B, L, latent) of windows (B, n)."""
        first = self.d[0]
        assert isinstance(first, nn.Linear)
        samples = window.shape[-1]  # the window's share of the first layer once, not once a latent
        h = nn.functional.linear(window, first.weight[:, :samples], first.bias)[:, None]
        return Decoded.of(self.d[1:](h + z @ first.weight[:, samples:].T))
