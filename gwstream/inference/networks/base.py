"""What every network is: a module that can be trained by its loss, and that proposes a posterior for one window.

A proposal comes about in three steps: `Network.noise` draws random numbers, `Network.forward` makes tensors of them and
of the window, and `Network.density` makes of these a density that can be drawn from. The second is what costs, a pure
function of tensors whose shapes never change, so that an engine other than torch can take it over; the other two are
the same on all engines.

Coordinates e are those of `parameters`: four on the real line and, last, one angle in (-pi, pi].
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor, nn

from gwstream.inference.importance import Proposal
from gwstream.records import Floats

STRAIGHT, DIMENSIONS = 4, 5
LOG_TWO_PI = math.log(2 * math.pi)
TURNS = 2  # either way: enough for a wrapped Gaussian of `MOST_ANGLE`, which is flat to 0.4 %
MOST_ANGLE = 3.5


@dataclass(frozen=True, slots=True)
class Inputs:
    """What is known of B windows: features (B, F) and whitened samples (B, n), float32."""

    y: Tensor
    windows: Tensor


@dataclass(frozen=True, slots=True)
class Pace:
    """Where a run stands: weight of the KL term, and draws of the importance-weighted bound. Flows need neither."""

    beta: float = 1.0
    draws: int = 1


@dataclass(frozen=True, slots=True)
class Objective:
    """Loss to minimise, (), and its two parts for the log: reconstruction and KL, in nats."""

    loss: Tensor
    reconstruction: float
    kl: float

    @classmethod
    def of(cls, log_density: Tensor) -> Objective:
        """The mean negative log density of (B,): all that a network with an explicit density needs."""
        loss = -log_density.mean()
        return cls(loss, -float(loss.detach()), 0.0)


class Coordinates(Protocol):
    """The map from parameters to coordinates and back, for one window."""

    def encode(self, x: Floats) -> Floats:
        """Coordinates (S, 5) of parameters (S, 5)."""
        ...

    def decode(self, e: Floats) -> tuple[Floats, Floats]:
        """Parameters (S, 5) of coordinates (S, 5), and ln |de / dx| (S,)."""
        ...

    def parameters(self, e: Floats) -> Floats:
        """Parameters (S, 5) of coordinates (S, 5) alone."""
        ...


class Network(nn.Module, ABC):
    """A conditional density q(e|y). ``features``: length F of the vector of `features`."""

    fixed: Coordinates | None = None
    """The coordinates this network speaks in, if not those of the window's anchor."""

    training_only: ClassVar[tuple[str, ...]] = ()
    """How the names of parts begin that no proposal needs: weights that are served leave them out."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.features = features
        self.register_buffer("shift", torch.zeros(features))
        self.register_buffer("scale", torch.ones(features))

    shift: Tensor
    scale: Tensor

    def fit_scale(self, y: Tensor) -> None:
        """Bring features (B, F) to mean 0 and variance 1 from here on."""
        self.shift.copy_(y.mean(0))
        self.scale.copy_(1 / y.std(0).clamp(min=1e-3))

    @abstractmethod
    def loss(self, inputs: Inputs, e: Tensor, pace: Pace) -> Objective:
        """What training minimises, for coordinates (B, 5) of the truth."""

    def noise(self, rng: Generator, latents: int) -> tuple[Tensor, ...]:
        """The random numbers, float32 and (1, …) each, that `forward` takes for ONE window; most take none.

        ``latents``: parts of a proposal that is a finite mixture over a latent.
        """
        return ()

    @abstractmethod
    def forward(self, y: Tensor, windows: Tensor, *noise: Tensor) -> tuple[Tensor, ...]:
        """What the proposals of B windows are made of, (B, …) each, from `Inputs` and `noise`.

        Shapes depend on shapes alone, nothing is drawn, and `torch.export` takes it as it stands.
        """

    @abstractmethod
    def density(self, *made: Tensor) -> Proposal:
        """The density q(e|y) of ONE window, of what `forward` made for it, (1, …) each."""

    def propose(self, inputs: Inputs, rng: Generator, latents: int) -> Proposal:
        """The density q(e|y) of ONE window, by torch; ``latents`` as in `noise`."""
        return self.density(*self(inputs.y, inputs.windows, *self.noise(rng, latents)))


Draw = Callable[[Generator, int], tuple[Tensor, Tensor]]


class Tensors:
    """A `Proposal` from two functions on tensors; what was drawn keeps the density it was drawn with."""

    def __init__(self, draw: Draw, log_density: Callable[[Tensor], Tensor], *, stratified: bool = False) -> None:
        """``draw``: (rng, n) to draws (n, 5) and their ln densities (n,); ``log_density``: (n, 5) to (n,)."""
        self._draw, self._log_density, self.stratified = draw, log_density, stratified
        self._last: tuple[Floats, Floats] | None = None

    @torch.inference_mode()
    def draw(self, rng: Generator, n: int) -> Floats:
        """(n, 5)."""
        e, log_density = self._draw(rng, n)
        drawn: Floats = e.double().numpy()
        self._last = drawn, log_density.double().numpy()
        return drawn

    @torch.inference_mode()
    def log_density(self, e: Floats) -> Floats:
        """ln q, (n,), of (n, 5)."""
        if self._last is not None and self._last[0] is e:
            return self._last[1]
        return np.asarray(self._log_density(torch.from_numpy(e).float()).double().numpy())


def normals(rng: Generator, *shape: int) -> Tensor:
    """Standard normal numbers, float32."""
    return torch.from_numpy(rng.standard_normal(shape, np.float32))


def wrap(angle: Tensor) -> Tensor:
    """Onto (-pi, pi]."""
    return math.pi - torch.remainder(math.pi - angle, 2 * math.pi)


def unwrapped(angle: Tensor) -> Tensor:
    """An angle (…) less its mean, as the distances (…, 2 `TURNS` + 1) of all its turns that matter."""
    turns = 2 * math.pi * torch.arange(-TURNS, TURNS + 1, dtype=angle.dtype)
    return wrap(angle)[..., None] + turns


def wrapped_normal(angle: Tensor, log_sigma: Tensor) -> Tensor:
    """ln density (…) of an angle less its mean, and ln sigma at most ln `MOST_ANGLE`: a Gaussian wound up."""
    scaled = unwrapped(angle) * torch.exp(-log_sigma)[..., None]
    return torch.logsumexp(-0.5 * scaled.square(), -1) - log_sigma - 0.5 * LOG_TWO_PI
