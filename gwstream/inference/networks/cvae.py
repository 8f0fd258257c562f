"""The conditional variational autoencoder of Gabbard et al. (arXiv:1909.06296) on features and aligned coordinates.

E1 is a mixture of diagonal Gaussians, E2 a diagonal Gaussian, and all three networks stand on a common trunk that sees
the features once a window.
"""

from __future__ import annotations

from torch import Tensor, nn

from gwstream.inference.networks.autoencoder import DECODED, Decoded, Diagonal, Latent, as_numbers, gaussian
from gwstream.inference.networks.base import Inputs
from gwstream.inference.networks.layers import Residual
from gwstream.model import CvaeSpec


class Cvae(Diagonal):
    """Residual networks for E1, E2 and D."""

    def __init__(self, spec: CvaeSpec, features: int) -> None:
        super().__init__(features)
        width, latent = spec.width, spec.latent
        half = width // 2
        self.latent, self.components = latent, spec.components
        self.trunk = nn.Sequential(nn.Linear(features, width), *(Residual(width) for _ in range(spec.depth)))
        self.e1 = nn.Sequential(
            Residual(width), nn.LayerNorm(width), nn.Linear(width, spec.components * (2 * latent + 1))
        )
        self.e2_window, self.e2_x = nn.Linear(width, half), nn.Linear(6, half)
        self.e2 = nn.Sequential(Residual(half), Residual(half), nn.LayerNorm(half), nn.Linear(half, 2 * latent))
        self.e2_skip = nn.Linear(6, latent)  # cures a latent that nobody uses
        self.d_window, self.d_z = nn.Linear(width, half), nn.Linear(latent, half)
        self.d = nn.Sequential(Residual(half), Residual(half), nn.LayerNorm(half), nn.Linear(half, DECODED))

    def embed(self, inputs: Inputs) -> Tensor:
        """Features (B, F) to what the three networks share, (B, width)."""
        out: Tensor = self.trunk((inputs.y - self.shift) * self.scale)
        return out

    def prior(self, window: Tensor) -> Latent:
        """E1 of an embedded window."""
        return Latent.of(self.e1(window), self.components)

    def log_prior(self, window: Tensor, z: Tensor) -> Tensor:
        """ln r(z|y), (B, L)."""
        return self.prior(window).log_density(z)

    def draw_prior(self, window: Tensor, noise: Tensor, uniform: Tensor) -> Tensor:
        """Latents (B, L, latent)."""
        return self.prior(window).draw(noise, uniform)

    def encode(self, window: Tensor, e: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """E2: latents (B, L, latent), and ln q(z|e,y), (B, L)."""
        return gaussian(*self.posterior(window, e), noise)

    def posterior(self, window: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
        """E2: mean and ln sigma, (B, latent) each."""
        numbers = as_numbers(e)
        mean, log_sigma = self.e2(self.e2_window(window) + self.e2_x(numbers)).chunk(2, dim=-1)
        return mean + self.e2_skip(numbers), log_sigma.clamp(-7.0, 2.0)

    def decode(self, window: Tensor, z: Tensor) -> Decoded:
        """D for latents (B, L, latent) of embedded windows (B, width)."""
        return Decoded.of(self.d(self.d_window(window)[:, None] + self.d_z(z)))
