"""Which windows get a known signal, and the signal in a copy of the window.

The signal is added to the whitened copy, not to the strain: anti-alias filter, decimation and the live taps are linear,
so it is the same to rounding as if it had been in the strain, and is made by the same code at the strain's own rate.
The one difference is that it does not enter the spectrum; a median over a minute hardly sees the one signal a window
really has, but would see one every few seconds, which no real detector has.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import numpy as np
from numpy.random import Generator

from gwstream.conditioning.resample import Decimator
from gwstream.errors import ConfigError
from gwstream.injection import DURATION, Injection
from gwstream.model import ModelSpec
from gwstream.prior import Prior
from gwstream.records import NANO, Floats, Window

APART = 2  # windows' lengths between two injections of a detector, so that no two share noise
LEAST_INTERVAL = 4  # windows' lengths


@dataclass(frozen=True, slots=True)
class Planned:
    """A window that is to have a known signal: its parameters (5,), and random numbers to go on with."""

    window: Window
    rate: int
    truth: Floats
    rng: Generator


class Plan:
    """One injection an ``interval`` (s) of strain in each detector, drawn from ``prior``.

    Which window of the interval and which signal follow from detector and GPS time alone. The signal coalesces where
    the prior says, and so does every parameter: its ranks are uniform by construction, where the posterior is right.
    Raises `ConfigError` for an interval too short, or a model whose windows reach back further than a signal is made.
    """

    def __init__(self, spec: ModelSpec, prior: Prior, interval: float) -> None:
        conditioning = spec.conditioning
        self._spec = conditioning
        self._prior = prior
        self._slot = round(interval * spec.rate / spec.hop) * spec.hop
        self._places = (self._slot - APART * spec.window) // spec.hop
        if self._slot < LEAST_INTERVAL * spec.window:
            least = LEAST_INTERVAL * spec.window / spec.rate
            raise ConfigError(f"calibration.interval = {interval:g}: must be 0, or at least {least:g} s for this model")
        if conditioning.taps + spec.window > (DURATION - 2) * spec.rate:
            raise ConfigError("calibration: the filter of this model is too long for it; set calibration.interval = 0")

    def choose(self, window: Window, rate: int) -> Planned | None:
        """The signal for ``window``, cut from strain at ``rate`` Hz, if it is to have one."""
        slot = window.start // self._slot
        name = f"gwstream calibration {window.detector} {slot * self._slot * NANO // window.rate}"
        rng = np.random.default_rng(list(hashlib.sha256(name.encode()).digest()))
        if window.start != slot * self._slot + int(rng.integers(self._places)) * self._spec.hop:
            return None
        return Planned(window, rate, self._prior.draw(rng, 1)[0], rng)

    def inject(self, planned: Planned) -> tuple[Window, float]:
        """A copy of the window with the signal in it, and the signal's optimal SNR there."""
        window, x = planned.window, planned.truth
        mass_1, mass_2, distance, time, phase = (float(value) for value in x)
        injection = Injection(
            detector=window.detector,
            gps_ns=window.gps_ns + round(time * NANO),
            mass_1=mass_1,
            mass_2=mass_2,
            effective_distance=distance,
            phase=phase,
        )
        first, stream = Decimator(self._spec, planned.rate).push(*injection.strain(planned.rate))
        begin = window.start - first - self._spec.taps + 1
        piece = stream[begin : begin + self._spec.taps - 1 + len(window.samples)]
        signal = np.convolve(piece, window.whitener.taps, mode="valid")
        return replace(window, samples=window.samples + signal, injected=True), float(np.linalg.norm(signal))
