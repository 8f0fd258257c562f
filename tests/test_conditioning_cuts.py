"""However strain is cut, whatever is missing of it, and wherever another process goes on: the same windows."""

from __future__ import annotations

import itertools
from collections.abc import Collection
from functools import cache

import numpy as np
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st

from gwstream.conditioning import Conditioner
from gwstream.model import ModelSpec
from gwstream.records import Floats, Gap, Strain, Window

SPEC = ModelSpec(name="test")
GPS = 1_000_000_000
RATE = 512
SECONDS = 24
TOTAL = RATE * SECONDS
Stretch = tuple[int, int]

places = st.integers(1, TOTAL - 1)
stretches = st.tuples(places, st.integers(1, 3 * RATE)).map(lambda one: (one[0], min(sum(one), TOTAL)))


@cache
def noise() -> Floats:
    return np.random.default_rng(5).normal(size=TOTAL) * 1e-21


def records(gap: Stretch, cuts: list[int]) -> list[Strain | Gap]:
    """All of the strain but that of the gap, cut there and at ``cuts``."""
    edges = sorted({0, TOTAL, *gap, *(cut for cut in cuts if not gap[0] < cut < gap[1])})
    found: list[Strain | Gap] = []
    for low, high in itertools.pairwise(edges):
        start = GPS * RATE + low
        if (low, high) == gap:
            found.append(Gap(detector="H1", start=start, rate=RATE, length=high - low, reason="missing"))
        else:
            found.append(Strain(detector="H1", start=start, rate=RATE, samples=noise()[low:high], dq=3))
    return found


def windows(strain: list[Strain | Gap], restarts: Collection[int] = ()) -> list[Window]:
    """What comes of them; after the records that end at one of ``restarts`` another process goes on."""
    conditioner, found = Conditioner(SPEC, "H1"), list[Window]()
    for record in strain:
        found += conditioner.push(record)
        state = conditioner.state()
        if record.end - GPS * RATE in restarts and state is not None:
            conditioner = Conditioner.restored(SPEC, "H1", state)
    return found


@effort(max_examples=40)
@given(stretches, st.dictionaries(places, st.booleans(), min_size=10, max_size=40))
def test_cuts_and_restarts_change_no_bit(gap: Stretch, cuts: dict[int, bool]) -> None:
    """``cuts``: where, and whether another process goes on there."""
    whole = windows(records(gap, []))
    pieces = windows(records(gap, list(cuts)), [place for place, restart in cuts.items() if restart])
    assert len(whole) > 30
    assert [w.start for w in pieces] == [w.start for w in whole]
    for a, b in zip(pieces, whole, strict=True):
        assert np.array_equal(a.samples, b.samples)
        assert np.array_equal(a.context, b.context)
        assert (a.whitener.id, a.gap, a.dq) == (b.whitener.id, b.gap, b.dq)


@effort(max_examples=20)
@given(stretches)
def test_no_window_holds_a_sample_of_a_gap(gap: Stretch) -> None:
    rate = SPEC.conditioning.rate
    low, high = ((GPS * RATE + edge) / RATE for edge in gap)
    for window in windows(records(gap, [])):
        begin, end = window.start / rate, (window.start + len(window.samples)) / rate
        assert end <= low or begin >= high
