"""A message that waits: as it is kept in memory, and as the values of a row on disk."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from gwstream.records import Outgoing, Summary

KNOWN = 100_000  # newest ids that are remembered
STANDING = 256  # newest network events that may yet be replaced
WAITING, ACKNOWLEDGED, GIVEN_UP = range(3)
COLUMNS = "n, at, state, kind, id, detector, sequence, gps_ns, sha256, event, journey, delivery, part"


@dataclass(slots=True)
class Kept:
    """A message until it is settled. ``n``: order of all; ``at``: steady ns at which it was taken on; ``stored``: as
    it stands in the store. One from before a restart has an attempt behind it, for it may have been sent. ``broken``:
    attempts that ended with their connection."""

    outgoing: Outgoing
    n: int
    at: int
    sequence: int
    stored: bool = False
    attempt: int = 0
    broken: int = 0
    done: bool = False
    delivery: dict[str, Any] = field(default_factory=dict)

    def lighten(self) -> None:
        """Forget the draws, which are much larger than the message: they are stored, or cannot be."""
        if self.outgoing.summary.samples:
            self.outgoing = replace(self.outgoing, summary=replace(self.outgoing.summary, samples=b""))


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A message as it is stored. ``n``: order of all; ``at``: steady ns at which it was taken on; ``state``: one of
    `WAITING`, `ACKNOWLEDGED`, `GIVEN_UP`; ``delivery``: that part of the message as it was acknowledged."""

    n: int
    at: int
    outgoing: Outgoing
    sequence: int
    state: int = WAITING
    delivery: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a store held: rows that wait, in order; by detector the last sequence number; the last ``n``;
    ``known``: by (kind, id) the digest and the event's state, oldest first; ``standing``: network events that stand,
    with what they replace; ``offset``: steady less monotonic ns."""

    waiting: tuple[Row, ...] = ()
    sequences: dict[str, int]
    last: int = 0
    known: dict[tuple[str, str], tuple[str, str]]
    offset: int
    standing: dict[str, tuple[str, ...]] = field(default_factory=dict)
    set_aside: bool = False


@dataclass(frozen=True, slots=True)
class Settled:
    """A row no longer waits: its new state, and the delivery part with which it was acknowledged."""

    n: int
    state: int
    delivery: str | None = None


def event_state(event: Mapping[str, object] | None) -> str:
    """What the ``event`` part of a network event says of it: standing or withdrawn; of others nothing."""
    return str(event.get("state", "")) if event else ""


def replaced_by(event: Mapping[str, object] | None) -> list[str]:
    """Ids of the events that an ``event`` part says it replaces."""
    names = event["supersedes"] if event else ()
    assert isinstance(names, list | tuple)
    return list(names)


def follow(standing: dict[str, tuple[str, ...]], name: str, event: Mapping[str, object]) -> None:
    """Change what stands by the ``event`` part of the network event ``name``."""
    names = replaced_by(event)
    for gone in (name, *names):
        standing.pop(gone, None)
    if event_state(event) == "standing":
        standing[name] = tuple(names)


class Standing:
    """Network events that were told and stand, with what they replace; at most `STANDING`, the newest.

    A daemon goes on with the network events of its saved state, and not with those that were told between that and its
    end. So one of before that shares a member with a new one is replaced by it, as it would have been.
    """

    def __init__(self) -> None:
        self._found: dict[str, tuple[str, ...]] = {}

    def before(self, found: Mapping[str, tuple[str, ...]]) -> None:
        """Those of before this process."""
        self._found = {**found, **self._found}

    def complete(self, outgoing: Outgoing) -> Outgoing:
        """The message, which replaces what it has to."""
        summary = outgoing.summary
        if summary.kind != "network" or event_state(summary.event) != "standing":
            return outgoing
        assert summary.event is not None
        named = replaced_by(summary.event)
        orphans = [
            name
            for name, theirs in self._found.items()
            if name != summary.id and name not in named and not set(named).isdisjoint(theirs)
        ]
        if not orphans:
            return outgoing
        event = {**summary.event, "supersedes": [*orphans, *named]}
        return replace(outgoing, summary=replace(summary, event=event))

    def told(self, summary: Summary) -> None:
        """A network event was taken on."""
        if summary.kind != "network" or summary.event is None:
            return
        follow(self._found, summary.id, summary.event)
        while len(self._found) > STANDING:
            del self._found[next(iter(self._found))]


class Known:
    """The newest `KNOWN` messages by kind and id, with digest, state, and when they were told, so that none is taken on
    twice."""

    def __init__(self) -> None:
        self._found: OrderedDict[tuple[str, str], tuple[str, str, int]] = OrderedDict()
        self._count = 0  # of messages told; those of before this process have numbers below

    def before(self, found: Mapping[tuple[str, str], tuple[str, str]]) -> None:
        """Those of before this process, oldest first."""
        older = {key: (*value, k - len(found)) for k, (key, value) in enumerate(found.items())}
        self._found = OrderedDict(older) | self._found

    def add(self, summary: Summary) -> str | None:
        """None for a new message, which is known from now on; else the digest of the one that is known by its id.

        An event is new again where it replaces one that was told since: a daemon that is started again may judge a
        signal's windows in another order, and tell of a lesser one first. So is a network event that was withdrawn.
        """
        key, state = (summary.kind, summary.id), event_state(summary.event)
        digest, before, told = self._found.get(key, ("", None, 0))
        if before == state and (digest != summary.sha256 or not self._replaces(summary, told)):
            return digest
        self._count += 1
        self._found[key] = summary.sha256, state, self._count
        self._found.move_to_end(key)
        if len(self._found) > KNOWN:
            self._found.popitem(last=False)
        return None

    def _replaces(self, summary: Summary, told: int) -> bool:
        """Whether one of the events that ``summary`` replaces was told later than ``told``."""
        keys = [(kind, name) for kind in ("event", "network") for name in replaced_by(summary.event)]
        return any(self._found[key][2] > told for key in keys if key in self._found)


def size(row: Row) -> int:
    """Bytes it takes on disk, about."""
    return len(row.outgoing.summary.posterior) + 1024


def packed(row: Row, offset: int) -> tuple[object, ...]:
    """The values of `COLUMNS`; ``offset`` turns monotonic into steady ns."""
    one, summary = row.outgoing, row.outgoing.summary
    journey = {
        "arrived": one.arrived and one.arrived + offset,
        "marks": [(step, at + offset) for step, at in one.marks],
        "data_end_ns": one.data_end_ns,
        "first_event": one.first_event and one.first_event + offset,
        "calibration": one.calibration,
        "load": one.load,
    }
    event = None if summary.event is None else json.dumps(summary.event)
    return (
        *(row.n, row.at, row.state, summary.kind, summary.id, summary.detector, row.sequence, summary.gps_ns),
        *(summary.sha256, event, json.dumps(journey), row.delivery, summary.posterior),
    )


def unpacked(values: tuple[object, ...], offset: int) -> Row:
    """The row of `COLUMNS`; ``offset``: steady less monotonic ns of this process."""
    n, at, state, kind, name, detector, sequence, gps_ns, sha256, event, journey, delivery, part = values
    told = json.loads(str(journey))
    summary = Summary(
        kind=kind,  # type: ignore[arg-type]  # as it was packed, like all that follow
        detector=str(detector),
        id=str(name),
        gps_ns=gps_ns,  # type: ignore[arg-type]
        posterior=bytes(part),  # type: ignore[call-overload]
        sha256=str(sha256),
        event=None if event is None else json.loads(str(event)),
    )
    outgoing = Outgoing(
        summary=summary,
        arrived=told["arrived"] and told["arrived"] - offset,
        marks=tuple((step, mark - offset) for step, mark in told["marks"]),
        data_end_ns=told["data_end_ns"],
        first_event=told["first_event"] and told["first_event"] - offset,
        calibration=told["calibration"],
        load=told.get("load", ""),  # those of before have none
    )
    row = Row(n=n, at=at, outgoing=outgoing, sequence=sequence)  # type: ignore[arg-type]
    return replace(row, state=state, delivery=delivery)  # type: ignore[arg-type]
