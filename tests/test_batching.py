"""The batcher loses nothing, repeats nothing, keeps order and age, and waits for nobody."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from fakes import window
from hypothesis import given
from hypothesis import strategies as st

from gwstream.batching import BUCKETS, Batcher, bucket
from gwstream.config import BatchingConfig
from gwstream.records import Batch

# what arrives: (detector, seconds since the arrival before)
arrivals = st.lists(
    st.tuples(st.sampled_from(["H1", "L1", "V1"]), st.sampled_from([0.0, 0.001, 0.004, 0.02, 1.0])), max_size=120
)
settings = st.builds(BatchingConfig, size=st.integers(1, 64), max_age=st.sampled_from([0.0, 0.003, 0.01, 0.5]))


def play(config: BatchingConfig, steps: Sequence[tuple[str, float]]) -> list[tuple[float, Batch]]:
    """Feed a batcher as the pipeline does, looking at the deadline between arrivals; (time, batch) in order."""
    batcher = Batcher(config)
    out: list[tuple[float, Batch]] = []
    now = 100.0

    def keep(batch: Batch | None) -> None:
        if batch is not None:
            out.append((now, batch))

    for number, (detector, pause) in enumerate(steps):
        arrival = now + pause
        if batcher.deadline is not None and batcher.deadline <= arrival:
            now = batcher.deadline
            keep(batcher.due(now))
        now = arrival
        keep(batcher.add(window(number, detector), now))
        assert len(batcher) < config.size
    if batcher.deadline is not None:
        now = batcher.deadline
        keep(batcher.due(now))
    assert batcher.deadline is None
    assert batcher.flush() is None
    return out


@given(settings, arrivals)
def test_every_window_leaves_once_and_in_order(config: BatchingConfig, steps: list[tuple[str, float]]) -> None:
    numbers = [int(w.samples[0]) for _, batch in play(config, steps) for w in batch.windows]
    assert numbers == list(range(len(steps)))


@given(settings, arrivals)
def test_no_window_waits_longer_than_the_age(config: BatchingConfig, steps: list[tuple[str, float]]) -> None:
    entered, now = [], 100.0
    for _, pause in steps:
        now += pause
        entered.append(now)
    for left, batch in play(config, steps):
        waits = [left - entered[int(w.samples[0])] for w in batch.windows]
        assert max(waits) <= config.max_age + 1e-9
        if len(batch.windows) < config.size:  # only age closes a batch early
            assert max(waits) >= config.max_age - 1e-9


@given(settings, arrivals)
def test_batches_fit_their_bucket(config: BatchingConfig, steps: list[tuple[str, float]]) -> None:
    for _, batch in play(config, steps):
        assert 1 <= len(batch.windows) <= config.size
        assert batch.bucket in BUCKETS
        assert batch.bucket >= len(batch.windows)
        assert not any(len(batch.windows) <= size < batch.bucket for size in BUCKETS)


def test_a_silent_detector_is_not_waited_for() -> None:
    batcher = Batcher(BatchingConfig(size=16, max_age=0.01))
    assert batcher.add(window(0, "L1"), 5.0) is None
    assert batcher.deadline == pytest.approx(5.01)
    assert batcher.due(5.009) is None
    batch = batcher.due(5.01)
    assert batch is not None
    assert [w.detector for w in batch.windows] == ["L1"]


def test_a_frame_of_windows_makes_one_batch_at_once() -> None:
    batcher = Batcher(BatchingConfig(size=16, max_age=0.01))
    made = [batcher.add(window(n), 5.0) for n in range(16)]
    assert made[:-1] == [None] * 15
    assert made[-1] is not None
    assert made[-1].bucket == 16


def test_flush_gives_what_is_left() -> None:
    batcher = Batcher(BatchingConfig(size=16, max_age=1.0))
    for n in range(5):
        batcher.add(window(n), 5.0)
    batch = batcher.flush()
    assert batch is not None
    assert (len(batch.windows), batch.bucket) == (5, 16)
    assert batcher.deadline is None


@pytest.mark.parametrize(("n", "size"), [(1, 1), (2, 4), (4, 4), (5, 16), (16, 16), (17, 64), (64, 64)])
def test_bucket(n: int, size: int) -> None:
    assert bucket(n) == size


@pytest.mark.parametrize("n", [0, 65])
def test_bucket_refuses(n: int) -> None:
    with pytest.raises(ValueError, match=f"not {n}"):
        bucket(n)
