"""The pipeline with small stand-ins for its stages: nothing lost, order, marks, back-pressure, shedding, ends."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from fakes import GPS, HOP, RATE, posterior, report, trigger, unweighted, whitener, window

from gwstream import pipeline
from gwstream.calibration import Report
from gwstream.calibration.shadow import Planned
from gwstream.conditioning import Conditioner, State
from gwstream.config import Config
from gwstream.errors import EngineError, SourceError
from gwstream.model import ConditioningSpec, ModelSpec
from gwstream.pipeline import CUTS, RECORDS, run
from gwstream.pipeline.network import KEPT, Followed
from gwstream.pipeline.parts import Parts
from gwstream.pipeline.progress import Taken
from gwstream.pipeline.waiting import BATCHES_AT_REST, TRIGGERS
from gwstream.prior import Prior
from gwstream.records import (
    Batch,
    Gap,
    Outgoing,
    Posterior,
    Strain,
    Summary,
    Trigger,
    Unweighted,
    Whitener,
    Window,
    bucket,
)
from gwstream.summary import News, Summarizer

STEPS = ("source", "conditioning_queue", "conditioning", "batching", "inference_queue", "inference", "summary")


def strain(second: int, detector: str = "H1") -> Strain:
    """One second; its samples are its number."""
    samples = np.full(RATE, float(second))
    start = (GPS + second) * RATE
    return Strain(detector=detector, start=start, rate=RATE, samples=samples, arrived=time.monotonic_ns())


class FakeSource:
    """Yields the records given, or fails; ``endless`` waits after the last."""

    def __init__(self, records: Mapping[str, Iterable[Strain | Gap | Exception]], live: bool, endless: bool = False):
        self.detectors = tuple(records)
        self.live = live
        self.given = records
        self.endless = endless
        self.read: Counter[str] = Counter()

    async def stream(self, detector: str) -> AsyncIterator[Strain | Gap]:
        for record in self.given[detector]:
            await asyncio.sleep(0)
            if isinstance(record, Exception):
                raise record
            self.read[detector] += 1
            yield record
        if self.endless:
            await asyncio.Event().wait()


class FakeConditioner:
    """``per_second`` windows a record, none for a gap."""

    def __init__(self, detector: str, per_second: int = 16) -> None:
        self.whitener: Whitener | None = whitener(detector)
        self.detector = detector
        self.per_second = per_second

    def state(self) -> None:
        return None

    def push(self, record: Strain | Gap) -> list[Window]:
        if isinstance(record, Gap):
            return []
        second = record.start // RATE - GPS
        hop = 16 // self.per_second
        return [window(16 * second + hop * k, self.detector) for k in range(self.per_second)]


class FakeInference:
    """Passes the windows in ``passing``: number within its second -> coalescence in the window."""

    def __init__(self, passing: Mapping[int, float] = {2: 0.70, 3: 0.76, 4: 0.84}, delay: float = 0.0) -> None:
        self.passing = passing
        self.delay = delay
        self.threads: set[int] = set()
        self.judged: list[Window] = []
        self.inferred: list[Window] = []
        self.hold: threading.Event | None = None
        self.prepared: list[str] = []
        self.together: list[int] = []

    def gate(self, batch: Batch) -> Sequence[Trigger]:
        self.threads.add(threading.get_ident())
        self.judged += batch.windows
        out = []
        for one in batch.windows:
            number = (one.start // 16) % 16
            out.append(trigger(one, self.passing.get(number, 0.9), passed=number in self.passing))
        return out

    def infer(self, found: Trigger, bucket: int, draws: int | None = None) -> Posterior:
        self.threads.add(threading.get_ident())
        if self.hold is not None:
            assert self.hold.wait(5)
        time.sleep(self.delay)
        self.inferred.append(found.window)
        return posterior(found.window, time=found.time, n=50, bucket=bucket)

    def unweighted(self, triggers: Sequence[Trigger], least: int = 1) -> Sequence[Unweighted]:
        self.threads.add(threading.get_ident())
        self.together.append(len(triggers))
        return [unweighted(one, max(bucket(len(triggers)), least)) for one in triggers]

    def prepare(self, whitener: Whitener) -> None:
        self.threads.add(threading.get_ident())
        self.prepared.append(whitener.id)


class FakePublisher:
    def __init__(self) -> None:
        self.sent: list[Outgoing] = []
        self.times: list[float] = []
        self.drained: float | None = None
        self.running = False

    async def put(self, outgoing: Outgoing) -> None:
        self.sent.append(outgoing)
        self.times.append(time.monotonic())

    async def run(self) -> None:
        self.running = True
        try:
            await asyncio.Event().wait()
        finally:
            self.running = False

    async def drain(self, limit: float) -> None:
        assert self.running
        self.drained = limit


class FakeObserver:
    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()
        self.stages: Counter[str] = Counter()
        self.depths: Counter[str] = Counter()
        self.last: dict[str, int] = {}
        self.loads: list[str] = []

    def record(self, record: Strain | Gap) -> None:
        self.seen["record"] += 1

    def conditioned(self, detector: str, windows: Sequence[Window], whitener: Whitener | None) -> None:
        self.seen["windows"] += len(windows)

    def gated(self, batch: Batch, triggers: Sequence[Trigger]) -> None:
        self.seen["triggers"] += len(triggers)

    def outgoing(self, outgoing: Outgoing, window: Window) -> None:
        self.seen[outgoing.summary.kind] += 1

    def calibrated(self, report: Report) -> None:
        self.seen["calibrated"] += 1

    def stage(self, stage: str, seconds: float) -> None:
        assert seconds >= 0
        self.stages[stage] += 1

    def load(self, level: int, text: str) -> None:
        self.loads.append(text)

    def queue(self, stage: str, depth: int) -> None:
        self.depths[stage] = max(self.depths[stage], depth)
        self.last[stage] = depth


class FakeCalibration:
    """Has a signal for the asking ``after`` s from now, ``signals`` times; says when it was judged."""

    def __init__(self, signals: int = 3, after: float = 0.0, delay: float = 0.0) -> None:
        self.signals = signals
        self.after = after
        self.delay = delay
        self.records: list[int] = []
        self.windows: list[int] = []
        self.judged: list[tuple[float, int]] = []
        self.known = 0

    def conditioned(self, record: Strain | Gap, windows: Sequence[Window], now: float) -> None:
        self.records.append(record.start)

    def gated(self, triggers: Sequence[Trigger]) -> None:
        self.windows += [one.window.start for one in triggers]

    def due(self, now: float) -> float | None:
        return now + self.after if self.signals else None

    def take(self) -> Planned | None:
        self.signals -= 1
        return Planned(window(), RATE, np.zeros(5), np.random.default_rng(0))

    def judge(self, planned: Planned) -> Report:
        time.sleep(self.delay)
        self.judged.append((time.monotonic(), threading.get_ident()))
        return report()

    def done(self, told: Report, seconds: float) -> None:
        assert seconds >= self.delay
        self.known += 1

    def told(self, detector: str) -> Mapping[str, object]:
        return {"known": self.known, "detector": detector}


def parts(source: FakeSource, **changes: Any) -> Parts:
    table: dict[str, Any] = {"source": {"kind": "simulated", "detectors": {name: {} for name in source.detectors}}}
    fields: dict[str, Any] = {
        "config": Config.model_validate(table | changes.pop("table", {})),
        "source": source,
        "conditioner": FakeConditioner,
        "inference": FakeInference(),
        "spec": ConditioningSpec(rate=RATE, hop=HOP),
        "prior": Prior(),
        "publisher": FakePublisher(),
    }
    return Parts(**{**fields, **changes})


async def finish(joined: Parts, stop: asyncio.Event | None = None) -> FakePublisher:
    async with asyncio.timeout(20):
        await run(joined, stop or asyncio.Event())
    assert isinstance(joined.publisher, FakePublisher)
    assert not joined.publisher.running
    assert not ours()
    return joined.publisher


def ours() -> set[str]:
    """Names of the pipeline's tasks that still run."""
    names = {task.get_name() for task in asyncio.all_tasks()}
    mine = {"source", "conditioning", "batching", "inference", "load", "publish"}
    return {name for name in names if name.split()[0] in mine}


async def until(condition: Callable[[], bool], *, limit: float = 10) -> None:
    async with asyncio.timeout(limit):
        while not condition():
            await asyncio.sleep(0.002)


def kinds(publisher: FakePublisher, kind: str) -> list[Outgoing]:
    return [one for one in publisher.sent if one.summary.kind == kind]


@pytest.mark.parametrize("live", [False, True])
async def test_a_finite_source_is_worked_off(live: bool) -> None:
    source = FakeSource({name: [strain(n, name) for n in range(8)] for name in ("H1", "L1")}, live)
    inference, observer = FakeInference(), FakeObserver()
    joined = parts(source, inference=inference, observers=[observer])
    publisher = await finish(joined)
    for name in ("H1", "L1"):
        judged = [w.start for w in inference.judged if w.detector == name]
        assert judged == [w.start for n in range(8) for w in FakeConditioner(name).push(strain(n, name))]
    assert len(kinds(publisher, "posterior")) == 2 * 8 * 3
    assert len({one.summary.id for one in kinds(publisher, "posterior")}) == 2 * 8 * 3
    assert len(inference.threads) == 1
    assert inference.threads != {threading.get_ident()}
    assert publisher.drained == joined.config.service.drain
    assert observer.seen["record"] == 16
    assert observer.seen["windows"] == observer.seen["triggers"] == 16 * 16
    assert observer.seen["posterior"] == 48
    assert set(observer.stages) == {"source", "conditioning", "batching", "inference", "summary"}


@pytest.mark.parametrize("wrong", [1e12, -1e30, float("nan")])
async def test_windows_that_no_detector_gives_are_counted_and_never_judged(wrong: float) -> None:
    class Broken(FakeConditioner):
        def push(self, record: Strain | Gap) -> list[Window]:
            found = super().push(record)
            found[5].samples[100] = wrong
            return found

    inference, calibration, lost = FakeInference(), FakeCalibration(), Counter[tuple[str, str, str]]()
    tally = lambda s, r, d, n=1: lost.update({(s, r, d): n})  # noqa: E731
    source = FakeSource({"H1": [strain(n) for n in range(3)]}, live=False)
    publisher = await finish(
        parts(source, conditioner=Broken, inference=inference, calibration=calibration, tally=tally)
    )
    assert lost["conditioning", "absurd", "H1"] == 3
    assert len(inference.judged) == 3 * 15
    assert len(kinds(publisher, "posterior")) == 9


async def test_the_best_placed_window_goes_first_and_makes_the_event() -> None:
    publisher = await finish(parts(FakeSource({"H1": [strain(0)]}, live=True)))
    starts = [one.summary.gps_ns for one in kinds(publisher, "posterior")]
    assert len(starts) == 3
    told = publisher.sent[:2]
    assert [one.summary.kind for one in told] == ["posterior", "event"]
    assert told[0].summary.id == f"H1-{GPS * RATE + 3 * 16}-abc"  # 0.76 s is nearest the middle


async def test_each_detector_has_its_best_before_any_has_its_second() -> None:
    class Uneven(FakeInference):
        """All windows of L1 lie worse than those of H1."""

        def gate(self, batch: Batch) -> Sequence[Trigger]:
            found = super().gate(batch)
            return [replace(t, time=0.84) if t.window.detector == "L1" else t for t in found]

    joined = parts(
        FakeSource({"H1": [strain(0, "H1")], "L1": [strain(0, "L1")]}, live=True),
        inference=Uneven({2: 0.70, 3: 0.76, 4: 0.80}),
        table={"batching": {"size": 64, "max_age": 0.05}},
    )
    publisher = await finish(joined)
    detectors = [one.summary.detector for one in kinds(publisher, "posterior")]
    assert detectors == ["H1", "L1", "H1", "L1", "H1", "L1"]


EVERY = {"publish": {"every_window": True}}


@pytest.mark.parametrize("live", [False, True])
async def test_every_window_has_one_message_if_it_is_asked_for(live: bool) -> None:
    source = FakeSource({name: [strain(n, name) for n in range(8)] for name in ("H1", "L1")}, live)
    inference, observer, lost = FakeInference(), FakeObserver(), Counter[str]()
    tally = lambda s, r, d, n=1: lost.update({r: n})  # noqa: E731
    table = {**EVERY, "batching": {"size": 3}}  # so that few windows are judged at a time
    joined = parts(source, inference=inference, observers=[observer], table=table, tally=tally)
    publisher = await finish(joined)
    assert not lost
    told: Counter[str] = Counter()
    for name in ("H1", "L1"):
        windows = [w.start for n in range(8) for w in FakeConditioner(name).push(strain(n, name))]
        weighted, others = (
            {int(one.summary.id.split("-")[1]) for one in kinds(publisher, kind) if one.summary.detector == name}
            for kind in ("posterior", "unweighted")
        )
        assert {(start // 16) % 16 for start in weighted} == {2, 3, 4}
        assert sorted(weighted | others) == windows
        assert not weighted & others
        told += Counter(one.summary.kind for one in publisher.sent if one.summary.detector == name)
    assert (told["posterior"], told["unweighted"]) == (48, 16 * 16 - 48)
    assert max(inference.together) <= 16
    assert len(inference.threads) == 1
    assert {json.loads(one.summary.posterior)["bucket"] for one in kinds(publisher, "unweighted")} == {16}
    for one in kinds(publisher, "unweighted"):
        assert tuple(name for name, _ in one.marks) == STEPS


async def test_a_frame_that_comes_among_unweighted_ones_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "gwstream.pipeline.waiting.UNWEIGHTED", 4
    )  # hops at a time: 3 windows, for one passed, of 14 in the first frame
    go, come = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    class Late(FakeSource):
        async def stream(self, detector: str) -> AsyncIterator[Strain | Gap]:
            yield strain(0)
            await go.wait()
            yield strain(1)

    class Held(FakeInference):
        def unweighted(self, triggers: Sequence[Trigger], least: int = 1) -> Sequence[Unweighted]:
            if not self.together:
                loop.call_soon_threadsafe(go.set)
                assert come.wait(5)
            return super().unweighted(triggers, least)

    class Watching(FakeObserver):
        def stage(self, stage: str, seconds: float) -> None:
            if stage == "batching" and go.is_set():
                come.set()

    inference = Held({3: 0.75, 11: 0.75})
    publisher = await finish(
        parts(Late({"H1": []}, live=True), inference=inference, observers=[Watching()], table=EVERY)
    )
    order = [one.summary.kind for one in publisher.sent if one.summary.kind != "event"]
    assert order == ["posterior"] * 2 + ["unweighted"] * 3 + ["posterior"] * 2 + ["unweighted"] * 25


async def test_detectors_may_end_at_different_times() -> None:
    lengths = {"H1": 1, "L1": 40, "V1": 0}
    source = FakeSource({name: [strain(k, name) for k in range(n)] for name, n in lengths.items()}, live=False)
    publisher = await finish(parts(source))
    found = Counter(one.summary.detector for one in kinds(publisher, "posterior"))
    assert found == {"H1": 3, "L1": 120}


@pytest.mark.parametrize("known", [True, False])
async def test_the_journey_begins_where_the_frame_became_visible(known: bool) -> None:
    arrived = time.monotonic_ns() - 50_000_000 if known else 0
    record = replace(strain(0), arrived=arrived)
    publisher = await finish(parts(FakeSource({"H1": [record]}, live=True)))
    one = publisher.sent[0]
    assert one.arrived == arrived or not known
    waited = one.marks[0][1] - one.arrived
    assert waited > 49_000_000 if known else waited == 0


async def test_a_posterior_is_handed_on_before_the_next_is_made() -> None:
    publisher = await finish(parts(FakeSource({"H1": [strain(0)]}, live=True), inference=FakeInference(delay=0.05)))
    times = [t for t, one in zip(publisher.times, publisher.sent, strict=True) if one.summary.kind == "posterior"]
    assert np.diff(times).min() > 0.04


async def test_detectors_that_agree_are_told_together_after_their_own_messages() -> None:
    noted: list[tuple[str, ...]] = []
    source = FakeSource({name: [strain(0, name)] for name in ("H1", "L1")}, live=True)
    publisher = await finish(parts(source, inference=FakeInference({3: 0.76}), tally=lambda *one: noted.append(one)))
    told = [(one.summary.detector, one.summary.kind) for one in publisher.sent]
    assert told == [("H1", "posterior"), ("H1", "event"), ("L1", "posterior"), ("L1", "event"), ("network", "network")]
    first, second, both = (publisher.sent[k] for k in (1, 3, 4))
    assert both.summary.event is not None
    assert both.summary.event["supersedes"] == [first.summary.id, second.summary.id]
    assert (first.first_event, both.first_event) == (0, first.marks[-1][1])
    assert both.marks[:-1] == second.marks[:-1]
    assert both.marks[-1] > second.marks[-1]
    assert noted == []


async def test_the_network_is_judged_when_the_detector_has_been_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    publisher, judge = FakePublisher(), Summarizer.together
    told: list[str] = []

    def together(self: Summarizer, news: News | None) -> tuple[Summary, ...]:
        assert news is not None
        told.extend(one.summary.id for one in publisher.sent if one.summary.id == news.event.id)
        return judge(self, news)

    monkeypatch.setattr(Summarizer, "together", together)
    source = FakeSource({name: [strain(0, name)] for name in ("H1", "L1")}, live=True)
    await finish(parts(source, inference=FakeInference({3: 0.76}), publisher=publisher))
    assert told == [one.summary.id for one in kinds(publisher, "event")]
    assert len(told) == 2


async def test_a_detector_whose_partner_is_late_or_silent_is_told_at_once() -> None:
    """Late it agrees all the same, and is counted; by then the first has long been told of."""

    class Late(FakeSource):
        async def stream(self, detector: str) -> AsyncIterator[Strain | Gap]:
            async for record in super().stream(detector):
                if detector == "L1":
                    await until(lambda: "event" in {one.summary.kind for one in publisher.sent})
                    await asyncio.sleep(0.1)
                yield record

    for wait, late in ((0.05, [("summary", "late_coincidence", "network")]), (5.0, [])):
        noted: list[tuple[str, ...]] = []
        publisher = FakePublisher()
        table = {"summary": {"network": {"wait": wait}}}
        seconds = {"H1": [strain(0)], "L1": [strain(0, "L1")], "V1": []}
        source = Late(seconds, live=True)
        tally = lambda *one: noted.append(one)  # noqa: E731, B023
        await finish(parts(source, inference=FakeInference({3: 0.76}), tally=tally, publisher=publisher, table=table))
        assert [one.summary.kind for one in publisher.sent] == ["posterior", "event", "posterior", "event", "network"]
        assert publisher.times[4] - publisher.times[1] > 0.1
        assert noted == late


def test_what_follows_an_event_is_found_among_a_bounded_number() -> None:
    def summary(kind: str, name: str, supersedes: Sequence[str] = ()) -> Summary:
        told = {"id": name, "supersedes": list(supersedes)}
        return Summary(kind=kind, detector="X1", id=name, gps_ns=0, posterior=b"", sha256="", event=told)  # type: ignore[arg-type]

    late = Counter[str]()
    followed = Followed(1.0, lambda stage, reason, detector, count=1: late.update([reason]))
    for k in range(2 * KEPT):
        assert followed.first(summary("event", f"E{k}"), k + 1) == 0
    last = f"E{2 * KEPT - 1}"
    assert followed.first(summary("network", "N", [f"E{2 * KEPT - 2}", last, "N0"]), 2 * KEPT + 1) == 2 * KEPT - 1
    assert followed.first(summary("network", "N", ["E0"]), 10**12) == 0  # long forgotten
    assert not late
    assert followed.first(summary("network", "N", [last]), 2 * KEPT + 10**9 + 1) == 2 * KEPT
    assert late == {"late_coincidence": 1}


async def test_marks_follow_one_another() -> None:
    before = time.monotonic_ns()
    publisher = await finish(parts(FakeSource({"H1": [strain(n) for n in range(3)]}, live=False)))
    for one in publisher.sent:
        assert tuple(name for name, _ in one.marks) == STEPS
        times = [one.arrived, *(at for _, at in one.marks)]
        assert times == sorted(times)
        assert before < times[0]
        assert times[-1] < time.monotonic_ns()
        start = int(one.summary.id.removeprefix("E-").split("-")[1])
        assert one.data_end_ns == (start + RATE) * 10**9 // RATE


async def test_a_silent_detector_delays_nobody() -> None:
    class Silent(FakeSource):
        async def stream(self, detector: str) -> AsyncIterator[Strain | Gap]:
            if detector == "L1":
                await asyncio.Event().wait()
            async for record in super().stream(detector):
                yield record

    stop = asyncio.Event()
    source = Silent({"H1": [strain(n) for n in range(3)], "L1": []}, live=True, endless=True)
    joined = parts(source, table={"batching": {"size": 64, "max_age": 0.02}})  # never full: age alone sends it on
    running = asyncio.create_task(finish(joined, stop))
    publisher = joined.publisher
    assert isinstance(publisher, FakePublisher)
    await until(lambda: len(kinds(publisher, "posterior")) == 9)
    stop.set()
    await running


async def test_what_is_not_live_waits_and_loses_nothing() -> None:
    seconds = 400
    source = FakeSource({"H1": [strain(n) for n in range(seconds)]}, live=False)
    inference, observer, lost = FakeInference({3: 0.75}), FakeObserver(), Counter[str]()
    inference.hold = threading.Event()
    joined = parts(source, inference=inference, observers=[observer], tally=lambda s, r, d, n=1: lost.update({r: n}))
    running = asyncio.create_task(finish(joined))
    await asyncio.sleep(0.3)
    assert source.read["H1"] <= RECORDS + CUTS + BATCHES_AT_REST + 5  # it stands still
    inference.hold.set()
    publisher = await running
    assert len(kinds(publisher, "posterior")) == seconds
    assert not lost


async def test_live_strain_that_comes_faster_than_the_gate_waits_and_loses_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Held(FakeInference):
        def gate(self, batch: Batch) -> Sequence[Trigger]:
            assert self.hold is None or self.hold.wait(5)
            return super().gate(batch)

    monkeypatch.setattr("gwstream.pipeline.waiting.BATCHES", 16)
    source = FakeSource({"H1": [strain(n) for n in range(64)]}, live=True)
    inference, lost, watching = Held({3: 0.75}), Counter[str](), FakeObserver()
    inference.hold = threading.Event()
    joined = parts(source, inference=inference, tally=lambda s, r, d, n=1: lost.update({r: n}), observers=(watching,))
    running = asyncio.create_task(finish(joined))
    await until(lambda: watching.depths["inference"] == 16)
    await asyncio.sleep(0.1)
    assert source.read["H1"] <= 16 + RECORDS + CUTS + 4
    inference.hold.set()
    assert len(kinds(await running, "posterior")) == 64
    assert len(inference.judged) == 16 * 64
    assert not lost


async def test_windows_behind_the_gate_are_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    bound = 64
    assert bound < TRIGGERS
    monkeypatch.setattr("gwstream.pipeline.waiting.TRIGGERS", bound)
    monkeypatch.setattr("gwstream.pipeline.waiting.BATCHES", 4)
    source = FakeSource({"H1": [strain(n) for n in range(64)]}, live=True)
    inference, lost, watching = FakeInference(dict.fromkeys(range(16), 0.75)), Counter[str](), FakeObserver()
    joined = parts(source, inference=inference, tally=lambda s, r, d, n=1: lost.update({r: n}), observers=(watching,))
    assert len(kinds(await finish(joined), "posterior")) == 16 * 64
    assert not lost
    assert 16 < watching.depths["inference"] <= bound + 15 + 4


async def test_a_restart_that_finds_minutes_of_strain_gives_up_none_of_its_posteriors() -> None:
    lost = Counter[str]()
    inference = FakeInference(dict.fromkeys(range(4), 0.75))
    inference.hold = threading.Event()
    source = FakeSource({"H1": [strain(second) for second in range(60)]}, live=True)
    running = asyncio.create_task(
        finish(parts(source, inference=inference, tally=lambda s, r, d, n=1: lost.update({r: n})))
    )
    await until(lambda: source.read["H1"] == 60)
    inference.hold.set()
    assert len(kinds(await running, "posterior")) == 4 * 60
    assert not lost


async def test_queues_that_are_worked_off_are_told_to_be_empty() -> None:
    class Slow(FakeInference):
        def gate(self, batch: Batch) -> Sequence[Trigger]:
            time.sleep(0.01)
            return super().gate(batch)

    watching, inference = FakeObserver(), Slow(passing={})  # nothing passes, so no later stage tells of them
    source = FakeSource({"H1": [strain(second) for second in range(20)]}, live=True)
    await finish(parts(source, inference=inference, observers=(watching,)))
    assert watching.depths["inference"] > 0
    assert watching.last == {"conditioning": 0, "batching": 0, "inference": 0}


class FakeProgress:
    """Wants to be told once, in vain so far, of a moment of rest."""

    due = overdue = True

    def __init__(self) -> None:
        self.offered: list[int] = []  # windows judged by then
        self.closed = asyncio.Event()
        self.judged: list[Window] = []

    def offer(self, taken: Taken) -> None:
        if taken.detectors:
            self.offered.append(len(self.judged))

    async def run(self) -> None:
        await self.closed.wait()

    async def close(self) -> None:
        self.closed.set()


@pytest.fixture
def whole(monkeypatch: pytest.MonkeyPatch) -> State:
    """What every conditioner is in: a state from which a source can go on."""
    conditioner = Conditioner(ModelSpec(name="test"), "H1")
    conditioner.push(strain(0))
    state = conditioner.state()
    assert state is not None
    assert state.whole
    monkeypatch.setattr(FakeConditioner, "state", lambda _: state)
    return state


async def test_strain_that_never_rests_is_held_back_for_what_is_kept(whole: State) -> None:
    """Each second's windows take longer to be judged than the next second takes to come."""
    progress, inference = FakeProgress(), FakeInference(delay=0.02)
    progress.judged = inference.judged
    joined = parts(
        FakeSource({"H1": [strain(s) for s in range(20)]}, live=True), inference=inference, progress=progress
    )
    await finish(joined)
    among = [count for count in progress.offered if 0 < count < 20 * 16]
    assert len(among) > 10
    assert not any(count % 16 for count in among)


async def test_strain_is_not_held_back_for_long_where_rest_does_not_come(
    whole: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "REST", 0.05)
    inference, source = FakeInference(), FakeSource({"H1": [strain(s) for s in range(12)]}, live=True)
    inference.hold = threading.Event()
    joined = parts(source, inference=inference, progress=FakeProgress())
    task = asyncio.create_task(finish(joined))
    await until(lambda: source.read["H1"] == 12)
    inference.hold.set()
    await task
    assert len(inference.judged) == 12 * 16


async def test_stop_finishes_what_was_read() -> None:
    source = FakeSource({"H1": [strain(n) for n in range(RECORDS)]}, live=True, endless=True)
    inference, stop = FakeInference(delay=0.01), asyncio.Event()
    running = asyncio.create_task(finish(parts(source, inference=inference), stop))
    await until(lambda: source.read["H1"] == RECORDS)
    stop.set()
    publisher = await running
    assert len(kinds(publisher, "posterior")) == 3 * RECORDS
    assert publisher.drained is not None
    assert publisher.drained < 5


async def test_the_drain_is_bounded_and_what_it_leaves_is_counted() -> None:
    source = FakeSource({"H1": [strain(n) for n in range(6)]}, live=True, endless=True)
    inference, stop, lost = FakeInference(delay=0.3), asyncio.Event(), Counter[str]()
    table = {"service": {"drain": 0.3}}
    joined = parts(source, inference=inference, table=table, tally=lambda s, r, d, n=1: lost.update({r: n}))
    running = asyncio.create_task(finish(joined, stop))
    await until(lambda: bool(inference.inferred))
    stop.set()
    begin = time.monotonic()
    publisher = await running
    assert time.monotonic() - begin < 1.5  # of the 5 s the rest would take
    assert lost["stopped"] > 0
    assert set(lost) == {"stopped"}
    assert lost["stopped"] + len(kinds(publisher, "posterior")) == 18


async def test_a_posterior_that_is_out_is_not_counted_as_left_where_the_network_is_slow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own, busy = Summarizer.own, threading.Event()

    def telling(self: Summarizer, posterior: Posterior) -> tuple[tuple[Summary, ...], Any]:
        return own(self, posterior)[0], object()

    def slow(self: Summarizer, news: object) -> tuple[Summary, ...]:
        busy.set()
        time.sleep(0.8)
        return ()

    monkeypatch.setattr(Summarizer, "own", telling)
    monkeypatch.setattr(Summarizer, "together", slow)
    source = FakeSource({"H1": [strain(0)]}, live=True, endless=True)
    stop, lost = asyncio.Event(), Counter[str]()
    table = {"service": {"drain": 0.2}}
    joined = parts(source, table=table, tally=lambda s, r, d, n=1: lost.update({r: n}))
    running = asyncio.create_task(finish(joined, stop))
    await until(busy.is_set)
    stop.set()
    publisher = await running
    assert len(kinds(publisher, "posterior")) == 1
    assert lost == {"stopped": 2}  # the other windows behind the gate


async def test_a_source_that_fails_takes_everything_down() -> None:
    records: list[Strain | Gap | Exception] = [strain(0, "L1"), SourceError("the disk is gone")]
    source = FakeSource({"H1": [strain(0)], "L1": records}, live=True, endless=True)
    joined = parts(source)
    with pytest.raises(ExceptionGroup) as raised:
        await run(joined, asyncio.Event())
    assert raised.group_contains(SourceError, match="the disk is gone")
    assert not ours()


@pytest.mark.parametrize("stage", ["gate", "infer", "push", "publish"])
async def test_a_stage_that_fails_takes_everything_down(stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> Any:
        raise EngineError(f"{stage} failed")

    async def fail_later(*_: object) -> None:
        fail()

    owner = {"gate": FakeInference, "infer": FakeInference, "push": FakeConditioner, "publish": FakePublisher}[stage]
    name, replacement = ("run", fail_later) if stage == "publish" else (stage, fail)
    monkeypatch.setattr(owner, name, replacement)
    with pytest.raises(ExceptionGroup) as raised:
        await run(parts(FakeSource({"H1": [strain(0)]}, live=True, endless=True)), asyncio.Event())
    assert raised.group_contains(EngineError, match=f"{stage} failed")
    assert not ours()


async def test_a_gap_passes_without_windows() -> None:
    gap = Gap(detector="H1", start=(GPS + 1) * RATE, rate=RATE, length=RATE, reason="missing")
    publisher = await finish(parts(FakeSource({"H1": [strain(0), gap, strain(2)]}, live=True)))
    assert len(kinds(publisher, "posterior")) == 6


async def test_known_signals_are_judged_while_nothing_waits() -> None:
    stop = asyncio.Event()
    source = FakeSource({"H1": [strain(0)]}, live=True, endless=True)
    calibration, observer, inference = FakeCalibration(after=0.02), FakeObserver(), FakeInference(delay=0.02)
    joined = parts(source, calibration=calibration, observers=[observer], inference=inference)
    running = asyncio.create_task(finish(joined, stop))
    await until(lambda: calibration.known == 3)
    publisher = joined.publisher
    assert isinstance(publisher, FakePublisher)
    assert {thread for _, thread in calibration.judged} == inference.threads
    assert min(at for at, _ in calibration.judged) > max(publisher.times)  # real windows first
    assert calibration.records == [GPS * RATE]
    assert calibration.windows == [GPS * RATE + 16 * k for k in range(16)]
    assert observer.seen["calibrated"] == 3
    assert observer.seen["posterior"] == len(kinds(publisher, "posterior")) == 3
    assert publisher.sent[0].calibration == {"known": 0, "detector": "H1"}
    stop.set()
    await running


async def test_a_known_signal_that_made_live_strain_wait_is_counted() -> None:
    stop, lost = asyncio.Event(), Counter[tuple[str, str, str]]()
    go = asyncio.Event()

    class Late(FakeSource):
        async def stream(self, detector: str) -> AsyncIterator[Strain | Gap]:
            await go.wait()
            async for record in super().stream(detector):
                yield record

    calibration = FakeCalibration(signals=1, delay=0.2)
    source = Late({"H1": [strain(0)]}, live=True, endless=True)
    joined = parts(source, calibration=calibration, tally=lambda s, r, d, n=1: lost.update({(s, r, d): n}))
    running = asyncio.create_task(finish(joined, stop))
    await asyncio.sleep(0.05)
    go.set()
    await until(lambda: len(kinds(joined.publisher, "posterior")) == 3)  # type: ignore[arg-type]
    assert lost == {("calibration", "made strain wait", "H1"): 1}
    stop.set()
    await running


async def test_strain_that_is_not_live_waits_for_known_signals() -> None:
    calibration = FakeCalibration(signals=5)
    publisher = await finish(parts(FakeSource({"H1": [strain(n) for n in range(9)]}, False), calibration=calibration))
    assert calibration.known == 5
    assert len(kinds(publisher, "posterior")) == 27
    assert publisher.sent[-1].calibration == {"known": 5, "detector": "H1"}


async def test_when_told_to_stop_no_further_known_signal_is_judged() -> None:
    stop = asyncio.Event()
    source = FakeSource({"H1": [strain(n) for n in range(2)]}, live=True, endless=True)
    calibration = FakeCalibration(signals=1000, delay=0.01)
    running = asyncio.create_task(finish(parts(source, calibration=calibration), stop))
    await until(lambda: calibration.known > 2)
    stop.set()
    before = calibration.known
    await running
    assert calibration.known <= before + 1
