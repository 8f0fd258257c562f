"""The conditional variational autoencoder of Gabbard et al. (arXiv:1909.06296) over the coordinates of `parameters`.

    E1  r(z|y)     a mixture of diagonal Gaussians over the latent z
    E2  q(z|x,y)   a diagonal Gaussian; training only
    D   r(x|z,y)   for each parameter a mean and a sigma: Gaussians, and von Mises for the phase

and the loss is the negative of ELBO = E_q[ln r(x|z,y)] - KL(q(z|x,y) || r(z|y)), or its importance-weighted form
(Burda et al., arXiv:1509.00519). y is the vector of `features`. Shapes: y (B, F), x (B, 5), z (B, L, latent).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from gwstream.model import NetworkSpec

LOG_TWO_PI = math.log(2 * math.pi)
STRAIGHT = 4
LEAST_SIGMA, MOST_SIGMA = 1e-2, 100.0


class Residual(nn.Module):
    """x + W2 gelu(W1 norm(x))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.first = nn.Linear(width, width)
        self.second = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(…, width) to (…, width)."""
        update: Tensor = self.second(functional.gelu(self.first(self.norm(x))))
        return x + update


@dataclass(frozen=True, slots=True)
class Latent:
    """A mixture of diagonal Gaussians: log weights (B, M), means and log sigmas (B, M, latent)."""

    log_weights: Tensor
    mean: Tensor
    log_sigma: Tensor

    def log_density(self, z: Tensor) -> Tensor:
        """ln r(z|y), (B, K), of z (B, K, latent)."""
        scaled = (z[:, :, None] - self.mean[:, None]) * torch.exp(-self.log_sigma)[:, None]
        each = -0.5 * (scaled.square() + LOG_TWO_PI).sum(-1) - self.log_sigma.sum(-1)[:, None]
        return torch.logsumexp(each + self.log_weights[:, None], dim=-1)


@dataclass(frozen=True, slots=True)
class Decoded:
    """D's output: mean, sigma (…, 4) of the first four coordinates; angle, ln concentration (…,) of the cyclic one."""

    mean: Tensor
    sigma: Tensor
    angle: Tensor
    log_kappa: Tensor

    def log_density(self, x: Tensor) -> Tensor:
        """ln r(x|z,y), (…,), of x (…, 5)."""
        scaled = (x[..., :STRAIGHT] - self.mean) / self.sigma
        normal = -0.5 * (scaled.square() + LOG_TWO_PI) - torch.log(self.sigma)
        kappa = torch.exp(self.log_kappa)
        log_i0 = torch.log(torch.special.i0e(kappa))  # i0e(k) = exp(-k) I0(k)
        cyclic = kappa * (torch.cos(x[..., STRAIGHT] - self.angle) - 1) - LOG_TWO_PI - log_i0
        return normal.sum(-1) + cyclic


class Cvae(nn.Module):
    """E1, E2 and D on a common trunk that sees the features once a window."""

    def __init__(self, spec: NetworkSpec, inputs: int) -> None:
        super().__init__()
        width, latent = spec.width, spec.latent
        half = width // 2
        self.latent, self.components = latent, spec.components
        self.register_buffer("shift", torch.zeros(inputs))
        self.register_buffer("scale", torch.ones(inputs))
        self.trunk = nn.Sequential(nn.Linear(inputs, width), *(Residual(width) for _ in range(spec.depth)))
        self.e1 = nn.Sequential(
            Residual(width), nn.LayerNorm(width), nn.Linear(width, spec.components * (2 * latent + 1))
        )
        self.e2_window, self.e2_x = nn.Linear(width, half), nn.Linear(6, half)
        self.e2 = nn.Sequential(Residual(half), Residual(half), nn.LayerNorm(half), nn.Linear(half, 2 * latent))
        self.e2_skip = nn.Linear(6, latent)  # cures a latent that nobody uses
        self.d_window, self.d_z = nn.Linear(width, half), nn.Linear(latent, half)
        self.d = nn.Sequential(Residual(half), Residual(half), nn.LayerNorm(half), nn.Linear(half, 2 * STRAIGHT + 3))

    shift: Tensor
    scale: Tensor

    def embed(self, y: Tensor) -> Tensor:
        """Features (B, F) to what the three networks share, (B, width)."""
        out: Tensor = self.trunk((y - self.shift) * self.scale)
        return out

    def prior_latent(self, window: Tensor) -> Latent:
        """E1 of an embedded window."""
        raw = self.e1(window).reshape(len(window), self.components, -1)
        mean, log_sigma = raw[..., 1 : 1 + self.latent], raw[..., 1 + self.latent :]
        return Latent(functional.log_softmax(raw[..., 0], dim=-1), mean, log_sigma.clamp(-7.0, 3.0))

    def posterior_latent(self, window: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """E2: mean and log sigma, (B, latent) each."""
        wave = torch.stack([torch.cos(x[:, STRAIGHT]), torch.sin(x[:, STRAIGHT])], -1)
        inputs = torch.cat([torch.asinh(x[:, :STRAIGHT]), wave], -1)
        mean, log_sigma = self.e2(self.e2_window(window) + self.e2_x(inputs)).chunk(2, dim=-1)
        return mean + self.e2_skip(inputs), log_sigma.clamp(-7.0, 2.0)

    def decode(self, window: Tensor, z: Tensor) -> Decoded:
        """D for latents (B, L, latent) of embedded windows (B, width)."""
        raw = self.d(self.d_window(window)[:, None] + self.d_z(z))
        sigma = torch.exp(raw[..., STRAIGHT : 2 * STRAIGHT].clamp(math.log(LEAST_SIGMA), math.log(MOST_SIGMA)))
        angle = torch.atan2(raw[..., 2 * STRAIGHT], raw[..., 2 * STRAIGHT + 1])
        return Decoded(
            10 * torch.sinh(raw[..., :STRAIGHT] / 10), sigma, angle, raw[..., 2 * STRAIGHT + 2].clamp(-5.0, 12.0)
        )


@dataclass(frozen=True, slots=True)
class Objective:
    """Loss to minimise, (), and its two parts for the log: reconstruction and KL, in nats."""

    loss: Tensor
    reconstruction: float
    kl: float


def objective(net: Cvae, y: Tensor, x: Tensor, *, beta: float, draws: int) -> Objective:
    """-ELBO with the KL term times ``beta`` (one draw), or the importance-weighted bound of ``draws`` draws."""
    window = net.embed(y)
    mean, log_sigma = net.posterior_latent(window, x)
    noise = torch.randn(len(y), draws, net.latent)
    z = mean[:, None] + torch.exp(log_sigma)[:, None] * noise
    log_q = (-0.5 * (noise.square() + LOG_TWO_PI)).sum(-1) - log_sigma.sum(-1)[:, None]
    log_r = net.prior_latent(window).log_density(z)
    log_x = net.decode(window, z).log_density(x[:, None])
    kl = log_q - log_r
    if draws == 1:
        loss = (beta * kl - log_x).mean()
    else:
        loss = -(torch.logsumexp(log_x - beta * kl, dim=1) - math.log(draws)).mean()
    return Objective(loss, float(log_x.detach().mean()), float(kl.detach().mean()))
