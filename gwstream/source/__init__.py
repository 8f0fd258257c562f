"""Stage 1: strain from frames, recordings or simulation, as contiguous `Strain` and `Gap` records per detector.

A gap is a record, never an absence; foreign errors end here. The detectors are independent: a silent one yields nothing
and delays nobody.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol, Self, runtime_checkable

from gwstream.config import SourceConfig
from gwstream.health import Health
from gwstream.prior import Prior
from gwstream.records import Gap, Strain, Tally, silent
from gwstream.source.quality import MIN_RATE


class Source(Protocol):
    """Where strain comes from; an async context manager.

    ``live``: data that do not wait (the flow may have to drop some); otherwise the source waits for who reads it.
    ``simulated``: every record is marked so.
    """

    detectors: tuple[str, ...]
    live: bool
    simulated: bool

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *raised: object) -> None: ...

    def stream(self, detector: str) -> AsyncIterator[Strain | Gap]:
        """Records of one detector in order of time, each starting where the last ended; ends when the source does.

        Records last one second at most (gaps may be longer) and end on whole GPS seconds where they can.
        """
        ...


@runtime_checkable
class Resumable(Protocol):
    """A source that can go on where another process stopped reading it."""

    def resume(self, detector: str, second: int, rate: int) -> None:
        """Begin with GPS second ``second`` of a stream of ``rate`` Hz; to be called before it is streamed."""
        ...


def open_source(
    config: SourceConfig,
    tally: Tally = silent,
    prior: Prior | None = None,
    rate: int = MIN_RATE,
    *,
    health: Health | None = None,
) -> Source:
    """The source that ``config.kind`` names. ``prior``: what simulated injections are drawn from.

    ``rate``: the model's, Hz; frames at no whole multiple of it are counted and left out. ``health``: is told what the
    source has in hand, as ``source <detector>``.

    Raises `ConfigError` here, and `SourceError` on entering it, where a directory or file cannot be used.
    """
    if config.kind == "frames":
        from gwstream.source.frames import Frames

        return Frames(config, tally, rate, health or Health())
    if config.kind == "replay":
        from gwstream.source.replay import Replay

        return Replay(config, tally, health or Health())
    from gwstream.source.simulated import Simulated

    return Simulated(config, prior, health or Health())
