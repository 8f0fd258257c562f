"""Puts the files of one detector in order of time and decides what is missing. Pure: the caller passes the time.

A file is known by the span in its name. The next to be read is the earliest that waits. If it does not follow the last
one, the hole before it is awaited for ``patience`` from the moment the first later file came, then given up; files for
time that has passed are refused. With no later file there is no hole: a silent detector stays silent.
"""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from gwstream.records import NANO

LIMIT = 4096  # files that may wait
JUMP = 600  # s: a leap ahead this long needs two files that follow each other, lest one wrong name end the stream
REMEMBERED = 64  # gaps by which `late` is told from `duplicate`


@dataclass(frozen=True, slots=True, order=True)
class File:
    """A frame file: GPS seconds [start, end) from its name, where it is, and when (monotonic ns) we were told."""

    start: int
    end: int
    path: Path
    arrived: int


@dataclass(frozen=True, slots=True)
class Hole:
    """GPS seconds [start, end) that were given up, and when the file came that told us so."""

    start: int
    end: int
    arrived: int


@dataclass(frozen=True, slots=True)
class Refused:
    """A file that is not to be read, and why: ``late``, ``duplicate`` or ``overflow``."""

    file: File
    reason: str


class Sequence:
    """The files of one detector that wait, and the GPS second up to which all is settled."""

    def __init__(self, patience: float, limit: int = LIMIT) -> None:
        self._patience = round(patience * NANO)
        self._limit = limit
        self._waiting: dict[Path, File] = {}  # in order of arrival
        self._order: list[File] = []  # the same as a heap, in order of time
        self._holes: deque[tuple[int, int]] = deque(maxlen=REMEMBERED)
        self._origin = 0
        self.position: int | None = None
        """GPS second of the next sample wanted; None before the first file."""

    def begin(self, second: int) -> None:
        """Go on from this GPS second, as if all before it had been read; what waits of that is forgotten."""
        self.position = self._origin = second
        self._waiting = {path: file for path, file in self._waiting.items() if file.end > second}
        self._order = sorted(self._waiting.values())

    def __contains__(self, path: Path) -> bool:
        return path in self._waiting

    def __len__(self) -> int:
        return len(self._waiting)

    def offer(self, file: File) -> None:
        """A file was found; told again of a file that waits, the first arrival stands."""
        if file.path not in self._waiting:
            self._waiting[file.path] = file
            heapq.heappush(self._order, file)

    def next(self, now: int) -> File | Hole | Refused | None:
        """What to do next at monotonic time ``now`` (ns); None: wait for a file, or until `deadline`.

        A `File` is to be read and, unless a better one may yet come, settled; a `Hole` is settled already.
        """
        if not self._waiting:
            return None
        if len(self._waiting) > self._limit:
            return Refused(self._take(), "overflow")
        file = self._order[0]
        if self.position is None:
            self.position = self._origin = file.start
        if file.end <= self.position:
            lost = file.start < self._origin or any(low < file.end and file.start < high for low, high in self._holes)
            return Refused(self._take(), "late" if lost else "duplicate")
        if file.start <= self.position:
            return self._take()
        due = self.deadline
        if due is None or now < due:
            return None
        hole = Hole(self.position, file.start, file.arrived)
        self.settle(file.start, lost=True)
        return hole

    @property
    def deadline(self) -> int | None:
        """When (monotonic ns) the hole before the earliest file is given up; None where nothing is awaited."""
        if not self._waiting or self.position is None:
            return None
        file = self._order[0]
        if file.start - self.position > JUMP and not any(file.end == other.start for other in self._order):
            return None
        return next(iter(self._waiting.values())).arrived + self._patience

    def settle(self, end: int, *, lost: bool) -> None:
        """All before GPS second ``end`` was read or, if ``lost``, given up."""
        if lost and self.position is not None:
            self._holes.append((self.position, end))
        self.position = end

    def _take(self) -> File:
        file = heapq.heappop(self._order)
        del self._waiting[file.path]
        return file
