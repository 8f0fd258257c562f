"""What a damaged outbox still gives: rows that wait, ids that are known, and numbers that were used."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from gwstream.publish.rows import COLUMNS, KNOWN, Found, Row, event_state, unpacked

UNREADABLE = (sqlite3.Error, ValueError, LookupError, TypeError, AttributeError)
_LOST = "\ufffd"  # stands for bytes that are no text
_OF_FILE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


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
