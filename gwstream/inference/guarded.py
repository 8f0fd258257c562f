"""`Inference` as the daemon runs it: on the best engine that is as good as torch, as long as it is."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from gwstream.config import InferenceConfig
from gwstream.inference import Inference, Model, flat
from gwstream.inference.engines import chosen
from gwstream.inference.features import Live, see, size
from gwstream.inference.likelihood import Templates
from gwstream.inference.networks.base import Inputs
from gwstream.inference.parity import KEY, Golden, Guarded, Serving
from gwstream.inference.ridge import grid
from gwstream.records import Posterior, Trigger, Whitener

CHECK_EVERY = 64  # whiteners, one a second and detector, or posteriors: then the engine is compared with torch
SNRS = (6.0, 9.0, 14.0, 30.0)  # of the golden windows' signals


class GuardedInference(Inference):
    """`Inference` whose engine is checked at the start and from time to time, and replaced where it strays or fails.

    ``told``: hears of the engine that serves, at each check and change, in the thread that calls. Raises `ConfigError`
    where the engine that is asked for is not to be had.
    """

    def __init__(self, model: Model, config: InferenceConfig, told: Callable[[Serving], None] = lambda _: None) -> None:
        candidates = chosen(config)
        super().__init__(model, config.model_copy(update={"engine": "torch", "precision": "fp32"}))
        self._guarded = Guarded(model.net, candidates, golden(model, config.latents), told, CHECK_EVERY)
        self._engine = self._guarded

    @property
    def serving(self) -> Serving:
        """Which engine serves, and how it compares with torch."""
        return self._guarded.serving

    def prepare(self, whitener: Whitener) -> None:
        """See `Inference`. It is called in a pause, so it is time for a check, too."""
        super().prepare(whitener)
        self._guarded.recheck(busy=False)

    def infer(self, trigger: Trigger, bucket: int = 1, draws: int | None = None) -> Posterior:
        """See `Inference`."""
        self._guarded.recheck(busy=True)
        return super().infer(trigger, bucket, draws)


def golden(model: Model, latents: int) -> list[Golden]:
    """Signals from weak to loud in the noise of a flat spectrum, and what torch makes of them."""
    spec, rng = model.spec, np.random.default_rng(KEY)
    templates = Templates(spec.conditioning, model.bank, flat(spec.conditioning, "golden"))
    live = Live.of(templates, grid(model.bank, spec.prior), spec.prior)
    context = torch.zeros(1, model.net.features - size(model.bank, 0))
    waves = templates.waveforms(spec.prior.draw(rng, len(SNRS))).astype(np.float64)
    found = []
    for wave, snr in zip(waves, SNRS, strict=True):
        signal = wave * snr / np.linalg.norm(wave)
        samples = torch.from_numpy(signal + rng.standard_normal(len(wave))).float()[None]
        y = see(live, samples, live.gate(samples), context, spec.prior).y
        found.append(Golden.of(model.net, Inputs(y, samples), latents))
    return found
