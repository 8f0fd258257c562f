"""A channel keeps order and bound, waits, ends, and loses nothing to a deadline."""

from __future__ import annotations

import asyncio

import pytest

from gwstream.pipeline.channel import Channel, Closed


async def test_order_and_end() -> None:
    channel = Channel[int](3)
    got: list[int] = []

    async def read() -> None:
        async for item in channel:
            got.append(item)
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        group.create_task(read())
        for n in range(20):
            await channel.put(n)
            assert len(channel) <= 3
        channel.close()
    assert got == list(range(20))
    with pytest.raises(Closed):
        await channel.get()


async def test_a_writer_waits_for_room() -> None:
    channel = Channel[int](2)
    await channel.put(0)
    await channel.put(1)
    third = asyncio.create_task(channel.put(2))
    await asyncio.sleep(0.01)
    assert not third.done()
    assert await channel.get() == 0
    await asyncio.wait_for(third, 1)
    assert [await channel.get(), await channel.get()] == [1, 2]


async def test_many_writers_never_exceed_the_limit() -> None:
    channel = Channel[int](2)
    writers = [asyncio.create_task(channel.put(n)) for n in range(10)]
    got = set()
    for _ in range(10):
        await asyncio.sleep(0)
        assert len(channel) <= 2
        got.add(await channel.get())
    await asyncio.gather(*writers)
    assert got == set(range(10))


async def test_a_deadline_loses_nothing() -> None:
    channel = Channel[int](100)
    now = asyncio.get_running_loop().time
    with pytest.raises(TimeoutError):
        await channel.get(until=now() + 0.01)
    with pytest.raises(TimeoutError):
        await channel.get(until=now() - 1)
    got: list[int] = []

    async def write() -> None:
        for n in range(50):
            await channel.put(n)
            await asyncio.sleep(0.0005)
        channel.close()

    async def read() -> None:
        while True:
            try:
                got.append(await channel.get(until=now() + 0.0004))
            except TimeoutError:
                continue
            except Closed:
                return

    await asyncio.gather(write(), read())
    assert got == list(range(50))


async def test_close_wakes_the_reader() -> None:
    channel = Channel[int](1)
    waiting = asyncio.create_task(channel.get())
    await asyncio.sleep(0)
    channel.close()
    with pytest.raises(Closed):
        await asyncio.wait_for(waiting, 1)


def test_a_channel_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match="not 0"):
        Channel[int](0)
