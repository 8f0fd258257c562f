"""Whether what an episode of the soak brought is what it had to bring."""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import soak_strain
from soak_plan import DETECTORS, PAUSE, Episode
from soak_world import Told

from gwstream.publish import store
from gwstream.publish.rows import ACKNOWLEDGED, WAITING, Row
from gwstream.records import NANO

SETTLE = 10.0  # s for the store to hear of the last acknowledgement
MOMENT = 2.0  # s before a broker's end in which it may have taken what it then forgets
EXCUSED = frozenset({"repeated", "not_durable", "late_coincidence", "archive_size", "samples_size"})
"""Reasons that are no loss: the last two are of messages that were delivered long ago."""
Expected = tuple[Mapping[str, str], Mapping[str, str]]


@dataclass
class Notes:
    """What was done in an episode and how it went. ``samples``: process, GPS second, MB, descriptors."""

    faults: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    daemon_back: list[float] = field(default_factory=list)
    broker_back: list[float] = field(default_factory=list)
    samples: list[tuple[int, int, float, int]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


class Judge:
    """Compares, episode by episode. ``directory``: of the daemon's archive."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._sequences: dict[str, int] = {}  # the last of each topic's level
        self._before: tuple[Episode, Mapping[str, str]] | None = None  # and its network events

    def of(
        self, episode: Episode, after: bool, expected: Expected, told: Told, counted: Counter[tuple[str, ...]]
    ) -> dict[str, Any]:
        """Figures; under ``wrong`` each with the ids that it is about, all empty where all is right."""
        posteriors, network = expected
        rows = self._rows(episode)
        archive = {row.outgoing.summary.id: row for row in rows if row.outgoing.summary.kind == "posterior"}
        standing, earlier = _standing(rows), []
        if self._before is not None:  # of which a daemon killed since may have judged the last windows again
            last, stood = self._before
            earlier = self._rows(last)
            standing, network = standing | _standing(earlier), {**network, **stood}
        self._before = episode, expected[1]
        received = {name for kind, name in told.digests if kind == "posterior"}
        silent = {name: row for name, row in archive.items() if row.state == ACKNOWLEDGED and name not in received}
        forgotten = {name for name, row in silent.items() if _forgotten(row, told)}
        wrong = {
            "never acknowledged": [
                name for name in posteriors if name not in archive or archive[name].state != ACKNOWLEDGED
            ],
            "not expected": [name for name in {*archive, *received} if name not in posteriors],
            "stored with other bytes": [
                name for name, row in archive.items() if row.outgoing.summary.sha256 != posteriors.get(name)
            ],
            "received with other bytes": _differ(told, posteriors),
            "acknowledged, but not received": [*({*silent} - forgotten)],
            "network events that differ": [
                name for name in {*standing, *network} if standing.get(name) != network.get(name)
            ],
            "gaps in sequence": self._gaps([*earlier, *rows]),
            "sequence numbers used twice": [
                f"{level} {number}"
                for level, numbers in told.sequences.items()
                for number, names in numbers.items()
                if len(names) > 1
            ],
            "faults of frames not counted": _uncounted(episode, counted),
            "gaps in strain not counted": _ungapped(episode, after, counted),
            "dropped by the daemon": [
                f"{int(number)} {' '.join(key[1:])}"
                for key, number in counted.items()
                if number > 0 and key[0] == "gwstream_dropped_total" and key[-1] != "source" and key[-2] not in EXCUSED
            ],
        }
        return {
            "expected": len(posteriors),
            "network": len(expected[1]),
            "messages": len(rows),
            "received": sum(told.count.values()),
            "repeated": sum(number - 1 for number in told.count.values()),
            "forgotten": len(forgotten),
            "wrong": {name: sorted(found) for name, found in wrong.items()},
        }

    def _rows(self, episode: Episode) -> list[Row]:
        """The archive's messages of an episode, once none waits any more."""
        end = time.monotonic() + SETTLE
        while True:
            span = (episode.start - PAUSE // 2) * NANO, (episode.end + PAUSE // 2) * NANO
            rows = list(store.read(self._directory, *span)) if (self._directory / store.NAME).exists() else []
            if not any(row.state == WAITING for row in rows) or time.monotonic() > end:
                return rows
            time.sleep(0.1)

    def _gaps(self, rows: list[Row]) -> list[str]:
        """Sequence numbers that no message has."""
        missing = []
        for level in sorted({row.outgoing.summary.detector for row in rows}):
            numbers = {row.sequence for row in rows if row.outgoing.summary.detector == level}
            first, last = self._sequences.get(level, -1) + 1, max(numbers)
            missing += [f"{level} {one}" for one in range(first, last) if one not in numbers]
            self._sequences[level] = max(last, first - 1)
        return missing


def _forgotten(row: Row, told: Told) -> bool:
    """Whether it was sent just before a forgetful broker's end, or after its return before the subscriber was there."""
    sent: float = json.loads(row.delivery or "{}").get("sent_gps", 0.0)
    return any(
        end - MOMENT <= sent <= min((one for one in told.heard if one > end), default=math.inf) for end in told.forgot
    )


def _standing(rows: Sequence[Row]) -> dict[str, str]:
    """Digests of the network events that stand in the end, by id."""
    found: dict[str, str] = {}
    for row in rows:
        summary = row.outgoing.summary
        if summary.kind == "network":
            soak_strain.stands(found, summary.id, summary.event or {}, summary.sha256)
    return found


def _differ(told: Told, posteriors: Mapping[str, str]) -> list[str]:
    """Messages whose bytes are not those expected, or whose own digest does not hold."""
    right = set(posteriors.values())
    found = [f"{told.wrong} whose own digest does not hold"] if told.wrong else []
    for (kind, name), digests in told.digests.items():
        if (
            len(digests) > 1
            or (kind == "posterior" and digests != {posteriors.get(name)})
            or (kind == "event" and not digests <= right)
        ):
            found.append(f"{kind} {name}")
    return found


def _uncounted(episode: Episode, counted: Mapping[tuple[str, ...], float]) -> list[str]:
    return [
        f"{detector} {reason}: {counted.get(('gwstream_dropped_total', detector, reason, 'source'), 0):g} of {number}"
        for (detector, reason), number in episode.predicted.items()
        if counted.get(("gwstream_dropped_total", detector, reason, "source"), 0) < number
    ]


def _ungapped(episode: Episode, after: bool, counted: Mapping[tuple[str, ...], float]) -> list[str]:
    """Where the daemon counted fewer seconds of gaps than there were; or more, unless a restart met them again."""
    found = []
    for detector in DETECTORS:
        wanted = soak_strain.gap_seconds(episode, detector) + (PAUSE if after else 0)
        got = counted.get(("gwstream_gap_seconds_total", detector), 0)
        if got < wanted - 1e-3 or (episode.calm and got > wanted + 1e-3):
            found.append(f"{detector}: {got:g} of {wanted:g} s")
    return found
