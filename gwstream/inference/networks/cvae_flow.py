"""CVAE+ of Green, Simpson & Gair (arXiv:2002.07656): flows in place of the three Gaussians of a CVAE.

    E1  r(z|y)     a masked autoregressive flow
    E2  q(z|e,y)   an inverse autoregressive flow (Kingma et al., arXiv:1606.04934): draws in one pass
    D   r(e|z,y)   one autoregressive step whose shifts are linear: a normal of full covariance, and a von Mises about
                   an angle that leans on the other four

so that the proposal stays a finite mixture over latents with exact density: a general flow for D would have to be run
for every pair of draw and latent.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor, nn

from gwstream.inference.networks.autoencoder import DECODED, Autoencoder, Decoded, as_numbers, gaussian
from gwstream.inference.networks.base import LOG_TWO_PI, STRAIGHT, Inputs, Tensors, normals
from gwstream.inference.networks.flow import standard_normal
from gwstream.inference.networks.layers import LEAST_SIGMA, MOST_SIGMA, Autoregression, Chain, Residual, bounded, trunk
from gwstream.model import CvaeFlowSpec

SLOPES = (STRAIGHT + 1) * STRAIGHT // 2
LOW, COLUMN = np.tril_indices(STRAIGHT + 1, -1)
PAIRS = np.triu_indices(STRAIGHT)
BLOCK = 128  # draws at a time: the table stays in the cache


@dataclass(frozen=True, slots=True)
class Leaning:
    """D's output: `Decoded`, and slopes (…, 5, 4): u_i = (d_i - sum_{j<i} slope_ij d_j) / sigma_i, d = e - mean."""

    centre: Decoded
    slopes: Tensor

    @classmethod
    def of(cls, centre: Decoded, below: Tensor) -> Leaning:
        """With the slopes as a network says them, (…, `SLOPES`), those below the diagonal."""
        slopes = below.new_zeros(*below.shape[:-1], STRAIGHT + 1, STRAIGHT)
        slopes[..., LOW, COLUMN] = below
        return cls(centre, slopes)

    def log_density(self, e: Tensor) -> Tensor:
        """ln r(e|z,y), (…,), of e (…, 5): that of `Decoded` for what is left when the leaning is taken off."""
        difference = e[..., :STRAIGHT] - self.centre.mean
        expected = (self.slopes * difference[..., None, :]).sum(-1)
        return self.centre.log_density(e - expected)


class CvaeFlow(Autoencoder):
    """A `Cvae` of flows."""

    def __init__(self, spec: CvaeFlowSpec, features: int) -> None:
        super().__init__(features)
        width, latent = spec.width, spec.latent
        half = width // 2
        self.latent = latent
        self.trunk = trunk(features, width, spec.depth)
        self.e1 = Chain(spec.steps, width, latent, spec.hidden, spec.layers)
        self.e2_window, self.e2_x = nn.Linear(width, half), nn.Linear(6, half)
        self.e2 = nn.Sequential(Residual(half), Residual(half), nn.LayerNorm(half))
        self.e2_start, self.e2_skip = nn.Linear(half, 2 * latent), nn.Linear(6, latent)
        self.e2_step = Autoregression(half, (0, latent), spec.hidden, spec.layers, 2)
        self.d_window, self.d_z = nn.Linear(width, half), nn.Linear(latent, half)
        self.d = nn.Sequential(Residual(half), Residual(half), nn.LayerNorm(half), nn.Linear(half, DECODED + SLOPES))

    def embed(self, inputs: Inputs) -> Tensor:
        """Features (B, F) to what the three networks share, (B, width)."""
        out: Tensor = self.trunk((inputs.y - self.shift) * self.scale)
        return out

    def log_prior(self, window: Tensor, z: Tensor) -> Tensor:
        """ln r(z|y), (B, L)."""
        prepared = [part.repeat_interleave(z.shape[1], 0) for part in self.e1.prepare(window)]
        u, log_width = self.e1.inward(prepared, z.flatten(0, 1))
        return (standard_normal(u) - log_width).reshape(z.shape[:2])

    def draw_prior(self, window: Tensor, noise: Tensor, uniform: Tensor) -> Tensor:
        """Latents (B, L, latent); there is nothing to pick."""
        prepared = [_repeated(part, noise.shape[1]) for part in self.e1.prepare(window)]
        return self.e1.outward(prepared, noise.flatten(0, 1))[0].reshape(noise.shape)

    def encode(self, window: Tensor, e: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """E2: latents (B, L, latent), and ln q(z|e,y), (B, L)."""
        numbers = as_numbers(e)
        hidden = self.e2(self.e2_window(window) + self.e2_x(numbers))
        mean, log_sigma = self.e2_start(hidden).chunk(2, dim=-1)
        z, log_q = gaussian(mean + self.e2_skip(numbers), log_sigma.clamp(-7.0, 2.0), noise)
        prepared = self.e2_step.prepare(hidden).repeat_interleave(z.shape[1], 0)
        shift, raw = self.e2_step(prepared, z.flatten(0, 1)).reshape(*z.shape, 2).unbind(-1)
        log_scale = bounded(raw, LEAST_SIGMA, MOST_SIGMA)
        return shift + torch.exp(log_scale) * z, log_q - log_scale.sum(-1)

    def decode(self, window: Tensor, z: Tensor) -> Leaning:
        """D for latents (B, L, latent) of embedded windows (B, width)."""
        return Leaning.of(*self._decode(window, z))

    def _decode(self, window: Tensor, z: Tensor) -> tuple[Decoded, Tensor]:
        raw = self.d(self.d_window(window)[:, None] + self.d_z(z))
        return Decoded.of(raw[..., :DECODED]), raw[..., DECODED:]

    def noise(self, rng: Generator, latents: int) -> tuple[Tensor, ...]:
        """Standard normal numbers (1, L, latent)."""
        return (normals(rng, 1, latents, self.latent),)

    def forward(self, y: Tensor, windows: Tensor, *noise: Tensor) -> tuple[Tensor, ...]:
        """The decoder over L latents: mean, sigma (B, L, 4), angle, ln kappa (B, L), and slopes (B, L, `SLOPES`)."""
        window = self.embed(Inputs(y, windows))
        centre, below = self._decode(window, self.draw_prior(window, noise[0], noise[0][..., 0]))
        return centre.mean, centre.sigma, centre.angle, centre.log_kappa, below

    def density(self, *made: Tensor) -> Tensors:
        """The decoder over its latents, as one mixture."""
        *centre, below = (part[0] for part in made)
        parts = _Parts(Leaning.of(Decoded(*centre), below))
        return Tensors(parts.draw, parts.log_density, stratified=True)


def _repeated(part: Tensor, times: int) -> Tensor:
    """Each window's rows so many times in a row; those of a single one serve all as they are."""
    return part if len(part) == 1 else part.repeat_interleave(times, 0)


class _Parts:
    """L equally weighted `Leaning`s of one window; a part's exponent is linear in e, e e' and the angle's wave."""

    def __init__(self, parts: Leaning) -> None:
        self._parts = parts
        centre, slopes = parts.centre, parts.slopes.double()
        self._middle = centre.mean.double().median(0).values
        mean, sigma = centre.mean.double() - self._middle, centre.sigma.double()
        self._mixing = torch.linalg.inv(torch.eye(STRAIGHT, dtype=torch.double) - slopes[:, :STRAIGHT])
        factor = (torch.eye(STRAIGHT, dtype=torch.double) - slopes[:, :STRAIGHT]) / sigma[..., None]
        precision = factor.transpose(1, 2) @ factor
        pull = (precision @ mean[..., None])[..., 0]
        twice = torch.from_numpy(np.where(PAIRS[0] == PAIRS[1], -0.5, -1.0))
        kappa = centre.log_kappa.double().exp()
        constant = -0.5 * (mean * pull).sum(-1) - torch.log(sigma).sum(-1) - 0.5 * STRAIGHT * LOG_TWO_PI
        constant = constant - LOG_TWO_PI - torch.log(torch.special.i0e(kappa)) - math.log(len(mean)) - kappa
        self._right = torch.cat([precision[:, PAIRS[0], PAIRS[1]] * twice, pull, constant[:, None]], 1).T.float()
        lean = slopes[:, STRAIGHT]
        angle = centre.angle.double() - (lean * mean).sum(-1)
        self._angle = torch.cat([lean, angle[:, None]], 1).T.float()
        self._kappa = kappa.float()

    def draw(self, rng: Generator, n: int) -> tuple[Tensor, Tensor]:
        """(n, 5), parts taken in turn, and their ln densities (n,)."""
        centre = self._parts.centre
        which = torch.arange(n) % len(centre.mean)
        noise = torch.from_numpy(rng.standard_normal((n, STRAIGHT))) * centre.sigma[which]
        difference = (self._mixing[which] * noise[:, None]).sum(-1)
        lean = (self._parts.slopes[which, STRAIGHT] * difference).sum(-1)
        middle = torch.remainder(centre.angle[which] + lean + math.pi, 2 * math.pi) - math.pi
        angle = rng.vonmises(middle.numpy(), centre.log_kappa.double().exp()[which].numpy())
        e = torch.cat([centre.mean[which] + difference, torch.from_numpy(angle)[:, None]], 1).float()
        return e, self.log_density(e)

    def log_density(self, e: Tensor) -> Tensor:
        """ln q, (n,), of e (n, 5)."""
        x = e[:, :STRAIGHT] - self._middle.float()
        one = torch.ones_like(x[:, :1])
        left = torch.cat([x[:, PAIRS[0]] * x[:, PAIRS[1]], x, one], 1)
        leaning = torch.cat([x, one], 1)
        out = torch.empty(len(e))
        for low in range(0, len(e), BLOCK):
            rows = slice(low, low + BLOCK)
            turned = e[rows, STRAIGHT:] - leaning[rows] @ self._angle
            out[rows] = torch.logsumexp(left[rows] @ self._right + self._kappa * torch.cos(turned), 1)
        return out
