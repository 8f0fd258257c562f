"""What happens in each episode of the soak: drawn from the seed and the episode's number, and from nothing else.

An episode is a stretch of strain of all detectors, behind a pause longer than any memory of the daemon's conditioning:
so each can be judged alone. Faults of frames have a second to themselves, with clean ones around it; those of the
daemon, its disk and its broker begin anywhere, and an outage lasts for so many seconds of data.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

DETECTORS = ("H1", "L1", "V1")
RATE = 1024  # Hz
ORIGIN = 1_400_000_000  # GPS s
PAUSE = 128  # s without strain between two episodes
QUIET = 6  # s without faults at the start of an episode; twice as long at its end

FRAME = {
    "missing": 1.0,
    "late": 1.0,
    "out of order": 1.0,
    "duplicated": 1.0,
    "overlapping": 1.0,
    "truncated": 1.0,
    "truncated, then mended": 1.0,
    "bit flipped": 1.5,
    "not a number": 1.0,
    "infinite": 0.5,
    "zeros": 0.5,
    "wrong rate": 0.8,
    "wrong channel": 0.5,
    "vetoed": 0.8,
    "misnamed": 0.5,
    "directory replaced": 0.6,
}
"""Kinds of faults of frames, and how often each comes in relation to the others."""

LOST = frozenset({"missing", "late", "truncated", "bit flipped", "wrong channel"})  # the second becomes a gap: missing
GAPS = LOST | {"not a number", "infinite", "wrong rate", "vetoed"}  # all or part of the second becomes a gap
COUNTED = {
    **dict.fromkeys(LOST, "missing"),
    "not a number": "not_finite",
    "infinite": "not_finite",
    "wrong rate": "wrong_rate",
    "vetoed": "vetoed",
    "duplicated": "duplicate",
    "overlapping": "overlap",
    "misnamed": "bad_name",
    "directory replaced": "notify_lost",
}
"""Reason under which the daemon must count a fault, at the least."""

BROKER = {
    "broker killed": 1.0,
    "broker killed, its state lost": 1.0,
    "broker restarted": 0.7,
    "broker restarted, its state lost": 0.5,
    "broker frozen": 1.0,
}
FORGETFUL = frozenset(BROKER) - {"broker restarted", "broker frozen"}  # may lose what it has acknowledged
DAEMON = {"daemon killed": 3.0, "daemon told to stop": 1.0}
DISK = "disk full"


@dataclass(frozen=True, slots=True, order=True)
class Fault:
    """``second``: GPS s at which it begins; ``length``: s of data it lasts; ``number``: for what else is random."""

    second: int
    kind: str
    detector: str = ""
    length: int = 1
    number: int = 0


@dataclass(frozen=True)
class Episode:
    """Number ``index`` of ``count``, each of ``length`` s. ``busy``: multiplies how often faults come; ``signals``: s
    between two.

    In every other eighth of the soak the daemon is left alive, to show what becomes of its memory.
    """

    seed: int
    index: int
    count: int
    length: int
    busy: float = 1.0
    signals: float = 60.0

    @property
    def start(self) -> int:
        return ORIGIN + self.index * (self.length + PAUSE)

    @property
    def end(self) -> int:
        return self.start + self.length

    @property
    def calm(self) -> bool:
        """Whether the daemon lives through it."""
        return self.count > 1 and (min(8, self.count) * self.index // self.count) % 2 == 0

    def rng(self, *purpose: object) -> np.random.Generator:
        """Random numbers of a purpose of this episode."""
        text = repr((self.seed, self.index, *purpose)).encode()
        return np.random.default_rng(list(text))

    @cached_property
    def faults(self) -> tuple[Fault, ...]:
        """All of them in order of time."""
        rng = self.rng("faults")
        return tuple(sorted([*self._of_frames(rng), *self._of_world(rng)]))

    def _number(self, rng: np.random.Generator, an_hour: float) -> int:
        """How many come, at this rate."""
        return int(an_hour * self.busy * self.length / 3600 + rng.uniform())

    def _of_frames(self, rng: np.random.Generator) -> Iterator[Fault]:
        names, weights = list(FRAME), np.array(list(FRAME.values()))
        for detector in DETECTORS:
            seconds = np.arange(self.start + QUIET, self.end - 2 * QUIET, 4)
            chosen = rng.choice(seconds, min(self._number(rng, 14), len(seconds)), replace=False)
            kinds = rng.choice(names, len(chosen), p=weights / weights.sum())
            for second, kind in zip(chosen.tolist(), kinds.tolist(), strict=True):
                yield Fault(second, kind, detector, number=int(rng.integers(2**31)))

    def _of_world(self, rng: np.random.Generator) -> Iterator[Fault]:
        """Broker, disk and daemon, each after the one before it is over."""
        low, high = self.start + QUIET, self.end - 2 * QUIET
        names, weights = list(BROKER), np.array(list(BROKER.values()))
        outages = self._number(rng, 5.4)
        edges = np.linspace(low, high, outages + 1)
        for begin, end in itertools.pairwise(edges):
            length = max(2, int(rng.uniform(0.02, 0.4) * (end - begin)))
            second = int(rng.uniform(begin, end - length))
            yield Fault(second, str(rng.choice(names, p=weights / weights.sum())), length=length)
        if self.calm:
            for _ in range(self._number(rng, 0.8)):
                length = int(rng.uniform(0.1, 0.3) * (high - low))
                yield Fault(int(rng.uniform(low, high - length)), DISK, length=length)
            return
        names, weights = list(DAEMON), np.array(list(DAEMON.values()))
        ends = np.linspace(low, high, self._number(rng, 4.0) + 1)
        for begin, end in itertools.pairwise(ends):
            kind = str(rng.choice(names, p=weights / weights.sum()))
            yield Fault(int(rng.uniform(begin, end)), kind, length=0, number=int(rng.integers(2**31)))

    @property
    def predicted(self) -> Mapping[tuple[str, str], int]:
        """By detector and reason, what the daemon has to count."""
        found: Counter[tuple[str, str]] = Counter()
        for fault in self.faults:
            if fault.kind in COUNTED:
                found[fault.detector, COUNTED[fault.kind]] += 1
            if fault.kind == "late":
                found[fault.detector, "late"] += 1
        return found

    def at(self, detector: str) -> Mapping[int, Fault]:
        """Faults of a detector's frames, by GPS second."""
        return {fault.second: fault for fault in self.faults if fault.detector == detector}
