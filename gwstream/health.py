"""Which part of the daemon hangs: each says when it takes a piece of work in hand, and when it is done with it.

A part with nothing in hand is idle, and that is fine: a detector may be silent, a broker away. A part whose piece takes
longer than its limit is stuck. What polls has always something in hand, its next look, so a source that is silent is
told from one that is deaf. All methods may be called from any thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from gwstream import clock
from gwstream.records import NANO

LIMIT = 3.0  # s


@dataclass(frozen=True, slots=True)
class Piece:
    """What ``part`` (a stage, and a detector where it has several) has in hand since ``began``, at most until ``due``
    (both s of the monotonic clock); ``gps_ns``: when that was."""

    part: str
    began: float
    due: float
    gps_ns: int


@dataclass(frozen=True, slots=True)
class Stuck:
    """A part that hangs: ``seconds`` so far, since ``gps`` (s)."""

    part: str
    seconds: float
    gps: float

    def __str__(self) -> str:
        return f"{self.part}: stuck for {self.seconds:.0f} s, since GPS {self.gps:.3f}"

    @property
    def stage(self) -> str:
        return self.part.split()[0]


class Health:
    """What all parts of a daemon have in hand. ``limit``: s that one piece may take, unless it says otherwise.

    ``monotonic``: s.
    """

    def __init__(self, limit: float = LIMIT, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.limit = limit
        self._monotonic = monotonic
        self._held: dict[object, Piece] = {}
        self._listeners: list[Callable[[Sequence[Stuck]], None]] = []

    @contextmanager
    def work(self, part: str, limit: float | None = None) -> Iterator[None]:
        """``part`` has a piece of work in hand while the block lasts, ``limit`` s at most."""
        key = object()
        self._held[key] = self._piece(part, self.limit if limit is None else limit)
        try:
            yield
        finally:
            del self._held[key]

    def polled(self, part: str, every: float) -> None:
        """``part`` has just looked whether there is work, and will again within ``every`` s, until `ended`."""
        self._held[part] = self._piece(part, every + self.limit)

    def ended(self, part: str) -> None:
        """``part`` does not poll any more."""
        self._held.pop(part, None)

    def stuck(self) -> list[Stuck]:
        """The parts that hang, each with its oldest piece; that which began first comes first."""
        now = self._monotonic()
        late = sorted((one for one in list(self._held.values()) if now > one.due), key=lambda one: one.began)
        first = {one.part: one for one in reversed(late)}
        return [Stuck(one.part, now - one.began, one.gps_ns / NANO) for one in late if first[one.part] is one]

    def listen(self, listener: Callable[[Sequence[Stuck]], None]) -> None:
        """``listener`` hears at each `look`."""
        self._listeners.append(listener)

    def look(self) -> list[Stuck]:
        """The parts that hang, told to all listeners."""
        found = self.stuck()
        for listener in self._listeners:
            listener(found)
        return found

    def _piece(self, part: str, limit: float) -> Piece:
        now = self._monotonic()
        return Piece(part, now, now + limit, clock.gps_now_ns())
