"""What conditional variational autoencoders share (Gabbard et al., arXiv:1909.06296), whatever their parts are made of.

    E1  r(z|y)     over the latent z
    E2  q(z|e,y)   training only
    D   r(e|z,y)   four Gaussians and a von Mises

The loss is the negative of ELBO = E_q[ln r(e|z,y)] - KL(q(z|e,y) || r(z|y)), or its importance-weighted form (Burda et
al., arXiv:1509.00519). The proposal is the decoder over L latents from E1, as ONE finite mixture with exact density.
Shapes: window (B, W), e (B, 5), z (B, L, latent).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor

from gwstream.inference.mixture import Mixture
from gwstream.inference.networks.base import (
    LOG_TWO_PI,
    STRAIGHT,
    Inputs,
    Network,
    Objective,
    Pace,
    normals,
)
from gwstream.inference.networks.layers import LEAST_SIGMA, MOST_SIGMA

LEAST_LOG_KAPPA, MOST_LOG_KAPPA = -5.0, 9.0
DECODED = 2 * STRAIGHT + 3


@dataclass(frozen=True, slots=True)
class Decoded:
    """D's output: mean, sigma (…, 4) of the first four coordinates; angle, ln concentration (…,) of the cyclic one."""

    mean: Tensor
    sigma: Tensor
    angle: Tensor
    log_kappa: Tensor

    @classmethod
    def of(cls, raw: Tensor) -> Decoded:
        """From a network's output (…, `DECODED`)."""
        sigma = torch.exp(raw[..., STRAIGHT : 2 * STRAIGHT].clamp(math.log(LEAST_SIGMA), math.log(MOST_SIGMA)))
        angle = torch.atan2(raw[..., 2 * STRAIGHT], raw[..., 2 * STRAIGHT + 1])
        log_kappa = raw[..., 2 * STRAIGHT + 2].clamp(LEAST_LOG_KAPPA, MOST_LOG_KAPPA)
        return cls(10 * torch.sinh(raw[..., :STRAIGHT] / 10), sigma, angle, log_kappa)

    def log_density(self, e: Tensor) -> Tensor:
        """ln r(e|z,y), (…,), of e (…, 5)."""
        scaled = (e[..., :STRAIGHT] - self.mean) / self.sigma
        normal = -0.5 * (scaled.square() + LOG_TWO_PI) - torch.log(self.sigma)
        kappa = torch.exp(self.log_kappa)
        log_i0 = torch.log(torch.special.i0e(kappa))  # i0e(k) = exp(-k) I0(k)
        cyclic = kappa * (torch.cos(e[..., STRAIGHT] - self.angle) - 1) - LOG_TWO_PI - log_i0
        return normal.sum(-1) + cyclic


class Density(Protocol):
    """What D gives."""

    def log_density(self, e: Tensor) -> Tensor:
        """ln r(e|z,y), (…,), of e (…, 5)."""
        ...


def as_numbers(e: Tensor) -> Tensor:
    """Coordinates (B, 5) as a network sees them, (B, 6): tamed, and the angle as a point on the circle."""
    wave = torch.stack([torch.cos(e[:, STRAIGHT]), torch.sin(e[:, STRAIGHT])], -1)
    return torch.cat([torch.asinh(e[:, :STRAIGHT]), wave], -1)


class Autoencoder(Network):
    """E1, E2 and D, to be filled in."""

    latent: int
    training_only = ("e2",)

    @abstractmethod
    def embed(self, inputs: Inputs) -> Tensor:
        """What the three networks share of B windows, (B, W)."""

    @abstractmethod
    def log_prior(self, window: Tensor, z: Tensor) -> Tensor:
        """E1: ln r(z|y), (B, L)."""

    @abstractmethod
    def draw_prior(self, window: Tensor, noise: Tensor, uniform: Tensor) -> Tensor:
        """E1: latents (B, L, latent) from standard normal (B, L, latent) and uniform (B, L) numbers."""

    @abstractmethod
    def encode(self, window: Tensor, e: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """E2: latents from standard normal numbers (B, L, latent), and their ln q(z|e,y), (B, L)."""

    @abstractmethod
    def decode(self, window: Tensor, z: Tensor) -> Density:
        """D for latents (B, L, latent) of embedded windows."""

    def loss(self, inputs: Inputs, e: Tensor, pace: Pace) -> Objective:
        """-ELBO with the KL term times beta (one draw), or the importance-weighted bound of several draws."""
        window = self.embed(inputs)
        z, log_q = self.encode(window, e, torch.randn(len(e), pace.draws, self.latent))
        kl = log_q - self.log_prior(window, z)
        log_e = self.decode(window, z).log_density(e[:, None])
        if pace.draws == 1:
            loss = (pace.beta * kl - log_e).mean()
        else:
            loss = -(torch.logsumexp(log_e - pace.beta * kl, dim=1) - math.log(pace.draws)).mean()
        return Objective(loss, float(log_e.detach().mean()), float(kl.detach().mean()))


class Diagonal(Autoencoder):
    """Autoencoders whose D is `Decoded`."""

    @abstractmethod
    def decode(self, window: Tensor, z: Tensor) -> Decoded:
        """D for latents (B, L, latent) of embedded windows."""

    def noise(self, rng: Generator, latents: int) -> tuple[Tensor, ...]:
        """Standard normal (1, L, latent) and stratified uniform (1, L) numbers."""
        normal = normals(rng, 1, latents, self.latent)
        uniform = ((np.arange(latents) + rng.random(latents)) / latents).astype(np.float32)
        return normal, torch.from_numpy(uniform)[None]

    def forward(self, y: Tensor, windows: Tensor, *noise: Tensor) -> tuple[Tensor, ...]:
        """The decoder over L latents: mean, sigma (B, L, 4), angle, ln kappa (B, L)."""
        window = self.embed(Inputs(y, windows))
        found = self.decode(window, self.draw_prior(window, *noise))
        return found.mean, found.sigma, found.angle, found.log_kappa

    def density(self, *made: Tensor) -> Mixture:
        """The decoder over its latents, as one mixture."""
        mean, sigma, angle, log_kappa = (part[0].double().numpy() for part in made)
        return Mixture(mean=mean, sigma=sigma, angle=angle, kappa=np.exp(log_kappa))


@dataclass(frozen=True, slots=True)
class Latent:
    """A mixture of diagonal Gaussians: log weights (B, M), means and log sigmas (B, M, latent)."""

    log_weights: Tensor
    mean: Tensor
    log_sigma: Tensor

    @classmethod
    def of(cls, raw: Tensor, components: int) -> Latent:
        """From a network's output (B, components * (2 * latent + 1))."""
        parts = raw.reshape(len(raw), components, -1)
        mean, log_sigma = parts[..., 1:].chunk(2, dim=-1)
        return cls(torch.log_softmax(parts[..., 0], -1), mean, log_sigma.clamp(-7.0, 3.0))

    def log_density(self, z: Tensor) -> Tensor:
        """ln r(z|y), (B, L), of z (B, L, latent)."""
        scaled = (z[:, :, None] - self.mean[:, None]) * torch.exp(-self.log_sigma)[:, None]
        each = -0.5 * (scaled.square() + LOG_TWO_PI).sum(-1) - self.log_sigma.sum(-1)[:, None]
        return torch.logsumexp(each + self.log_weights[:, None], dim=-1)

    def draw(self, noise: Tensor, uniform: Tensor) -> Tensor:
        """(B, L, latent); the component is picked by a step function, which every engine knows."""
        weights = torch.exp(self.log_weights)
        ends = weights @ torch.ones(weights.shape[-1], weights.shape[-1]).triu()  # TensorRT knows no cumulative sum
        ends = torch.cat([ends[:, :-1], torch.ones_like(ends[:, :1])], -1)
        above = (uniform[..., None] < ends[:, None]).to(noise.dtype)
        chosen = above - torch.nn.functional.pad(above[..., :-1], (1, 0))
        return chosen @ self.mean + (chosen @ torch.exp(self.log_sigma)) * noise


def gaussian(mean: Tensor, log_sigma: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Draws (B, L, latent) of diagonal Gaussians (B, latent), and their ln densities (B, L)."""
    z = mean[:, None] + torch.exp(log_sigma)[:, None] * noise
    return z, (-0.5 * (noise.square() + LOG_TWO_PI)).sum(-1) - log_sigma.sum(-1)[:, None]
