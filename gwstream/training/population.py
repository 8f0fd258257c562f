"""Injections to measure a model by. Parameters, noise and detector of each depend on seed and number alone.

So networks are compared on the very same windows, some of them can be left out, and processes can share them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.random import Generator

from gwstream import spectra
from gwstream.inference import Model
from gwstream.inference.likelihood import Templates
from gwstream.prior import Prior
from gwstream.records import Floats, Window
from gwstream.training.bank import REFERENCE, decimated_power
from gwstream.training.dataset import Member, Simulator, bins, family, member

FAMILY = "family"
FIXED = REFERENCE
PER_DETECTOR = 32  # injections in a row into noise of one detector
SEED = 20201
STATED = (6.0, 30.0)
"""Optimal SNRs of the population that efficiency and divergence are stated for."""


@dataclass(frozen=True, slots=True)
class Case:
    """One injection: its window, its parameters (1, 5), its optimal SNR there."""

    number: int
    window: Window
    truth: Floats
    optimal_snr: float


class Population:
    """Injections drawn from ``prior`` into noise of ``detectors``: the training family, or a shipped spectrum's name.

    Of the family every detector is drawn anew, half of them with a full PSD history; a named spectrum has always a full
    history, estimated from noise again for every `PER_DETECTOR` injections.
    """

    def __init__(self, model: Model, prior: Prior, seed: int, detectors: str = FAMILY) -> None:
        self._model = model
        self._prior = prior
        self._seed = seed
        self._detectors = detectors
        self._simulator = Simulator(model.spec, model.bank)
        self._member = lru_cache(maxsize=2)(self._drawn_member)

    def case(self, number: int) -> Case:
        """Injection ``number``, from 0 on."""
        rng = np.random.default_rng([self._seed, SEED, number])
        one, templates = self._member(number // PER_DETECTOR)
        truth = self._prior.draw(rng, 1)
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        samples = self._simulator.windows(one, truth, 1, generator)[0].double().numpy()
        norm = float(np.linalg.norm(templates.waveforms(truth)[0].astype(np.float64)))
        return Case(number, self._simulator.window(one, samples, number), truth, norm)

    def _drawn_member(self, index: int) -> tuple[Member, Templates]:
        spec, bank = self._model.spec, self._model.bank
        rng = np.random.default_rng([self._seed, SEED + 1, index])
        # every second of the family has a full history
        one = family(spec, bank, 1 + index % 2, rng)[-1] if self._detectors == FAMILY else self._named(rng)
        return one, Templates(spec.conditioning, bank, one.whitener)

    def _named(self, rng: Generator) -> Member:
        spec = self._model.spec
        delta_f = self._model.bank.delta_f
        f = np.arange(2 * bins(spec.conditioning, delta_f) - 1) * delta_f
        power = decimated_power(spec.conditioning, spectra.asd(self._detectors, np.maximum(f, 5.0)) ** 2)
        return member(spec, self._model.bank, power, math.floor(spec.conditioning.full), rng)
