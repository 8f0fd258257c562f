"""The outbox on disk: one SQLite file in WAL mode. Synchronous; `gwstream.publish.outbox` calls it in one thread.

A message is a row from the moment it is taken on until the archive's bounds remove it: waiting, acknowledged or given
up. Each `write` is one transaction, on the platter when it returns. Times are *steady* ns: the machine's monotonic
clock and an offset that is kept while the machine runs, so they count on over a restart of the daemon and do not jump
with the wall clock.
"""

from __future__ import annotations

import fcntl
import logging
import os
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from gwstream.errors import ConfigError
from gwstream.publish.rescue import UNREADABLE, boot, held, offset_of, rescued, unreadable
from gwstream.publish.rows import COLUMNS, Found, Row, Settled, packed, size, unpacked

log = logging.getLogger("publish")

FORMAT = 1
PRUNED_AT_ONCE = 256  # rows that one transaction may remove
READ_AT_ONCE = 256  # rows that one query gives
BUSY = 5.0  # s to wait for somebody who reads the file
NAME = "outbox.sqlite"

_TABLES = """
CREATE TABLE message(
  n INTEGER PRIMARY KEY, at INTEGER NOT NULL, state INTEGER NOT NULL, size INTEGER NOT NULL,
  kind TEXT NOT NULL, id TEXT NOT NULL, detector TEXT NOT NULL, sequence INTEGER NOT NULL, gps_ns INTEGER NOT NULL,
  sha256 TEXT NOT NULL, event TEXT, journey TEXT NOT NULL, delivery TEXT, part BLOB NOT NULL);
CREATE INDEX waiting ON message(n) WHERE state = 0;
CREATE INDEX told ON message(gps_ns);
CREATE TABLE sequence(detector TEXT PRIMARY KEY, last INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE fact(name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""
_SAMPLES = "CREATE TABLE IF NOT EXISTS samples(n INTEGER PRIMARY KEY, size INTEGER NOT NULL, body BLOB NOT NULL)"
"""The draws of message ``n``; beside the tables, for files of before have none."""
_UNWEIGHTED = "CREATE INDEX IF NOT EXISTS unweighted ON message(n) WHERE kind = 'unweighted' AND state <> 0"
"""By it the archive finds what goes first."""
_NUMBERED = "INSERT INTO sequence VALUES (?,?) ON CONFLICT DO UPDATE SET last = max(last, excluded.last)"


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of the archive: ``age`` in steady ns, ``size`` in bytes, ``samples``: of the draws alone, in bytes.

    What waits is bounded by the outbox instead.
    """

    age: int
    size: int
    samples: int = 0


class VersionError(ValueError):
    """The file is another gwstream's."""


class Store:
    """The file ``directory/outbox.sqlite``, for this process alone to write.

    ``offset``: steady less monotonic ns, unless (and not ``keep``) the file knows one of this boot. ``damage``: what
    was found wrong with the file, which is then set aside; ``sequences``: the last numbers used, for a new one. Raises
    `ConfigError` where another daemon writes it, OSError and `sqlite3.Error` where the disk does not let us.
    """

    def __init__(
        self,
        directory: Path,
        limits: Limits,
        offset: int,
        *,
        keep: bool = False,
        damage: Exception | None = None,
        sequences: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        self._limits = limits
        self._total = 0  # bytes, about
        self._samples = 0
        self._file = directory / NAME
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            _hold(self._lock, directory)
            try:
                if damage is not None:
                    raise damage
                self.found = self._open(offset, keep)
            except UNREADABLE as problem:
                if not unreadable(problem):  # the disk's fault, not the file's
                    raise
                self.found = self._anew(problem, offset, sequences)
        except BaseException:
            os.close(self._lock)
            raise

    def _open(self, offset: int, keep: bool) -> Found:
        self._db = _connect(self._file)
        try:
            return self._load(offset, keep)
        except BaseException:
            self._db.close()
            raise

    def _anew(self, problem: Exception, offset: int, sequences: Mapping[str, int]) -> Found:
        """A new file beside the one that is set aside, and what that still gives."""
        before = self._set_aside(problem, offset)
        self._open(offset, keep=True)
        for found in (before.sequences, sequences):
            self._db.executemany(_NUMBERED, list(found.items()))
        return before

    def close(self) -> None:
        """Let go of the file, whatever state the disk is in."""
        with suppress(sqlite3.Error):
            self._db.close()
        os.close(self._lock)

    def write(self, new: Sequence[Row], settled: Sequence[Settled], now: int) -> Counter[str]:
        """Add rows (known ones stay as they are), settle others, and keep the bounds at steady time ``now``.

        Returns how many rows left the archive for their "age" and its "size", and how many "samples".
        """
        with self._transaction():
            for row in new:
                added = self._db.execute(
                    f"INSERT OR IGNORE INTO message({COLUMNS}, size) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
                    (*packed(row, self.found.offset), size(row)),
                )
                if added.rowcount:
                    self._total += size(row)
                    self._keep_samples(row)
                    self._db.execute(_NUMBERED, (row.outgoing.summary.detector, row.sequence))
            self._db.executemany(
                "UPDATE message SET state = ?, delivery = ? WHERE n = ?",
                [(one.state, one.delivery, one.n) for one in settled],
            )
            return self._prune(now) + self._prune_samples()

    def _keep_samples(self, row: Row) -> None:
        body = row.outgoing.summary.samples
        if body:
            self._db.execute("INSERT OR REPLACE INTO samples VALUES (?,?,?)", (row.n, len(body), body))
            self._samples += len(body)

    def _prune_samples(self) -> Counter[str]:
        oldest = self._db.execute("SELECT n, size FROM samples ORDER BY n LIMIT ?", (PRUNED_AT_ONCE,))
        gone: list[tuple[int]] = []
        for n, length in oldest if self._samples > self._limits.samples else ():
            if self._samples <= self._limits.samples:
                break
            gone.append((n,))
            self._samples -= length
        self._db.executemany("DELETE FROM samples WHERE n = ?", gone)
        return Counter(samples=len(gone))

    def _prune(self, now: int) -> Counter[str]:
        """Keep the archive's bounds. Where it holds too much, unweighted posteriors go first."""
        why = self._prune_of("kind = 'unweighted' AND state <> 0", now)
        if why.total() == PRUNED_AT_ONCE:  # there may be more of them: the others' turn has not come
            return why
        return why + self._prune_of("state <> 0", now)

    def _prune_of(self, what: str, now: int) -> Counter[str]:
        oldest = self._db.execute(f"SELECT n, at, size FROM message WHERE {what} ORDER BY n LIMIT {PRUNED_AT_ONCE}")
        gone: list[tuple[int]] = []
        why: Counter[str] = Counter()
        for n, at, length in oldest:
            old = now - at > self._limits.age
            if self._total <= self._limits.size and not old:
                break
            why["age" if old else "size"] += 1
            gone.append((n,))
            self._total -= length
        self._db.executemany("DELETE FROM message WHERE n = ?", gone)
        for n in gone:
            self._samples -= sum(row[0] for row in self._db.execute("SELECT size FROM samples WHERE n = ?", n))
        self._db.executemany("DELETE FROM samples WHERE n = ?", gone)
        return why

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        before = self._total, self._samples
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            self._total, self._samples = before
            with suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")
            raise

    def _load(self, offset: int, keep: bool) -> Found:
        if not keep:
            offset = offset_of(self._db, offset)
        self._total = self._db.execute("SELECT coalesce(sum(size), 0) FROM message").fetchone()[0]
        self._samples = self._db.execute("SELECT coalesce(sum(size), 0) FROM samples").fetchone()[0]
        self._db.executemany(
            "INSERT INTO fact VALUES (?,?) ON CONFLICT DO UPDATE SET value = excluded.value",
            [("boot", boot()), ("offset", str(offset))],
        )
        return held(self._db, offset)

    def _set_aside(self, problem: Exception, offset: int) -> Found:
        """Rename a damaged or foreign file, and go on with what of it can be read."""
        kept = self._file.with_suffix(".damaged")  # one only: the disk stays bounded
        for suffix in ("", "-wal", "-shm"):
            Path(f"{kept}{suffix}").unlink(missing_ok=True)
            with suppress(FileNotFoundError):
                Path(f"{self._file}{suffix}").rename(f"{kept}{suffix}")
        foreign = isinstance(problem, VersionError)
        found = Found(sequences={}, known={}, offset=offset, set_aside=True) if foreign else rescued(kept, offset)
        told = "%s cannot be used (%s): set aside as %s; the outbox begins anew, with %d messages and %d ids of it"
        log.error(told, self._file, problem, kept.name, len(found.waiting), len(found.known))
        return found


def read(directory: Path, begin_ns: int, end_ns: int, *, samples: bool = False) -> Iterator[Row]:
    """Stored rows, waiting ones included, whose coalescence lies in [begin, end) GPS ns, in the order they were made;
    with their draws if ``samples``.

    A daemon may write meanwhile: a few rows are read at a time, for its log grows while somebody reads. Raises
    `ConfigError` where there is nothing to read.
    """
    file = directory / NAME
    if not file.is_file():
        raise ConfigError(f"{file}: no such file: no daemon of these settings has stored a message there")
    query = f"SELECT {COLUMNS} FROM message WHERE gps_ns >= ? AND gps_ns < ? AND n > ? ORDER BY n LIMIT {READ_AT_ONCE}"
    last = 0
    try:
        with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True, timeout=BUSY)) as db:
            drawn = db.execute("SELECT 1 FROM sqlite_master WHERE name = 'samples'").fetchone() and samples
            while found := [unpacked(one, 0) for one in db.execute(query, (begin_ns, end_ns, last)).fetchall()]:
                yield from (_with_samples(db, row) if drawn else row for row in found)
                last = found[-1].n
    except UNREADABLE as problem:
        raise ConfigError(f"{file}: cannot be read: {problem}") from problem


def _with_samples(db: sqlite3.Connection, row: Row) -> Row:
    (body,) = db.execute("SELECT body FROM samples WHERE n = ?", (row.n,)).fetchone() or (b"",)
    return replace(row, outgoing=replace(row.outgoing, summary=replace(row.outgoing.summary, samples=body)))


def _connect(file: Path) -> sqlite3.Connection:
    """Open the file, made if missing. Raises `VersionError`, `sqlite3.Error`, OSError."""
    db = sqlite3.connect(file, isolation_level=None, timeout=BUSY, check_same_thread=False)
    try:
        if str(db.execute("PRAGMA journal_mode = WAL").fetchone()[0]) != "wal":
            raise OSError("this file system cannot hold a write-ahead log")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA journal_size_limit = 16777216")
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version == 0:
            db.executescript(f"BEGIN IMMEDIATE; {_TABLES} PRAGMA user_version = {FORMAT}; COMMIT;")
        elif version != FORMAT:
            raise VersionError(f"it is of version {version}, this gwstream reads {FORMAT}")
        db.execute(_SAMPLES)
        db.execute(_UNWEIGHTED)
    except BaseException:
        db.close()
        raise
    return db


def _hold(lock: int, directory: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ConfigError(
            f"{directory}: another daemon keeps its state there: give this one a publish.instance of its own, or "
            "another service.state"
        ) from None
