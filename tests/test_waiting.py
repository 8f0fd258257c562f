"""What waits for a verdict: which goes first, which is given up, and that nothing is forgotten."""

from __future__ import annotations

import time
from collections import Counter

import pytest
from fakes import HOP, trigger, window

from gwstream.pipeline.journey import Batched, Journey
from gwstream.pipeline.load import Level
from gwstream.pipeline.waiting import Waiting
from gwstream.records import NANO, Batch, bucket

MIDDLE = 0.75


class Kept:
    """A `Waiting` of live strain, and what it gave up."""

    def __init__(self) -> None:
        self.lost: Counter[tuple[str, str]] = Counter()
        self.waiting = Waiting(self.tally, live=True, hop=HOP, widest=3)

    def tally(self, stage: str, reason: str, detector: str, count: int = 1) -> None:
        assert stage == "inference"
        self.lost[reason, detector] += count

    async def put(self, numbers: range, detector: str = "H1", ago: float = 0.0) -> None:
        batched = batch(numbers, detector, ago)
        self.waiting.come(detector, len(batched.batch.windows))
        await self.waiting.batches.put(batched)

    async def gate(self, places: dict[int, float], *, every: bool = False) -> None:
        """Gate the oldest batch; those with a number in ``places`` pass, and coalesce there."""
        batched = await self.waiting.batches.get()
        starts = [(one.start // HOP) % 1000 for one in batched.batch.windows]
        windows = zip(starts, batched.batch.windows, strict=True)
        triggers = [trigger(one, places.get(number, 0.9), passed=number in places) for number, one in windows]
        self.waiting.gated(batched.journeys, triggers, MIDDLE, every=every)


def batch(numbers: range, detector: str = "H1", ago: float = 0.0) -> Batched:
    windows = tuple(window(number, detector) for number in numbers)
    arrived = time.monotonic_ns() - round(ago * NANO)
    journey = Journey(0).then("batching", arrived)  # what was late before it came here is not given up for that
    return Batched(Batch(windows, bucket(len(windows))), [journey] * len(windows))


async def test_of_a_signals_windows_the_one_nearest_the_middle_goes_first() -> None:
    """Of every signal before the second of any; then the older before the newer."""
    kept = Kept()
    await kept.put(range(4))
    await kept.put(range(4, 8))
    await kept.put(range(8, 12), "L1")
    await kept.gate({0: 0.70, 1: 0.76, 2: 0.83})
    await kept.gate({5: 0.66, 6: 0.745})
    await kept.gate({9: 0.80})
    first = [kept.waiting.next().trigger for _ in range(6)]
    order = [(one.window.detector, one.time) for one in first]
    assert order == [("H1", 0.76), ("H1", 0.745), ("L1", 0.80), ("H1", 0.70), ("H1", 0.66), ("H1", 0.83)]
    assert kept.waiting.pending == 0


async def test_what_is_too_old_goes_before_and_behind_the_gate() -> None:
    kept = Kept()
    await kept.put(range(4), ago=9.0)
    await kept.gate({0: 0.74, 2: 0.76})
    await kept.put(range(4, 8), "L1", ago=8.0)
    await kept.put(range(8, 12), ago=0.5)
    assert kept.waiting.backlog().age == pytest.approx(9.0, abs=0.5)
    kept.waiting.shed_old(2.0)
    assert kept.lost == {("overload", "H1"): 2, ("overload", "L1"): 4}
    assert (kept.waiting.pending, len(kept.waiting.batches)) == (0, 1)
    assert +kept.waiting.open == {"H1": 4}
    assert kept.waiting.backlog().waiting == 4
    assert kept.waiting.backlog().done == 8
    kept.waiting.shed_old(2.0)
    assert kept.lost.total() == 6


@pytest.mark.parametrize(("stride", "left"), [(1, 16), (2, 8), (3, 5)])
def test_a_coarser_hop_leaves_out_the_same_windows_in_every_batch(stride: int, left: int) -> None:
    level = next(level for level in Level if level.stride == stride)
    found: set[int] = set()
    for numbers in (range(16), range(3, 19), range(9, 10)):
        kept = Kept()
        kept.waiting.come("H1", len(numbers))
        thinned = kept.waiting.thinned(batch(numbers), level)
        windows = thinned.batch.windows if thinned else ()
        if thinned:
            assert thinned.batch.bucket == bucket(len(windows))
            assert len(thinned.journeys) == len(windows)
        found |= {one.start // HOP for one in windows}
        assert kept.lost["coarser_hop", "H1"] == len(numbers) - len(windows)
        assert kept.waiting.open["H1"] == len(windows)
        assert len(numbers) != 16 or len(windows) == left
    assert all(number % stride == 0 for number in found)


@pytest.mark.parametrize(("widest", "left"), [(1, 16), (2, 8), (5, 5)])
def test_a_hop_is_never_so_coarse_that_a_signal_falls_between_two_windows(widest: int, left: int) -> None:
    waiting = Waiting(lambda *_: None, live=True, hop=HOP, widest=widest)
    thinned = waiting.thinned(batch(range(16)), Level.NEWEST_WINDOWS)
    assert thinned is not None
    assert len(thinned.batch.windows) == left


async def test_unweighted_posteriors_are_made_a_spectrum_at_a_time_and_given_up_oldest_first() -> None:
    kept = Kept()
    for numbers, detector in ((range(12), "H1"), (range(12, 20), "L1"), (range(20, 32), "H1")):
        await kept.put(numbers, detector)
        await kept.gate({3: 0.75}, every=True)
    assert kept.waiting.quiet == 31
    some = [one.trigger.window for one in kept.waiting.next_quiet()]
    assert [one.start // HOP % 1000 for one in some] == [k for k in range(12) if k != 3]  # 20 would share 4's place
    kept.waiting.shed_quiet(15)
    assert kept.lost == {("unweighted", "L1"): 5}
    assert [one.trigger.window.detector for one in kept.waiting.next_quiet()] == ["L1"] * 3
    kept.waiting.shed_quiet()
    assert kept.lost == {("unweighted", "L1"): 5, ("unweighted", "H1"): 12}
    assert (+kept.waiting.open)["L1"] == 3  # in hand
    assert kept.waiting.quiet == 0


async def test_nothing_waits_where_nothing_is_old() -> None:
    kept = Kept()
    assert kept.waiting.backlog().age == 0.0
    await kept.put(range(4))
    assert not kept.waiting.nothing
    await kept.gate({})
    assert kept.waiting.nothing
    assert kept.waiting.backlog().age == 0.0
