"""The open pages: what waits for each, and how an event is written for them."""

from __future__ import annotations

import asyncio
import json
from base64 import b64encode
from collections.abc import AsyncIterator, Mapping
from typing import Any

import numpy as np

from gwstream.records import Floats

BACKLOG = 256  # messages waiting for one page
QUIET = 15.0  # s of silence after which a page is told that we are here: both sides notice a dead connection
HERE = b"event: here\ndata: {}\n\n"
NONE = -32_768  # of packed values: not finite


class Page:
    """What waits for one open page; None ends its stream."""

    def __init__(self, history: list[bytes]) -> None:
        self._history = history
        self._queue: asyncio.Queue[bytes | None] = asyncio.Queue(BACKLOG)
        self._over = False

    def put(self, event: bytes) -> bool:
        """Whether the page still keeps up (a page that was cut off is not counted again)."""
        if self._over:
            return True
        if self._queue.full():
            self.close()
            return False
        self._queue.put_nowait(event)
        return True

    def close(self) -> None:
        """End the stream, whatever waits."""
        self._over = True
        while not self._queue.empty():
            self._queue.get_nowait()
        self._queue.put_nowait(None)

    async def stream(self) -> AsyncIterator[bytes]:
        """What is to be sent, as server-sent events."""
        yield b"".join(self._history)
        self._history = []
        while True:
            try:
                async with asyncio.timeout(QUIET):
                    event = await self._queue.get()
            except TimeoutError:
                event = HERE
            if event is None:
                return
            yield event


def event(kind: str, message: Mapping[str, Any]) -> bytes:
    """A server-sent event. JSON from us has no line breaks, which would end it early."""
    return f"event: {kind}\ndata: {json.dumps(message, separators=(',', ':'))}\n\n".encode()


def packed(values: Floats, step: float) -> dict[str, Any]:
    """``values`` (n,) as 16-bit multiples of ``step`` in base64: a quarter of the bytes of JSON, and of the time.

    What is not finite becomes `NONE`; what is beyond 32 767 steps stays there.
    """
    values = np.asarray(values, np.float64)
    whole = np.clip(np.rint(np.nan_to_num(values / step, posinf=0, neginf=0)), NONE + 1, -(NONE + 1))
    short = np.where(np.isfinite(values), whole, NONE).astype("<i2")
    return {"step": step, "data": b64encode(short.tobytes()).decode()}
