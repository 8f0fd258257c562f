"""Gives memory that is free back to the system.

glibc keeps what was freed below a block that is still in use. Of arrays of all sizes, made in one thread and freed in
another, that is more from hour to hour, though nothing is held on to.
"""

from __future__ import annotations

import asyncio
import ctypes
from collections.abc import Callable

PAUSE = 30.0  # s between two times; one takes some 20 ms of a thread


async def give_back(pause: float = PAUSE) -> None:
    """Do so again and again, until cancelled; ends at once where the C library is not glibc."""
    trim = trimming()
    while trim is not None:
        await asyncio.sleep(pause)
        await asyncio.to_thread(trim, 0)


def trimming() -> Callable[[int], int] | None:
    """``malloc_trim(3)``; None: there is none."""
    try:
        found: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):
        return None
    return found
