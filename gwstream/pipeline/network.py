"""How long a network event comes after the first event of its members."""

from __future__ import annotations

from collections import OrderedDict

from gwstream.records import NANO, Summary, Tally

KEPT = 1024  # events whose time is remembered


class Followed:
    """Remembers when events were made. One that the network follows later than ``wait`` s is counted as late.

    Late it is told all the same: the strain of a detector may be delayed for longer.
    """

    def __init__(self, wait: float, tally: Tally) -> None:
        self.wait = wait
        self._tally = tally
        self._made: OrderedDict[str, int] = OrderedDict()

    def first(self, summary: Summary, now: int) -> int:
        """When the first of the events was made that ``summary``, made ``now`` (monotonic ns), puts into a network
        event; 0: it does not, or none of them is remembered."""
        if summary.kind == "event":
            self._made[summary.id] = now
            if len(self._made) > KEPT:
                self._made.popitem(last=False)
        if summary.kind != "network" or summary.event is None:
            return 0
        names = summary.event["supersedes"]
        assert isinstance(names, list)
        first = min((self._made[name] for name in names if name in self._made), default=0)
        if first and now - first > self.wait * NANO:
            self._tally("summary", "late_coincidence", summary.detector)
        return first
