"""Writes strain as a low-latency distribution does: short GWF frames, complete at the moment their name appears.

Frames are named ``<observatory>-<detector>_llhoft-<gps>-<duration>.gwf``, hold a strain channel and a state vector at
16 Hz, are compressed with gzip and carry all checksums.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from gwstream.records import Floats, Strain
from gwstream.source.channels import state_channel, strain_channel

STATE_RATE = 16


def frame_name(detector: str, gps: int, duration: int = 1) -> str:
    """``H-H1_llhoft-1126259447-1.gwf``."""
    return f"{detector[0]}-{detector}_llhoft-{gps}-{duration}.gwf"


def frame_bytes(detector: str, gps: int, strain: Floats, rate: int, state: int | None = 3) -> bytes:
    """A GWF file in memory: ``strain`` (whole seconds at ``rate`` Hz) from GPS second ``gps``.

    ``state``: bits set in every sample of the state vector; None leaves the state vector out.
    """
    import gwframe

    duration, rest = divmod(len(strain), rate)
    if rest or not duration:
        raise ValueError(f"a frame holds whole seconds: {len(strain)} samples at {rate} Hz do not make any")
    frame = gwframe.Frame(start=gps, duration=duration, name=detector, run=0)
    frame.add_channel(strain_channel(detector), np.ascontiguousarray(strain), rate, unit="strain")
    if state is not None:
        bits = np.full(duration * STATE_RATE, state, np.uint32)
        frame.add_channel(state_channel(detector), bits, STATE_RATE)
    content: bytes = frame.write_bytes(compression=gwframe.types.Compression.GZIP, compression_level=1)
    return content


def write_frame(directory: Path, detector: str, gps: int, strain: Floats, rate: int, state: int | None = 3) -> Path:
    """Write a frame under a temporary dotted name and rename it, so that no reader sees half of it; its path.

    Arguments as for `frame_bytes`. Raises OSError as writing does.
    """
    content = frame_bytes(detector, gps, strain, rate, state)
    final = directory / frame_name(detector, gps, len(strain) // rate)
    return put(final, content)


def put(final: Path, content: bytes) -> Path:
    """Make ``content`` appear at ``final`` at once and whole."""
    partial = final.with_name(f".{final.name}.tmp")
    partial.write_bytes(content)
    return partial.rename(final)


def split(strain: Strain, duration: int = 1) -> Iterator[tuple[int, Floats]]:
    """The recording in pieces fit for `write_frame`: (GPS second, samples), each ``duration`` s long, in order.

    Pieces start on whole GPS seconds; what does not fill a piece at either end is left out.
    """
    size = duration * strain.rate
    first = -(-strain.start // strain.rate)
    offset = first * strain.rate - strain.start
    for index in range((len(strain.samples) - offset) // size):
        at = offset + index * size
        yield first + index * duration, strain.samples[at : at + size]
