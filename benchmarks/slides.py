"""Network events from real noise: as the daemon would tell them, and with the detectors' times slid against each other.

Slid by whole seconds nothing real agrees: what is told is chance, and each slide is time of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import clusters

from gwstream.config import SummaryConfig
from gwstream.prior import Prior
from gwstream.records import NANO, Posterior
from gwstream.summary import Summarizer

SLIDES = tuple(k for k in range(-30, 31) if abs(k) > 1)  # s


@dataclass(frozen=True, slots=True)
class Judged:
    """Posteriors of one detector in a folder, in order; GPS s from and to which good events could come of it."""

    folder: str
    detector: str
    posteriors: tuple[Posterior, ...]
    begin: float
    end: float


@dataclass(frozen=True, slots=True)
class Chance:
    """Network events by chance: how many, how many of them good, in how many s."""

    told: int = 0
    good: int = 0
    seconds: float = 0.0

    def __add__(self, other: Chance) -> Chance:
        return Chance(self.told + other.told, self.good + other.good, self.seconds + other.seconds)


def network(prior: Prior, posteriors: Iterable[Posterior]) -> list[clusters.Network]:
    """Network events of posteriors of several detectors."""
    merged = sorted(posteriors, key=lambda one: (one.window.gps_ns, one.window.detector))
    return clusters.told(Summarizer(SummaryConfig(), prior), merged)[1]


def slid(posterior: Posterior, seconds: int) -> Posterior:
    """The posterior of a window so many seconds later."""
    trigger = posterior.trigger
    window = replace(trigger.window, start=trigger.window.start + seconds * trigger.window.rate)
    return replace(posterior, id=f"{posterior.id}{seconds:+d}", trigger=replace(trigger, window=window))


def pairs(found: Sequence[Judged]) -> Iterator[tuple[Judged, Judged]]:
    """Two detectors of a folder."""
    return ((a, b) for a, b in combinations(found, 2) if a.folder == b.folder)


def chance(prior: Prior, one: Judged, other: Judged) -> Chance:
    """Of one detector beside the other, slid by `SLIDES`."""
    total = Chance()
    for seconds in SLIDES:
        overlap = min(one.end, other.end + seconds) - max(one.begin, other.begin + seconds)
        if overlap > 0:
            events = network(prior, [*one.posteriors, *(slid(posterior, seconds) for posterior in other.posteriors)])
            total += Chance(len(events), sum(event.good for event in events), overlap)
    return total


def near(posterior: Posterior, gps: float, seconds: float) -> bool:
    """Whether it coalesces within so many seconds of a time."""
    return abs(posterior.window.gps_ns / NANO + posterior.trigger.time - gps) < seconds
