"""How much of the live strain is judged, and how well, when there is more of it than the machine can hold. Pure.

What is given up, in this order, each level with all before it: unweighted posteriors; draws; every second window; two
of three; and in the end whatever has waited for longer than the target, oldest first. A level is entered where windows
wait for too long and the work falls behind the strain; it is left again, one at a time, after a calm that grows with
every attempt that was too early. Work that catches up, as after a restart that finds minutes of strain, is no overload.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from gwstream.records import LOADS

FEWER = 4  # a posterior of an overloaded daemon has so many times fewer draws
PERIOD = 1.0  # s over which the work is compared with the strain, and between two steps up
CATCH_UP = 60.0  # s in which what waits must be worked off, or the work falls behind
CALM = 10.0  # s that windows must not wait before a step down,
LONGEST_CALM = 160.0  # and that at most: it doubles with each step down that did not hold


class Level(IntEnum):
    """What is done for live windows; each level gives up what the ones before it do, and more."""

    ALL = 0
    WEIGHTED_ONLY = 1
    FEWER_DRAWS = 2
    HALF_OF_WINDOWS = 3
    THIRD_OF_WINDOWS = 4
    NEWEST_WINDOWS = 5

    @property
    def text(self) -> str:
        """As messages, status and log say it."""
        return LOADS[self]

    @property
    def stride(self) -> int:
        """One window of so many is judged."""
        return {Level.HALF_OF_WINDOWS: 2, Level.THIRD_OF_WINDOWS: 3, Level.NEWEST_WINDOWS: 3}.get(self, 1)


@dataclass(frozen=True, slots=True)
class Backlog:
    """``come``: windows that have come so far; ``waiting``: of these; ``age``: s that the first of them has waited."""

    come: int
    waiting: int
    age: float

    @property
    def done(self) -> int:
        """Windows that were judged or given up."""
        return self.come - self.waiting


class Load:
    """The level, from what is told now and then.

    ``target``: s that windows may wait. ``rate``: windows a second that live strain brings at most. ``levels``: those
    there are, least first. ``now`` of `look` is any clock in s that does not go back.
    """

    def __init__(self, target: float, rate: float, levels: tuple[Level, ...] = tuple(Level)) -> None:
        self._target = target
        self._rate = rate
        self._levels = levels
        self._at = 0
        self._before: tuple[Backlog, float] | None = None  # at the begin of this period
        self._pressed = self._moved = float("-inf")  # when windows last waited, and when the level last changed
        self._fell = False  # the last change was a step down
        self._calm = CALM

    @property
    def level(self) -> Level:
        return self._levels[self._at]

    def look(self, backlog: Backlog, now: float) -> Level:
        """The level from here on."""
        if backlog.age > self._target / 2:
            self._pressed = now
        if self._before is None or now - self._before[1] >= PERIOD:
            if self._before is not None and backlog.age > self._target and self._behind(backlog, now):
                self._up(now)
            self._before = backlog, now
        if self._at and now - max(self._pressed, self._moved) >= self._calm:
            self._down(now)
        return self.level

    def _behind(self, backlog: Backlog, now: float) -> bool:
        """Whether less was done in this period than came, of a burst what real time brings, and what works off the
        rest. Where nothing at all was done somebody hangs, which is no load."""
        assert self._before is not None
        before, since = self._before
        seconds, done = now - since, backlog.done - before.done
        come = min(backlog.come - before.come, self._rate * seconds)
        return 0 < done < come + backlog.waiting * seconds / CATCH_UP

    def _up(self, now: float) -> None:
        if self._at == len(self._levels) - 1:
            return
        if self._fell and now - self._moved < self._calm:
            self._calm = min(2 * self._calm, LONGEST_CALM)
        self._at, self._fell, self._moved = self._at + 1, False, now

    def _down(self, now: float) -> None:
        if self._fell:  # the step before held
            self._calm = CALM
        self._at, self._fell, self._moved = self._at - 1, True, now
