"""What the network proposes for a window, and what weighs it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gwstream.inference.importance import Proposal
from gwstream.inference.likelihood import Templates
from gwstream.inference.networks.base import Coordinates
from gwstream.inference.noise import Noise
from gwstream.prior import Prior
from gwstream.records import Floats, Trigger, Window


@dataclass(frozen=True, slots=True)
class Proposed:
    """The network's word on one window: a density in its coordinates, and what weighs it."""

    window: Window
    trigger: Trigger
    templates: Templates
    prior: Prior
    noise: Noise
    anchor: Coordinates
    proposal: Proposal
    code: Floats
    rng: np.random.Generator

    def parameters(self, e: Floats) -> Floats:
        """Parameters (S, 5) of coordinates (S, 5)."""
        return self.anchor.decode(e)[0]

    def log_target(self, e: Floats) -> Floats:
        """ln of likelihood ratio times prior density in the coordinates e: (S, 5) to (S,)."""
        out = np.full(len(e), -np.inf)
        x, log_jacobian = self.anchor.decode(e)
        log_prior = self.prior.log_density(x)  # -inf where rounding put a draw beyond an edge
        inside = np.isfinite(log_prior)
        if inside.any():
            waveforms = self.templates.waveforms(x[inside])
            log_ratio = self.noise.log_ratio(self.window.samples, waveforms)
            out[inside] = log_ratio + (log_prior - log_jacobian)[inside]
        return out
