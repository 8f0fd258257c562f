"""Messages as JSON lines on stdout, in the place of a broker."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable

from gwstream import clock
from gwstream.publish import message
from gwstream.records import Outgoing


class Printer:
    """A `PublisherLike` of the pipeline that prints; ``closed`` is called when nobody reads any more (``| head``)."""

    def __init__(self, closed: Callable[[], None]) -> None:
        self._closed = closed
        self._sequences: dict[str, int] = {}
        self._open = True

    async def put(self, outgoing: Outgoing) -> None:
        """Print a message as it would be sent. Waits for a slow reader, and with it all that feeds us."""
        detector = outgoing.summary.detector
        sequence = self._sequences[detector] = self._sequences.get(detector, -1) + 1
        delivery = message.delivery(
            outgoing, sequence=sequence, attempt=1, monotonic_ns=time.monotonic_ns(), gps_ns=clock.gps_now_ns()
        )
        if self._open:
            try:
                sys.stdout.buffer.write(message.compose(outgoing.summary, delivery) + b"\n")
                sys.stdout.buffer.flush()
            except BrokenPipeError:
                self._open = False
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that the exit's own flush is quiet
                self._closed()

    async def run(self) -> None:
        """Nothing to do: `put` has done it."""
        await asyncio.Event().wait()

    async def drain(self, limit: float) -> int:
        """Nothing is ever left."""
        return 0
