"""Windows on their way to a verdict: where they wait, how long, and what is given up where that is too long."""

from __future__ import annotations

import heapq
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice

from gwstream.pipeline.channel import Channel
from gwstream.pipeline.journey import Batched, Journey, Pending, Quiet
from gwstream.pipeline.load import Backlog, Level
from gwstream.records import NANO, Tally, Trigger, bucket

BATCHES = 1024  # of live strain that wait for the gate, at most: more stays in its files (40 MB)
BATCHES_AT_REST = 4  # of any other
UNWEIGHTED = 16  # windows that have their unweighted posteriors at a time, of one spectrum; fewer are padded to it
QUIET = 4096  # windows that wait for one, where strain is live (20 MB)
TRIGGERS = 1024  # windows behind the gate from which on these go before batches (10 MB)


class Waiting:
    """Batches before the gate and windows behind it, and how many windows of each detector are `open`: cut, but neither
    judged nor given up.

    Whoever brings more than has room waits. ``live``: there is much room, and what waits for too long can be given up
    and is counted. ``hop``: samples between windows.
    ``widest``: hops, at most, between windows that still see every signal where they may have it.
    """

    def __init__(self, tally: Tally, *, live: bool, hop: int, widest: int) -> None:
        self._tally = tally
        self._live = live
        self._hop, self.widest = hop, widest
        self.batches = Channel[Batched](BATCHES if live else BATCHES_AT_REST)
        self._pending: list[Pending] = []  # a heap
        self._quiet: deque[Quiet] = deque()
        self._batches = 0  # that the gate has judged
        self.open: Counter[str] = Counter()
        self._told: Counter[str] = Counter()
        self._come = 0

    @property
    def pending(self) -> int:
        """Windows behind the gate."""
        return len(self._pending)

    @property
    def crowded(self) -> bool:
        """Whether these are so many that none must come to them."""
        return len(self._pending) >= TRIGGERS

    @property
    def quiet(self) -> int:
        """Windows that wait for their unweighted posterior."""
        return len(self._quiet)

    @property
    def depth(self) -> int:
        """Batches before the gate, and windows that wait for their posterior."""
        return len(self.batches) + len(self._pending) + len(self._quiet)

    @property
    def nothing(self) -> bool:
        """Whether every window has been judged or given up."""
        return not any(self.open.values())

    def come(self, detector: str, count: int) -> None:
        """Windows were cut."""
        self._come += count
        self.open[detector] += count

    @property
    def untold(self) -> Counter[str]:
        """Of those that are open the ones without a message."""
        return self.open - self._told

    def told(self, detector: str) -> None:
        """The publisher has a window's posterior, but not yet all that this leads to."""
        self._told[detector] += 1

    def judged(self, detector: str) -> None:
        """A window has its verdict."""
        self.open[detector] -= 1
        del self._told[detector]

    def give_up(self, reason: str, detector: str, count: int = 1) -> None:
        """Windows will have none."""
        self.open[detector] -= count
        self._tally("inference", reason, detector, count)

    def backlog(self) -> Backlog:
        """What waits now."""
        first = self.batches.first
        since = [_since(one.journey) for one in self._pending]
        since += [_since(journey) for journey in first.journeys] if first else []
        since += [_since(one.journey) for one in islice(self._quiet, 1)]
        age = (time.monotonic_ns() - min(since)) / NANO if since else 0.0
        return Backlog(self._come, self.open.total(), age)

    def gated(
        self, journeys: Sequence[Journey], triggers: Sequence[Trigger], middle: float, *, every: bool = False
    ) -> None:
        """A batch was judged: those that passed wait for their posterior, best placed first; the others are done, or
        wait for an unweighted one if ``every`` window is to have one."""
        self._batches += 1
        passed = []
        for number, trigger in enumerate(triggers):
            if trigger.passed:
                passed.append((abs(trigger.time - middle), number))
            elif every:
                self._quiet.append(Quiet(trigger, journeys[number]))
            else:
                self.judged(trigger.window.detector)
        places: Counter[str] = Counter()
        for offset, number in sorted(passed):
            trigger = triggers[number]
            detector = trigger.window.detector
            one = Pending(places[detector], self._batches, offset, number, trigger, journeys[number])
            heapq.heappush(self._pending, one)
            places[detector] += 1
        if self._live:
            self.shed_quiet(QUIET)

    def next(self) -> Pending:
        """The most urgent window behind the gate."""
        return heapq.heappop(self._pending)

    def next_quiet(self) -> list[Quiet]:
        """Windows of the oldest spectrum for an unweighted posterior each, at most `UNWEIGHTED` hops from end to end,
        so that each has the place in the bucket that its time gives it."""
        first = self._quiet[0].trigger.window
        hops = range(first.start, first.start + UNWEIGHTED * self._hop)
        windows = ((one, one.trigger.window) for one in self._quiet)
        some = [one for one, window in windows if window.whitener.id == first.whitener.id and window.start in hops]
        taken = set(map(id, some))
        self._quiet = deque(one for one in self._quiet if id(one) not in taken)
        return some

    def shed_quiet(self, left: int = 0) -> None:
        """Give up unweighted posteriors, the oldest first, but for so many."""
        while len(self._quiet) > left:
            self.give_up("unweighted", self._quiet.popleft().trigger.window.detector)

    def thinned(self, batched: Batched, level: Level) -> Batched | None:
        """What is judged of a batch at a level; None: nothing. Which windows go is a matter of their GPS time."""
        stride = min(level.stride, self.widest)
        kept = [k for k, w in enumerate(batched.batch.windows) if w.start // self._hop % stride == 0]
        windows = batched.batch.windows
        if len(kept) == len(windows):
            return batched
        for detector, count in Counter(w.detector for w in windows).items():
            left = sum(windows[k].detector == detector for k in kept)
            if count > left:
                self.give_up("coarser_hop", detector, count - left)
        if not kept:
            return None
        batch = replace(batched.batch, windows=tuple(windows[k] for k in kept), bucket=bucket(len(kept)))
        return Batched(batch, [batched.journeys[k] for k in kept])

    def shed_old(self, limit: float) -> None:
        """Give up what has waited for more than ``limit`` s."""
        since = time.monotonic_ns() - round(limit * NANO)
        while (first := self.batches.first) is not None and _since(first.journeys[0]) < since:
            for window in self.batches.take().batch.windows:
                self.give_up("overload", window.detector)
        old = [one for one in self._pending if _since(one.journey) < since]
        if old:
            self._pending = [one for one in self._pending if _since(one.journey) >= since]
            heapq.heapify(self._pending)
        for one in old:
            self.give_up("overload", one.trigger.window.detector)


def _since(journey: Journey) -> int:
    """When something began to wait here. What came late from the stages before cannot be helped by giving it up."""
    return journey.left("batching")
