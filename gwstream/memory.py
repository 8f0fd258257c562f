"""Keeps the memory of a process that lives for months where it is after an hour, and its collector out of the way.

glibc keeps what was freed below a block that is still in use, and has a heap for each of many threads. With arrays of
all sizes, made in one thread and freed in another, that came to some percent an hour, though nothing is held on to.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
from collections.abc import Callable
from contextlib import suppress

PAUSE = 30.0  # s between two times; one takes some 20 ms of a thread
ARENA_MAX = -8  # of mallopt(3)


def settle() -> None:
    """Look for what refers to itself among all objects once, and not again among those that are there now.

    Python's collector stops all threads while it looks; PyTorch and what else is imported alone make it 80 ms, at any
    moment. To be called when all that lasts has been made.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()


def one_heap() -> None:
    """For all threads that are started from here on; nothing where the C library is not glibc."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(ARENA_MAX, 1)


async def give_back(pause: float = PAUSE) -> None:
    """Give what is free to the system, again and again, until cancelled; ends at once where there is no glibc."""
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
