"""Joins the six stages: bounded queues, one TaskGroup, named tasks, and the time at each step.

    source ─ a reader a detector ─► conditioning ─ a thread ─► batching ─► inference, summary ─ a thread ─► publish

A source that comes faster than strain can be conditioned is made to wait. Windows of live strain that come faster than
they can be judged are judged less well, then fewer of them, as `load` has it; those of any other source wait. What
judges can be replaced on the way (`succession`): each window is judged once, by one or the other. A source
that ends, or ``stop``, drains what was read. A stage that fails takes everything down.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence

import numpy as np

from gwstream.batching import Batcher
from gwstream.conditioning import State
from gwstream.pipeline.channel import Channel, Closed
from gwstream.pipeline.journey import Batched, Cut, Journey
from gwstream.pipeline.judging import Judging
from gwstream.pipeline.parts import Parts
from gwstream.pipeline.progress import Taken
from gwstream.pipeline.succession import Succession, Successor
from gwstream.pipeline.waiting import UNWEIGHTED, Waiting
from gwstream.pipeline.worker import Worker
from gwstream.records import NANO, Batch, Gap, Strain, Window

__all__ = ["UNWEIGHTED", "Parts", "Succession", "Successor", "run"]

RECORDS = 4  # strain records a detector that wait for conditioning
ABSURD = 1e9  # standard deviations; what is a hundred thousand times louder breaks the arithmetic behind the gate
CUTS = 4  # records' worth of windows that wait for batching
REST = 2.0  # s that strain is held back, at most, so that all before it may be judged


async def run(parts: Parts, stop: asyncio.Event, succession: Succession | None = None) -> None:
    """Until the source is over or ``stop`` is set, and what was read is published.

    After ``stop``, ``service.drain`` seconds are left for that; what is not done by then is counted and dropped.
    ``succession``: where others come to judge. An exception in any stage ends all of them and comes out in an exception
    group.
    """
    with Worker("conditioning", parts.health) as conditioning, Worker("inference", parts.health) as inference:
        await _Pipeline(parts, succession or Succession(), conditioning, inference).run(stop)


class _Pipeline:
    def __init__(self, parts: Parts, succession: Succession, conditioning: Worker, inference: Worker) -> None:
        self._parts = parts
        self._succession = succession
        self._conditioning_thread = conditioning
        self._records = {name: Channel[tuple[Strain | Gap, Journey]](RECORDS) for name in parts.source.detectors}
        self._cuts = Channel[Cut](CUTS)
        self._waiting = Waiting(parts.tally, live=parts.source.live, hop=parts.spec.hop, widest=parts.widest)
        self._judging = Judging(parts, self._waiting, inference, self, succession)
        self._conditioned = 0  # detectors that are over
        self._states: dict[str, State] = {}  # of the conditioners, after the windows that are open were cut
        self._rested = asyncio.Event()
        self._tried = 0.0  # s of the loop when a rest was not to be had
        self._deadline: float | None = None  # of the drain, once told to stop

    async def run(self, stop: asyncio.Event) -> None:
        detectors = self._parts.source.detectors
        drain = self._parts.config.service.drain
        async with asyncio.TaskGroup() as group:
            publishing = group.create_task(self._parts.publisher.run(), name="publish")
            readers = [group.create_task(self._read(name), name=f"source {name}") for name in detectors]
            flow = [group.create_task(self._condition(name), name=f"conditioning {name}") for name in detectors]
            flow.append(group.create_task(self._batch(), name="batching"))
            flow.append(group.create_task(self._judging.run(), name="inference"))
            beside = [group.create_task(self._judging.watch(), name="load")]
            beside.append(group.create_task(self._stop(stop, readers, flow), name="stop"))
            if (progress := self._parts.progress) is not None:
                group.create_task(progress.run(), name="progress")
            await asyncio.wait(flow)
            for task in beside:
                task.cancel()
            left = drain if self._deadline is None else max(self._deadline - asyncio.get_running_loop().time(), 0.0)
            await self._parts.publisher.drain(left)
            if progress is not None:
                self.rest(last=True)
                await progress.close()
            publishing.cancel()

    def rest(self, *, last: bool = False) -> None:
        """Where every window has been judged, note how far that is: from there another process can go on."""
        progress = self._parts.progress
        if progress is None or not self._waiting.nothing:
            return
        self._rested.set()
        if last or progress.due:
            progress.offer(Taken(dict(self._states), self._judging.summarizer.state()))

    async def _hold(self) -> None:
        """Keep strain from conditioning until all before it is judged, where this has not come to pass for long.

        That costs nothing where inference has more than it can do, and little elsewhere: what is judged meanwhile had
        to be judged first. An attempt is bounded by `REST`, and as much as that is left alone after one that failed.
        """
        progress, now = self._parts.progress, asyncio.get_running_loop().time
        if progress is None or not progress.overdue or self._waiting.nothing or self._judging.stopping:
            return
        if now() - self._tried < REST or not all(state.whole for state in self._states.values()):
            return
        self._rested.clear()
        try:
            async with asyncio.timeout(REST):
                await self._rested.wait()
        except TimeoutError:
            self._tried = now()

    async def _stop(
        self, stop: asyncio.Event, readers: Sequence[asyncio.Task[None]], flow: Sequence[asyncio.Task[None]]
    ) -> None:
        """Once told to stop: end reading, and after the time to drain, everything but publishing."""
        await stop.wait()
        drain = self._parts.config.service.drain
        self._deadline = asyncio.get_running_loop().time() + drain
        self._judging.stopping = True
        for reader in readers:
            reader.cancel()
        await asyncio.sleep(drain)
        for task in flow:
            task.cancel()
        for detector, count in self._waiting.untold.items():
            self._parts.tally("inference", "stopped", detector, count)

    async def _read(self, detector: str) -> None:
        channel = self._records[detector]
        try:
            async for record in self._parts.source.stream(detector):
                now = time.monotonic_ns()
                for observer in self._parts.observers:
                    observer.record(record)
                journey = Journey(record.arrived or now).then("source", now)
                self.spent("source", journey.arrived, now)
                await channel.put((record, journey))
        finally:
            channel.close()

    async def _condition(self, detector: str) -> None:
        conditioner = self._parts.conditioner(detector)
        loop = asyncio.get_running_loop()
        if (known := conditioner.state()) is not None:  # of a detector that stays silent too, for the next daemon
            self._states[detector] = known

        def push(record: Strain | Gap) -> tuple[int, list[Window], State | None, int]:
            begin = time.monotonic_ns()
            windows = conditioner.push(record)
            return begin, windows, conditioner.state(), time.monotonic_ns()

        async for record, journey in self._records[detector]:
            await self._hold()
            begin, windows, state, end = await self._conditioning_thread.run(push, record)
            windows = self._credible(detector, windows)
            if state is not None:
                self._states[detector] = state
            self.spent("conditioning", journey.left("source"), end)
            journey = journey.then("conditioning_queue", begin).then("conditioning", end)
            if conditioner.whitener is not None:
                self._judging.fresh[detector] = self._succession.whiteners[detector] = conditioner.whitener
            for observer in self._parts.observers:
                observer.conditioned(detector, windows, conditioner.whitener)
            if (calibration := self._judging.calibration) is not None:
                calibration.conditioned(record, windows, loop.time())
            self._judging.asking.conditioned(detector, windows)
            if windows:
                self._waiting.come(detector, len(windows))
                await self._cuts.put(Cut(windows, journey))
        self._conditioned += 1
        if self._conditioned == len(self._records):
            self._cuts.close()

    def _credible(self, detector: str, windows: list[Window]) -> list[Window]:
        """Windows without those of numbers that no detector gives, which end single precision; they are counted."""
        kept = [window for window in windows if float(np.abs(window.samples).max()) < ABSURD]
        if len(kept) < len(windows):
            self._parts.tally("conditioning", "absurd", detector, len(windows) - len(kept))
        return kept

    async def _batch(self) -> None:
        batcher = Batcher(self._parts.config.batching)
        journeys: deque[Journey] = deque()  # of the windows held, for order is kept
        now = asyncio.get_running_loop().time

        async def emit(batch: Batch | None) -> None:
            if batch is not None:
                left = time.monotonic_ns()
                of_windows = [journeys.popleft().then("batching", left) for _ in batch.windows]
                self.spent("batching", of_windows[0].left("conditioning"), left)
                await self._waiting.batches.put(Batched(batch, of_windows))

        while True:
            try:
                cut = await self._cuts.get(until=batcher.deadline)
            except TimeoutError:
                await emit(batcher.due(now()))
            except Closed:
                await emit(batcher.flush())
                self._waiting.batches.close()
                return
            else:
                for window in cut.windows:
                    journeys.append(cut.journey)
                    await emit(batcher.add(window, now()))

    def spent(self, stage: str, begin: int, end: int) -> None:
        """Tell the observers of time (monotonic ns) in a stage, and how long the queues are now."""
        for observer in self._parts.observers:
            observer.stage(stage, (end - begin) / NANO)
        self.tell_depths()

    def tell_depths(self) -> None:
        """How long the queues are now."""
        depths = {
            "conditioning": sum(len(channel) for channel in self._records.values()),
            "batching": len(self._cuts),
            "inference": self._waiting.depth,
        }
        for observer in self._parts.observers:
            for name, depth in depths.items():
                observer.queue(name, depth)
