"""What waits for the broker: in memory, in order, and behind it on disk, so that a killed daemon goes on with it.

A message is written before it may be sent, and settled in the store once it was acknowledged. All disk work is done in
one thread, several messages a transaction where they come fast; the flow never waits for it. When the disk is full,
read-only or stuck, messages are sent unwritten, counted, and written as soon as it lets us. What was stored once is
never stored, or sent, in another form: a message whose id is known is left out.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sqlite3
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Self

from gwstream import clock
from gwstream.config import PublishConfig
from gwstream.errors import ConfigError
from gwstream.publish.rescue import damaged, looked_at
from gwstream.publish.rows import ACKNOWLEDGED, GIVEN_UP, Found, Kept, Known, Row, Settled, Standing
from gwstream.publish.store import FORMAT, NAME, Limits, Store
from gwstream.records import NANO, Outgoing, Tally, silent

log = logging.getLogger("publish")

STUCK = 0.5  # s that messages wait for a disk which does not answer
RETRY = 5.0  # s between two attempts to write, once one has failed
LEAVE = 2.0  # s that the last of it may take to be written at the end
TROUBLE = (sqlite3.Error, OSError)


class Outbox:
    """Messages in order, at most ``config.queue`` and none older than ``config.retention`` s: the oldest go first, and
    unweighted posteriors before all others.

    ``depth``: so many are not settled. ``directory``: of the store, held while the context lasts; None: memory alone.
    ``live``: when it is full, True drops the oldest message and counts it, False makes `put` wait. Entering raises
    `ConfigError` where another daemon has the directory.
    """

    def __init__(
        self,
        config: PublishConfig,
        directory: Path | None = None,
        *,
        tally: Tally = silent,
        live: bool = True,
        now_ns: Callable[[], int] = clock.gps_now_ns,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._config = config
        self._directory = directory
        self._tally = tally
        self._live = live
        self._monotonic_ns = monotonic_ns
        days, sizes = config.archive_days, (config.archive_mb, config.samples_mb)
        self._limits = Limits(round(days * 86400 * NANO), *(round(size * 1e6) for size in sizes))
        self._held: deque[Kept] = deque()  # wait for the disk before they may be sent
        self._waiting: deque[Kept] = deque()
        self._flying: list[Kept] = []
        self._unwritten: dict[int, Kept] = {}  # in order
        self._settled: dict[int, Settled] = {}  # that the store does not know of
        self._sequences: dict[str, int] = {}
        self._known, self._standing = Known(), Standing()
        self._last = 0
        self._offset = now_ns() - monotonic_ns()  # steady less monotonic ns
        self._store: Store | None = None
        self._opened = False
        self._damage: Exception | None = None  # of the file, found while writing it
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="outbox")
        self._work = asyncio.Event()  # something to write
        self._wrote = asyncio.Event()  # a write has ended, one way or the other
        self._said: set[str] = set()  # reasons for a loss that the log has
        self.dropped = 0
        self.trouble = ""
        """Why messages are not durable just now; empty: they are, or there is no store."""
        self.news = asyncio.Event()
        """Set when there is something to send."""
        self.room = asyncio.Event()
        """Set when something has left."""

    @property
    def depth(self) -> int:
        return len(self._held) + len(self._waiting) + len(self._flying)

    @property
    def durable(self) -> bool:
        return self._directory is not None and not self.trouble

    @property
    def first(self) -> Kept | None:
        return self._waiting[0] if self._waiting else None

    @property
    def used(self) -> bool:
        """Whether a message was ever taken on, by this process or one before it."""
        return bool(self._sequences)

    async def __aenter__(self) -> Self:
        if self._directory is not None:
            try:
                await self._open(self._directory)
            except TROUBLE as problem:
                self._troubled(str(problem))
                await self._look(self._directory)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._store is not None and not self.trouble:
            with suppress(*TROUBLE, TimeoutError):
                async with asyncio.timeout(LEAVE):
                    await self._write(self._store)
        if self._store is not None:
            self._thread.submit(self._store.close)
        self._thread.shutdown(wait=not self.trouble)

    async def run(self) -> None:
        """Write what there is to write, until cancelled; what fails is tried again later."""
        while self._directory is not None:
            if not self.trouble:
                await self._work.wait()
            self._work.clear()
            try:
                await self._write(self._store or await self._open(self._directory))
            except (*TROUBLE, ConfigError) as problem:
                self._troubled(str(problem))
                self._damage = problem if damaged(problem) else None
                if self._store is not None:
                    self._thread.submit(self._store.close)
                    self._store = None
                await asyncio.sleep(RETRY)

    async def put(self, outgoing: Outgoing) -> bool:
        """Take a message on; its sequence number is fixed now, so that one that is dropped leaves a gap.

        False: it is known already, and left out.
        """
        while not self._live and self.depth >= self._config.queue:
            self.room.clear()
            await self.room.wait()
        if self._repeated(outgoing):
            return False
        outgoing = self._standing.complete(outgoing)
        self._standing.told(outgoing.summary)
        detector = outgoing.summary.detector
        sequence = self._sequences[detector] = self._sequences.get(detector, -1) + 1
        self._last += 1
        kept = Kept(outgoing, self._last, self._now(), sequence)
        if not self.durable or not self._limits.samples:
            kept.lighten()
        self._held.append(kept)
        if self._directory is not None:
            self._unwritten[kept.n] = kept
            self._work.set()
        if not self.durable:
            self._release()
        while len(self._unwritten) > self._config.queue:  # the disk has been away for long
            lost = self._unwritten.pop(next(iter(self._unwritten)))
            self._settled.pop(lost.n, None)
        return True

    def depart(self, number: int) -> list[Kept]:
        """Up to ``number`` messages to be sent now, the oldest first; then `returned` must be called."""
        self._bound()
        while self._waiting and len(self._flying) < number:
            self._flying.append(self._waiting.popleft())
        return self._flying

    def returned(self) -> None:
        """The messages that departed were sent, or failed: what is not done goes back to its place."""
        back = [kept for kept in self._flying if not kept.done]
        self._flying = []
        self._waiting.extendleft(reversed(back))
        self.room.set()

    def acknowledged(self, kept: Kept) -> None:
        kept.done = True
        self._settle(kept, ACKNOWLEDGED, json.dumps(kept.delivery))

    def drop(self, kept: Kept, reason: str, text: str) -> None:
        """Give up a message that has departed or waits, and count it; the log has the first a reason."""
        kept.done = True
        at = next((k for k, one in enumerate(self._waiting) if one is kept), None)
        if at is not None:
            del self._waiting[at]
        self._settle(kept, GIVEN_UP)
        self.lost(kept.outgoing.summary.detector, reason, text)

    def lost(self, detector: str, reason: str, text: str) -> None:
        """Count a message that nobody will have."""
        self.dropped += 1
        self._tally("publish", reason, detector)
        log.log(logging.DEBUG if reason in self._said else logging.WARNING, "dropped a message: %s", text)
        self._said.add(reason)

    def left(self) -> list[Kept]:
        return [*self._flying, *self._waiting, *self._held]

    async def written(self) -> None:
        """Wait until all that was put or settled so far is in the store, or the store is in trouble."""
        while (self._unwritten or self._settled) and self.durable:
            self._wrote.clear()
            await self._wrote.wait()

    def _now(self) -> int:
        return self._monotonic_ns() + self._offset

    def _bound(self) -> None:
        """Drop what is too much or too old."""
        full = f"{self._config.queue} wait for the broker already"
        while self._waiting and self.depth > self._config.queue:
            least = next((k for k in self._waiting if k.outgoing.summary.kind == "unweighted"), None)
            if least is not None:  # the last that anybody would miss
                self.drop(least, "outbox_unweighted", full)
            else:
                self.drop(self._waiting[0], "outbox_full", full)
        retention = round(self._config.retention * NANO)
        while self._waiting and self._now() - self._waiting[0].at > retention:
            self.drop(self._waiting[0], "outbox_age", f"the broker has not taken it for {self._config.retention:g} s")

    def _repeated(self, outgoing: Outgoing) -> bool:
        """Whether its id is known. What was taken on first stands, whatever the bytes of the other are."""
        summary = outgoing.summary
        digest = self._known.add(summary)
        if digest is None:
            return False
        self._tally("publish", "repeated", summary.detector)
        if digest != summary.sha256:
            self._tally("publish", "other_bytes", summary.detector)
            log.warning("%s came out otherwise than it was stored: the stored one stands", summary.id)
        return True

    def _settle(self, kept: Kept, state: int, delivery: str | None = None) -> None:
        if kept.stored or kept.n in self._unwritten:  # else the store will never hear of it
            self._settled[kept.n] = Settled(kept.n, state, delivery)
            self._work.set()

    def _release(self) -> None:
        """Those that need not wait for the disk any more may be sent."""
        while self._held and (self._held[0].n not in self._unwritten or not self.durable):
            kept = self._held.popleft()
            if not kept.stored and self._directory is not None:
                self._tally("publish", "not_durable", kept.outgoing.summary.detector)
            self._waiting.append(kept)
        self._bound()
        self.news.set()

    def _troubled(self, reason: str) -> None:
        """The disk does not do its part: go on without it."""
        if not self.trouble:
            log.error("the outbox in %s cannot be written: %s; going on in memory", self._directory, reason)
        self.trouble = reason
        for kept in self._unwritten.values():
            kept.lighten()
        self._release()
        self._wrote.set()

    async def _open(self, directory: Path) -> Store:
        """The store; the first time, with what it holds. Raises `TROUBLE` and `ConfigError`."""
        used = dict(self._sequences)
        make = partial(
            Store, directory, self._limits, self._offset, keep=self._opened, damage=self._damage, sequences=used
        )
        store = self._store = await asyncio.get_running_loop().run_in_executor(self._thread, make)
        self._damage = None
        if store.found.set_aside:
            self._tally("publish", "set_aside", "")
        if not self._opened:
            self._opened = True
            self._adopt(store.found)
        elif store.found.set_aside:  # what it held and still waits has to be written anew
            self._unwritten = dict(sorted({**self._unwritten, **{kept.n: kept for kept in self.left()}}.items()))
        return store

    async def _look(self, directory: Path) -> None:
        """Go on from what a disk holds that may only be read, or is full: it is there to be written to, later."""
        look = partial(looked_at, directory / NAME, FORMAT, self._offset)
        found = await asyncio.get_running_loop().run_in_executor(self._thread, look)
        if found is not None:
            self._opened = True
            self._adopt(found)

    def _adopt(self, found: Found) -> None:
        """Go on where the process before us ended; what was put since then, the store being away, comes after it."""
        mine = {id(kept): kept for kept in (*self.left(), *self._unwritten.values())}.values()
        for kept in mine:
            kept.n += found.last
            kept.at += found.offset - self._offset
        self._unwritten = {kept.n: kept for kept in self._unwritten.values()}
        self._settled = {n + found.last: replace(one, n=n + found.last) for n, one in self._settled.items()}
        self._last += found.last
        self._offset = found.offset
        self._known.before(found.known)
        self._standing.before(found.standing)
        for detector, last in found.sequences.items():
            self._sequences[detector] = max(last, self._sequences.get(detector, -1))
        stored = not found.set_aside
        before = [Kept(row.outgoing, row.n, row.at, row.sequence, stored=stored, attempt=1) for row in found.waiting]
        if not stored:  # they are in no file now
            self._unwritten = {kept.n: kept for kept in before} | self._unwritten
            self._work.set()
        self._waiting.extendleft(reversed(before))
        if before:
            log.info("%d messages wait in the outbox since before the start", len(before))
            self.news.set()

    async def _write(self, store: Store) -> None:
        """One transaction. Raises `TROUBLE`."""
        new, settled = list(self._unwritten.values()), list(self._settled.values())
        rows = [Row(n=one.n, at=one.at, outgoing=one.outgoing, sequence=one.sequence) for one in new]
        write = asyncio.get_running_loop().run_in_executor(self._thread, store.write, rows, settled, self._now())
        done, _ = await asyncio.wait((write,), timeout=STUCK)
        if not done:
            self._troubled("the disk does not answer")
        evicted = await write
        if evicted["age"]:
            self._tally("publish", "archive_age", "", evicted["age"])
        if evicted["size"]:
            self._tally("publish", "archive_size", "", evicted["size"])
        if evicted["samples"]:
            self._tally("publish", "samples_size", "", evicted["samples"])
        for kept in new:
            kept.stored = True
            kept.lighten()
            self._unwritten.pop(kept.n, None)
        for one in settled:
            if self._settled.get(one.n) is one:
                del self._settled[one.n]
        if self.trouble:
            log.warning("the outbox in %s is written again", self._directory)
            self.trouble = ""
        self._release()
        self._wrote.set()
