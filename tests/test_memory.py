"""Memory that is free goes back to the system."""

from __future__ import annotations

import asyncio
import gc
import platform
import subprocess
import sys
import weakref
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from gwstream import memory

PAGE = 4096


def resident() -> int:
    """Bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
async def test_what_lies_free_between_blocks_in_use_goes_back() -> None:
    size, count = 16 * 1024, 4000  # small enough for the heap
    blocks = [np.ones(size // 8) for _ in range(count)]
    kept = blocks[::50]
    full = resident()
    del blocks
    task = asyncio.create_task(memory.give_back(0.01))
    async with asyncio.timeout(20):
        while full - resident() < size * count // 2:
            await asyncio.sleep(0.01)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    assert all(block.sum() == size // 8 for block in kept)


async def test_without_glibc_there_is_nothing_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda _: object())
    async with asyncio.timeout(1):
        await memory.give_back(0.0)


SETTLED = """
import gc, sys
from gwstream import cli

status = cli.main(["simulate", "--duration", "14", "--interval", "5", "--json"])
print(status, gc.get_freeze_count(), len(gc.get_objects()), file=sys.stderr)
"""


def test_the_collector_leaves_alone_what_was_there_when_the_daemon_began() -> None:
    found = subprocess.run([sys.executable, "-c", SETTLED], check=True, timeout=120, capture_output=True, text=True)
    status, frozen, others = map(int, found.stderr.split()[-3:])
    assert status == 0
    assert frozen > 10 * others


def test_what_refers_to_itself_is_found_when_all_has_settled_anew() -> None:
    class Knot:
        itself: Knot

    knot = Knot()
    knot.itself = knot
    gone = weakref.ref(knot)
    try:
        memory.settle()
        del knot
        gc.collect()
        assert gone() is not None  # it was there when all settled
        memory.settle()
        assert gone() is None
    finally:
        gc.unfreeze()


HEAPS = """
import ctypes, sys, threading
from gwstream import memory

if sys.argv[2] == "one":
    memory.one_heap()
together = threading.Barrier(8)

def work():
    together.wait()
    kept = [bytearray(5000) for _ in range(200)]
    together.wait()

threads = [threading.Thread(target=work) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
libc = ctypes.CDLL(None)
libc.fopen.restype = ctypes.c_void_p
file = ctypes.c_void_p(libc.fopen(sys.argv[1].encode(), b"w"))
libc.malloc_info(0, file)
libc.fclose(file)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
@pytest.mark.parametrize("number", ["one", "many"])
def test_threads_share_one_heap(tmp_path: Path, number: str) -> None:
    subprocess.run([sys.executable, "-c", HEAPS, str(tmp_path / "heaps"), number], check=True, timeout=60)
    heaps = (tmp_path / "heaps").read_text().count("<heap nr=")
    assert heaps == 1 if number == "one" else heaps > 1
