"""Joins the six stages: bounded queues, one TaskGroup, named tasks, and the time at each step.

    source ─ a reader a detector ─► conditioning ─ a thread ─► batching ─► inference, summary ─ a thread ─► publish

A source that comes faster than strain can be conditioned is made to wait. Windows of live strain that come faster than
they can be judged are given up, oldest first, counted as ``overload``; those of any other source wait. A source that
ends, or ``stop``, drains what was read. A stage that fails takes everything down.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from collections import Counter, deque
from collections.abc import Sequence
from contextlib import suppress

from gwstream.batching import Batcher
from gwstream.conditioning import State
from gwstream.pipeline.channel import Channel, Closed
from gwstream.pipeline.journey import Batched, Cut, Journey, Pending
from gwstream.pipeline.outbound import Outbound
from gwstream.pipeline.parts import CalibrationLike, Parts
from gwstream.pipeline.progress import Taken
from gwstream.pipeline.worker import Worker
from gwstream.records import NANO, Batch, Gap, Strain, Summary, Trigger, Whitener, Window
from gwstream.summary import News, Summarizer

__all__ = ["Parts", "run"]

RECORDS = 4  # strain records a detector that wait for conditioning
CUTS = 4  # records' worth of windows that wait for batching
BATCHES = 1024  # of live strain that wait for the gate: what a restart finds, eight minutes of two detectors (40 MB)
BATCHES_AT_REST = 4  # of any other
TRIGGERS = 1024  # windows behind the gate that wait for their posterior: those, too, of what a restart finds (10 MB)


async def run(parts: Parts, stop: asyncio.Event) -> None:
    """Until the source is over or ``stop`` is set, and what was read is published.

    After ``stop``, ``service.drain`` seconds are left for that; what is not done by then is counted and dropped.
    An exception in any stage ends all of them and comes out in an exception group.
    """
    with Worker("conditioning", parts.health) as conditioning, Worker("inference", parts.health) as inference:
        await _Pipeline(parts, conditioning, inference).run(stop)


class _Pipeline:
    def __init__(self, parts: Parts, conditioning: Worker, inference: Worker) -> None:
        self._parts = parts
        self._conditioning_thread = conditioning
        self._inference_thread = inference
        self._live = parts.source.live
        self._records = {name: Channel[tuple[Strain | Gap, Journey]](RECORDS) for name in parts.source.detectors}
        self._cuts = Channel[Cut](CUTS)
        self._batches = Channel[Batched](BATCHES, self._shed_batch) if self._live else Channel[Batched](BATCHES_AT_REST)
        self._conditioned = 0  # detectors that are over
        self._open: Counter[str] = Counter()  # windows by detector that have neither been judged nor given up
        self._summarizer = parts.summarizer or Summarizer(parts.config.summary, parts.prior)
        self._outbound = Outbound(parts)
        self._states: dict[str, State] = {}  # of the conditioners, after the windows counted in `_open` were cut
        self._pending: list[Pending] = []  # a heap
        self._judged = 0  # batches
        self._fresh: dict[str, Whitener] = {}  # by detector, that inference has not seen
        self._deadline: float | None = None  # of the drain, once told to stop

    async def run(self, stop: asyncio.Event) -> None:
        detectors = self._parts.source.detectors
        drain = self._parts.config.service.drain
        async with asyncio.TaskGroup() as group:
            publishing = group.create_task(self._parts.publisher.run(), name="publish")
            readers = [group.create_task(self._read(name), name=f"source {name}") for name in detectors]
            flow = [group.create_task(self._condition(name), name=f"conditioning {name}") for name in detectors]
            flow.append(group.create_task(self._batch(), name="batching"))
            flow.append(group.create_task(self._infer(), name="inference"))
            stopping = group.create_task(self._stop(stop, readers, flow), name="stop")
            if (progress := self._parts.progress) is not None:
                group.create_task(progress.run(), name="progress")
            await asyncio.wait(flow)
            stopping.cancel()
            left = drain if self._deadline is None else max(self._deadline - asyncio.get_running_loop().time(), 0.0)
            await self._parts.publisher.drain(left)
            if progress is not None:
                self._rest(last=True)
                await progress.close()
            publishing.cancel()

    def _rest(self, *, last: bool = False) -> None:
        """Where every window has been judged, note how far that is: from there another process can go on."""
        progress = self._parts.progress
        behind = self._pending or any(self._open.values())
        if progress is not None and not behind and (last or progress.due):
            progress.offer(Taken(dict(self._states), self._summarizer.state()))

    async def _stop(
        self, stop: asyncio.Event, readers: Sequence[asyncio.Task[None]], flow: Sequence[asyncio.Task[None]]
    ) -> None:
        """Once told to stop: end reading, and after the time to drain, everything but publishing."""
        await stop.wait()
        drain = self._parts.config.service.drain
        self._deadline = asyncio.get_running_loop().time() + drain
        for reader in readers:
            reader.cancel()
        await asyncio.sleep(drain)
        for task in flow:
            task.cancel()
        for detector, count in (+self._open).items():
            self._parts.tally("inference", "stopped", detector, count)

    async def _read(self, detector: str) -> None:
        channel = self._records[detector]
        try:
            async for record in self._parts.source.stream(detector):
                now = time.monotonic_ns()
                for observer in self._parts.observers:
                    observer.record(record)
                journey = Journey(record.arrived or now).then("source", now)
                self._spent("source", journey.arrived, now)
                await channel.put((record, journey))
        finally:
            channel.close()

    async def _condition(self, detector: str) -> None:
        conditioner = self._parts.conditioner(detector)
        loop = asyncio.get_running_loop()

        def push(record: Strain | Gap) -> tuple[int, list[Window], State | None, int]:
            begin = time.monotonic_ns()
            windows = conditioner.push(record)
            return begin, windows, conditioner.state(), time.monotonic_ns()

        async for record, journey in self._records[detector]:
            begin, windows, state, end = await self._conditioning_thread.run(push, record)
            if state is not None:
                self._states[detector] = state
            self._spent("conditioning", journey.left("source"), end)
            journey = journey.then("conditioning_queue", begin).then("conditioning", end)
            if conditioner.whitener is not None:
                self._fresh[detector] = conditioner.whitener
            for observer in self._parts.observers:
                observer.conditioned(detector, windows, conditioner.whitener)
            if self._parts.calibration is not None:
                self._parts.calibration.conditioned(record, windows, loop.time())
            if windows:
                self._open[detector] += len(windows)
                await self._cuts.put(Cut(windows, journey))
        self._conditioned += 1
        if self._conditioned == len(self._records):
            self._cuts.close()

    async def _batch(self) -> None:
        batcher = Batcher(self._parts.config.batching)
        journeys: deque[Journey] = deque()  # of the windows held, for order is kept
        now = asyncio.get_running_loop().time

        async def emit(batch: Batch | None) -> None:
            if batch is not None:
                left = time.monotonic_ns()
                of_windows = [journeys.popleft().then("batching", left) for _ in batch.windows]
                self._spent("batching", of_windows[0].left("conditioning"), left)
                await self._batches.put(Batched(batch, of_windows))

        while True:
            try:
                cut = await self._cuts.get(until=batcher.deadline)
            except TimeoutError:
                await emit(batcher.due(now()))
            except Closed:
                await emit(batcher.flush())
                self._batches.close()
                return
            else:
                for window in cut.windows:
                    journeys.append(cut.journey)
                    await emit(batcher.add(window, now()))

    async def _infer(self) -> None:
        """Gate what waits, then make the most urgent posterior, and look again."""
        with suppress(Closed):
            while True:
                while not self._pending or (self._live and len(self._batches)):
                    self._rest()
                    if self._live and not len(self._batches):
                        await self._prepare()
                    batched = await self._next()
                    if batched is not None:
                        await self._gate(batched)
                await self._posterior(heapq.heappop(self._pending))

    async def _next(self) -> Batched | None:
        """The next batch, or None after a known signal was judged while none came."""
        calibration = self._parts.calibration
        if calibration is None or self._pending or self._deadline is not None:
            return await self._batches.get()
        due = calibration.due(asyncio.get_running_loop().time())
        if self._live or due is None:
            with suppress(TimeoutError):
                return await self._batches.get(due)
        await self._calibrate(calibration)
        return None

    async def _calibrate(self, calibration: CalibrationLike) -> None:
        """Judge a known signal. Should live strain come meanwhile after all, that is counted."""
        planned = calibration.take()
        if planned is None:
            return
        loop = asyncio.get_running_loop()
        begin = loop.time()
        report = await self._inference_thread.run(calibration.judge, planned)
        calibration.done(report, loop.time() - begin)
        if self._live and len(self._batches):
            self._parts.tally("calibration", "made strain wait", report.detector)
        for observer in self._parts.observers:
            observer.calibrated(report)

    async def _prepare(self) -> None:
        """While nothing waits: filter the bank for the newest whiteners, which the next frame's windows will have."""
        while self._fresh and not len(self._batches):
            _, whitener = self._fresh.popitem()
            await self._inference_thread.run(self._parts.inference.prepare, whitener)

    async def _gate(self, batched: Batched) -> None:
        batch = batched.batch

        def judge() -> tuple[int, Sequence[Trigger]]:
            return time.monotonic_ns(), self._parts.inference.gate(batch)

        begin, triggers = await self._inference_thread.run(judge)
        self._judged += 1
        self._open.subtract(t.window.detector for t in triggers if not t.passed)
        for observer in self._parts.observers:
            observer.gated(batch, triggers)
        if self._parts.calibration is not None:
            self._parts.calibration.gated(triggers)
        middle = self._parts.prior.middle
        passed = [(abs(t.time - middle), k) for k, t in enumerate(triggers) if t.passed]
        places: Counter[str] = Counter()
        for offset, number in sorted(passed):
            trigger = triggers[number]
            detector = trigger.window.detector
            journey = batched.journeys[number].then("inference_queue", begin)
            heapq.heappush(self._pending, Pending(places[detector], self._judged, offset, number, trigger, journey))
            places[detector] += 1
        while self._live and len(self._pending) > TRIGGERS:
            worst = max(self._pending, key=lambda one: (one.place, -one.batch, one.offset))
            self._pending.remove(worst)
            heapq.heapify(self._pending)
            self._give_up("overload", worst.trigger.window.detector)
        self._tell_depths()

    async def _posterior(self, pending: Pending) -> None:
        """One posterior and its summaries on to the publisher; only then what they change in the network."""
        infer, summarizer, window = self._parts.inference.infer, self._summarizer, pending.trigger.window

        def work() -> tuple[int, tuple[Summary, ...], News | None]:
            posterior = infer(pending.trigger, 1)  # alone, so that its bytes do not hang on what came in its batch
            done = time.monotonic_ns()
            return done, *summarizer.own(posterior)

        done, summaries, news = await self._inference_thread.run(work)
        self._open[window.detector] -= 1
        journey = pending.journey.then("inference", done)
        self._spent("inference", journey.left("batching"), done)
        await self._hand_on(summaries, window, journey)
        if news is not None:
            changes = await self._inference_thread.run(summarizer.together, news)
            if changes:
                await self._hand_on(changes, window, journey)

    async def _hand_on(self, summaries: Sequence[Summary], window: Window, journey: Journey) -> None:
        """Summaries that ``window`` has led to, just made, to the publisher."""
        end = time.monotonic_ns()
        self._spent("summary", journey.left("inference"), end)
        await self._outbound.send(summaries, window, journey, end)

    def _spent(self, stage: str, begin: int, end: int) -> None:
        """Tell the observers of time (monotonic ns) in a stage, and how long the queues are now."""
        for observer in self._parts.observers:
            observer.stage(stage, (end - begin) / NANO)
        self._tell_depths()

    def _tell_depths(self) -> None:
        depths = {
            "conditioning": sum(len(channel) for channel in self._records.values()),
            "batching": len(self._cuts),
            "inference": len(self._batches) + len(self._pending),
        }
        for observer in self._parts.observers:
            for name, depth in depths.items():
                observer.queue(name, depth)

    def _shed_batch(self, batched: Batched) -> None:
        for window in batched.batch.windows:
            self._give_up("overload", window.detector)

    def _give_up(self, reason: str, detector: str, count: int = 1) -> None:
        self._open[detector] -= count
        self._parts.tally("inference", reason, detector, count)
