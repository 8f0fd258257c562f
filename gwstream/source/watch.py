"""Watches a directory for frame files with inotify, from before the first scan to the end.

Only completed files are looked at (closed after writing, or renamed into place), never created ones. The directory may
be deleted, replaced or made anew, and the kernel may drop notifications: each time it is scanned again. Where it tells
nothing at all, as of files that another host writes over a network, we look for ourselves once a second.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from asyncinotify import Event, Inotify, Mask, Watch

from gwstream.errors import SourceError

COMPLETE = Mask.CLOSE_WRITE | Mask.MOVED_TO
GONE = Mask.DELETE_SELF | Mask.MOVE_SELF | Mask.UNMOUNT | Mask.IGNORED
RENEW = 1.0  # s between looks at whether the path still names the directory that is watched
ABSENT = 0.1  # s between looks for a directory that went away
REMEMBERED = 4096  # names told lately, by which one that the kernel said nothing of is known

Print = tuple[int, int]
"""Size, and modification time (ns): a file of which they stay is not being written."""

NAME = re.compile(r"(?P<observatory>[A-Z][A-Z0-9]*)-(?P<tag>[^-]+)-(?P<gps>\d{1,12})-(?P<duration>\d{1,6})\.gwf")


@dataclass(frozen=True, slots=True)
class Name:
    """What the name of a frame file says (LIGO-T050017): observatories, GPS seconds [start, end)."""

    observatory: str
    start: int
    end: int


def parse(name: str) -> Name | None:
    """``H-H1_llhoft-1126259447-1.gwf``; None where ``name`` is not of that form."""
    match = NAME.fullmatch(name)
    if match is None or int(match["duration"]) == 0:
        return None
    start = int(match["gps"])
    return Name(match["observatory"], start, start + int(match["duration"]))


class Watcher:
    """Tells ``found(path, arrived)`` of each file in a directory; ``arrived`` in monotonic ns.

    A file may be told of more than once. ``lost(text)`` is told when notifications were, or may have been, missed, and
    ``alive()`` every `RENEW` s, whether files come or not.
    """

    def __init__(
        self,
        directory: Path,
        found: Callable[[Path, int], None],
        lost: Callable[[str], None],
        alive: Callable[[], None] = lambda: None,
    ) -> None:
        self._directory = directory
        self._found = found
        self._lost = lost
        self._alive = alive
        self._inotify: Inotify | None = None
        self._watch: Watch | None = None
        self._identity: tuple[int, int] | None = None
        self._gone = asyncio.Event()
        self._told: dict[str, None] = {}  # names, in order
        self._heard = False  # of a file, since the last look
        self._changed = 0  # when the directory last had, at that look
        self._unheard: dict[str, Print] = {}  # names found by that look that we were not told of

    def open(self) -> None:
        """Start watching and scan once. Raises `SourceError` where the directory cannot be watched or read."""
        try:
            self._inotify = Inotify(cache_size=64)
            self._attach(self._inotify)
        except OSError as problem:
            self.close()
            raise SourceError(f"{self._directory}: cannot be watched: {problem.strerror}{_hint(problem)}") from problem

    def close(self) -> None:
        """Stop watching."""
        if self._inotify is not None:
            self._inotify.close()
            self._inotify = None

    async def run(self) -> None:
        """Follow the directory until cancelled."""
        inotify = self._inotify
        if inotify is None:
            raise RuntimeError("open the watcher before running it")
        async with asyncio.TaskGroup() as group:
            group.create_task(self._renew(inotify), name=f"renew {self._directory}")
            while True:
                self._handle(await inotify.get(), inotify)

    def _handle(self, event: Event, inotify: Inotify) -> None:
        arrived = time.monotonic_ns()
        if event.mask & Mask.Q_OVERFLOW:
            self._lost("the kernel dropped notifications")
            self._rescan(inotify)
        elif event.watch is None or event.watch is not self._watch:
            return
        elif event.mask & GONE:
            self._drop(inotify, "the directory went away")
        elif event.name is not None and not event.mask & Mask.ISDIR:
            self._heard = True
            self._tell(event.name.name, arrived)

    async def _renew(self, inotify: Inotify) -> None:
        """Attach again whenever the path names another directory than the one watched."""
        while True:
            self._alive()
            if self._watch is not None:
                try:
                    async with asyncio.timeout(RENEW):
                        await self._gone.wait()
                except TimeoutError:
                    if _identity(self._directory) == self._identity:
                        await self._overhear()
                        continue
                    self._drop(inotify, "the directory was replaced")
            try:
                self._attach(inotify)
            except OSError:
                await asyncio.sleep(ABSENT)

    async def _overhear(self) -> None:
        """Find what the kernel did not tell of: names that are there, and still untold, a look after they were found.

        Those that are still being written wait. While it tells of some, or nothing changes, there is nothing to do.
        """
        with contextlib.suppress(OSError):
            changed = self._directory.stat().st_mtime_ns
            deaf = not self._heard and (changed != self._changed or self._unheard)
            self._changed = 0 if self._heard else changed  # what was heard may not be all that changed: look next time
            self._heard = False
            found = await asyncio.to_thread(self._untold) if deaf else {}
            late = sorted(name for name in found if self._unheard.get(name) == found[name])
            self._unheard = {name: found[name] for name in found.keys() - late}
            if late:
                self._lost("files come that the kernel says nothing of: are they written over a network?")
                arrived = time.monotonic_ns()
                for name in late:
                    self._tell(name, arrived)

    def _untold(self) -> dict[str, Print]:
        """The latest, by GPS, of the files that are there and were not told, of whichever detectors. Raises OSError."""
        latest = heapq.nlargest(REMEMBERED, self._names(), key=_start)
        found = {}
        for name in (name for name in latest if name not in self._told):
            with contextlib.suppress(FileNotFoundError):
                status = (self._directory / name).stat()
                found[name] = status.st_size, status.st_mtime_ns
        return found

    def _attach(self, inotify: Inotify) -> None:
        """Watch first and scan after, so that no file falls between the two. Raises OSError."""
        self._watch = inotify.add_watch(self._directory, COMPLETE | Mask.DELETE_SELF | Mask.MOVE_SELF | Mask.ONLYDIR)
        self._identity = _identity(self._directory)
        self._gone.clear()
        try:
            self._scan()
        except OSError:
            self._watch = None
            raise

    def _rescan(self, inotify: Inotify) -> None:
        try:
            self._scan()
        except OSError:
            self._drop(inotify, "the directory cannot be read")

    def _drop(self, inotify: Inotify, text: str) -> None:
        watch, self._watch = self._watch, None
        self._gone.set()
        self._lost(text)
        if watch is not None:
            with contextlib.suppress(OSError):  # the kernel may have removed it
                inotify.rm_watch(watch)

    def _scan(self) -> None:
        arrived = time.monotonic_ns()
        for name in sorted(self._names()):
            self._tell(name, arrived)

    def _names(self) -> list[str]:
        """Of the files that are there. Raises OSError."""
        with os.scandir(self._directory) as entries:
            return [entry.name for entry in entries if _complete(entry.name)]

    def _tell(self, name: str, arrived: int) -> None:
        if _complete(name):
            self._told[name] = None
            while len(self._told) > REMEMBERED:
                del self._told[next(iter(self._told))]
            self._found(self._directory / name, arrived)


def _complete(name: str) -> bool:
    """Whether a frame's writer is done with it: until then its name begins with a dot."""
    return not name.startswith(".") and name.endswith(".gwf")


def _start(name: str) -> int:
    """GPS s, -1 for names of another form."""
    found = parse(name)
    return -1 if found is None else found.start


def _identity(directory: Path) -> tuple[int, int] | None:
    try:
        status = directory.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _hint(problem: OSError) -> str:
    if problem.errno == 28:
        return " (raise fs.inotify.max_user_watches)"
    if problem.errno == 24:
        return " (raise fs.inotify.max_user_instances)"
    if problem.errno == 2:
        return ": create it, or correct source.detectors.<name>.directory"
    return ""
