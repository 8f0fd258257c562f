"""VItamin's networks at their published sizes, in eager torch, to be timed: H. Gabbard et al., arXiv:1909.06296.

Sizes from ``make_params_files.py`` of vitamin_b 0.2.12, the authors' package on PyPI (a TensorFlow 1 program): 256
samples of 3 detectors, 5 convolutions of 33 filters in the first encoder and 3 in the decoder, 3 layers of 2048 units
in each, 10 latent dimensions, 7 modes, 7 parameters. Its normalisation has constant mean and variance, so it is left
out, and so is the joint distribution of the sky: both make it cheaper here than it is. Weights are random: what a
matrix holds does not change what it costs.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

SAMPLES, DETECTORS, LATENT, MODES, PARAMETERS, HIDDEN, FILTERS = 256, 3, 10, 7, 7, 2048, 33
ENCODER = ((5, 1), (8, 2), (11, 1), (10, 2), (10, 1))  # filter length, pooling
DECODER = ((5, 1), (8, 2), (11, 1))


class Features(nn.Module):
    """Convolutions of the strain (n, detectors, samples) to (n, size)."""

    def __init__(self, detectors: int, layers: Sequence[tuple[int, int]]) -> None:
        super().__init__()
        parts: list[nn.Module] = []
        channels, length = detectors, SAMPLES
        for width, pool in layers:
            same = nn.ConstantPad1d(((width - 1) // 2, width // 2), 0.0)
            parts += [same, nn.Conv1d(channels, FILTERS, width), nn.ReLU(), nn.MaxPool1d(pool)]
            channels, length = FILTERS, length // pool
        self.net = nn.Sequential(*parts, nn.Flatten())
        self.size = channels * length

    def forward(self, strain: Tensor) -> Tensor:
        out: Tensor = self.net(strain)
        return out


def dense(first: int, last: int) -> nn.Sequential:
    """Three layers of 2048 units."""
    sizes = [first, HIDDEN, HIDDEN, HIDDEN]
    parts = [module for pair in itertools.pairwise(sizes) for module in (nn.Linear(*pair), nn.ReLU())]
    return nn.Sequential(*parts, nn.Linear(HIDDEN, last))


class Vitamin(nn.Module):
    """r1 (strain to a mixture over latents) and r2 (latent and strain to a distribution of the parameters)."""

    def __init__(self, detectors: int = DETECTORS, parameters: int = PARAMETERS) -> None:
        super().__init__()
        self.parameters_ = parameters
        self.see, self.look = Features(detectors, ENCODER), Features(detectors, DECODER)
        self.encoder = dense(self.see.size, MODES * (2 * LATENT + 1))
        self.decoder = dense(LATENT + self.look.size, 2 * parameters)

    @torch.no_grad()
    def published(self, strain: Tensor, n: int) -> Tensor:
        """(n, parameters) as the package draws them: the strain (1, detectors, samples) repeated n times."""
        many = strain.expand(n, -1, -1).contiguous()
        return self._draw(self._latents(self.encoder(self.see(many))), self.look(many))

    @torch.no_grad()
    def once(self, strain: Tensor, n: int) -> Tensor:
        """The same draws with what depends on the strain alone computed once."""
        mixture = self.encoder(self.see(strain)).expand(n, -1)
        return self._draw(self._latents(mixture), self.look(strain).expand(n, -1))

    def _latents(self, mixture: Tensor) -> Tensor:
        """A latent (n, 10) from each mixture (n, modes * (2 * 10 + 1))."""
        logits, rest = mixture[:, :MODES], mixture[:, MODES:].reshape(-1, 2, MODES, LATENT)
        mode = torch.multinomial(logits.softmax(dim=1), 1)[:, 0]
        rows = torch.arange(len(mixture))
        mean, log_variance = rest[rows, 0, mode], rest[rows, 1, mode]
        return torch.addcmul(mean, torch.randn_like(mean), (0.5 * log_variance).exp())

    def _draw(self, latent: Tensor, features: Tensor) -> Tensor:
        """Gaussians truncated to 0..1."""
        out = self.decoder(torch.cat([latent, features], dim=1))
        mean, log_variance = torch.sigmoid(out[:, : self.parameters_]), -torch.relu(out[:, self.parameters_ :])
        deviation = (0.5 * log_variance).exp()
        low, high = (torch.special.ndtr((edge - mean) / deviation) for edge in (0.0, 1.0))
        drawn = torch.special.ndtri(torch.lerp(low, high, torch.rand_like(mean)))
        return torch.addcmul(mean, deviation, drawn).clamp(0, 1)
