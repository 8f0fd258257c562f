"""How far a daemon has got, kept on disk, so that the next one goes on from there without a new warm-up.

What is kept was taken where every window before it had been judged: at rest. Strain that never rests by itself, as
where a daemon catches up or has much to do, is held back for an instant now and then. What was taken is saved once the
outbox has on disk what came of those windows. So a daemon that is killed at any instant loses nothing: the next one
judges a few windows again, to the same bytes, and the outbox knows their posteriors.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gwstream import snapshot
from gwstream.conditioning import State
from gwstream.records import Tally, silent
from gwstream.summary import Summarizer

log = logging.getLogger("service")

NAME, SET_ASIDE = "progress", "progress.bad"
FORMAT = 1
PAUSE = 10.0  # s between two savings: half a megabyte a detector each
LEAVE = 2.0  # s that one may take
GRACE = 5.0  # s after a pause in which strain may find a moment of rest by itself


@dataclass(frozen=True, slots=True)
class Taken:
    """What conditioners know, by detector, and the events so far, as of one moment."""

    detectors: Mapping[str, State]
    summary: Mapping[str, Any]


class Progress:
    """Keeps the newest of what it is offered, in ``directory``.

    ``identity``: of all that the states hang on: only a process with the same goes on from them. ``settled``: waits
    until what was published so far is on disk, and says whether it is.
    """

    def __init__(
        self,
        directory: Path,
        identity: Mapping[str, object],
        *,
        settled: Callable[[], Awaitable[bool]],
        tally: Tally = silent,
        pause: float = PAUSE,
    ) -> None:
        self._path = directory / NAME
        self._identity = {"format": FORMAT, **identity}
        self._settled = settled
        self._tally = tally
        self._pause = pause
        self._taken: Taken | None = None
        self._resting = False  # the pause since the last one is not over
        self._since = time.monotonic()  # when it was
        self._offered = asyncio.Event()
        self._closed = asyncio.Event()
        self._hurry = asyncio.Event()  # the next one need not wait for the pause to be over
        self._ended = asyncio.Event()
        self._trouble = False
        self._saving: asyncio.Future[None] | None = None  # may outlast the time it has, where the disk hangs

    def load(self, make: Callable[[], Summarizer]) -> tuple[dict[str, State], Summarizer]:
        """States by detector, and a summarizer that goes on; none and a new one where there is nothing that fits.

        A file that is damaged, or another model's or version's, is set aside under another name.
        """
        try:
            tree = snapshot.load(self._path)
            if tree["identity"] != self._identity:
                raise snapshot.SnapshotError(f"it is not of {_differences(tree['identity'], self._identity)}")
            states = {name: State.of(one) for name, one in tree["detectors"].items()}
            summarizer = make()
            summarizer.restore(tree["summary"])
        except FileNotFoundError:
            return {}, make()
        except (OSError, snapshot.SnapshotError, LookupError, TypeError, ValueError) as problem:
            self._set_aside(problem)
            return {}, make()
        return states, summarizer

    def identify(self, identity: Mapping[str, object]) -> None:
        """From here on the states hang on this. The next one is due at once, for that on disk fits no restart."""
        self._identity = {"format": FORMAT, **identity}
        self._hurry.set()

    @property
    def due(self) -> bool:
        """Whether it is time for a new one."""
        return self._taken is None and not self._resting

    @property
    def overdue(self) -> bool:
        """Whether it has been time for long, so that a moment of rest has to be made."""
        return self.due and time.monotonic() - self._since > GRACE

    def offer(self, taken: Taken) -> None:
        """Save ``taken`` soon, if a source can go on from it."""
        if taken.detectors and all(state.whole for state in taken.detectors.values()):
            self._taken = taken
            self._offered.set()

    async def run(self) -> None:
        """Save what is offered, one in ``pause`` s, until `close`."""
        while not self._closed.is_set() or self._taken is not None:
            await self._offered.wait()
            self._offered.clear()
            self._resting = True
            await self._save()
            if self._closed.is_set():  # no pause after the last one
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout(self._pause):
                    await self._hurry.wait()
            self._hurry.clear()
            self._resting = False
            self._since = time.monotonic()
        self._ended.set()

    async def close(self) -> None:
        """Let `run` save what was offered last, at once, and end."""
        self._closed.set()
        self._hurry.set()
        self._offered.set()
        await self._ended.wait()

    async def _save(self) -> None:
        taken, self._taken = self._taken, None
        if taken is None:
            return
        tree = {
            "identity": self._identity,
            "detectors": {name: state.tree() for name, state in taken.detectors.items()},
            "summary": taken.summary,
        }
        try:
            async with asyncio.timeout(LEAVE):
                if not await self._settled():
                    return
                await self._written(tree)
        except OSError as problem:  # TimeoutError is one
            if not self._trouble:
                reason = problem.strerror or "the disk does not answer"
                log.warning("%s: cannot be saved: %s; a restart will warm up anew", self._path, reason)
            self._trouble = True
        else:
            self._trouble = False

    async def _written(self, tree: Mapping[str, Any]) -> None:
        """Save the tree, once that before it is saved: a disk that hangs must not have all threads of the pool, which
        others need, nor two of them write the same file."""
        if self._saving is not None:
            await asyncio.wait((self._saving,))
        self._saving = asyncio.ensure_future(asyncio.to_thread(snapshot.save, self._path, tree))
        self._saving.add_done_callback(_heard)
        await asyncio.shield(self._saving)

    def _set_aside(self, problem: Exception) -> None:
        """Move the file out of the way, over the one before it."""
        log.warning("%s: set aside as %s, and warming up anew: %s", self._path, SET_ASIDE, problem)
        self._tally("service", "set_aside", "")
        try:
            self._path.replace(self._path.with_name(SET_ASIDE))
        except OSError as refused:
            log.warning("%s: cannot be renamed: %s", self._path, refused)


def _heard(saving: asyncio.Future[None]) -> None:
    """Take note of how it ended, for nobody else may wait for it any more."""
    if not saving.cancelled():
        saving.exception()


def _differences(found: Mapping[str, object], wanted: Mapping[str, object]) -> str:
    """What differs, by name."""
    return ", ".join(f"{name} {value}" for name, value in wanted.items() if found.get(name) != value)
