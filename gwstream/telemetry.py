"""What passes through the pipeline, told to metrics and to the live page in their own words."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from gwstream.metrics import Metrics
from gwstream.records import Batch, Floats, Gap, Outgoing, Strain, Trigger, Whitener, Window, gps_ns
from gwstream.web.feed import DetectorState, Feed

INTERVAL = 0.25  # s between two news of a detector on the page, however fast a replay is


class ToMetrics:
    """A `gwstream.parts.Observer` that counts and times."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def record(self, record: Strain | Gap) -> None:
        if isinstance(record, Gap):
            self._metrics.gap(record.detector, record.length / record.rate)
        else:
            seconds = len(record.samples) / record.rate
            self._metrics.strain(record.detector, gps_ns(record.end, record.rate), seconds)

    def conditioned(self, detector: str, windows: Sequence[Window], whitener: Whitener | None) -> None:
        age = (windows[-1].start - windows[-1].whitener.end) / windows[-1].rate if windows else 0.0
        self._metrics.whitener(detector, whitener, age)

    def gated(self, batch: Batch, triggers: Sequence[Trigger]) -> None:
        self._metrics.batch(batch.bucket)
        for detector, count in Counter(window.detector for window in batch.windows).items():
            self._metrics.windows(detector, count)
        for trigger in triggers:
            if trigger.passed:
                self._metrics.trigger(trigger.window.detector)

    def outgoing(self, outgoing: Outgoing, window: Window) -> None:
        if outgoing.summary.kind == "event":
            self._metrics.event(window.detector)
        else:
            good = json.loads(outgoing.summary.posterior)["quality"]["verdict"] == "good"
            self._metrics.posterior(window.detector, good)

    def stage(self, stage: str, seconds: float) -> None:
        self._metrics.stage(stage, seconds)

    def queue(self, stage: str, depth: int) -> None:
        self._metrics.queue(stage, depth)


@dataclass(slots=True)
class _Detector:
    """What the page is to be told of a detector when its time comes."""

    data_end_ns: int = 0
    simulated: bool = False
    snr: float | None = None
    windows: int = 0
    triggers: int = 0
    told_to: int = 0  # sample count up to which whitened strain was told
    told_at: float = -INTERVAL


class ToPage:
    """A `gwstream.parts.Observer` that feeds the live page. ``live``: whether strain is as old as it looks."""

    def __init__(self, feed: Feed, live: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self._feed = feed
        self._live = live
        self._clock = clock
        self._detectors: dict[str, _Detector] = {}

    def record(self, record: Strain | Gap) -> None:
        if isinstance(record, Strain):
            known = self._known(record.detector)
            known.data_end_ns = gps_ns(record.end, record.rate)
            known.simulated = record.simulated

    def conditioned(self, detector: str, windows: Sequence[Window], whitener: Whitener | None) -> None:
        known, now = self._known(detector), self._clock()
        if now - known.told_at < INTERVAL:
            return
        known.told_at = now
        self._feed.detector(
            detector,
            DetectorState(
                state="waiting" if whitener is None else whitener.state,
                averages=whitener.averages if whitener else 0,
                history=whitener.history if whitener else 0.0,
                range_mpc=whitener.range_mpc if whitener else 0.0,
                drift=whitener.drift if whitener else 0.0,
                data_end_ns=known.data_end_ns,
                snr=known.snr,
                windows=known.windows,
                triggers=known.triggers,
                live=self._live,
                simulated=known.simulated,
            ),
        )
        self._strain(known, windows)

    def gated(self, batch: Batch, triggers: Sequence[Trigger]) -> None:
        for trigger in triggers:
            known = self._known(trigger.window.detector)
            known.snr = trigger.snr
            known.windows += 1
            known.triggers += trigger.passed

    def outgoing(self, outgoing: Outgoing, window: Window) -> None:
        self._feed.posterior(outgoing.summary, window.samples)

    def stage(self, stage: str, seconds: float) -> None:
        """The page shows the latencies of messages instead."""

    def queue(self, stage: str, depth: int) -> None:
        """The page shows the outbox alone."""

    def _known(self, detector: str) -> _Detector:
        return self._detectors.setdefault(detector, _Detector())

    def _strain(self, known: _Detector, windows: Sequence[Window]) -> None:
        """Of each window what the one before did not have."""
        pieces: list[Floats] = []
        begin = known.told_to
        for window in windows:
            end = window.start + len(window.samples)
            new = end - known.told_to
            if new >= len(window.samples):  # the first, or a gap: what is before it is not shown
                begin, pieces = window.start, [window.samples]
            else:
                pieces.append(window.samples[-new:])
            known.told_to = end
        if pieces:
            self._feed.strain(
                windows[0].detector, gps_ns(begin, windows[0].rate), windows[0].rate, np.concatenate(pieces)
            )
