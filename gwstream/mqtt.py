"""aiomqtt's client, which can always be told to stop."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable
from typing import TypeVar

import aiomqtt

LATE = "Operation timed out"  # as aiomqtt says it

T = TypeVar("T")


class Client(aiomqtt.Client):
    """Its waiting ends when it is cancelled, in whatever moment.

    aiomqtt waits by `asyncio.wait_for`, which before Python 3.12 forgets a cancellation that comes together with what
    it waits for (CPython's issue 86296): who cancels then waits for ever.
    """

    async def _wait_for(self, fut: Awaitable[T], timeout: float | None) -> T:  # noqa: ASYNC109
        limit = self.timeout if timeout is None else timeout
        try:
            async with asyncio.timeout(None if limit == math.inf else limit):
                return await fut
        except TimeoutError:
            raise aiomqtt.MqttError(LATE) from None
