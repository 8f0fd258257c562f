"""Plays recorded or simulated time against the clock."""

from __future__ import annotations

import asyncio
import time

from gwstream.records import NANO


class Pace:
    """Lets GPS time pass ``speed`` times as fast as real time; 0: as fast as it is asked for.

    All detectors of a source share one pace, so that they stay together: ``origin_ns`` (GPS ns) is now.
    """

    def __init__(self, speed: float, origin_ns: int) -> None:
        self._speed = speed
        self._origin = origin_ns
        self._began = time.monotonic_ns()

    async def until(self, gps_ns: int) -> int:
        """Sleep until the end of a record is due; returns ``time.monotonic_ns()``."""
        if self._speed == 0:
            await asyncio.sleep(0)
        else:
            due = self._began + (gps_ns - self._origin) / self._speed
            await asyncio.sleep(max(0.0, (due - time.monotonic_ns()) / NANO))
        return time.monotonic_ns()
