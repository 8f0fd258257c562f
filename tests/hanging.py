"""``gwstream`` where parts hang at will: each as long as a file of its name lies in the directory ``$HANG``.

The engine is ``slow`` in the same way.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gwstream import service
from gwstream.cli import main
from gwstream.inference import Inference
from gwstream.records import Batch, Trigger
from gwstream.source.watch import Watcher

PLACE = Path(os.environ["HANG"])
gate, renew, beat = Inference.gate, Watcher._renew, service._beat


def hang(name: str) -> None:
    while (PLACE / name).exists():
        time.sleep(0.05)


def gates(self: Inference, batch: Batch) -> Sequence[Trigger]:
    """An engine that does not come back, or takes its time."""
    hang("engine")
    if (PLACE / "slow").exists():
        time.sleep(1)
    return gate(self, batch)


async def beats(*arguments: Any) -> None:
    """Beside the beat, somebody who blocks the event loop."""

    async def blocks() -> None:
        while True:
            await asyncio.sleep(0.05)
            hang("loop")

    async with asyncio.TaskGroup() as group:
        group.create_task(blocks())
        group.create_task(beat(*arguments))


async def renews(self: Watcher, inotify: object) -> None:
    """A watch that has ceased to look."""
    alive = self._alive

    def looks() -> None:
        alive()
        if (PLACE / "source").exists():
            raise InterruptedError

    self._alive = looks
    while True:
        try:
            await renew(self, inotify)  # type: ignore[arg-type]
        except InterruptedError:
            while (PLACE / "source").exists():
                await asyncio.sleep(0.05)


def prepare() -> None:
    """Let the parts of this process hang when they are told."""
    Inference.gate = gates  # type: ignore[method-assign]
    Watcher._renew = renews  # type: ignore[method-assign,assignment]
    service._beat = beats


if __name__ == "__main__":
    prepare()
    sys.exit(main())
