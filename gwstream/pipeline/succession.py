"""How others come to judge windows while the pipeline runs: between two pieces of work, never in the middle of one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gwstream.config import Config
from gwstream.pipeline.parts import CalibrationLike, InferenceLike
from gwstream.prior import Prior
from gwstream.records import Whitener
from gwstream.summary import Summarizer


@dataclass(frozen=True, slots=True, kw_only=True)
class Successor:
    """What judges windows from a moment on, in the place of the fields of `Parts` with these names.

    ``summarizer``: a new one, which goes on with the events so far. ``taken`` is called at that moment, on the event
    loop; it must return at once.
    """

    config: Config
    inference: InferenceLike
    prior: Prior
    summarizer: Summarizer
    calibration: CalibrationLike | None
    taken: Callable[[], None]


class Succession:
    """Where a successor waits for its moment. All on the event loop.

    ``whiteners``: the newest of each detector, which its first windows will have.
    """

    def __init__(self) -> None:
        self.whiteners: dict[str, Whitener] = {}
        self.wake: Callable[[], None] = lambda: None
        """Called when one has come; whoever judges sets it."""
        self._next: Successor | None = None

    def offer(self, successor: Successor) -> None:
        """Let it judge soon. One that still waits is passed over."""
        self._next = successor
        self.wake()

    def take(self) -> Successor | None:
        """The one that waits."""
        found, self._next = self._next, None
        return found
