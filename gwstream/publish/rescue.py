"""What an outbox holds, where it is whole, where it is damaged, and where it may only be read."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from gwstream.publish.rows import COLUMNS, KNOWN, STANDING, Found, Row, event_state, follow, unpacked

BOOT = Path("/proc/sys/kernel/random/boot_id")
UNREADABLE = (sqlite3.Error, ValueError, LookupError, TypeError, AttributeError)
_LOST = "\ufffd"  # stands for bytes that are no text
_OF_FILE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


def boot() -> str:
    """The id of the machine's present run; empty: there is none."""
    return BOOT.read_text().strip() if BOOT.exists() else ""


def offset_of(db: sqlite3.Connection, offset: int) -> int:
    """The offset that the file knows of this boot, else ``offset``."""
    facts = dict(db.execute("SELECT name, value FROM fact"))
    return int(facts["offset"]) if facts.get("boot") and facts["boot"] == boot() else offset


def held(db: sqlite3.Connection, offset: int) -> Found:
    """All that a whole file holds. Raises one of `UNREADABLE`."""
    (last,) = db.execute("SELECT coalesce(max(n), 0) FROM message").fetchone()
    newest_first = "SELECT kind, id, sha256, event FROM message ORDER BY n DESC LIMIT ?"
    known: dict[tuple[str, str], tuple[str, str]] = {}
    for kind, name, digest, event in db.execute(newest_first, (KNOWN,)):
        known.setdefault((kind, name), (digest, event_state(event and json.loads(event))))
    waiting = f"SELECT {COLUMNS} FROM message WHERE state = 0 ORDER BY n"
    newest = "SELECT id, event FROM message WHERE kind = 'network' ORDER BY n DESC LIMIT ?"
    standing: dict[str, tuple[str, ...]] = {}
    for name, event in reversed(db.execute(newest, (STANDING,)).fetchall()):
        follow(standing, name, json.loads(event))
    return Found(
        waiting=tuple(unpacked(values, offset) for values in db.execute(waiting)),
        sequences=dict(db.execute("SELECT detector, last FROM sequence")),
        last=last,
        known=dict(reversed(known.items())),
        offset=offset,
        standing=standing,
    )


def looked_at(file: Path, version: int, offset: int) -> Found | None:
    """What a file holds on a disk that may only be read, or is full; None: that cannot be said.

    The log beside it counts: ``readonly_shm`` lets SQLite make the index of what a kill left in memory. Without a log
    there is nothing to miss.
    """
    log = Path(f"{file}-wal")
    for how in ("readonly_shm=1", "immutable=1"):
        if how == "immutable=1" and log.exists() and log.stat().st_size:
            return None
        with (
            suppress(*UNREADABLE, OSError),
            closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro&{how}", uri=True)) as db,
        ):
            if db.execute("PRAGMA user_version").fetchone() == (version,):
                return held(db, offset_of(db, offset))
    return None


def damaged(problem: BaseException) -> bool:
    """Whether SQLite says that the file is at fault, and not the disk."""
    code = getattr(problem, "sqlite_errorcode", 0)
    return isinstance(problem, sqlite3.Error) and code & 0xFF in _OF_FILE


def unreadable(problem: BaseException) -> bool:
    """Whether what was read of a file makes no sense, though the disk has given it."""
    if isinstance(problem, sqlite3.OperationalError):
        code = getattr(problem, "sqlite_errorcode", None)  # None: it is Python that cannot decode a text
        return damaged(problem) or code in {None, sqlite3.SQLITE_ERROR}  # of a table that is not there
    return isinstance(problem, UNREADABLE)


def rescued(file: Path, offset: int) -> Found:
    """All that can be read of ``file``, waiting rows with the digest of their bytes proved; nothing of no database.

    ``offset``: steady less monotonic ns.
    """
    waiting: dict[int, Row] = {}
    sequences: dict[str, int] = {}
    known: dict[int, tuple[tuple[str, str], tuple[str, str]]] = {}
    with suppress(sqlite3.Error), closing(sqlite3.connect(file, isolation_level=None)) as db:
        db.text_factory = lambda text: text.decode(errors="replace")
        columns = "n, kind, id, sha256, event, detector, sequence"
        for n, kind, name, digest, event, detector, number in _rows(db, columns):
            with suppress(*UNREADABLE):
                known[n] = (kind, name), (digest, event_state(event and json.loads(event)))
                sequences[detector] = max(number, sequences.get(detector, -1))
        for values in _rows(db, COLUMNS, "WHERE state = 0"):
            with suppress(*UNREADABLE):
                row = unpacked(values, offset)
                if hashlib.sha256(row.outgoing.summary.posterior).hexdigest() == row.outgoing.summary.sha256:
                    waiting[row.n] = row
        for detector, number in db.execute("SELECT detector, last FROM sequence"):
            with suppress(*UNREADABLE):
                sequences[detector] = max(number, sequences.get(detector, -1))
    return Found(
        waiting=tuple(waiting[n] for n in sorted(waiting)),
        sequences=sequences,
        last=max((*waiting, *known), default=0),
        known=dict(known[n] for n in sorted(known)),
        offset=offset,
        set_aside=True,
    )


def _rows(db: sqlite3.Connection, columns: str, where: str = "") -> Iterator[tuple[Any, ...]]:
    """Rows from both ends of the table up to the first place that cannot be read, newest first; none of broken text."""
    for order in ("DESC", "ASC"):
        with suppress(sqlite3.Error):
            for row in db.execute(f"SELECT {columns} FROM message {where} ORDER BY n {order} LIMIT {KNOWN}"):
                if not any(isinstance(value, str) and _LOST in value for value in row):
                    yield row
