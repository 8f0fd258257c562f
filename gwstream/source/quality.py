"""Data quality: which samples may be used, and cutting a stretch into `Strain` and `Gap` records accordingly."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gwstream.records import Floats, Gap, Strain

MIN_RATE = 256
PIECE = 1  # s: no record is longer, and pieces end on whole GPS seconds

Bits = NDArray[np.int64]

# bits of the state vector that GWOSC's injection mask states too
_INJECTIONS = {0: 6, 1: 7, 2: 8, 4: 5}


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """Samples of one detector as read, before they are judged.

    ``start``: samples since GPS 0 at ``rate``. ``state``: (k,) state-vector bits evenly spread over the stretch, or
    None where unknown. ``mask``: bits that must all be set.
    """

    detector: str
    start: int
    rate: int
    samples: Floats
    state: Bits | None
    mask: int
    arrived: int = 0


def state_bits(values: NDArray[Any]) -> Bits:
    """A state vector of any real type as integers; what is not a finite, non-negative number has no bit set."""
    numbers = np.nan_to_num(np.asarray(values, np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    return np.asarray(np.clip(np.round(numbers), 0, 2**53), np.int64)


def gwosc_bits(dq: NDArray[Any], injections: NDArray[Any] | None) -> Bits:
    """GWOSC's DQ and injection masks, one value a second, as bits of a state vector.

    Strain ok (bit 0) where DATA is set, observing (bit 1) where CBC_CAT1 is too, and the hardware-injection bits 5 to
    8; all of those are set where GWOSC gives no injection mask.
    """
    dq = state_bits(dq)
    bits = (dq & 1) | ((dq & (dq >> 1) & 1) << 1)
    if injections is None:
        return bits | 0b1_1110_0000
    injections = state_bits(injections)
    for theirs, ours in _INJECTIONS.items():
        bits |= ((injections >> theirs) & 1) << ours
    return bits


def records(stretch: Stretch) -> Iterator[Strain | Gap]:
    """The stretch as contiguous records of at most one second, in order.

    A record of `Strain` lies wholly where every bit of the mask is set and all samples are finite; the others are
    `Gap`s with the reason ``vetoed`` or ``not_finite``. A sample touched by a bad state value counts as bad.
    """
    usable, state = _per_sample(stretch)
    edges = {0, len(stretch.samples)}
    edges.update(int(i) + 1 for i in np.flatnonzero(np.diff(usable)))
    size = PIECE * stretch.rate
    edges.update(range(-stretch.start % size, len(stretch.samples), size))
    for low, high in itertools.pairwise(sorted(edges)):
        yield _record(stretch, low, high, usable[low], state)


VETOED, NOT_FINITE, USABLE = 0, 1, 2
ABSURD = 1.0  # no strain is as large: a broken number, though finite


def _per_sample(stretch: Stretch) -> tuple[NDArray[np.int8], Bits | None]:
    """What each sample is, (n,), and the state-vector bits."""
    n = len(stretch.samples)
    kind = np.full(n, USABLE, np.int8)
    if stretch.state is not None:
        count = len(stretch.state)
        for index in np.flatnonzero((stretch.state & stretch.mask) != stretch.mask):
            kind[index * n // count : -(-(index + 1) * n // count)] = VETOED
    kind[(kind == USABLE) & ~(np.abs(stretch.samples) < ABSURD)] = NOT_FINITE  # NaN is not smaller either
    return kind, stretch.state


def _record(stretch: Stretch, low: int, high: int, kind: int, state: Bits | None) -> Strain | Gap:
    start = stretch.start + low
    if kind != USABLE:
        return Gap(
            detector=stretch.detector,
            start=start,
            rate=stretch.rate,
            length=high - low,
            reason="vetoed" if kind == VETOED else "not_finite",
            arrived=stretch.arrived,
        )
    dq = None
    if state is not None:
        count, n = len(state), len(stretch.samples)
        dq = int(np.bitwise_and.reduce(state[low * count // n : -(-high * count // n)]))
    return Strain(
        detector=stretch.detector,
        start=start,
        rate=stretch.rate,
        samples=stretch.samples[low:high],
        dq=dq,
        arrived=stretch.arrived,
    )
