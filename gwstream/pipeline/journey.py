"""What travels between the pipeline's tasks, with the time at each step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from gwstream.records import Batch, Trigger, Window

Mark = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Journey:
    """When something arrived (monotonic ns) and when each step so far ended."""

    arrived: int
    marks: tuple[Mark, ...] = ()

    def then(self, step: str, at: int) -> Journey:
        """The same, and ``step`` ended at ``at``."""
        return Journey(self.arrived, (*self.marks, (step, at)))

    def left(self, step: str) -> int:
        """When ``step`` ended."""
        return dict(self.marks)[step]


@dataclass(frozen=True, slots=True)
class Cut:
    """The windows of one record."""

    windows: Sequence[Window]
    journey: Journey


@dataclass(frozen=True, slots=True)
class Batched:
    """A batch, and the journey of each of its windows."""

    batch: Batch
    journeys: Sequence[Journey]


@dataclass(frozen=True, slots=True)
class Quiet:
    """A window that has not passed the gate, and is to have an unweighted posterior."""

    trigger: Trigger
    journey: Journey


@dataclass(frozen=True, slots=True, order=True)
class Pending:
    """A window behind the gate. First come the best placed windows of every detector, the older before the newer."""

    place: int
    batch: int
    offset: float
    number: int
    trigger: Trigger = field(compare=False)
    journey: Journey = field(compare=False)
