"""What a network learns from: batches of examples, drawn on the fly, and the held-out ones it is judged by.

Step k draws from a generator seeded by (seed, k), so a run that was stopped goes on as if it had not been.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor

from gwstream.inference.bank import Bank
from gwstream.model import ModelSpec
from gwstream.training.dataset import Examples, Member, Simulator, family

GROUPS = 8  # members of the family in a batch
OVERDRAW = 1.25
ROUNDING = 1e-9
SAMPLE = 4096  # examples the inputs are scaled by
HELD_SEED, HELD = 20204, 4096  # examples no network learns from
LEAST_HELD, SHARE = 512, 64  # of them in a short training: one for so many samples, but for the least


def columns(examples: Examples) -> dict[str, Tensor]:
    """The examples' tensors (B, …) by name."""
    return {one.name: getattr(examples, one.name) for one in fields(examples)}


def each(call: Callable[[Tensor], Tensor], examples: Examples) -> Examples:
    """The examples with every tensor replaced by what ``call`` makes of it."""
    return Examples(**{name: call(value) for name, value in columns(examples).items()})


def joined(parts: list[Examples]) -> Examples:
    """Several sets of examples as one."""
    tables = [columns(part) for part in parts]
    return Examples(**{name: torch.cat([table[name] for table in tables]) for name in tables[0]})


def pieces(examples: Examples, size: int) -> list[Examples]:
    """The examples in parts of ``size``."""
    tables = [torch.split(value, size) for value in columns(examples).values()]
    return [Examples(*parts) for parts in zip(*tables, strict=True)]


def draw(spec: ModelSpec, simulator: Simulator, one: Member, count: int, rng: Generator) -> Examples:
    """``count`` examples of one member with parameters from the prior, less some of those with nothing to be seen."""
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    x = spec.prior.draw(rng, count)
    windows = simulator.windows(one, x, count, generator)
    return simulator.examples(one, x, windows, torch.from_numpy(rng.random(count)))


def batch(spec: ModelSpec, simulator: Simulator, members: list[Member], rng: Generator, size: int) -> Examples:
    """About ``size`` examples of a few random members; which windows are skipped depends on the window alone."""
    chosen = rng.choice(len(members), size=min(GROUPS, len(members)), replace=False)
    share = math.ceil(OVERDRAW * size / len(chosen))
    drawn = joined([draw(spec, simulator, members[index], share, rng) for index in chosen])
    kept = torch.from_numpy(rng.permutation(len(drawn.snr)))[:size]
    return each(lambda value: value[kept], drawn)


def held_out(spec: ModelSpec, bank: Bank, simulator: Simulator, count: int | None = None) -> Examples:
    """The same examples for every network of one prior, from detectors of their own; fewer for a short training."""
    count = count or min(HELD, max(LEAST_HELD, spec.training.samples // SHARE))
    rng = np.random.default_rng(HELD_SEED)
    members = family(spec, bank, 2 * GROUPS, rng)
    return joined([batch(spec, simulator, members, rng, count // 4) for _ in range(4)])


class Fresh:
    """Examples without end, none of them twice."""

    stored = 0

    def __init__(self, spec: ModelSpec, bank: Bank, simulator: Simulator) -> None:
        self._spec, self._bank, self._simulator = spec, bank, simulator
        self._era = -1
        self._members: list[Member] = []

    def sample(self) -> Examples:
        """What the scale of the network's inputs is read from."""
        rng = np.random.default_rng([self._spec.training.seed, 0])
        members = family(self._spec, self._bank, GROUPS * 2, rng)
        share = SAMPLE // len(members)
        return joined([draw(self._spec, self._simulator, one, share, rng) for one in members])

    def at(self, step: int, fraction: float) -> Examples:
        """The batch of one step, with so much of the run done, from the family that is current then."""
        training = self._spec.training
        era = int(fraction / training.refresh + ROUNDING)
        if era != self._era:
            rng = np.random.default_rng([training.seed, 1, era])
            self._era, self._members = era, family(self._spec, self._bank, training.whiteners, rng)
        rng = np.random.default_rng([training.seed, 2, step])
        return batch(self._spec, self._simulator, self._members, rng, training.batch)
