"""A thread for work that may hang: the caller waits for a limited time, and a stuck thread is left behind."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from gwstream.errors import SourceError

T = TypeVar("T")
MAX_STUCK = 4

Job = tuple[Callable[[], Any], asyncio.Future[Any], asyncio.AbstractEventLoop]


class Worker:
    """Runs one function at a time in a daemon thread of its own.

    A daemon thread, because a parser that hangs must not keep the process from ending.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._jobs: queue.SimpleQueue[Job | None] | None = None
        self._thread: threading.Thread | None = None
        self._left: list[threading.Thread] = []

    async def run(self, work: Callable[[], T], limit: float) -> T:
        """The result of ``work``; its exceptions pass through.

        Raises TimeoutError after ``limit`` seconds, and `SourceError` once `MAX_STUCK` threads hang at a time.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        if self._jobs is None:
            self._jobs = queue.SimpleQueue()
            self._thread = threading.Thread(target=_serve, args=(self._jobs,), name=self._name, daemon=True)
            self._thread.start()
        self._jobs.put((work, future, loop))
        try:
            async with asyncio.timeout(limit):
                return await future
        except TimeoutError:
            self._leave()
            if len(self._left) >= MAX_STUCK:
                raise SourceError(f"{self._name}: {MAX_STUCK} at once take longer than {limit:g} s") from None
            raise

    def _leave(self) -> None:
        """Leave the busy thread behind. One that came back since counts no more: slow days must not add up."""
        self.close()
        self._left = [thread for thread in self._left if thread.is_alive()]
        if self._thread is not None:
            self._left.append(self._thread)

    def close(self) -> None:
        """Let the thread end when it is done with what it has."""
        if self._jobs is not None:
            self._jobs.put(None)
            self._jobs = None


def _serve(jobs: queue.SimpleQueue[Job | None]) -> None:
    while (job := jobs.get()) is not None:
        work, future, loop = job
        try:
            result, problem = work(), None
        except BaseException as raised:  # noqa: BLE001 - passed on to the one who waits, not dealt with here
            result, problem = None, raised
        try:
            loop.call_soon_threadsafe(_deliver, future, result, problem)
        except RuntimeError:  # the loop was closed meanwhile: nobody waits
            return


def _deliver(future: asyncio.Future[Any], result: Any, problem: BaseException | None) -> None:
    if future.done():
        return
    if problem is None:
        future.set_result(result)
    else:
        future.set_exception(problem)
