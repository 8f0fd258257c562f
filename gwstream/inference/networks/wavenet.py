"""WaveNet features with a flow, after Shen et al. (arXiv:1903.01998) and van den Oord et al. (arXiv:1609.03499).

A stack of causal convolutions of dilation 1, 2, 4 … runs over the whitened window, cut around the anchor's coalescence.
Only its last time step is read, so only what reaches that step is computed: with kernels of two samples the stack is a
tree, where each level sees pairs of the one below. What it says joins the features, and a spline flow follows.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gwstream.inference.features import coalescence
from gwstream.inference.networks.base import Inputs
from gwstream.inference.networks.nsf import Nsf
from gwstream.model import WavenetSpec
from gwstream.prior import Prior

AFTER = 16  # samples of the cut that follow the coalescence


class Level(nn.Module):
    """A gated causal convolution of two samples, with its residual and skip connections."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pair = nn.Linear(2 * channels, 2 * channels)
        self.residual = nn.Linear(channels, channels)
        self.skip = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, channels) to (B, T / 2, channels), and what the last step says, (B, channels)."""
        signal, gate = self.pair(x.reshape(len(x), x.shape[1] // 2, -1)).chunk(2, dim=-1)
        update = torch.tanh(signal) * torch.sigmoid(gate)
        return x[:, 1::2] + self.residual(update), self.skip(update[:, -1])


class Wavenet(Nsf):
    """``levels`` of convolutions, then `Nsf` with what they say as further features."""

    def __init__(self, spec: WavenetSpec, features: int, rate: int, prior: Prior) -> None:
        """``rate``: samples a second."""
        super().__init__(spec, features, spec.channels + 1)
        self.rate, self.length, self._prior = rate, 2**spec.levels, prior
        self.lift = nn.Linear(1, spec.channels)
        self.levels = nn.ModuleList(Level(spec.channels) for _ in range(spec.levels))
        self.top = nn.Linear(spec.channels, spec.channels)

    def context(self, inputs: Inputs) -> Tensor:
        """(B, width)."""
        cut, rest = self.aligned(inputs)
        said = torch.cat([(inputs.y - self.shift) * self.scale, self.hear(cut), rest[:, None]], -1)
        found: Tensor = self.trunk(said)
        return found

    def aligned(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """Samples (B, length) around the coalescence, zero beyond the window, and the rest of its time in samples."""
        position = coalescence(inputs.y, self._prior) * self.rate
        nearest = torch.round(position)
        index = nearest.long()[:, None] + torch.arange(AFTER - self.length, AFTER)
        last = inputs.windows.shape[1] - 1
        inside = ((index >= 0) & (index <= last)).to(inputs.windows.dtype)
        return inputs.windows.gather(1, index.clamp(0, last)) * inside, position - nearest

    def hear(self, cut: Tensor) -> Tensor:
        """What the convolutions make of samples (B, length): (B, channels)."""
        x = self.lift(cut[..., None])
        total = torch.zeros_like(x[:, 0])
        for level in self.levels:
            x, skip = level(x)
            total = total + skip
        found: Tensor = self.top(torch.relu(total))
        return found
