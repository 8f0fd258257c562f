"""Makes of what passes through the pipeline what the live page is told, no more often than a page can use."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gwstream.calibration import Report
from gwstream.records import NANO, Batch, Floats, Gap, Outgoing, Strain, Trigger, Whitener, Window, gps_ns
from gwstream.web.feed import DetectorState, Feed

STATE_INTERVAL = 1.0  # s between two states of a detector
STATUS_INTERVAL = 10.0  # s between two changes of the status that are no news
PIECE = 0.25  # s of strain a message holds at least


@dataclass(slots=True)
class _Detector:
    """What is known of one detector; ``end``: sample count after the last sample told or held back; ``peak``: the
    greatest SNR since its state was last told, and its GPS ns."""

    whitener: Whitener | None = None
    data_end_ns: int = 0
    snr: float | None = None
    peak: tuple[int, float] | None = None
    windows: int = 0
    triggers: int = 0
    simulated: bool = False
    told: float = -STATE_INTERVAL
    end: int | None = None
    held: list[Floats] = field(default_factory=list)


class Watch:
    """Observes the pipeline for ``feed``.

    ``live``: the age of the data means something. ``tell`` hears of the states of all ``detectors`` at once, and
    when one changes, and of their calibration (`gwstream.publish.Publisher.tell`).
    """

    def __init__(
        self,
        feed: Feed,
        *,
        live: bool = True,
        detectors: Sequence[str] = (),
        tell: Callable[..., None] = lambda **_: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._feed = feed
        self._live = live
        self._tell = tell
        self._clock = clock
        self._detectors: dict[str, _Detector] = {}
        self._calibration: dict[str, dict[str, Any]] = {}
        self._calibration_told = -STATUS_INTERVAL
        self._states: dict[str, str] = dict.fromkeys(detectors, "waiting")
        self._tell_states()

    def record(self, record: Strain | Gap) -> None:
        """Came out of the source."""
        detector = self._of(record.detector)
        if isinstance(record, Strain):
            detector.data_end_ns = gps_ns(record.end, record.rate)
            detector.simulated = record.simulated
        self._state(record.detector, detector)

    def conditioned(self, detector: str, windows: Sequence[Window], whitener: Whitener | None) -> None:
        """A record became these windows; ``whitener``: the newest."""
        known = self._of(detector)
        known.whitener = whitener
        if whitener is not None:
            self._feed.whitener(whitener)
        for window in windows:
            self._strain(known, window)
        self._state(detector, known)

    def gated(self, batch: Batch, triggers: Sequence[Trigger]) -> None:
        """A batch was judged."""
        for trigger in triggers:
            known = self._of(trigger.window.detector)
            known.snr = trigger.snr
            if known.peak is None or trigger.snr > known.peak[1]:
                known.peak = (trigger.window.gps_ns + round(trigger.time * NANO), trigger.snr)
            known.windows += 1
            known.triggers += trigger.passed

    def outgoing(self, outgoing: Outgoing, window: Window) -> None:
        """The summary of a window goes to the publisher."""
        if outgoing.summary.kind != "unweighted":  # the page shows what may be a signal
            self._feed.posterior(outgoing.summary, window.samples)

    def calibrated(self, report: Report) -> None:
        """A known signal was judged. The status hears of it from time to time, of an alarm at once."""
        part = report.part()
        self._feed.calibration(report.detector, part)
        before = self._calibration.get(report.detector, {"alarm": False})
        self._calibration[report.detector] = part
        if part["alarm"] != before["alarm"] or self._clock() - self._calibration_told >= STATUS_INTERVAL:
            self._calibration_told = self._clock()
            self._tell(calibration=dict(self._calibration))

    def stage(self, stage: str, seconds: float) -> None:
        """Something took so long in a stage."""
        self._feed.stage(stage, seconds)

    def queue(self, stage: str, depth: int) -> None:
        """So many wait before a stage."""
        self._feed.queue(stage, depth)

    def load(self, level: int, text: str) -> None:
        """What is done for live windows, from here on."""
        self._feed.about(load=text)
        self._tell(load=text)

    def _of(self, detector: str) -> _Detector:
        return self._detectors.setdefault(detector, _Detector())

    def _state(self, name: str, detector: _Detector) -> None:
        """Tell the state if it is time, or if it is another."""
        whitener = detector.whitener
        state = "waiting" if whitener is None else whitener.state
        news = self._states.get(name) != state
        if not news and self._clock() - detector.told < STATE_INTERVAL:
            return
        detector.told = self._clock()
        self._feed.detector(
            name,
            DetectorState(
                state="waiting" if whitener is None else whitener.state,
                averages=whitener.averages if whitener else 0,
                history=whitener.history if whitener else 0.0,
                range_mpc=whitener.range_mpc if whitener else 0.0,
                drift=whitener.drift if whitener else 0.0,
                data_end_ns=detector.data_end_ns,
                snr=detector.snr,
                peak=detector.peak,
                windows=detector.windows,
                triggers=detector.triggers,
                live=self._live,
                simulated=detector.simulated,
            ),
        )
        detector.peak = None
        if news:
            self._states[name] = state
            self._tell_states()

    def _tell_states(self) -> None:
        self._tell(detectors={name: {"state": state} for name, state in self._states.items()})

    def _strain(self, detector: _Detector, window: Window) -> None:
        """Tell the samples that no window before had; a window goes on where the one before began to end."""
        n, end = len(window.samples), window.start + len(window.samples)
        fresh = n if detector.end is None else end - detector.end
        if fresh <= 0:
            return
        if fresh > n:  # a gap: what is held ends before it
            self._flush(detector, window)
            fresh = n
        detector.held.append(window.samples[n - fresh :])
        detector.end = end
        if sum(map(len, detector.held)) >= PIECE * window.rate:
            self._flush(detector, window)

    def _flush(self, detector: _Detector, window: Window) -> None:
        if detector.held and detector.end is not None:
            samples = np.concatenate(detector.held)
            start = gps_ns(detector.end - len(samples), window.rate)
            self._feed.strain(window.detector, start, window.rate, samples)
            detector.held.clear()
