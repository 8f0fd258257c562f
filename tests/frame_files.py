"""Frames for the tests of the source, written by gwstream and by others."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import struct
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import gwframe
import numpy as np
from numpy.typing import NDArray

from gwstream.records import Floats, Gap, Strain
from gwstream.source import Source
from gwstream.source.gwf import TRAILER
from gwstream.source.writer import frame_bytes, frame_name, put

GPS = 1_400_000_000
RATE = 1024


def samples(second: int, rate: int = RATE, duration: int = 1) -> Floats:
    """Reproducible strain of GPS second ``GPS + second``."""
    parts = [np.random.default_rng([second + k, rate]).normal(size=rate) * 1e-21 for k in range(duration)]
    return np.concatenate(parts)


def content(second: int, detector: str = "H1", rate: int = RATE, state: int | None = 3) -> bytes:
    return frame_bytes(detector, GPS + second, samples(second, rate), rate, state)


def drop(directory: Path, second: int, body: bytes | None = None, detector: str = "H1") -> Path:
    """Rename a frame into place."""
    return put(directory / frame_name(detector, GPS + second), content(second, detector) if body is None else body)


def custom(
    channels: dict[str, tuple[NDArray[np.generic], float]], second: int = 0, duration: int = 1, kind: str = "proc"
) -> bytes:
    """A GWF file with any channels: name -> (samples, rate)."""
    frame = gwframe.Frame(start=GPS + second, duration=duration, name="T", run=0)
    for name, (values, rate) in channels.items():
        frame.add_channel(name, values, rate, channel_type=kind)
    body: bytes = frame.write_bytes()
    return body


def without_checksum(body: bytes) -> bytes:
    """The same file as a writer that computes no file checksum leaves it."""
    fields = list(TRAILER.unpack(body[-TRAILER.size :]))
    fields[0], fields[-1] = 0, 0
    return body[: -TRAILER.size] + TRAILER.pack(*fields)


def parser_length(body: bytes) -> int:
    return int(struct.unpack_from("<Q", body, len(body) - TRAILER.size - 8)[0])


class Counts:
    """A tally that remembers."""

    def __init__(self) -> None:
        self.found: Counter[tuple[str, str]] = Counter()

    def __call__(self, stage: str, reason: str, detector: str, count: int = 1) -> None:
        assert stage == "source"
        self.found[detector, reason] += count

    def of(self, detector: str = "H1") -> dict[str, int]:
        return {reason: n for (name, reason), n in self.found.items() if name == detector}


async def take(
    source: Source, second: float, detector: str = "H1", limit: float = 8.0, on: Callable[[], None] | None = None
) -> list[Strain | Gap]:
    """The records up to GPS second ``GPS + second``; ``on`` is called after each."""
    found: list[Strain | Gap] = []
    async with asyncio.timeout(limit), contextlib.aclosing(source.stream(detector)) as stream:  # type: ignore[type-var]
        async for record in stream:
            found.append(record)
            if on is not None:
                on()
            if record.end >= (GPS + second) * record.rate:
                return found
    return found


def contiguous(records: list[Strain | Gap]) -> bool:
    return all(b.start * a.rate == a.end * b.rate for a, b in itertools.pairwise(records))


def seconds(records: list[Strain | Gap]) -> list[str]:
    """A word a record: S or the gap's reason, with start and end in seconds after `GPS`."""
    return [
        f"{'S' if isinstance(r, Strain) else r.reason} {r.start / r.rate - GPS:g}-{r.end / r.rate - GPS:g}"
        for r in records
    ]
