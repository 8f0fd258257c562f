"""What the network proposes for a window, and what weighs it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.random import Generator

from gwstream.inference.importance import Proposal
from gwstream.inference.likelihood import Singles, Templates
from gwstream.inference.networks.base import Coordinates
from gwstream.inference.noise import Noise
from gwstream.prior import Prior
from gwstream.records import Floats, Trigger, Waveform, Window

BAND_DRAWS = 300  # from which the waveform's band is read


@dataclass(frozen=True, slots=True)
class Judged:
    """What the likelihood says of draws: parameters (S, 5), whitened waveforms (S, n), ln of target and of likelihood
    ratio (S,)."""

    x: Floats
    waveforms: Singles
    log_target: Floats
    log_ratio: Floats

    def best(self, among: int) -> int:
        """The likeliest of so many draws of the highest density."""
        densest = np.argsort(self.log_target)[-among:]
        return int(densest[np.argmax(self.log_ratio[densest])])

    def band(self, weights: Floats, rng: Generator) -> Waveform:
        """Pointwise median and 90 % band of the waveform over draws resampled by weight."""
        positions = (np.arange(BAND_DRAWS) + rng.random()) / BAND_DRAWS
        chosen = np.searchsorted(np.cumsum(weights), positions).clip(max=len(weights) - 1)
        values = np.sort(np.ascontiguousarray(self.waveforms[chosen].T), axis=1)
        lower, median, upper = (values[:, round(q * (BAND_DRAWS - 1))].astype(np.float64) for q in (0.05, 0.5, 0.95))
        return Waveform(median=median, lower=lower, upper=upper)


@dataclass(slots=True)
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
    rng: Generator
    _last: tuple[Floats, Judged] | None = field(default=None, init=False)

    def parameters(self, e: Floats) -> Floats:
        """Parameters (S, 5) of coordinates (S, 5)."""
        return self.anchor.parameters(e)

    def log_target(self, e: Floats) -> Floats:
        """ln of likelihood ratio times prior density in the coordinates e: (S, 5) to (S,)."""
        return self.judged(e).log_target

    def judged(self, e: Floats) -> Judged:
        """All that comes of judging coordinates e (S, 5); what was made for the same array last is still there."""
        if self._last is None or self._last[0] is not e:
            self._last = e, self._judge(e)
        return self._last[1]

    def _judge(self, e: Floats) -> Judged:
        x, log_jacobian = self.anchor.decode(e)
        log_prior = self.prior.log_density(x)
        inside = np.isfinite(log_prior)  # of coordinates that know no edges, or where rounding put a draw beyond one
        if inside.all():
            waveforms = self.templates.waveforms(x)
        else:  # masses that no waveform has
            waveforms = np.zeros((len(x), len(self.window.samples)), np.float32)
            waveforms[inside] = self.templates.waveforms(x[inside])
        log_ratio = self.noise.log_ratio(self.window.samples, waveforms)
        log_target = np.where(inside, log_ratio + log_prior - log_jacobian, -np.inf)
        return Judged(x, waveforms, log_target, log_ratio)
