"""What the live page is told, fanned out to every page that is open.

Bounded throughout: so many pages, so many messages waiting for each, so much history for a page that opens now. A page
too slow for that is cut off and counted; it comes back by itself and starts from the history. While no page is open,
things are only remembered: nothing is written as JSON.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Literal

from gwstream import clock, spectra
from gwstream.health import Stuck
from gwstream.publish import Delivered
from gwstream.records import NANO, Floats, Summary, Tally, Whitener, silent
from gwstream.web.pages import Page, event, packed
from gwstream.web.rows import STEP, Rows
from gwstream.web.trend import Trend, spectrum

STRAIN = 16.0  # s kept of each detector
STALE = 30.0  # s without new strain after which a detector is not ready
SPECTRUM_INTERVAL = 4.0  # s between two spectra of a detector
HEALTH_INTERVAL = 1.0  # s between two reports on the stages that are no news


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectorState:
    """How a detector does; tell it once a second.

    ``history``: s in the PSD; ``range_mpc``: 30+30 Msun at SNR 8; ``data_end_ns``: GPS ns at the end of its strain, 0:
    none yet; ``live``: its age means something; ``snr``: of the gate for the last window; ``peak``: the greatest since
    the state was last told, after its GPS ns; ``windows``, ``triggers``: counts since the start.
    """

    state: Literal["waiting", "ready", "full"]
    averages: int = 0
    history: float = 0.0
    range_mpc: float = 0.0
    drift: float = 0.0
    data_end_ns: int = 0
    snr: float | None = None
    peak: tuple[int, float] | None = None
    windows: int = 0
    triggers: int = 0
    live: bool = True
    simulated: bool = False


class Full(Exception):
    """As many pages are open as may be."""


@dataclass(slots=True)
class _Stage:
    """``depth`` of the queue before it; ``seconds``: the longest since it was last told."""

    depth: int = 0
    seconds: float = 0.0


class Feed:
    """Fan-out to the live pages, and what is known for `/readyz`. Call it from the event loop's thread.

    It is a `gwstream.publish.Observer`. ``clients``: pages open at once; ``on_clients`` hears their number;
    ``dropped`` gives what was dropped since the start, by stage and reason.
    """

    def __init__(
        self,
        detectors: tuple[str, ...] = (),
        *,
        clients: int = 16,
        tally: Tally = silent,
        on_clients: Callable[[int], None] = lambda _: None,
        dropped: Callable[[], Mapping[str, int]] = dict,
        now_ns: Callable[[], int] = clock.gps_now_ns,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        spectra.names()  # reads the curves now rather than while the loop is busy
        self._limit = clients
        self._tally = tally
        self._on_clients = on_clients
        self._dropped = dropped
        self._now_ns = now_ns
        self._monotonic = monotonic
        self._came: dict[str, float] = {}  # when a detector's strain last went on
        self._pages: dict[Page, str] = {}  # whose it is
        self._about: dict[str, Any] = {"detectors": list(detectors)}
        self._link: dict[str, Any] = {"up": False, "reason": "not connected yet", "outbox": 0}
        self._states: dict[str, DetectorState | None] = dict.fromkeys(detectors)
        self._calibration: dict[str, dict[str, Any]] = {}
        self._strain: dict[str, deque[tuple[int, int, Floats]]] = {}
        self._trends: dict[str, Trend] = {}
        self._whiteners: dict[str, tuple[Whitener, float]] = {}  # and when it was last told
        self._stages: dict[str, _Stage] = {}
        self._stuck: list[dict[str, Any]] = []
        self._told_health = 0.0
        self._rows = Rows(lambda kind, make: self._tell(kind, make), monotonic=monotonic)
        self._closed = False

    def about(self, **facts: object) -> None:
        """What does not change while the daemon runs: version, model, engine, broker …"""
        self._about |= facts
        self._tell("about", lambda: self._about)

    def detector(self, detector: str, state: DetectorState) -> None:
        """State of one detector."""
        before = self._states.get(detector)
        if before is None or before.data_end_ns != state.data_end_ns:
            self._came[detector] = self._monotonic()
        self._states[detector] = state
        if state.data_end_ns:
            self._trend(detector).add(state.peak, state.data_end_ns // NANO, state.range_mpc)
        self._tell("detector", lambda: self._state(detector, state))

    def whitener(self, whitener: Whitener) -> None:
        """The newest of its detector; it is told now and then."""
        known, told = self._whiteners.get(whitener.detector, (None, -SPECTRUM_INTERVAL))
        if known is not None and known.id == whitener.id:
            return
        if self._pages and self._monotonic() - told >= SPECTRUM_INTERVAL:
            told = self._monotonic()
            self._tell("spectrum", lambda: spectrum(whitener))
        self._whiteners[whitener.detector] = (whitener, told)

    def calibration(self, detector: str, part: dict[str, Any]) -> None:
        """How known signals fare in a detector, as messages say it."""
        self._calibration[detector] = {"detector": detector, **part}
        self._tell("calibration", lambda: self._calibration[detector])

    def strain(self, detector: str, gps_ns: int, rate: int, samples: Floats) -> None:
        """Whitened ``samples`` (n,) at ``rate`` Hz that follow what was told before; ``gps_ns``: of the first."""
        kept = self._strain.setdefault(detector, deque())
        kept.append((gps_ns, rate, samples))
        while len(kept) > 1 and gps_ns - kept[0][0] > STRAIN * NANO:
            kept.popleft()
        self._tell("strain", lambda: _strain(detector, gps_ns, rate, samples))

    def posterior(self, summary: Summary, samples: Floats) -> None:
        """A summary on its way out; ``samples``: (n,) whitened, those of its window."""
        if summary.kind == "posterior":
            part = self._rows.posterior(summary, samples)
            if part is not None and part["log_bayes"] is not None:
                self._trend(summary.detector).bayes.append((summary.gps_ns / NANO, round(part["log_bayes"], 1)))
        elif summary.kind == "event":
            self._rows.event(summary, samples)
        elif summary.kind == "network":
            self._rows.network(summary)

    def delivered(self, delivered: Delivered) -> None:
        """The broker has a message."""
        summary = delivered.outgoing.summary
        if summary.kind == "posterior":
            self._rows.amend(summary.id, delivery=dict(delivered.delivery))

    def connection(self, up: bool, reason: str) -> None:
        """The broker took us, or left us."""
        self._link |= {"up": up, "reason": reason}
        self._tell("broker", lambda: self._link)

    def outbox(self, depth: int) -> None:
        """Messages that wait for the broker; told with the next news, for it changes all the time."""
        self._link["outbox"] = depth

    def stage(self, stage: str, seconds: float) -> None:
        """Something took so long in a stage and the queue before it; told with `health`."""
        known = self._stages.setdefault(stage, _Stage())
        known.seconds = max(known.seconds, seconds)

    def queue(self, stage: str, depth: int) -> None:
        """So many wait before a stage; told with `health`."""
        self._stages.setdefault(stage, _Stage()).depth = depth

    def health(self, stuck: Sequence[Stuck]) -> None:
        """The parts that hang (a listener of `gwstream.health.Health`)."""
        parts = [{"part": one.part, "seconds": round(one.seconds, 1)} for one in stuck]
        news = [one["part"] for one in parts] != [one["part"] for one in self._stuck]
        self._stuck = parts
        if news or self._monotonic() - self._told_health >= HEALTH_INTERVAL:
            self._told_health = self._monotonic()
            self._tell("health", self._health)
            for stage in self._stages.values():
                stage.seconds = 0.0

    def unready(self) -> list[str]:
        """Why the daemon is not ready to serve; empty: it is."""
        out = [] if self._link["up"] else [f"broker: {self._link['reason']}"]
        for name, state in self._states.items():
            if state is None or not state.data_end_ns:
                out.append(f"{name}: no strain yet")
            elif state.state == "waiting":
                out.append(f"{name}: {state.history:.0f} s of PSD history, too short yet")
            elif state.live and self._silent(name) > STALE:
                out.append(f"{name}: no strain for {self._silent(name):.0f} s")
        return out

    @contextmanager
    def page(self, who: str = "") -> Iterator[AsyncIterator[bytes]]:
        """The stream of one page, as server-sent events: history first. Raises `Full`; nobody has more than half."""
        of_one = sum(owner == who for owner in self._pages.values())
        if len(self._pages) >= self._limit or of_one >= max(1, self._limit // 2):
            self._tally("web", "too_many_pages", "")
            raise Full
        page = Page([b"retry: 1000\n\n", *(event(*told) for told in self._history())])  # ms until it tries again
        self._pages[page] = who
        self._on_clients(len(self._pages))
        if self._closed:
            page.close()
        try:
            yield page.stream()
        finally:
            self._pages.pop(page, None)
            self._on_clients(len(self._pages))

    def close(self) -> None:
        """End every stream: the server stops."""
        self._closed = True
        for page in self._pages:
            page.close()

    def _history(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        yield "about", self._about
        yield "broker", self._link
        yield "health", self._health()
        for name, state in self._states.items():
            if state is not None:
                yield "detector", self._state(name, state)
        for name, trend in self._trends.items():
            yield "trend", {"detector": name, **trend.part()}
        for whitener, _ in self._whiteners.values():
            yield "spectrum", spectrum(whitener)
        for calibration in self._calibration.values():
            yield "calibration", calibration
        for name, kept in self._strain.items():
            for piece in kept:
                yield "strain", _strain(name, *piece)
        yield from self._rows.history()
        yield "history", {}

    def _trend(self, detector: str) -> Trend:
        return self._trends.setdefault(detector, Trend())

    def _health(self) -> dict[str, Any]:
        stages = {name: {"depth": s.depth, "seconds": round(s.seconds, 4)} for name, s in self._stages.items()}
        return {
            "stages": stages,
            "stuck": self._stuck,
            "outbox": self._link["outbox"],
            "dropped": dict(self._dropped()),
        }

    def _state(self, detector: str, state: DetectorState) -> dict[str, Any]:
        peak = state.peak and (round(state.peak[0] / NANO, 2), round(state.peak[1], 2))
        out = asdict(state) | {"detector": detector, "data_end_ns": str(state.data_end_ns), "peak": peak}
        out["age"] = round((self._now_ns() - state.data_end_ns) / NANO, 3) if state.data_end_ns else None
        out["silent"] = round(self._silent(detector), 3)
        return out

    def _silent(self, detector: str) -> float:
        """Seconds since strain last came; not its age, for recorded strain may be played as if it were live."""
        return self._monotonic() - self._came[detector]

    def _tell(self, kind: str, make: Callable[[], Mapping[str, Any]]) -> None:
        if not self._pages:
            return
        told = event(kind, make())
        for page in self._pages:
            if not page.put(told):
                self._tally("web", "slow_page", "")


def _strain(detector: str, gps_ns: int, rate: int, samples: Floats) -> dict[str, Any]:
    """Times are strings: JavaScript's numbers would round them."""
    return {"detector": detector, "gps_ns": str(gps_ns), "rate": rate, **packed(samples, STEP)}
