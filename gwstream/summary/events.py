"""Windows of one signal become one event, told by its best posterior.

The best so far of each event is kept, the last `KEPT` events a detector. A posterior that coalesces within
``reach`` of the best of an event belongs to it; so does a doubtful one within ``shadow`` of a much louder event, for
what is left of a loud signal in windows beside its own looks like a faint one. Better than the best: the event is told
again, and names what it replaces. Else nothing is said. Which of several posteriors is best does not depend on their
order.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from pydantic import TypeAdapter

from gwstream.prior import Prior
from gwstream.records import NANO, Posterior

KEPT = 64
LISTED = 16  # event ids a message names at most

# How much evidence a good place in the window is worth. At the edge of the trained range, the other windows being of
# the same signal, a posterior must beat the one in the middle by 4 nats and 5 % of its ln Bayes factor.
PLACE_NATS = 4.0
PLACE_FRACTION = 0.05
MUCH_LOUDER = 5.0  # ratio of scores, which go with the square of the SNR


@dataclass(frozen=True, slots=True, order=True)
class Rank:
    """What makes a posterior better, first things first: free of doubts, score, and id to break ties."""

    good: bool
    score: float
    id: str


def rank(posterior: Posterior, coalescence: float, good: bool, prior: Prior) -> Rank:
    """Rank of a posterior that coalesces ``coalescence`` s into its window; a NaN Bayes factor is the worst."""
    half = 0.5 * (prior.time[1] - prior.time[0])
    offset = min(abs(coalescence - prior.middle) / half, 1.0)
    log_bayes = posterior.log_bayes if posterior.log_bayes == posterior.log_bayes else -float("inf")
    score = log_bayes - offset**2 * (PLACE_NATS + PLACE_FRACTION * max(log_bayes, 0.0))
    return Rank(good, score, posterior.id)


@dataclass(frozen=True, slots=True)
class Event:
    """The best posterior of a signal so far. ``replaced``: ids of the events it stands for, oldest first.

    ``windows``: posteriors that belong to it, this one included.
    """

    best: Rank
    gps_ns: int
    replaced: tuple[str, ...] = ()
    windows: int = 1

    @property
    def id(self) -> str:
        """Follows from the posterior alone, so that a second run gives the same."""
        return f"E-{self.best.id}"


@dataclass(slots=True)
class Events:
    """State of the clustering: ``reach`` and ``shadow`` in seconds; events by detector, oldest first."""

    reach: float
    shadow: float
    detectors: OrderedDict[str, deque[Event]] = field(default_factory=OrderedDict)

    def state(self) -> dict[str, Any]:
        """The events by detector, as plain values."""
        return {name: [asdict(event) for event in known] for name, known in self.detectors.items()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on with these. Raises ValueError where ``state`` is none."""
        known = TypeAdapter(dict[str, list[Event]]).validate_python(state)
        self.detectors = OrderedDict((name, deque(events, maxlen=KEPT)) for name, events in known.items())

    def add(self, detector: str, gps_ns: int, new: Rank) -> Event | None:
        """Take the posterior of rank ``new`` that coalesces at ``gps_ns``; the event if it is to be told (again)."""
        known = self.detectors.setdefault(detector, deque(maxlen=KEPT))
        near = [event for event in known if self._one_signal(event, gps_ns, new)]
        if not near:
            known.append(Event(new, gps_ns))
            return known[-1]
        best = max(near, key=lambda event: event.best)
        if new <= best.best:
            at = known.index(best)
            known[at] = Event(best.best, best.gps_ns, best.replaced, best.windows + 1)
            return None
        older = (name for event in near for name in event.replaced)
        replaced = (*older, *(event.id for event in near))
        event = Event(new, gps_ns, replaced[-LISTED:], 1 + sum(event.windows for event in near))
        at = known.index(near[0])
        for old in near:
            known.remove(old)
        known.insert(at, event)
        return event

    def _one_signal(self, event: Event, gps_ns: int, new: Rank) -> bool:
        """Whether a posterior of rank ``new`` at ``gps_ns`` belongs to an event."""
        apart = abs(event.gps_ns - gps_ns)
        faint, loud = sorted((event.best, new), key=lambda one: one.score)
        overshadowed = not faint.good and loud.score > MUCH_LOUDER * max(faint.score, 0.0)
        return apart < self.reach * NANO or (overshadowed and apart < self.shadow * NANO)
