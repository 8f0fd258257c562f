"""The training's aggregate for a model: codes of fresh windows behind the gate, of detectors of their own.

It depends on conditioning, prior and bank alone, not on the network, so all networks of one recipe share it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.random import Generator

from gwstream.config import InferenceConfig
from gwstream.inference.aggregate import LEAST, Aggregate
from gwstream.inference.bank import Bank
from gwstream.inference.checkpoint import WEIGHTS, load_model, save
from gwstream.model import ModelSpec
from gwstream.records import Floats
from gwstream.training.batches import draw
from gwstream.training.dataset import Simulator, family

SEED = 20205
MOST, SHARE = 12_000, 4  # windows drawn, half of them to be kept aside: at most, and a window for so many samples
EACH = 125  # windows a detector


def gather(spec: ModelSpec, bank: Bank, simulator: Simulator) -> Aggregate | None:
    """Draw windows and fit; a minute or two, less for short trainings. None where too few pass the gate."""
    count = min(MOST, spec.training.samples // SHARE) // 2
    rng = np.random.default_rng(SEED)
    codes, aside = (_codes(spec, bank, simulator, count, rng) for _ in range(2))
    return Aggregate.fit(codes, aside) if min(len(codes), len(aside)) >= LEAST else None


def add(folder: Path) -> None:
    """Give the weights in a model's folder, trained before there was an aggregate, one. Raises `ModelError`."""
    model = load_model(folder)
    found = gather(model.spec, model.bank, Simulator(model.spec, model.bank))
    save(folder / WEIGHTS, model.spec, model.bank, model.net, found, model.leftover)


def _codes(spec: ModelSpec, bank: Bank, simulator: Simulator, count: int, rng: Generator) -> Floats:
    gate = float(InferenceConfig.model_fields["gate_snr"].default)
    found = []
    for one in family(spec, bank, max(2, count // EACH), rng):
        drawn = draw(spec, simulator, one, EACH, rng)
        found.append(drawn.y[drawn.snr > gate])
    return np.concatenate([part.double().numpy() for part in found])
