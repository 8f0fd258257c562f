"""What the live page is told, fanned out to every page that is open.

Bounded throughout: so many pages, so many messages waiting for each, so much history for a page that opens now. A page
too slow for that is cut off and counted; it comes back by itself and starts from the history.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from gwstream import clock
from gwstream.publish import Delivered
from gwstream.records import NANO, Floats, Summary, Tally, silent

POSTERIORS = 24  # kept for a page that opens now, and shown
STRAIN = 16.0  # s kept of each detector
BACKLOG = 256  # messages waiting for one page
LEFT_OUT = ("correlation", "assumptions")  # of a posterior: the page does not show them
STALE = 30.0  # s without new strain after which a detector is not ready


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectorState:
    """How a detector does; tell it once a second.

    ``history``: s in the PSD; ``range_mpc``: 30+30 Msun at SNR 8; ``data_end_ns``: GPS ns at the end of its strain, 0:
    none yet; ``live``: its age means something; ``snr``: of the gate for the last window; ``windows``, ``triggers``:
    counts since the start.
    """

    state: Literal["waiting", "ready", "full"]
    averages: int = 0
    history: float = 0.0
    range_mpc: float = 0.0
    drift: float = 0.0
    data_end_ns: int = 0
    snr: float | None = None
    windows: int = 0
    triggers: int = 0
    live: bool = True
    simulated: bool = False


class Full(Exception):
    """As many pages are open as may be."""


class Feed:
    """Fan-out to the live pages, and what is known for `/readyz`. Call it from the event loop's thread.

    It is a `gwstream.publish.Observer`. ``clients``: pages open at once; ``on_clients`` hears their number.
    """

    def __init__(
        self,
        detectors: tuple[str, ...] = (),
        *,
        clients: int = 16,
        tally: Tally = silent,
        on_clients: Callable[[int], None] = lambda _: None,
        now_ns: Callable[[], int] = clock.gps_now_ns,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limit = clients
        self._tally = tally
        self._on_clients = on_clients
        self._now_ns = now_ns
        self._monotonic = monotonic
        self._came: dict[str, float] = {}  # when a detector's strain last went on
        self._pages: dict[_Page, str] = {}  # whose it is
        self._about: dict[str, Any] = {"detectors": list(detectors)}
        self._link: dict[str, Any] = {"up": False, "reason": "not connected yet", "outbox": 0}
        self._states: dict[str, DetectorState | None] = dict.fromkeys(detectors)
        self._calibration: dict[str, dict[str, Any]] = {}
        self._strain: dict[str, deque[dict[str, Any]]] = {}
        self._posteriors: deque[dict[str, Any]] = deque(maxlen=POSTERIORS)
        self._closed = False

    def about(self, **facts: object) -> None:
        """What does not change while the daemon runs: version, model, engine, broker …"""
        self._about |= facts
        self._tell("about", self._about)

    def detector(self, detector: str, state: DetectorState) -> None:
        """State of one detector."""
        before = self._states.get(detector)
        if before is None or before.data_end_ns != state.data_end_ns:
            self._came[detector] = self._monotonic()
        self._states[detector] = state
        self._tell("detector", self._state(detector, state))

    def calibration(self, detector: str, part: dict[str, Any]) -> None:
        """How known signals fare in a detector, as messages say it."""
        self._calibration[detector] = {"detector": detector, **part}
        self._tell("calibration", self._calibration[detector])

    def strain(self, detector: str, gps_ns: int, rate: int, samples: Floats) -> None:
        """Whitened ``samples`` (n,) at ``rate`` Hz that follow what was told before; ``gps_ns``: of the first."""
        message = {"detector": detector, "gps_ns": str(gps_ns), "rate": rate, "samples": _rounded(samples)}
        kept = self._strain.setdefault(detector, deque())
        kept.append(message)
        while len(kept) > 1 and gps_ns - int(kept[0]["gps_ns"]) > STRAIN * NANO:
            kept.popleft()
        self._tell("strain", message)

    def posterior(self, summary: Summary, samples: Floats) -> None:
        """A summary on its way out; ``samples``: (n,) whitened, those of its window."""
        if summary.kind != "posterior":
            (self._event if summary.kind == "event" else self._together)(summary)
            return
        part = json.loads(summary.posterior)
        for name in LEFT_OUT:
            part.pop(name, None)
        message = {"posterior": part, "samples": _rounded(samples), "event": None, "network": None, "delivery": None}
        self._posteriors.append(message)
        self._tell("posterior", message)

    def delivered(self, delivered: Delivered) -> None:
        """The broker has a message."""
        summary = delivered.outgoing.summary
        if summary.kind == "posterior":
            self._amend(summary.id, delivery=dict(delivered.delivery))

    def connection(self, up: bool, reason: str) -> None:
        """The broker took us, or left us."""
        self._link |= {"up": up, "reason": reason}
        self._tell("broker", self._link)

    def outbox(self, depth: int) -> None:
        """Messages that wait for the broker; told with the next news, for it changes all the time."""
        self._link["outbox"] = depth

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
        page = _Page(list(self._history()))
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

    def _history(self) -> Iterator[bytes]:
        yield b"retry: 1000\n\n"  # ms until the browser tries again
        yield _event("about", self._about)
        yield _event("broker", self._link)
        for name, state in self._states.items():
            if state is not None:
                yield _event("detector", self._state(name, state))
        for message in self._calibration.values():
            yield _event("calibration", message)
        for kept in self._strain.values():
            for message in kept:
                yield _event("strain", message)
        for message in self._posteriors:
            yield _event("posterior", message)
        yield _event("history", {})

    def _event(self, summary: Summary) -> None:
        """Mark the posterior an event is told by, and unmark those it stands for."""
        event: dict[str, Any] = dict(summary.event or {})
        gone = set(event.get("supersedes", ()))
        for message in self._posteriors:
            if message["event"] is not None and message["event"]["id"] in gone:
                self._amend(message["posterior"]["id"], event=None)
        wanted = json.loads(summary.posterior)["id"]
        self._amend(wanted, event=event)

    def _together(self, summary: Summary) -> None:
        """Mark the posteriors of a network event's members, and unmark those it stands for, or all when withdrawn."""
        event: dict[str, Any] = dict(summary.event or {})
        gone = {*event.get("supersedes", ()), summary.id}
        for message in self._posteriors:
            if message["network"] is not None and message["network"]["id"] in gone:
                self._amend(message["posterior"]["id"], network=None)
        if event.get("state") == "standing":
            part = json.loads(summary.posterior)
            for member in part["members"]:
                self._amend(member["posterior"], network=part)

    def _amend(self, posterior: str, **news: Any) -> None:
        for message in self._posteriors:
            if message["posterior"]["id"] == posterior:
                message |= news
                self._tell("amend", {"id": posterior, **news})

    def _state(self, detector: str, state: DetectorState) -> dict[str, Any]:
        out = asdict(state) | {"detector": detector, "data_end_ns": str(state.data_end_ns)}
        out["age"] = round((self._now_ns() - state.data_end_ns) / NANO, 3) if state.data_end_ns else None
        out["silent"] = round(self._silent(detector), 3)
        return out

    def _silent(self, detector: str) -> float:
        """Seconds since strain last came; not its age, for recorded strain may be played as if it were live."""
        return self._monotonic() - self._came[detector]

    def _tell(self, kind: str, message: Mapping[str, Any]) -> None:
        if not self._pages:
            return
        event = _event(kind, message)
        for page in self._pages:
            if not page.put(event):
                self._tally("web", "slow_page", "")


class _Page:
    """What waits for one open page; None ends its stream."""

    def __init__(self, history: list[bytes]) -> None:
        self._history = history
        self._queue: asyncio.Queue[bytes | None] = asyncio.Queue(BACKLOG)
        self._over = False

    def put(self, event: bytes) -> bool:
        """Whether the page still keeps up (a page that was cut off is not counted again)."""
        if self._over:
            return True
        if self._queue.full():
            self.close()
            return False
        self._queue.put_nowait(event)
        return True

    def close(self) -> None:
        """End the stream, whatever waits."""
        self._over = True
        while not self._queue.empty():
            self._queue.get_nowait()
        self._queue.put_nowait(None)

    async def stream(self) -> AsyncIterator[bytes]:
        yield b"".join(self._history)
        self._history = []
        while True:
            try:
                event = await asyncio.wait_for(self._queue.get(), 15.0)
            except TimeoutError:
                event = b": still here\n\n"  # lets both sides notice a dead connection
            if event is None:
                return
            yield event


def _event(kind: str, message: Mapping[str, Any]) -> bytes:
    """A server-sent event. JSON from us has no line breaks, which would end it early."""
    return f"event: {kind}\ndata: {json.dumps(message, separators=(',', ':'))}\n\n".encode()


def _rounded(samples: Floats) -> list[float | None]:
    """Three decimals, a tenth of a pixel; what is not finite is null."""
    return [value if np.isfinite(value) else None for value in np.round(samples, 3).tolist()]
