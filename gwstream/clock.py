"""GPS time now, from the system's clock: the one place that knows the leap seconds."""

from __future__ import annotations

import time

from gwstream.records import NANO

GPS_EPOCH = 315_964_800
"""Unix time of GPS 0."""

LEAP_SECONDS = 18
"""GPS minus UTC since 2017-01-01. No leap second is announced; one would change this line and nothing else."""


def gps_now_ns(unix_ns: int | None = None) -> int:
    """GPS time in ns at Unix time ``unix_ns``, by default now. True from 2017 on, as far as the host's clock is."""
    return (time.time_ns() if unix_ns is None else unix_ns) + (LEAP_SECONDS - GPS_EPOCH) * NANO
