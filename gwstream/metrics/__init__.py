"""What Prometheus sees: at most 100 series, and 150 more for each detector.

Labels hold detectors, stages and fixed words, never ids. Children of labelled metrics are kept, for a look-up costs
more than an increment. The registry is passed in, so that two daemons in one process (tests) do not share it.
"""

from __future__ import annotations

import json
from collections import Counter as Counts
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from gwstream import __version__, clock
from gwstream.calibration import Report
from gwstream.config import PublishConfig
from gwstream.health import Stuck
from gwstream.metrics.calibration import KnownSignals
from gwstream.metrics.exposition import EVENT_BUCKETS, LATENCY_BUCKETS, STAGE_BUCKETS, Plain, free_ratio
from gwstream.metrics.served import Served
from gwstream.publish import Delivered
from gwstream.records import NANO, Batch, Gap, Outgoing, Strain, Trigger, Whitener, Window, gps_ns

STAGES = ("source", "conditioning", "batching", "inference", "summary", "publish")
HOLDING = ("source", "conditioning", "inference", "publish")  # whose work can hang; the others do theirs in passing
STATES = ("waiting", "ready", "full")
REASONS = 64
"""Pairs of stage and reason with a counter of their own, a detector; any more are counted together as ``other``."""


class Metrics:
    """Counters, gauges and histograms of one daemon in ``registry``; every method is cheap and none ever blocks.

    ``now_ns``: GPS time in ns, for the age of the data at the time of a scrape. ``queue``: messages the outbox keeps.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        detectors: tuple[str, ...] = (),
        now_ns: Callable[[], int] = clock.gps_now_ns,
        *,
        queue: int = PublishConfig().queue,
    ) -> None:
        self.registry = registry
        self._queue_limit = queue
        self._now_ns = now_ns
        self._children: dict[tuple[object, ...], Any] = {}
        self._reasons: dict[str, set[tuple[str, str]]] = {}
        self.dropped: Counts[str] = Counts()
        self._data_end: dict[str, int] = {}
        self._process()
        self._flow()
        self._detectors()
        self._known_signals = KnownSignals(registry)
        for stage in STAGES:
            self._stage.labels(stage)
        self.stuck(())
        for quality in ("good", "suspect", "withdrawn"):
            self._child(self._network, quality)
        for detector in detectors:
            self._announce(detector)

    def _process(self) -> None:
        r = self.registry
        ProcessCollector(registry=r)
        build = Gauge("gwstream_build_info", "Version of the daemon.", ["version"], registry=r)
        build.labels(__version__).set(1)
        self.served = Served(r, self.tally)
        self._stuck = Gauge(
            "gwstream_stage_stuck", "1 while a piece of work takes longer than it may.", ["stage"], registry=r
        )
        self._lag = Gauge("gwstream_loop_lag_seconds", "Largest delay of the event loop lately.", registry=r)
        self._connected = Gauge("gwstream_broker_connected", "1 while the broker has us connected.", registry=r)
        self._connections = Counter(
            "gwstream_broker_connections_total",
            "Connections made to the broker; all but one are reconnects.",
            registry=r,
        )
        self._failures = Counter(
            "gwstream_broker_failures_total", "Failed attempts to connect, and connections lost.", registry=r
        )
        self._clients = Gauge("gwstream_web_clients", "Live pages that are open.", registry=r)

    def _flow(self) -> None:
        r = self.registry
        self._stage = Histogram(
            "gwstream_stage_seconds",
            "Time of a stage with the queue before it.",
            ["stage"],
            buckets=STAGE_BUCKETS,
            registry=r,
        )
        self._queue = Gauge("gwstream_queue_depth", "Records waiting before a stage.", ["stage"], registry=r)
        about = "What is done for live windows, 0: all; 2: fewer draws; 3, 4: every second, third window; 5: newest."
        self._load = Gauge("gwstream_load_level", about, registry=r)
        self._outbox = Gauge("gwstream_outbox_used_ratio", "Used part of publish.queue.", registry=r)
        self._batches = Counter("gwstream_batches_total", "Batches by bucket.", ["bucket"], registry=r)

    def _detectors(self) -> None:
        r, one = self.registry, ["detector"]
        self._latency = Histogram(
            "gwstream_latency_seconds",
            "From the frame that completed a window to the broker's acknowledgement.",
            one,
            buckets=LATENCY_BUCKETS,
            registry=r,
        )
        self._first_event = Histogram(
            "gwstream_first_event_seconds",
            "From the frame that completed a window to the acknowledgement of the first message of its event.",
            one,
            buckets=EVENT_BUCKETS,
            registry=r,
        )
        self._since = Gauge(
            "gwstream_since_coalescence_seconds",
            "From the median coalescence to sending, of the last message.",
            one,
            registry=r,
        )
        self._age = Gauge("gwstream_data_age_seconds", "From the end of the last strain to now.", one, registry=r)
        self._strain = Counter("gwstream_strain_seconds_total", "Strain taken in.", one, registry=r)
        self._gaps = Counter("gwstream_gap_seconds_total", "Strain missing or vetoed.", one, registry=r)
        self._state = Gauge("gwstream_psd_state", "1 for the state of the PSD.", ["detector", "state"], registry=r)
        self._averages = Gauge("gwstream_psd_averages", "Segments in the PSD.", one, registry=r)
        self._psd_age = Gauge("gwstream_psd_age_seconds", "Age of the PSD at the last window.", one, registry=r)
        self._drift = Gauge("gwstream_psd_drift", "Largest abs ln ratio of late noise to the PSD.", one, registry=r)
        self._range = Gauge("gwstream_range_mpc", "Mpc at which a 30+30 Msun binary has SNR 8.", one, registry=r)
        self._windows = Counter("gwstream_windows_total", "Windows judged by the gate.", one, registry=r)
        self._triggers = Counter("gwstream_triggers_total", "Windows that passed the gate.", one, registry=r)
        self._posteriors = Counter(
            "gwstream_posteriors_total", "Posteriors by verdict.", ["detector", "quality"], registry=r
        )
        self._events = Counter("gwstream_events_total", "Events told, updates included.", one, registry=r)
        self._network = Counter(
            "gwstream_network_events_total", "Network events told, updates included.", ["quality"], registry=r
        )
        self._published = Counter(
            "gwstream_published_total", "Messages the broker acknowledged.", ["detector", "kind"], registry=r
        )
        self._dropped = Counter(
            "gwstream_dropped_total",
            "What was dropped, late, vetoed or degraded, by reason.",
            ["stage", "reason", "detector"],
            registry=r,
        )

    def _child(self, metric: Any, *labels: str) -> Any:
        """The child of a labelled metric, looked up once."""
        key = (metric, *labels)
        child = self._children.get(key)
        if child is None:
            child = self._children[key] = metric.labels(*labels)
        return child

    def _announce(self, detector: str) -> None:
        """Make a detector's series exist from the start, so that an absent one means something."""
        for counter in (self._windows, self._triggers, self._events, self._strain, self._gaps):
            self._child(counter, detector)
        for quality in ("good", "suspect"):
            self._child(self._posteriors, detector, quality)
        for kind in ("posterior", "event"):
            self._child(self._published, detector, kind)
        self._child(self._latency, detector)
        self._child(self._first_event, detector)
        self._whitener(detector, None, 0.0)

    def tally(self, stage: str, reason: str, detector: str, count: int = 1) -> None:
        """A `records.Tally`."""
        known = self._reasons.setdefault(detector, set())
        if (stage, reason) not in known:
            if len(known) >= REASONS:
                stage, reason = "other", "other"
            known.add((stage, reason))
        self._child(self._dropped, stage, reason, detector).inc(count)
        self.dropped[f"{stage}: {reason}"] += count

    def storage(self, directory: Path, durable: Callable[[], bool]) -> None:
        """Where the outbox is, and whether it is written just now; asked at each scrape."""
        r = self.registry
        written = Gauge("gwstream_outbox_durable", "1 while messages that wait are on disk.", registry=r)
        written.set_function(durable)
        free = Gauge("gwstream_state_free_ratio", "Free part of the state directory's file system.", registry=r)
        free.set_function(lambda: free_ratio(directory))

    def stage(self, stage: str, seconds: float) -> None:
        """One record, batch or posterior took ``seconds`` in a stage and the queue before it."""
        self._child(self._stage, stage).observe(seconds)

    def queue(self, stage: str, depth: int) -> None:
        """Records waiting before a stage."""
        self._child(self._queue, stage).set(depth)

    def load(self, level: int, text: str) -> None:
        """What is done for live windows: index in `records.LOADS`."""
        self._load.set(level)

    def record(self, record: Strain | Gap) -> None:
        """Strain came in, or was missing or vetoed."""
        if isinstance(record, Gap):
            self._child(self._gaps, record.detector).inc(record.length / record.rate)
            return
        detector = record.detector
        self._child(self._strain, detector).inc(len(record.samples) / record.rate)
        if detector not in self._data_end:
            self._child(self._age, detector).set_function(lambda: (self._now_ns() - self._data_end[detector]) / NANO)
        self._data_end[detector] = gps_ns(record.end, record.rate)

    def conditioned(self, detector: str, windows: Sequence[Window], whitener: Whitener | None) -> None:
        """A record became windows; ``whitener``: the newest, None before there is one."""
        age = (windows[-1].start - windows[-1].whitener.end) / windows[-1].rate if windows else None
        self._whitener(detector, whitener, age)

    def gated(self, batch: Batch, triggers: Sequence[Trigger]) -> None:
        """A batch was judged."""
        self._child(self._batches, str(batch.bucket)).inc()
        for trigger in triggers:
            self._child(self._windows, trigger.window.detector).inc()
            if trigger.passed:
                self._child(self._triggers, trigger.window.detector).inc()

    def outgoing(self, outgoing: Outgoing, window: Window) -> None:
        """A summary goes to the publisher."""
        summary = outgoing.summary
        if summary.kind == "unweighted":  # counted once the broker has them, as all messages are
            return
        if summary.kind == "event":
            self._child(self._events, summary.detector).inc()
            return
        verdict = json.loads(summary.posterior)["quality"]["verdict"]
        if summary.kind == "posterior":
            self._child(self._posteriors, summary.detector, verdict).inc()
        elif summary.event is not None and summary.event["state"] == "withdrawn":
            self._child(self._network, "withdrawn").inc()
        else:
            self._child(self._network, verdict).inc()

    def calibrated(self, report: Report) -> None:
        """A known signal was judged; these are no posteriors, and count as none."""
        self._known_signals.told(report)

    def _whitener(self, detector: str, whitener: Whitener | None, age: float | None = None) -> None:
        """State of the PSD; ``age``: s from its end to the last window, None: no news."""
        state = "waiting" if whitener is None else whitener.state
        for name in STATES:
            self._child(self._state, detector, name).set(name == state)
        self._child(self._averages, detector).set(whitener.averages if whitener else 0)
        if age is not None:
            self._child(self._psd_age, detector).set(age)
        self._child(self._drift, detector).set(whitener.drift if whitener else 0.0)
        self._child(self._range, detector).set(whitener.range_mpc if whitener else 0.0)

    def loop_lag(self, seconds: float) -> None:
        """Largest delay of the event loop in the last period."""
        self._lag.set(seconds)

    def stuck(self, found: Sequence[Stuck]) -> None:
        """The parts that hang just now."""
        stages = {one.stage for one in found}
        for stage in HOLDING:
            self._child(self._stuck, stage).set(stage in stages)

    def web_clients(self, count: int) -> None:
        """Live pages that are open."""
        self._clients.set(count)

    def delivered(self, delivered: Delivered) -> None:
        """A message was acknowledged (`gwstream.publish.Observer`)."""
        summary = delivered.outgoing.summary
        self._child(self._published, summary.detector, summary.kind).inc()
        if summary.kind == "unweighted":  # their latency is nobody's objective
            return
        if summary.kind != "network":  # it goes with the event of a member, and is as late as that
            self._child(self._latency, summary.detector).observe(delivered.latency)
            self._child(self._since, summary.detector).set(delivered.delivery["since_coalescence"])
        if summary.kind == "event" and summary.event is not None and not summary.event["supersedes"]:
            self._child(self._first_event, summary.detector).observe(delivered.latency)
        self.stage("publish", delivered.delivery["latency"]["publish"])

    def answered(self, detector: str) -> None:
        """An answer to a trigger was acknowledged."""
        self._child(self._published, detector, "answer").inc()

    def connection(self, up: bool, reason: str) -> None:
        """The broker took or left us (`gwstream.publish.Observer`)."""
        self._connected.set(up)
        (self._connections if up else self._failures).inc()

    def outbox(self, depth: int) -> None:
        """Messages kept until the broker acknowledges them (`gwstream.publish.Observer`)."""
        self.queue("publish", depth)
        self._outbox.set(depth / self._queue_limit)

    def exposition(self) -> bytes:
        """The text of ``/metrics``. Takes milliseconds: call it in a thread."""
        return generate_latest(Plain(self.registry))
