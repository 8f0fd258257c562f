"""Inference and summary in the pipeline: what is judged next, by the one thread, and how well under which load."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import replace
from typing import Protocol

from gwstream.pipeline.asking import Asking
from gwstream.pipeline.channel import Closed, Nudged
from gwstream.pipeline.journey import Batched, Journey, Pending, Quiet
from gwstream.pipeline.load import FEWER, Level, Load
from gwstream.pipeline.outbound import Outbound
from gwstream.pipeline.parts import CalibrationLike, Parts
from gwstream.pipeline.succession import Succession
from gwstream.pipeline.waiting import UNWEIGHTED, Waiting
from gwstream.pipeline.worker import Worker
from gwstream.records import Summary, Trigger, Whitener, Window
from gwstream.summary import News, Summarizer

log = logging.getLogger("inference")

LOOK = 0.25  # s between two looks at what waits
FEWEST = 500  # draws it has at least, if as many are set: with few more than `low_ess` all would be suspect


class Flow(Protocol):
    """The pipeline around."""

    def spent(self, stage: str, begin: int, end: int) -> None:
        """A stage has worked on something from ``begin`` to ``end`` (monotonic ns)."""

    def tell_depths(self) -> None:
        """The queues are of another length."""

    def rest(self) -> None:
        """Nothing is in hand: perhaps all that has come is judged."""


class Judging:
    """Judges what is in ``waiting`` with ``thread``, and hands on what comes of it. ``succession``: by what, later."""

    def __init__(self, parts: Parts, waiting: Waiting, thread: Worker, flow: Flow, succession: Succession) -> None:
        self._parts = parts
        self._succession = succession
        succession.wake = self._wake
        self._idle = False  # nothing is in hand, and nothing waits
        self._live = parts.source.live
        self._waiting = waiting
        self._thread = thread
        self._flow = flow
        self._outbound = Outbound(parts)
        self.asking = Asking(parts, waiting.batches.nudge)
        self.summarizer = parts.summarizer or Summarizer(parts.config.summary, parts.prior)
        self.fresh: dict[str, Whitener] = {}
        """The newest whitener of each detector, where inference has not seen it yet."""
        self.stopping = False
        """Told to stop: no more known signals."""
        self._target = parts.config.inference.latency_target
        rate = len(parts.source.detectors) * parts.spec.rate / parts.spec.hop
        self._every = parts.config.publish.every_window
        levels = tuple(level for level in Level if self._every or level != Level.WEIGHTED_ONLY)
        self._load = Load(self._target, rate, levels)

    @property
    def calibration(self) -> CalibrationLike | None:
        """Known signals, where there are such now."""
        return self._parts.calibration

    async def watch(self) -> None:
        """See how live strain is kept up with, until cancelled. Other strain waits, and is never shed."""
        self._tell_load()
        while self._live:
            await asyncio.sleep(LOOK)
            before, backlog = self._load.level, self._waiting.backlog()
            level = self._load.look(backlog, asyncio.get_running_loop().time())
            if level != before:
                told = "%s, where it was %s: %d windows wait, the oldest for %.1f s"
                severity = logging.WARNING if level > before else logging.INFO
                log.log(severity, "load: " + told, level.text, before.text, backlog.waiting, backlog.age)
                self._tell_load()

    async def run(self) -> None:
        """Gate what waits, then make the most urgent posterior, then answer a trigger, then make unweighted ones, and
        look again each time."""
        with suppress(Closed), closing(self.asking):
            while True:
                self._take_over()
                if self._load.level == Level.NEWEST_WINDOWS:
                    self._waiting.shed_old(self._target)
                if self._load.level >= Level.WEIGHTED_ONLY:
                    self._waiting.shed_quiet()
                more = self._live and len(self._waiting.batches) > 0 and not self._waiting.crowded
                question = self.asking.next(busy=more or self._waiting.pending > 0)
                if question is not None:
                    await self.asking.answer(question, self._thread, self.summarizer)
                elif self._waiting.pending and not more:
                    await self._posterior(self._waiting.next())
                elif self._waiting.quiet and not more:
                    await self._unweighted(self._waiting.next_quiet())
                else:
                    await self._judge()

    def _wake(self) -> None:
        """A successor has come: it need not wait for the next window where nothing is in hand."""
        if self._idle:
            self._take_over()

    def _take_over(self) -> None:
        """Let a successor, if there is one, judge from here on."""
        successor = self._succession.take()
        if successor is None:
            return
        successor.summarizer.go_on(self.summarizer)
        self.summarizer = successor.summarizer
        self._parts = replace(
            self._parts,
            config=successor.config,
            inference=successor.inference,
            prior=successor.prior,
            calibration=successor.calibration,
        )
        self._waiting.widest = self._parts.widest
        self._outbound.go_on(self._parts)
        self.asking.go_on(self._parts)
        self.fresh |= self._succession.whiteners  # it has not seen those that others came with meanwhile
        successor.taken()

    async def _judge(self) -> None:
        """Gate the next batch, or prepare for it; or see that there is something else to do."""
        self._flow.rest()
        if self._live and not len(self._waiting.batches):
            await self._prepare()
        try:
            batched = await self._next()
        except Nudged:
            return
        if batched is not None and (left := self._waiting.thinned(batched, self._load.level)) is not None:
            await self._gate(left)

    async def _next(self) -> Batched | None:
        """The next batch, or None after a known signal was judged while none came."""
        calibration = self._parts.calibration
        if calibration is None or self._waiting.pending or self.stopping:
            return await self._come()
        due = calibration.due(asyncio.get_running_loop().time())
        if self._live or due is None:
            with suppress(TimeoutError):
                return await self._come(due)
        if calibration is self._parts.calibration:  # no other has come meanwhile
            await self._calibrate(calibration)
        return None

    async def _come(self, until: float | None = None) -> Batched:
        """The next batch, as `Channel.get` has it; meanwhile nothing is in hand."""
        self._idle = True
        try:
            return await self._waiting.batches.get(until)
        finally:
            self._idle = False

    async def _calibrate(self, calibration: CalibrationLike) -> None:
        """Judge a known signal. Should live strain come meanwhile after all, that is counted."""
        planned = calibration.take()
        if planned is None:
            return
        loop = asyncio.get_running_loop()
        begin = loop.time()
        report = await self._thread.run(calibration.judge, planned)
        calibration.done(report, loop.time() - begin)
        if self._live and len(self._waiting.batches):
            self._parts.tally("calibration", "made strain wait", report.detector)
        for observer in self._parts.observers:
            observer.calibrated(report)

    async def _prepare(self) -> None:
        """While nothing waits: filter the bank for the newest whiteners, which the next frame's windows will have."""
        while self.fresh and not len(self._waiting.batches):
            _, whitener = self.fresh.popitem()
            await self._thread.run(self._parts.inference.prepare, whitener)

    async def _gate(self, batched: Batched) -> None:
        batch = batched.batch

        def judge() -> tuple[int, Sequence[Trigger]]:
            return time.monotonic_ns(), self._parts.inference.gate(batch)

        begin, triggers = await self._thread.run(judge)
        for observer in self._parts.observers:
            observer.gated(batch, triggers)
        if self._parts.calibration is not None:
            self._parts.calibration.gated(triggers)
        journeys = [journey.then("inference_queue", begin) for journey in batched.journeys]
        self._waiting.gated(journeys, triggers, self._parts.prior.middle, every=self._every)
        self._flow.tell_depths()

    async def _posterior(self, pending: Pending) -> None:
        """One posterior and its summaries on to the publisher; only then what they change in the network."""
        infer, summarizer, window = self._parts.inference.infer, self.summarizer, pending.trigger.window
        level = self._load.level
        draws = self._draws(level, window.detector)

        def work() -> tuple[int, tuple[Summary, ...], News | None]:
            # alone, so that its bytes do not hang on what came in its batch
            posterior = infer(pending.trigger, 1, draws)
            done = time.monotonic_ns()
            return done, *summarizer.own(posterior)

        done, summaries, news = await self._thread.run(work)
        journey = pending.journey.then("inference", done)
        self._flow.spent("inference", journey.left("batching"), done)
        await self._hand_on(summaries, window, journey, level)
        self._waiting.told(window.detector)
        if news is not None:
            changes = await self._thread.run(summarizer.together, news)
            if changes:
                await self._hand_on(changes, window, journey, level)
        self._waiting.judged(window.detector)  # now that all it has led to is on its way

    async def _unweighted(self, some: Sequence[Quiet]) -> None:
        """Unweighted posteriors, always in a bucket of one size, so that their bytes do not hang on how many came."""
        infer, summarizer = self._parts.inference.unweighted, self.summarizer
        triggers = [one.trigger for one in some]

        def work() -> tuple[int, list[Summary]]:
            found = infer(triggers, UNWEIGHTED)
            return time.monotonic_ns(), [summarizer.unweighted(one) for one in found]

        done, summaries = await self._thread.run(work)
        end = time.monotonic_ns()
        for one, summary in zip(some, summaries, strict=True):
            journey = one.journey.then("inference", done).then("summary", end)
            await self._outbound.send((summary,), one.trigger.window, journey, Level.ALL)
            self._waiting.judged(summary.detector)
        self._flow.tell_depths()

    def _draws(self, level: Level, detector: str) -> int:
        """Of a posterior at a level; fewer than are set are counted."""
        wanted = self._parts.config.inference.draws
        draws = wanted if level < Level.FEWER_DRAWS else min(wanted, max(wanted // FEWER, FEWEST))
        if draws < wanted:
            self._parts.tally("inference", "fewer_draws", detector)
        return draws

    async def _hand_on(self, summaries: Sequence[Summary], window: Window, journey: Journey, level: Level) -> None:
        """Summaries that ``window`` has led to, just made, to the publisher."""
        end = time.monotonic_ns()
        self._flow.spent("summary", journey.left("inference"), end)
        await self._outbound.send(summaries, window, journey.then("summary", end), level)

    def _tell_load(self) -> None:
        for observer in self._parts.observers:
            observer.load(self._load.level, self._load.level.text)
