"""What the watcher knows and what it shows of it: pure, fed with messages and keys. Everything in it is bounded."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from gwstream.client import Event, Gap, Message, NetworkEvent, Posterior, Status

KEPT = 1000  # messages, newest first
DETECTORS = 64  # more than there are; a broker of strangers must not fill the screen
LATENCIES = 100  # of each detector, for the median


@dataclass(slots=True, eq=False)
class Row:
    """A message, and when it came on the watcher's own clock in s. ``gone``: superseded or withdrawn since."""

    message: Message
    came: float
    gone: bool = False

    @property
    def kind(self) -> str:
        """In words."""
        if isinstance(self.message, NetworkEvent):
            return "network"
        return "event" if isinstance(self.message, Event) else "posterior"


@dataclass(frozen=True, slots=True, kw_only=True)
class Spectrum:
    """Of the last posterior's PSD: s of history, Mpc of range, and drift; None: unknown."""

    history: float | None
    range_mpc: float | None
    drift: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Fraction of known signals that 90 % intervals held, its error, of how many; ``alarm``: what about, or ""."""

    coverage: float | None
    error: float | None
    injections: int
    alarm: str


@dataclass(slots=True)
class Detector:
    """Of one detector. ``state``: of its PSD. ``instance``: the daemon whose status names it.

    ``came``: when its last posterior did; ``latencies``: s, newest last; ``events``: found, updates not counted.
    """

    state: str = ""
    instance: str = ""
    spectrum: Spectrum | None = None
    calibration: Calibration | None = None
    came: float | None = None
    posteriors: int = 0
    events: int = 0
    latencies: deque[float] = field(default_factory=lambda: deque(maxlen=LATENCIES))

    @property
    def latency(self) -> float | None:
        """Median of the last ones, in s."""
        return median(self.latencies) if self.latencies else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Daemon:
    """What one says of itself; ``came``: when, on the watcher's clock; ``sent_gps``: the same on its own, in GPS s."""

    online: bool
    reason: str
    version: str
    model: str
    engine: str
    load: str
    outbox: int
    trouble: str
    sent_gps: float
    came: float


@dataclass(slots=True)
class Known:
    """``where``: the broker. ``link``: why it is not connected; "": it is.

    ``note``: the last warning; ``noted``: when, on the watcher's clock.
    """

    where: str = ""
    events_only: bool = False
    clock: Callable[[], float] = time.monotonic
    link: str = "connecting"
    note: str = ""
    noted: float = 0.0
    lost: int = 0
    details: bool = False
    over: bool = False
    detectors: dict[str, Detector] = field(default_factory=dict)
    daemons: dict[str, Daemon] = field(default_factory=dict)
    _rows: deque[Row] = field(default_factory=lambda: deque(maxlen=KEPT))
    _selected: Row | None = None  # None: always the newest
    top: int = 0  # first row shown

    def take(self, message: Message | Status) -> None:
        """Take in what came; what lacks something its schema promises is noted, and left out."""
        try:
            self._status(message) if isinstance(message, Status) else self._message(message)
        except (LookupError, TypeError, ValueError, AttributeError) as problem:
            who = message.instance if isinstance(message, Status) else message.id
            self.warn(f"{who}: left out: {type(problem).__name__}: {problem}")

    def warn(self, text: str) -> None:
        """Note it in place of the last one."""
        self.note, self.noted = text, self.clock()

    def _message(self, message: Message) -> None:
        row = Row(message, self.clock())
        if isinstance(message, Posterior):
            self._posterior(message, row.came)
        if isinstance(message, (Event, NetworkEvent)):
            self._supersede(message)
            row.gone = self._replaced(message) or _withdrawn(message)
        self._rows.appendleft(row)
        if self._selected is not None and self._selected not in self._rows:
            self._selected = self._rows[-1]

    def _posterior(self, message: Posterior, came: float) -> None:
        psd, calibration = message.body["posterior"]["psd"], message.body["delivery"].get("calibration")
        state = str(psd["state"])
        numbers = {name: _number(psd[name]) for name in ("history", "range_mpc", "drift")}
        known = None if calibration is None else _calibration(calibration)
        detector = self._detector(message.detector)
        if detector is None:
            return
        detector.came, detector.state, detector.spectrum = came, state, Spectrum(**numbers)
        detector.calibration = known or detector.calibration
        if isinstance(message, Event):
            detector.events += not message.supersedes
        else:
            detector.posteriors += 1
            detector.latencies.append(message.latency)

    def _status(self, status: Status) -> None:
        if status.instance not in self.daemons and len(self.daemons) >= DETECTORS:
            return
        body, model = status.body, status.body.get("model", {})
        states = {name: str(part["state"]) for name, part in body.get("detectors", {}).items()}
        calibrations = {name: _calibration(part) for name, part in body.get("calibration", {}).items()}
        self.daemons[status.instance] = Daemon(
            online=status.online,
            reason=status.reason,
            version=str(body.get("version", "")),
            model=f"{model['name']} {model['version']}" if model else "",
            engine=str(body.get("engine", "")),
            load=str(body.get("load", "all")),
            outbox=int(body.get("outbox", 0)),
            trouble=str(body.get("trouble", "")),
            sent_gps=float(body.get("sent_gps", 0.0)),
            came=self.clock(),
        )
        for name, state in states.items():
            if (detector := self._detector(name)) is not None:
                detector.state, detector.instance = state, status.instance
        for name, calibration in calibrations.items():
            if (detector := self._detector(name)) is not None:
                detector.calibration = calibration

    def gap(self, gap: Gap) -> None:
        """Messages did not come."""
        self.lost += gap.lost
        self.warn(str(gap))

    def away(self, detector: Detector) -> str:
        """Why nothing is to be expected of a detector; "": its daemon runs."""
        daemon = self.daemons.get(detector.instance)
        return "" if daemon is None or daemon.online else "offline"

    def rows(self) -> list[Row]:
        """Those to show, newest first."""
        return [row for row in self._rows if not self.events_only or row.kind != "posterior"]

    def selected(self) -> Row | None:
        """The one whose details are asked for."""
        shown = self.rows()
        if self._selected is None or self._selected not in shown:
            return shown[0] if shown else None
        return self._selected

    def window(self, size: int) -> list[Row]:
        """At most ``size`` rows around the selected one, moved no further than needed."""
        shown, selected = self.rows(), self.selected()
        if selected is None:
            return []
        place = shown.index(selected)
        self.top = min(max(self.top, place - size + 1), place) if self._selected is not None else 0
        self.top = max(0, min(self.top, len(shown) - size))
        return shown[self.top : self.top + size]

    def press(self, key: str, page: int = 10) -> None:
        """Do what a key asks for; other keys do nothing."""
        steps = {"up": -1, "k": -1, "down": 1, "j": 1, "page up": -page, "page down": page}
        if key in steps:
            self._move(steps[key])
        elif key in ("home", "g"):
            self._selected = None
        elif key in ("end", "G"):
            self._move(KEPT)
        elif key in ("enter", "d"):
            self.details = not self.details and self.selected() is not None
            if self.details:
                self._selected = self.selected()  # what is read stays, whatever comes
        elif key == "escape":
            self.details = False
        elif key == "e":
            self.events_only = not self.events_only
        elif key == "q":
            self.over = True

    def _move(self, step: int) -> None:
        shown, selected = self.rows(), self.selected()
        if selected is None:
            return
        place = max(0, min(shown.index(selected) + step, len(shown) - 1))
        self._selected = shown[place] if place or self.details else None

    def _supersede(self, message: Event | NetworkEvent) -> None:
        for row in self._rows:
            if isinstance(row.message, (Event, NetworkEvent)) and _replaces(message, row.message):
                row.gone = True
        if isinstance(message, NetworkEvent) and message.withdrawn:
            for row in self._rows:  # what is left of its members stands for itself
                if isinstance(row.message, Event) and row.message.id in message.members.values():
                    row.gone = self._replaced(row.message)

    def _replaced(self, message: Event | NetworkEvent) -> bool:
        """Whether one that is known stands for it: where it comes only now, it was missed and is sent again."""
        for row in self._rows:
            if not isinstance(row.message, (Event, NetworkEvent)) or not _replaces(row.message, message):
                continue
            if row.message.detector == message.detector or not row.gone:
                return True
        return False

    def _detector(self, name: str) -> Detector | None:
        if name not in self.detectors and len(self.detectors) >= DETECTORS:
            return None
        return self.detectors.setdefault(name, Detector())


def _replaces(one: Event | NetworkEvent, other: Event | NetworkEvent) -> bool:
    """Of a detector's own the higher number counts: what an event has replaced may be told anew, and replace it."""
    if other.id not in {*one.supersedes, one.id}:
        return False
    return one.detector != other.detector or one.sequence > other.sequence


def _withdrawn(message: Event | NetworkEvent) -> bool:
    return isinstance(message, NetworkEvent) and message.withdrawn


def _calibration(part: Mapping[str, Any]) -> Calibration:
    return Calibration(
        coverage=_number(part["coverage_90"]),
        error=_number(part["coverage_90_error"]),
        injections=int(part["injections"]),
        alarm=str(part["alarm_about"]) if part["alarm"] else "",
    )


def _number(value: Any) -> float | None:
    return None if value is None else float(value)
