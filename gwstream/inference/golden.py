"""Windows that are made up: to warm with, and to hold engines to torch with."""

from __future__ import annotations

import numpy as np
import torch

from gwstream.inference.checkpoint import Model
from gwstream.inference.features import Live, see, size
from gwstream.inference.likelihood import Templates
from gwstream.inference.networks.base import Inputs
from gwstream.inference.parity import KEY, Golden
from gwstream.inference.ridge import grid
from gwstream.model import ConditioningSpec
from gwstream.records import Whitener

SCALE = 1e-22  # strain of the order of a detector's noise per sample
SNRS = (6.0, 9.0, 14.0, 30.0)  # of the golden windows' signals


def flat(spec: ConditioningSpec, name: str) -> Whitener:
    """A whitener of white noise."""
    return Whitener(
        id=name,
        detector="W1",
        rate=spec.rate,
        taps=np.eye(1, spec.taps)[0] / SCALE,
        psd=np.ones(spec.taps // 2 + 1),
        averages=1,
        history=0.0,
        end=0,
        state="ready",
    )


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
