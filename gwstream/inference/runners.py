"""What runs the network for an `Inference`: an engine as it is, or the best that is as good as torch, as long as it is.

Here alone engines are chosen to serve: from settings (`engines.chosen`), held to the `golden` windows.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

import numpy as np
import torch
from torch import Tensor

from gwstream.config import InferenceConfig
from gwstream.inference.checkpoint import Model
from gwstream.inference.engines import Engine, Runner, chosen, latents, padded
from gwstream.inference.golden import golden
from gwstream.inference.parity import Golden, Guarded, Serving

CHECK_EVERY = 64  # whiteners, one a second and detector, or posteriors: then the engine is compared with torch

Choice = Callable[[Model, InferenceConfig], Runner]
"""Takes a runner for a model. Raises `ConfigError` where the engine that is asked for is not to be had."""


class Plain:
    """An engine as it is: whoever takes it sees to its checks."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @property
    def name(self) -> str:
        """See `Runner`."""
        return self._engine.name

    def run(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """See `Runner`."""
        return self._engine.run(*inputs)

    def recheck(self, *, busy: bool) -> None:
        """See `Runner`."""


def example(model: Model, whole: int, size: int) -> tuple[Tensor, ...]:
    """See `Example`; ``whole``: latents of one window alone."""
    y, samples = torch.zeros(1, model.net.features), torch.zeros(1, model.spec.window)
    noise = model.net.noise(np.random.default_rng(0), latents(whole, size))
    return tuple(padded(part, size) for part in (y, samples, *noise))


def plain(model: Model, config: InferenceConfig) -> Runner:
    """The first engine of those that may be tried. Raises `EngineError`, too, where it cannot be made."""
    return Plain(chosen(config)[0].build(model.net, partial(example, model, config.latents)))


def guarded(model: Model, config: InferenceConfig, told: Callable[[Serving], None] = lambda _: None) -> Guarded:
    """The best engine, checked at the start and from time to time, and replaced where it strays or fails.

    ``told``: hears of the engine that serves, at each check and change, in the thread that calls.
    """
    return Guarded(model.net, chosen(config), goldens(model, config.latents), told, CHECK_EVERY)


def goldens(model: Model, whole: int) -> Callable[[int], list[Golden]]:
    """Golden windows for a bucket of so many, made once each."""
    made = cache(partial(golden, model))
    return lambda size: made(latents(whole, size))
