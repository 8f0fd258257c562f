"""The pipeline with more live strain than its inference can hold: every level reached and left, every window accounted
for, no message lost. Time goes ten times as fast as in a daemon, and the calm before a step down is shorter yet."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pytest
from fakes import HOP, posterior
from test_pipeline import FakeInference, FakeObserver, FakePublisher, FakeSource, finish, kinds, parts, strain, until

from gwstream.pipeline import judging, load
from gwstream.pipeline.load import Level, Load
from gwstream.records import LOADS, Batch, Gap, Posterior, Strain, Trigger, Unweighted

SECOND = 0.1  # s between two frames of a second
FAST = 1 / SECOND
DRAWS = 2000
LEVELS = ("all", *LOADS[2:])


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second of the daemon's is `SECOND` here."""
    monkeypatch.setattr(judging, "LOOK", judging.LOOK * SECOND)
    for name, seconds in {"PERIOD": 1.0, "CATCH_UP": 60.0, "CALM": 3.0, "LONGEST_CALM": 6.0}.items():
        monkeypatch.setattr(load, name, seconds * SECOND)
    monkeypatch.setattr(judging, "Load", lambda target, rate, levels: Load(target, rate * FAST, levels))


class Paced(FakeSource):
    """A second of strain every `SECOND`, in each detector, until it is told to end."""

    def __init__(self, *detectors: str, live: bool = True) -> None:
        super().__init__(dict.fromkeys(detectors, ()), live)
        self.over = asyncio.Event()

    async def stream(self, detector: str) -> AsyncIterator[Strain | Gap]:
        while not self.over.is_set():
            record = strain(self.read[detector], detector)
            self.read[detector] += 1
            yield record
            await asyncio.sleep(SECOND if self.live else 0)


class Slow(FakeInference):
    """Takes ``window`` s to gate one, ``full`` s for a posterior of all draws, ``alone`` s for an unweighted one."""

    def __init__(self, passing: Sequence[int]) -> None:
        super().__init__({number: 0.75 - 0.001 * number for number in passing})
        self.window = self.full = self.alone = 0.0
        self.drawn: Counter[int] = Counter()

    def gate(self, batch: Batch) -> Sequence[Trigger]:
        time.sleep(self.window * len(batch.windows))
        return super().gate(batch)

    def infer(self, found: Trigger, bucket: int, draws: int | None = None) -> Posterior:
        assert draws is not None
        time.sleep(self.full * draws / DRAWS)
        self.drawn[draws] += 1
        self.inferred.append(found.window)
        return posterior(found.window, time=found.time, n=draws // 25, bucket=bucket)

    def unweighted(self, triggers: Sequence[Trigger], least: int = 1) -> Sequence[Unweighted]:
        time.sleep(self.alone * len(triggers))
        return super().unweighted(triggers, least)


@dataclass
class Overloaded:
    """A daemon, its load and its losses; leave the context to drain it."""

    source: Paced
    inference: Slow
    observer: FakeObserver = field(default_factory=FakeObserver)
    lost: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    publisher: FakePublisher = field(default_factory=FakePublisher)

    def start(self, **table: Any) -> asyncio.Task[FakePublisher]:
        settings = {"inference": {"latency_target": 0.2, "draws": DRAWS}, **table}

        def tally(stage: str, reason: str, detector: str, count: int = 1) -> None:
            self.lost[stage, reason, detector] += count

        joined = parts(
            self.source,
            inference=self.inference,
            observers=[self.observer],
            publisher=self.publisher,
            tally=tally,
            table=settings,
        )
        return asyncio.create_task(finish(joined))

    async def level(self, level: Level, *, told: bool = False) -> None:
        """Wait until it is reached from here on, and until a message says so if ``told``."""
        since = max(0, len(self.observer.loads) - 1)
        await until(lambda: level.text in self.observer.loads[since:], limit=60)  # busy machines take their time
        if told:
            await until(lambda: any(one.load == level.text for one in self.publisher.sent))

    def reasons(self, detector: str) -> dict[str, int]:
        return {reason: count for (_, reason, one), count in self.lost.items() if one == detector}

    def balanced(self, detector: str) -> bool:
        """Every window is told, or opened no gate, or is counted."""
        came = 16 * self.source.read[detector]
        judged = [one for one in self.inference.judged if one.detector == detector]
        closed = sum((one.start // HOP) % 16 not in self.inference.passing for one in judged)
        told = [one for one in kinds(self.publisher, "posterior") if one.summary.detector == detector]
        given_up = {reason: count for reason, count in self.reasons(detector).items() if reason != "fewer_draws"}
        every = [one for one in kinds(self.publisher, "unweighted") if one.summary.detector == detector]
        if every or "unweighted" in given_up:
            assert len(every) + given_up.pop("unweighted") == closed
        assert set(given_up) <= {"coarser_hop", "overload"}
        assert len({one.summary.id for one in told}) == len(told)
        return closed + len(told) + sum(given_up.values()) == came


def steps(loads: Sequence[str]) -> Iterator[int]:
    """From each level to the next, of those there are without unweighted posteriors."""
    for before, after in pairwise(loads):
        yield LEVELS.index(after) - LEVELS.index(before)


async def test_every_level_is_reached_and_left_and_every_window_accounted_for() -> None:
    it = Overloaded(Paced("H1", "L1"), Slow((3, 8)))
    running = it.start()
    await it.level(Level.ALL)
    it.inference.full = 2 * SECOND / 4  # of 4 a second half are too many: with a quarter of the draws they fit
    await it.level(Level.FEWER_DRAWS, told=True)
    it.inference.window = 1.3 * SECOND / 32  # now the gate alone takes too long: every second window fits
    await it.level(Level.HALF_OF_WINDOWS, told=True)
    it.inference.window = 2.3 * SECOND / 32
    await it.level(Level.THIRD_OF_WINDOWS, told=True)
    it.inference.window = 20 * SECOND / 32
    await it.level(Level.NEWEST_WINDOWS)
    await until(lambda: it.lost["inference", "overload", "L1"] > 100)
    it.inference.window = it.inference.full = 0.0
    await it.level(Level.ALL)
    it.source.over.set()
    publisher = await running
    assert all(it.balanced(name) for name in ("H1", "L1"))
    assert set(steps(it.observer.loads)) == {-1, 1}
    told = [one for one in kinds(publisher, "posterior") if one.load]
    for one in kinds(publisher, "posterior"):
        fewer = one.load in LOADS[2:]
        assert json.loads(one.summary.posterior)["sampling"]["draws"] == (20 if fewer else 80)
    assert set(it.inference.drawn) == {DRAWS, DRAWS // 4}
    for name in ("H1", "L1"):
        few = sum(one.load != "" for one in told if one.summary.detector == name)
        assert it.lost["inference", "fewer_draws", name] == few


async def test_unweighted_posteriors_go_first_and_come_back() -> None:
    it = Overloaded(Paced("H1"), Slow((3,)))
    it.inference.alone = 2 * SECOND / 15
    running = it.start(publish={"every_window": True})
    await it.level(Level.WEIGHTED_ONLY, told=True)
    await until(lambda: it.lost["inference", "unweighted", "H1"] > 30)
    it.inference.alone = 0.0
    await it.level(Level.ALL)
    before = len(kinds(it.publisher, "unweighted"))
    await until(lambda: len(kinds(it.publisher, "unweighted")) > before)
    it.source.over.set()
    await running
    assert it.balanced("H1")
    assert set(it.reasons("H1")) == {"unweighted"}
    assert set(it.inference.drawn) == {DRAWS}
    assert not any(one.load for one in kinds(it.publisher, "unweighted"))


async def test_which_windows_are_left_out_is_a_matter_of_their_time() -> None:
    it = Overloaded(Paced("H1"), Slow(()))
    it.inference.window = 2.6 * SECOND / 16
    running = it.start()
    await it.level(Level.THIRD_OF_WINDOWS)
    await until(lambda: it.lost["inference", "coarser_hop", "H1"] > 100)
    it.source.over.set()
    await running
    numbers = [one.start // HOP for one in it.inference.judged]
    assert {b - a for a, b in pairwise(numbers)} >= {1, 3}
    assert all(b % 3 == 0 for a, b in pairwise(numbers) if b - a == 3)
    assert all(b % 2 == 0 for a, b in pairwise(numbers) if b - a == 2)
    assert it.balanced("H1")


async def test_strain_that_is_not_live_waits_and_loses_nothing_at_all() -> None:
    it = Overloaded(Paced("H1", live=False), Slow((3,)))
    it.inference.full = 0.3
    running = it.start()
    await until(lambda: len(kinds(it.publisher, "posterior")) >= 4)
    it.inference.full = 0.0
    it.source.over.set()
    publisher = await running
    assert it.observer.loads == ["all"]
    assert not it.lost
    assert set(it.inference.drawn) == {DRAWS}
    assert len(kinds(publisher, "posterior")) == it.source.read["H1"]


async def test_changes_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    it = Overloaded(Paced("H1"), Slow((2, 3, 4, 8)))
    it.inference.full = 1.6 * SECOND / 4
    with caplog.at_level("INFO", "inference"):
        running = it.start()
        await it.level(Level.FEWER_DRAWS)
        it.inference.full = 0.0
        await it.level(Level.ALL)
        it.source.over.set()
        await running
    told = [(one.levelname, one.getMessage()) for one in caplog.records if one.getMessage().startswith("load: ")]
    assert told[0][0] == "WARNING"
    assert told[0][1].startswith("load: fewer draws, where it was all: ")
    assert told[-1][0] == "INFO"
    assert told[-1][1].startswith("load: all, where it was fewer draws: ")
