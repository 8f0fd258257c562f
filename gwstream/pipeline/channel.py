"""A bounded queue between two stages that can end, and that makes its writers wait while it is full."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Generic, TypeVar

T = TypeVar("T")


class Closed(Exception):
    """The channel is empty and will stay so."""


class Nudged(Exception):
    """The channel is empty, and there is something else to do."""


class Channel(Generic[T]):
    """Any number of writers, one reader, in order. ``limit``: items held at most."""

    def __init__(self, limit: int) -> None:
        if limit < 1:
            raise ValueError(f"a channel holds at least 1 item, not {limit}")
        self._limit = limit
        self._items: deque[T] = deque()
        self._closed = self._nudged = False
        self._more = asyncio.Event()
        self._room = asyncio.Event()

    def __len__(self) -> int:
        return len(self._items)

    @property
    def first(self) -> T | None:
        """The oldest item, which stays where it is; None: there is none."""
        return self._items[0] if self._items else None

    async def put(self, item: T) -> None:
        """Append ``item``, when there is room."""
        while len(self._items) >= self._limit:
            self._room.clear()
            await self._room.wait()
        self._items.append(item)
        self._more.set()

    def close(self) -> None:
        """Nothing more will be put. What is held can still be had."""
        self._closed = True
        self._more.set()

    def nudge(self) -> None:
        """Let who waits for an item, or will, look for something else to do."""
        self._nudged = True
        self._more.set()

    async def get(self, until: float | None = None) -> T:
        """The oldest item. Raises `Closed` at the end, `Nudged` after a `nudge`, TimeoutError at the loop's time
        ``until``."""
        while not self._items:
            if self._closed:
                raise Closed
            if self._nudged:
                self._nudged = False
                raise Nudged
            self._more.clear()
            async with asyncio.timeout_at(until):
                await self._more.wait()
        return self.take()

    def take(self) -> T:
        """The oldest item. Raises IndexError where there is none."""
        item = self._items.popleft()
        self._room.set()
        return item

    async def __aiter__(self) -> AsyncIterator[T]:
        with suppress(Closed):
            while True:
                yield await self.get()
