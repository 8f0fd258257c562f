"""The thread of a stage."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Self, TypeVar

from gwstream.health import Health

T = TypeVar("T")


class Worker:
    """Does the work of ``stage`` in one thread, a piece at a time, and tells ``health`` what it has in hand.

    Leaving the context waits for the thread.
    """

    def __init__(self, stage: str, health: Health) -> None:
        self._stage = stage
        self._health = health
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=stage)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown(wait=True)

    async def run(self, work: Callable[..., T], *arguments: object) -> T:
        """The result of ``work``, in its turn; its exceptions pass through."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._watched, work, *arguments)

    def _watched(self, work: Callable[..., T], *arguments: object) -> T:
        with self._health.work(self._stage):
            return work(*arguments)
