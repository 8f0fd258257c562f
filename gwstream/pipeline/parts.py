"""What the pipeline joins, as it sees it: each part by the few things that are asked of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from gwstream.asked import Reply, Request
from gwstream.calibration import Report
from gwstream.calibration.shadow import Planned
from gwstream.conditioning import State
from gwstream.config import Config
from gwstream.health import Health
from gwstream.model import ConditioningSpec
from gwstream.pipeline.progress import Taken
from gwstream.prior import DistanceDensity, Prior
from gwstream.records import (
    Batch,
    Gap,
    Outgoing,
    Posterior,
    Strain,
    Tally,
    Trigger,
    Unweighted,
    Whitener,
    Window,
    silent,
)
from gwstream.summary import Summarizer


class SourceLike(Protocol):
    """What the pipeline asks of a source; see `gwstream.source.Source`."""

    @property
    def detectors(self) -> tuple[str, ...]: ...
    @property
    def live(self) -> bool: ...
    def stream(self, detector: str) -> AsyncIterator[Strain | Gap]: ...


class ConditionerLike(Protocol):
    """What the pipeline asks of `gwstream.conditioning.Conditioner`."""

    @property
    def whitener(self) -> Whitener | None: ...
    def push(self, record: Strain | Gap) -> list[Window]: ...
    def state(self) -> State | None: ...


class InferenceLike(Protocol):
    """What the pipeline asks of `gwstream.inference.Inference`."""

    def gate(self, batch: Batch) -> Sequence[Trigger]: ...
    def infer(self, trigger: Trigger, bucket: int, draws: int | None = None) -> Posterior: ...
    def unweighted(self, triggers: Sequence[Trigger], least: int = 1) -> Sequence[Unweighted]: ...
    def prepare(self, whitener: Whitener) -> None: ...
    def asked(self, window: Window, distance: DistanceDensity | None = None) -> Posterior: ...


class CalibrationLike(Protocol):
    """What the pipeline asks of `gwstream.calibration.Calibration`."""

    def conditioned(self, record: Strain | Gap, windows: Sequence[Window], now: float) -> None: ...
    def gated(self, triggers: Sequence[Trigger]) -> None: ...
    def due(self, now: float) -> float | None: ...
    def take(self) -> Planned | None: ...
    def judge(self, planned: Planned) -> Report: ...
    def done(self, report: Report, seconds: float) -> None: ...
    def told(self, detector: str) -> Mapping[str, object]: ...


class PublisherLike(Protocol):
    """What the pipeline asks of `gwstream.publish.Publisher`."""

    async def put(self, outgoing: Outgoing) -> None: ...
    async def run(self) -> None: ...
    async def drain(self, limit: float, /) -> object: ...


class DeskLike(Protocol):
    """What the pipeline asks of `gwstream.publish.desk.Desk`."""

    def serve(self, receive: Callable[[Request], None]) -> None: ...
    def reply(self, reply: Reply) -> None: ...


class ProgressLike(Protocol):
    """What the pipeline asks of `gwstream.pipeline.progress.Progress`."""

    @property
    def due(self) -> bool: ...
    @property
    def overdue(self) -> bool: ...
    def offer(self, taken: Taken) -> None: ...
    async def run(self) -> None: ...
    async def close(self) -> None: ...


class Observer(Protocol):
    """Told of everything that passes, on the event loop; must return at once."""

    def record(self, record: Strain | Gap) -> None:
        """Came out of the source."""

    def conditioned(self, detector: str, windows: Sequence[Window], whitener: Whitener | None) -> None:
        """A record became these windows; ``whitener``: the newest."""

    def gated(self, batch: Batch, triggers: Sequence[Trigger]) -> None:
        """A batch was judged."""

    def outgoing(self, outgoing: Outgoing, window: Window) -> None:
        """The summary of a window goes to the publisher."""

    def calibrated(self, report: Report) -> None:
        """A known signal was judged."""

    def stage(self, stage: str, seconds: float) -> None:
        """A record, batch or posterior took so long in a stage and the queue before it."""

    def queue(self, stage: str, depth: int) -> None:
        """So many items wait before a stage."""

    def load(self, level: int, text: str) -> None:
        """What is done for live windows from here on: index in `gwstream.records.LOADS`, and what stands there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What the pipeline joins. ``conditioner``: makes that of a detector; ``spec``: how windows follow one another.
    ``prior``: of the posteriors.

    ``summarizer``: that goes on with events of another process; None: a new one. ``progress``: keeps how far we are.
    ``desk``: where triggers from outside come in; None: nowhere. ``health``: hears what the stages have in hand.
    """

    config: Config
    source: SourceLike
    conditioner: Callable[[str], ConditionerLike]
    spec: ConditioningSpec
    inference: InferenceLike
    prior: Prior
    publisher: PublisherLike
    calibration: CalibrationLike | None = None
    summarizer: Summarizer | None = None
    progress: ProgressLike | None = None
    desk: DeskLike | None = None
    observers: Sequence[Observer] = ()
    tally: Tally = silent
    health: Health = field(default_factory=Health)

    @property
    def widest(self) -> int:
        """Hops, at most, between windows that still see every signal where the prior has it."""
        low, high = self.prior.time
        return max(1, int((high - low) * self.spec.rate / self.spec.hop))
