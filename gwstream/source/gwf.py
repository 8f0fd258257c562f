"""Reads a GWF file (LIGO-T970130, version 8) from memory, after checking that it is whole.

The check comes first because a damaged length inside a frame can send a parser into minutes of work, or gigabytes of
memory: the end-of-file record must state the file's own length, and the POSIX checksum must hold.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import fastcrc
import numpy as np
from numpy.typing import NDArray

MAGIC = b"IGWD\0"
VERSION = 8
LITTLE_ENDIAN = b"\x34\x12"
HEADER = 40
TRAILER = struct.Struct("<BBIIQQIII")
"""Checksum type, class, instance, frames, bytes, seek to the contents, and the CRCs of header, structure and file."""
TRAILER_LENGTH = TRAILER.size + 8  # a length field precedes it
STRUCTURE = struct.Struct("<QB")
"""Each structure begins with its length and its checksum type; class, instance, content and checksum follow."""
SMALLEST = 18
POSIX_CRC = 1
MAX_FRAMES = 4096


class FrameError(Exception):
    """A frame cannot be used: ``reason`` is a fixed word, the text says more."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Channel:
    """Samples of one channel, (n,), of any real type; masked samples are NaN. ``start`` in GPS s, ``rate`` in Hz."""

    name: str
    start: float
    rate: float
    samples: NDArray[Any]


def check(content: bytes, *, accept_unchecked: bool = False) -> int:
    """The number of frames in a whole, undamaged file.

    Raises `FrameError`: ``truncated``, ``corrupt``, ``unsupported`` (another version or byte order), or ``unchecked``
    (written without a checksum, unless ``accept_unchecked``).
    """
    if not content.startswith(MAGIC[: len(content)]):
        raise FrameError("corrupt", "does not start as a GWF file does")
    if len(content) < HEADER + TRAILER_LENGTH:
        raise FrameError("truncated", f"only {len(content)} bytes")
    if content[5] != VERSION or content[12:14] != LITTLE_ENDIAN:
        raise FrameError("unsupported", f"GWF version {content[5]}; only little-endian version {VERSION} is read")
    kind, _, _, frames, length, _, _, _, crc = TRAILER.unpack_from(content, len(content) - TRAILER.size)
    (own,) = struct.unpack_from("<Q", content, len(content) - TRAILER_LENGTH)
    if length != len(content) or own != TRAILER_LENGTH:
        raise FrameError("truncated", f"{len(content)} bytes do not end with a record of that length")
    if kind == POSIX_CRC:
        if posix_checksum(memoryview(content)[:-4]) != crc:
            raise FrameError("corrupt", "the checksum does not hold")
    elif kind != 0 or crc:
        raise FrameError("corrupt", f"unknown checksum type {kind}")
    elif not accept_unchecked:
        raise FrameError("unchecked", "written without a checksum (source.accept_unchecked = true accepts it)")
    else:
        _check_structures(content)
    if not 0 < frames <= MAX_FRAMES:
        raise FrameError("corrupt", f"{frames} frames in one file")
    return int(frames)


def _check_structures(content: bytes) -> None:
    """Without a checksum of the file: its structures must fill it exactly, and each hold its own checksum, if any
    has one. A table of contents must be where the end record says: elsewhere the parser takes anything for lengths."""
    at = HEADER
    starts, kinds = set(), set()
    while at < len(content):
        length, kind = STRUCTURE.unpack_from(content, at)
        end = at + length
        if not SMALLEST <= length <= len(content) - at or 0 < len(content) - end < SMALLEST:
            raise FrameError("corrupt", f"a structure of {length} bytes at byte {at}")
        if kind == POSIX_CRC:
            crc = int.from_bytes(content[end - 4 : end], "little")
            if posix_checksum(memoryview(content)[at : end - 4]) != crc and end < len(content):
                raise FrameError("corrupt", f"the checksum of the structure at byte {at} does not hold")
        elif kind != 0:
            raise FrameError("corrupt", f"unknown checksum type {kind} at byte {at}")
        starts.add(at)
        if end < len(content):
            kinds.add(kind)
        at = end
    if len(kinds) > 1:
        raise FrameError("corrupt", "only some of its structures carry a checksum")
    contents = TRAILER.unpack_from(content, len(content) - TRAILER.size)[5]
    if contents and len(content) - contents not in starts:
        raise FrameError("corrupt", "no table of contents where the end record says")


def posix_checksum(body: bytes | memoryview) -> int:
    """``cksum``: the CRC over the bytes and their number, least significant byte first."""
    count = len(body)
    return int(fastcrc.crc32.cksum(count.to_bytes((count.bit_length() + 7) // 8, "little"), fastcrc.crc32.cksum(body)))


def read(content: bytes, frames: int, channels: tuple[str, ...]) -> dict[str, Channel]:
    """The named ``channels`` over all ``frames`` of a checked file; names that are absent are left out.

    Raises `FrameError`: ``corrupt`` (any complaint of the parser), or ``flagged`` (samples marked invalid).
    """
    parts = [_read_frame(content, index, channels) for index in range(frames)]
    names = [name for name in channels if all(name in part for part in parts)]
    return {name: _joined([part[name] for part in parts]) for name in names}


def channel_names(content: bytes) -> list[str]:
    """Every channel of the first frame. Raises `FrameError`."""
    return list(_parse(content, 0, None))


def _read_frame(content: bytes, index: int, channels: tuple[str, ...]) -> dict[str, Any]:
    from gwframe.errors import ChannelNotFoundError

    found: dict[str, Any] = _parse(content, index, list(channels))
    for name in set(channels) - set(found):  # a list leaves out without a word what is absent, and what is flagged
        try:
            _parse(content, index, name)
        except ChannelNotFoundError:
            continue
        raise FrameError("flagged", f"{name} is marked invalid")
    return found


def _parse(content: bytes, index: int, channels: list[str] | str | None) -> Any:
    import gwframe
    from gwframe._core import VerifyException
    from gwframe.errors import ChannelNotFoundError, InvalidDataError

    try:
        return gwframe.read_bytes(content, channels, index)
    except ChannelNotFoundError:
        raise
    except InvalidDataError as problem:
        raise FrameError("flagged", str(problem)) from problem
    except (VerifyException, RuntimeError, ValueError, MemoryError, LookupError, OverflowError, TypeError) as problem:
        raise FrameError("corrupt", f"cannot be parsed: {problem}") from problem


def _joined(parts: list[Any]) -> Channel:
    first = parts[0]
    arrays = list(_plain(parts))
    for part, before in zip(parts[1:], parts, strict=False):
        if part.sample_rate != first.sample_rate or abs(part.start - before.start - before.duration) > 1e-6:
            raise FrameError("corrupt", f"{first.name}: the frames of the file do not follow each other")
    samples = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
    return Channel(str(first.name), float(first.start), float(first.sample_rate), samples)


def _plain(parts: list[Any]) -> Iterator[NDArray[Any]]:
    for part in parts:
        array = part.array
        if np.ma.isMaskedArray(array):
            array = np.ma.filled(array.astype(np.float64), np.nan)
        if array.ndim != 1:
            raise FrameError("corrupt", f"{part.name}: {array.ndim} dimensions where 1 was expected")
        yield array
