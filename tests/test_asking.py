"""Triggers in the pipeline: which window answers, what waits, what is refused, and whose turn it is."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import fakes
import pytest
from fakes import GPS, HOP, RATE, window
from test_pipeline import FakeConditioner, FakeInference, FakePublisher, FakeSource, kinds, parts, strain, until

from gwstream.asked import Address, Reply, Request
from gwstream.pipeline import run
from gwstream.pipeline.asking import OPEN, Asking
from gwstream.pipeline.parts import Parts
from gwstream.pipeline.worker import Worker
from gwstream.prior import DistanceDensity, Prior
from gwstream.records import NANO, Gap, Outgoing, Posterior, Strain, Window
from gwstream.summary import Summarizer


class FakeDesk:
    def __init__(self) -> None:
        self.receive: Callable[[Request], None] | None = None
        self.replies: list[Reply] = []

    def serve(self, receive: Callable[[Request], None]) -> None:
        self.receive = receive

    def reply(self, reply: Reply) -> None:
        self.replies.append(reply)

    def ask(self, at: float, name: str = "ann", detectors: tuple[str, ...] = ("H1",), **more: Any) -> None:
        """About ``at`` s after the strain's begin."""
        assert self.receive is not None
        ns = GPS * NANO + round(at * NANO)
        self.receive(Request(name=name, gps_ns=ns, detectors=detectors, to=Address(f"gwstream/reply/{name}"), **more))

    @property
    def reasons(self) -> list[str]:
        return [one.reason for one in self.replies]


class Asked(FakeInference):
    """Notes what is asked for, and in which order with what it finds itself."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.asked_: list[tuple[Window, DistanceDensity | None]] = []
        self.order: list[str] = []

    def infer(self, found: Any, bucket: int, draws: int | None = None) -> Posterior:
        self.order.append("own")
        return super().infer(found, bucket, draws)

    def asked(self, of: Window, distance: DistanceDensity | None = None) -> Posterior:
        time.sleep(self.delay)
        self.order.append("asked")
        self.asked_.append((of, distance))
        return fakes.posterior(of, n=50)


class Setting:
    """A pipeline on strain that ends or goes on, with a desk."""

    def __init__(self, records: Iterable[Strain | Gap], *, live: bool = True, passing: Any = None, **triggers: Any):
        self.desk, self.inference = FakeDesk(), Asked(passing or {})
        self.source = FakeSource({"H1": records}, live, endless=True)
        self.stop = asyncio.Event()
        table = {"publish": {"triggers": {"enabled": True, **triggers}}}
        self.parts = parts(self.source, inference=self.inference, desk=self.desk, table=table)

    async def __aenter__(self) -> Setting:
        self._task = asyncio.create_task(run(self.parts, self.stop))
        return self

    async def __aexit__(self, *_: object) -> None:
        self.stop.set()
        await self._task

    async def judged(self, windows: int) -> None:
        await until(lambda: len(self.inference.judged) >= windows)


def second_of(of: Window) -> float:
    return (of.start - GPS * RATE) / RATE


@pytest.mark.parametrize("live", [True, False])
async def test_the_best_placed_window_is_judged_though_the_gate_stayed_shut(live: bool) -> None:
    async with Setting([strain(n) for n in range(4)], live=live) as at:
        await at.judged(64)
        at.desk.ask(2.01)
        at.desk.ask(2.01, "bob", distance="volume")
        await until(lambda: len(at.desk.replies) == 2)
    (one, none), (two, volume) = at.inference.asked_
    assert (none, volume) == (None, "volume")
    assert one is two
    assert abs(2.01 - second_of(one) - 0.75) <= HOP / RATE / 2
    first, second = at.desk.replies
    assert (first.name, first.detector, first.reason, first.to.topic) == ("ann", "H1", "", "gwstream/reply/ann")
    assert first.summary is not None
    assert first.summary.kind == "answer"
    assert b'"density":"uniform","high":5.0' in first.summary.posterior
    assert second.summary is not None
    assert b"proportional to effective_distance^2" in second.summary.posterior
    assert [name for name, _ in first.marks] == ["arrived", "waiting", "inference"]
    assert [at_ for _, at_ in first.marks] == sorted(at_ for _, at_ in first.marks)
    publisher = at.parts.publisher
    assert isinstance(publisher, FakePublisher)
    assert publisher.sent == []  # never an event, nor a posterior for all


async def test_an_answer_is_of_no_other_message() -> None:
    summary = None
    async with Setting([strain(n) for n in range(2)]) as at:
        await at.judged(32)
        at.desk.ask(1.0)
        await until(lambda: len(at.desk.replies) == 1)
        summary = at.desk.replies[0].summary
    assert summary is not None
    with pytest.raises(ValueError, match="goes to who asked alone"):
        Outgoing(summary=summary, arrived=0, marks=(), data_end_ns=0)


async def test_each_detector_is_answered_by_itself() -> None:
    async with Setting([strain(0)]) as at:
        await at.judged(16)
        at.desk.ask(1.0, detectors=("V1", "H1"))
        await until(lambda: len(at.desk.replies) == 2)
    assert [(one.detector, one.reason) for one in at.desk.replies] == [("V1", "unknown_detector"), ("H1", "")]


async def test_what_has_left_the_buffer_or_was_never_there_is_refused() -> None:
    """Windows of seconds 0 to 19 but for a gap in 12 and 13; the buffer has 5 s."""
    gap = Gap(detector="H1", start=(GPS + 12) * RATE, rate=RATE, length=2 * RATE, reason="missing")
    records = [*(strain(n) for n in range(12)), gap, *(strain(n) for n in range(14, 18))]
    async with Setting(records, buffer=7, wait=1) as at:
        await at.judged(16 * 16)
        kept = at.parts
        for second in (2.0, 13.5, 16.0, 400.0, 18.9):
            at.desk.ask(second)
        await until(lambda: len(at.desk.replies) == 5)
        assert kept.config.publish.triggers.buffer == 7
    told = {round(one.gps_ns / NANO - GPS, 1): one.reason for one in at.desk.replies}
    assert told == {2.0: "too_old", 13.5: "no_data", 16.0: "", 400.0: "too_new", 18.9: "too_new"}


async def test_strain_that_is_still_to_come_is_awaited_for_the_better_window() -> None:
    async with Setting([]) as at:
        asking = Asking(at.parts, lambda: None)
        assert at.desk.receive == asking.receive
        asking.conditioned("H1", [window(0)])
        at.desk.ask(0.80)
        assert asking.next(busy=False) is None  # the window holds it, but the next will be better placed
        asking.conditioned("H1", [window(1)])
        question = asking.next(busy=False)
        assert question is not None
        assert question.window is not None
        assert question.window.start == window(1).start


async def test_the_wait_has_an_end_and_what_is_at_hand_then_serves() -> None:
    async with Setting([], wait=0.1) as at:
        await asyncio.sleep(0.05)
        at.desk.ask(5.0, "none")
        await until(lambda: at.desk.reasons == ["no_data"])  # with nobody else to wake the judge
        asking = Asking(at.parts, lambda: None)
        asking.conditioned("H1", [window(0)])
        at.desk.ask(0.80)
        assert asking.next(busy=False) is None
        await asyncio.sleep(0.12)
        question = asking.next(busy=False)
        assert question is not None
        assert question.window is not None
        assert question.window.start == window(0).start


async def test_a_flood_is_bounded_and_all_that_were_taken_are_answered() -> None:
    async with Setting([strain(n) for n in range(3)]) as at:
        await at.judged(48)
        for number in range(3 * OPEN):
            at.desk.ask(1.5, f"n{number}")
        assert Counter(at.desk.reasons) == {"busy": 2 * OPEN}
        await until(lambda: len(at.desk.replies) == 3 * OPEN)
    assert Counter(at.desk.reasons) == {"busy": 2 * OPEN, "": OPEN}
    assert [one.name for one in at.desk.replies if not one.reason] == [f"n{k}" for k in range(OPEN)]


async def test_live_windows_come_first() -> None:
    async with Setting([strain(n) for n in range(3)], passing={2: 0.7, 3: 0.76, 4: 0.8}) as at:
        at.inference.delay = 0.01
        await until(lambda: len(at.inference.order) > 0)
        at.desk.ask(0.80)
        await until(lambda: len(at.desk.replies) == 1)
    assert at.inference.order == ["own"] * 9 + ["asked"]


async def test_nor_are_triggers_starved_and_a_flood_of_them_takes_one_turn_at_a_time() -> None:
    async with Setting([]) as at:
        asking = Asking(at.parts, lambda: None, overdue=0.1)
        asking.conditioned("H1", [window(0), window(1), window(2)])
        for number in range(4):
            at.desk.ask(0.76, f"n{number}")
        assert asking.next(busy=True) is None
        await asyncio.sleep(0.12)
        first = asking.next(busy=True)
        assert first is not None
        assert first.request.name == "n0"
        assert asking.next(busy=True) is None  # live windows' turn again
        await asyncio.sleep(0.12)
        second = asking.next(busy=True)
        third = asking.next(busy=False)
        assert second is not None
        assert third is not None
        assert (second.request.name, third.request.name) == ("n1", "n2")


async def test_after_a_reload_others_answer_by_their_own_range() -> None:
    async with Setting([]) as at:
        asking = Asking(at.parts, lambda: None)
        asking.conditioned("H1", [window(number) for number in range(20)])
        at.desk.ask(1.0)
        successor = Asked()
        asking.go_on(replace(at.parts, inference=successor, prior=Prior(time=(0.2, 0.4))))
        question = asking.next(busy=False)
        assert question is not None
        with Worker("inference", at.parts.health) as thread:
            await asking.answer(question, thread, Summarizer(at.parts.config.summary, Prior()))
        ((found, _),) = successor.asked_
        assert abs(1.0 - second_of(found) - 0.3) <= HOP / RATE / 2
        assert at.inference.asked_ == []
        summary = at.desk.replies[0].summary
        assert summary is not None
        assert b'"coalescence_time":{"density":"uniform","high":0.4,"low":0.2' in summary.posterior


async def test_who_still_waits_at_the_end_is_told() -> None:
    async with Setting([strain(0)]) as at:
        await at.judged(16)
        at.desk.ask(5.0)
        await asyncio.sleep(0.02)
        assert at.desk.replies == []
    assert at.desk.reasons == ["stopping"]
    at.desk.ask(0.8)
    assert at.desk.reasons == ["stopping", "stopping"]


async def test_without_a_desk_no_window_is_kept() -> None:
    source = FakeSource({"H1": [strain(0)]}, live=True)
    joined: Parts = parts(source)
    asking = Asking(joined, lambda: None)
    asking.conditioned("H1", FakeConditioner("H1").push(strain(0)))
    assert not asking._kept["H1"]
    await run(joined, asyncio.Event())
    assert len(kinds(joined.publisher, "posterior")) == 3  # type: ignore[arg-type]
    assert replace(joined, desk=FakeDesk()).desk is not None
