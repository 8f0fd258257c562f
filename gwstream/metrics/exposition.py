"""What the metrics are made of: buckets, the exposition, and a look at the disk."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

STAGE_BUCKETS = (1e-4, 1e-3, 0.01, 0.03, 0.1, 0.3, 1.0, 10.0)
LATENCY_BUCKETS = (1e-4, 1e-3, 5e-3, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.25, 0.3, 0.5, 1.0, 2.0, 5.0, 10.0)
EVENT_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
LEFT_OUT = {"process_virtual_memory_bytes"}  # engines reserve far more than they use: it says nothing


def free_ratio(directory: Path) -> float:
    """Free part of the file system that holds, or is to hold, ``directory``; NaN where it does not answer."""
    with suppress(OSError):
        found = os.statvfs(next(place for place in (directory, *directory.parents) if place.exists()))
        return found.f_bavail / found.f_blocks if found.f_blocks else float("nan")
    return float("nan")


class Plain(CollectorRegistry):
    """A registry without `LEFT_OUT`, and without the ``_created`` series, which would double the counters."""

    def __init__(self, inner: Collector) -> None:
        super().__init__()
        self._inner = inner

    def collect(self) -> Iterator[Metric]:
        for metric in self._inner.collect():
            if metric.name in LEFT_OUT:
                continue
            metric.samples = [sample for sample in metric.samples if not sample.name.endswith("_created")]
            yield metric
