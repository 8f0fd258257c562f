"""Triggers from outside in the pipeline: the windows at hand for them, and when each is judged.

Live windows come first: a trigger is judged where none waits to be judged. But one that has been ready for `OVERDUE` s
is judged before them, at most one in `OVERDUE` s. So every trigger that was taken is answered, and a flood of them
takes from live strain the time of one posterior in `OVERDUE` s, and no more.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from gwstream.asked import Reply, Request, nearest
from gwstream.pipeline.parts import DeskLike, Parts
from gwstream.pipeline.worker import Worker
from gwstream.records import NANO, Summary, Window
from gwstream.summary import Summarizer

OPEN = 16  # triggers, one a detector, that wait for strain or for their turn
OVERDUE = 5.0  # s


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """A request about one detector. ``until``: the loop's time up to which strain is awaited; ``come``: monotonic ns;
    ``ready``: the loop's time at which ``window`` was found."""

    request: Request
    detector: str
    until: float
    come: int
    window: Window | None = None
    ready: float = 0.0


class Asking:
    """Answers what comes over ``parts.desk``; without one, nothing. ``nudge`` wakes who judges."""

    def __init__(self, parts: Parts, nudge: Callable[[], None], overdue: float = OVERDUE) -> None:
        self._parts = parts
        self._nudge = nudge
        self._overdue = overdue
        self._config = parts.config.publish.triggers
        self._kept: dict[str, deque[Window]] = {name: deque() for name in parts.source.detectors}
        self._open: list[Question] = []  # the oldest first
        self._last = float("-inf")  # when one was judged before live windows
        self._closed = False
        if parts.desk is not None:
            parts.desk.serve(self.receive)

    def go_on(self, parts: Parts) -> None:
        """Others judge from here on, perhaps with another trained range: look for every window anew."""
        self._parts = parts
        self._open = [replace(one, window=None) for one in self._open]
        self._look()

    def conditioned(self, detector: str, windows: Sequence[Window]) -> None:
        """Keep the windows, which have just been cut, and forget the oldest."""
        if self._parts.desk is None or not windows:
            return
        kept = self._kept[detector]
        kept.extend(windows)
        oldest = kept[-1].start - self._config.buffer * kept[-1].rate
        while kept[0].start < oldest:
            kept.popleft()
        self._look()

    def receive(self, request: Request) -> None:
        """A trigger has come: take it on, or refuse it, detector by detector."""
        loop, now = asyncio.get_running_loop(), time.monotonic_ns()
        for detector in request.detectors:
            question = Question(request, detector, loop.time() + self._config.wait, now)
            if detector not in self._kept:
                self._refuse(question, "unknown_detector", f"this daemon has {', '.join(self._kept)}")
            elif self._closed:
                self._refuse(question, "stopping", "the daemon stops")
            elif len(self._open) >= OPEN:
                self._refuse(question, "busy", f"{OPEN} triggers wait: ask again later")
            else:
                self._open.append(question)
                loop.call_at(question.until + 0.001, self._nudge)  # timers are a little early at times
        self._look()

    def next(self, *, busy: bool) -> Question | None:
        """The trigger to judge now; ``busy``: live windows wait."""
        if not self._open:
            return None
        self._look()
        now = asyncio.get_running_loop().time()
        first = next((one for one in self._open if one.window is not None), None)
        if first is None or (busy and min(now - first.ready, now - self._last) < self._overdue):
            return None
        if busy:
            self._last = now
        self._open.remove(first)
        return first

    async def answer(self, question: Question, thread: Worker, summarizer: Summarizer) -> None:
        """Judge it, by all draws that are set, and reply."""
        window, prior, inference = question.window, self._parts.prior, self._parts.inference
        assert window is not None
        if question.request.distance is not None:
            prior = prior.served(question.request.distance)

        def work() -> tuple[int, Summary]:
            begin = time.monotonic_ns()
            return begin, summarizer.answer(inference.asked(window, question.request.distance), prior)

        begin, summary = await thread.run(work)
        marks = (("arrived", question.come), ("waiting", begin), ("inference", time.monotonic_ns()))
        self._desk.reply(replace(self._reply(question), summary=summary, marks=marks))

    def close(self) -> None:
        """No more will be judged: say so to all that wait."""
        self._closed = True
        for one in self._open:
            self._refuse(one, "stopping", "the daemon stops")
        self._open.clear()

    def _look(self) -> None:
        """Find the windows of those that wait for strain, or refuse them."""
        if not self._open:
            return
        now = asyncio.get_running_loop().time()
        found = [self._settled(one, now) for one in self._open]
        self._open = [one for one in found if one is not None]
        if any(one.window is not None for one in self._open):
            self._nudge()

    def _settled(self, question: Question, now: float) -> Question | None:
        """The question with its window, or as it is where strain is still to come; None: it was refused."""
        if question.window is not None:
            return question
        kept, asked = self._kept[question.detector], question.request.gps_ns
        low, high = self._parts.prior.time
        newest = kept[-1].gps_ns if kept else None
        ahead = (asked - newest) / NANO - self._parts.prior.middle if newest is not None else 0.0
        over = now >= question.until
        if not over and (newest is None or 0 < ahead <= self._config.wait):
            return question
        window = nearest(kept, asked, (low, high))
        if window is not None:
            return replace(question, window=window, ready=now)
        if newest is None:
            self._refuse(question, "no_data", "there is no window yet: strain is missing, or too short for a spectrum")
        elif asked - newest > high * NANO:
            self._refuse(question, "too_new", f"strain ends {ahead + self._parts.prior.middle:.3f} s before it")
        elif asked - kept[0].gps_ns < low * NANO:
            self._refuse(question, "too_old", f"windows go back to GPS {kept[0].gps_ns / NANO:.3f}")
        else:
            self._refuse(question, "no_data", "strain was missing or vetoed there")
        return None

    def _refuse(self, question: Question, reason: str, text: str) -> None:
        self._desk.reply(replace(self._reply(question), reason=reason, text=text))

    def _reply(self, question: Question) -> Reply:
        request = question.request
        return Reply(to=request.to, name=request.name, gps_ns=request.gps_ns, detector=question.detector)

    @property
    def _desk(self) -> DeskLike:
        assert self._parts.desk is not None  # or there were no question
        return self._parts.desk
