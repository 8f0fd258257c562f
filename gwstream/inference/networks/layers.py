"""What the networks are built of."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

INPUTS = 2  # of an earlier coordinate: itself, and a function of it that does not run away
FARTHEST = 10.0
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


def trunk(inputs: int, width: int, depth: int) -> nn.Sequential:
    """Scaled features (B, inputs) to what all heads of a network share, (B, width)."""
    return nn.Sequential(nn.Linear(inputs, width), *(Residual(width) for _ in range(depth)), nn.LayerNorm(width))


class Autoregression(nn.Module):
    """D small networks; the d-th sees context, G given numbers and the d coordinates before it, and says P numbers.

    A masked network (MADE, Germain et al., arXiv:1502.03509) whose hidden units belong to one coordinate each: the mask
    is a matter of blocks, and drawing, coordinate after coordinate, costs as much as one density, not D times that.
    """

    def __init__(self, context: int, shape: tuple[int, int], hidden: int, depth: int, outputs: int) -> None:
        """``shape``: (G, D)."""
        super().__init__()
        self.given, self.dimensions = shape
        self.hidden = hidden
        total = sum(shape)
        self.context = nn.Linear(context, self.dimensions * hidden)
        self.earlier = nn.Parameter(torch.randn(INPUTS, total, self.dimensions, hidden) / math.sqrt(INPUTS * total))
        seen = torch.arange(total)[:, None] < self.given + torch.arange(self.dimensions)
        self.register_buffer("mask", seen[:, :, None].float(), persistent=False)
        self.weight = nn.Parameter(torch.randn(depth, self.dimensions, hidden, hidden) / math.sqrt(hidden))
        self.bias = nn.Parameter(torch.zeros(depth, self.dimensions, 1, hidden))
        self.last = nn.Parameter(torch.randn(self.dimensions, hidden, outputs) * 0.1 / math.sqrt(hidden))
        self.last_bias = nn.Parameter(torch.zeros(self.dimensions, 1, outputs))

    mask: Tensor

    def prepare(self, context: Tensor) -> Tensor:
        """What a context (B, C) brings to the first layers, (B, D, hidden): once a window."""
        found: Tensor = self.context(context)
        return found.reshape(-1, self.dimensions, self.hidden)

    def forward(self, prepared: Tensor, x: Tensor) -> Tensor:
        """(B, D, P) for all coordinates at once, from given and coordinates (B, G + D)."""
        weight = (self.earlier * self.mask).flatten(0, 1).flatten(1)
        first = prepared.flatten(1) + _seen(x) @ weight
        h = first.reshape(-1, self.dimensions, self.hidden).transpose(0, 1)
        for layer_weight, bias in zip(self.weight, self.bias, strict=True):
            h = h + torch.baddbmm(bias, functional.gelu(h), layer_weight)
        return torch.baddbmm(self.last_bias, functional.gelu(h), self.last).transpose(0, 1)

    def one(self, d: int, prepared: Tensor, x: Tensor) -> Tensor:
        """(n, P) of coordinate ``d`` from what it sees, (n, G + d); prepared (1, D, hidden) of one window for all, or
        (n, D, hidden) row by row."""
        h = prepared[:, d]
        if self.given + d:  # not every engine has tensors of nothing
            h = h + _seen(x) @ self.earlier[:, : self.given + d, d].flatten(0, 1)
        for weight, bias in zip(self.weight[:, d], self.bias[:, d], strict=True):
            h = h + torch.addmm(bias, functional.gelu(h), weight)
        return torch.addmm(self.last_bias[d], functional.gelu(h), self.last[d])


class Chain(nn.ModuleList):
    """Affine autoregressive steps, each in the opposite order of the last."""

    def __init__(self, count: int, context: int, dimensions: int, hidden: int, depth: int) -> None:
        super().__init__(Autoregression(context, (0, dimensions), hidden, depth, 2) for _ in range(count))

    def prepare(self, context: Tensor) -> list[Tensor]:
        """What a context (B, C) says to each step: once a window."""
        return [step.prepare(context) for step in self._steps()]

    def inward(self, prepared: list[Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
        """Coordinates (B, D) towards a standard normal, and the sum of ln widths (B,)."""
        total = x.new_zeros(len(x))
        for step, said in zip(self._steps(), prepared, strict=True):
            shift, raw = step(said, x).unbind(-1)
            log_sigma = bounded(raw, LEAST_SIGMA, MOST_SIGMA)
            x, total = ((x - shift) * torch.exp(-log_sigma)).flip(-1), total + log_sigma.sum(-1)
        return x, total

    def outward(self, prepared: list[Tensor], u: Tensor) -> tuple[Tensor, Tensor]:
        """The inverse of `inward` for (n, D) numbers, of one window or row by row."""
        total = u.new_zeros(len(u))
        for step, said in zip(reversed(self._steps()), reversed(prepared), strict=True):
            u = u.flip(-1)
            columns: list[Tensor] = []
            for d in range(u.shape[1]):
                earlier = torch.cat(columns, 1) if d else u[: len(said), :0]
                shift, raw = step.one(d, said, earlier).unbind(-1)
                log_sigma = bounded(raw, LEAST_SIGMA, MOST_SIGMA)
                columns.append((shift + torch.exp(log_sigma) * u[:, d])[:, None])
                total = total + log_sigma
            u = torch.cat(columns, 1)
        return u, total

    def _steps(self) -> list[Autoregression]:
        return [step for step in self if isinstance(step, Autoregression)]


def bounded(raw: Tensor, low: float, high: float) -> Tensor:
    """Any number to one between the logarithms of two widths, 0 staying 0, with a gradient everywhere."""
    below, above = math.log(low), math.log(high)
    return torch.where(raw < 0, below * torch.tanh(raw / below), above * torch.tanh(raw / above))


def _seen(x: Tensor) -> Tensor:
    """Numbers (B, D) as the small networks see them, (B, INPUTS * D)."""
    return torch.cat([x.clamp(-FARTHEST, FARTHEST), torch.asinh(x)], dim=-1)
