"""Live calibration: how the daemon judges signals that it knows, all the time, and the alarm that it does so wrongly.

At a configured rate a signal drawn from the served prior is put into a *copy* of a real window (`shadow`) and carried
through gate, proposal, weights and summary by the very objects that serve. Where its parameters lie among the draws
is kept, whether or not the gate would have passed it (`score`, `ledger`), and a sequential rule watches it (`alarm`).

The copies never join the stream: they are judged here and dropped here, by a summarizer of their own; what leaves is a
`Report`. They are marked ``injected``, and `records.Outgoing` refuses what is so marked. Windows within a window's
length of a trigger are left alone, for a known signal on an unknown one would be a test of neither. At false triggers
that selects quiet noise: of a few an hour the ranks see nothing.

Known signals wait for a pause. Live strain comes at regular times; a signal is judged only where the next is so far
off that the judging, as long as it ever took lately, will be over. What finds no pause is dropped and counted.
"""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from gwstream.calibration.ledger import Ledger, Report
from gwstream.calibration.score import Score, score
from gwstream.calibration.shadow import Plan, Planned
from gwstream.config import Config
from gwstream.model import ModelSpec
from gwstream.prior import Prior
from gwstream.records import Batch, Gap, Posterior, Strain, Tally, Trigger, Window, silent
from gwstream.summary import Summarizer

__all__ = ["Calibration", "Report", "Score"]

log = logging.getLogger("calibration")

WAITING = 3  # known signals a detector that wait for a pause
REMEMBERED = 64  # triggers a detector
SETTLE = 0.1  # s after strain has come before a pause is used: its messages are on their way
FIRST_COST = 0.15  # s, before there is a measurement
COSTS = 16  # measurements whose largest is taken for the next
BEATS = 8  # intervals between records whose least is taken for the next
LOST = 3.0  # such intervals without strain after which a detector is not waited for


class Judge(Protocol):
    """What is asked of `gwstream.inference.Inference`."""

    def gate(self, batch: Batch) -> Sequence[Trigger]: ...
    def infer(self, trigger: Trigger, bucket: int) -> Posterior: ...


@dataclass(slots=True)
class _Stream:
    """One detector: what waits, how far the gate is, where it opened, and when records came."""

    waiting: deque[Planned] = field(default_factory=deque)
    judged: int = -1  # start of the newest window that the gate has seen
    opened: deque[int] = field(default_factory=lambda: deque(maxlen=REMEMBERED))
    came: float = -1.0
    beats: deque[float] = field(default_factory=lambda: deque(maxlen=BEATS))


class Calibration:
    """Known signals for every detector, one in each ``calibration.interval`` of strain.

    ``prior``: the one that is served. ``live``: strain comes at its own time, and there are pauses to wait for.
    `judge` belongs to the thread of ``inference``, everything else to the event loop.
    Raises `ConfigError` for settings that this model cannot have.
    """

    def __init__(
        self, config: Config, spec: ModelSpec, prior: Prior, inference: Judge, *, live: bool, tally: Tally = silent
    ) -> None:
        self._plan = Plan(spec, prior, config.calibration.interval)
        self._inference = inference
        alone = config.summary.network.model_copy(update={"enabled": False})
        self._summarizer = Summarizer(config.summary.model_copy(update={"network": alone}), prior)
        self._live = live
        self._tally = tally
        detectors = tuple(config.source.detectors)
        self._streams = {name: _Stream() for name in detectors}
        threshold = len(detectors) * config.calibration.false_alarm_days * 86400 / config.calibration.interval
        self._ledgers = {name: Ledger.new(name, config.calibration.last, threshold) for name in detectors}
        self._told = {name: ledger.report().part() for name, ledger in self._ledgers.items()}
        self._costs: deque[float] = deque([FIRST_COST], maxlen=COSTS)

    def go_on(self, before: Calibration) -> None:
        """With what another knows, whose signals were judged by the same model in the same way."""
        self._streams, self._ledgers, self._told = before._streams, before._ledgers, before._told
        self._costs = before._costs

    def told(self, detector: str) -> Mapping[str, object]:
        """What messages of ``detector`` say now."""
        return self._told[detector]

    def conditioned(self, record: Strain | Gap, windows: Sequence[Window], now: float) -> None:
        """A record became these windows at ``now`` (s)."""
        stream = self._streams[record.detector]
        if stream.came >= 0:
            stream.beats.append(now - stream.came)
        stream.came = now
        for window in windows:
            planned = self._plan.choose(window, record.rate)
            if planned is not None:
                stream.waiting.append(planned)
        while len(stream.waiting) > WAITING:
            stream.waiting.popleft()
            self._tally("calibration", "no pause", record.detector)
            self._costs.append(min(self._costs))  # so that one that took very long does not stop all that follow

    def gated(self, triggers: Sequence[Trigger]) -> None:
        """The gate has judged real windows, in order of time: those near a trigger are left alone."""
        for trigger in triggers:
            window = trigger.window
            stream = self._streams[window.detector]
            stream.judged = window.start
            if trigger.passed:
                stream.opened.append(window.start)
            while self._ripe(stream) and self._disturbed(stream):
                stream.waiting.popleft()
                self._tally("calibration", "trigger", window.detector)

    def due(self, now: float) -> float | None:
        """When a signal can be judged and be done with before strain comes; None: not before the next has come."""
        if not any(self._ripe(stream) for stream in self._streams.values()):
            return None
        if not self._live:
            return now
        begin = max(now, *(stream.came + SETTLE for stream in self._streams.values()))
        end = begin + max(self._costs)
        return begin if all(end <= self._next(stream, now) for stream in self._streams.values()) else None

    def take(self) -> Planned | None:
        """The signal that has waited longest, if there is one to judge."""
        ripe = [stream for stream in self._streams.values() if self._ripe(stream)]
        first = min(ripe, key=lambda stream: stream.waiting[0].window.gps_ns, default=None)
        return first.waiting.popleft() if first else None

    def judge(self, planned: Planned) -> Report:
        """Put the signal into a copy of its window, judge that as any other, and say how all did of late."""
        began = time.monotonic()
        window, optimal_snr = self._plan.inject(planned)
        trigger = self._inference.gate(Batch((window,), 1))[0]
        posterior = self._inference.infer(trigger, 1)
        summary = self._summarizer.add(posterior)[0]
        ledger = self._ledgers[window.detector]
        found = score(posterior, summary, planned.truth, optimal_snr, planned.rng)
        raised = ledger.add(replace(found, seconds=time.monotonic() - began))
        report = ledger.report()
        log.debug("%s: %s", report.detector, report.text())
        if raised:
            log.warning("%s: posteriors are not calibrated, above all in %s", report.detector, report.alarm_about)
        return report

    def done(self, report: Report, seconds: float) -> None:
        """A signal was judged; it kept the thread of inference for ``seconds``."""
        self._told[report.detector] = report.part()
        self._costs.append(seconds)

    def _ripe(self, stream: _Stream) -> bool:
        """Whether the gate has seen all windows that share noise with the one that has waited longest."""
        if not stream.waiting:
            return False
        window = stream.waiting[0].window
        return stream.judged >= window.start + len(window.samples)

    def _disturbed(self, stream: _Stream) -> bool:
        window = stream.waiting[0].window
        return any(abs(start - window.start) <= len(window.samples) for start in stream.opened)

    def _next(self, stream: _Stream, now: float) -> float:
        """When its next record is expected; never, where it has been silent for long."""
        if not stream.beats:
            return math.inf if stream.came < 0 else now
        beat = min(stream.beats)
        return math.inf if now - stream.came > LOST * max(stream.beats) else stream.came + beat
