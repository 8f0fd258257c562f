"""A watcher whose kernel says nothing of some files: it finds them by looking, once, and when they are complete."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from asyncinotify import Event, Inotify

from gwstream.source import watch
from gwstream.source.watch import Watcher
from gwstream.source.writer import put

RENEW = 0.05


@asynccontextmanager
async def deaf(folder: Path, patch: pytest.MonkeyPatch, *, hears: bool = False) -> AsyncIterator[Counter[str]]:
    """What it tells; losses under an empty name."""
    patch.setattr(watch, "RENEW", RENEW)
    if not hears:
        patch.setattr(Watcher, "_handle", lambda *_: None)
    told: Counter[str] = Counter()

    def found(path: Path, _: int) -> None:
        told[path.name] += 1

    def lost(_: str) -> None:
        told[""] += 1

    watcher = Watcher(folder, found, lost)
    watcher.open()
    task = asyncio.create_task(watcher.run())
    try:
        yield told
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        watcher.close()


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not true():
            await asyncio.sleep(0.01)


def name(second: int) -> str:
    return f"H-H1_llhoft-{1_400_000_000 + second}-1.gwf"


async def looks(number: int = 4) -> None:
    await asyncio.sleep(number * RENEW)


async def test_files_that_the_kernel_says_nothing_of_are_found_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / name(0), b"x")
    async with deaf(tmp_path, monkeypatch) as told:
        put(tmp_path / name(1), b"x")
        (tmp_path / ".hidden.gwf").touch()
        (tmp_path / "notes.txt").touch()
        await until(lambda: told[name(1)] > 0)
        put(tmp_path / name(2), b"x")
        await until(lambda: told[name(2)] > 0)
        await looks()
    assert told == {name(0): 1, name(1): 1, name(2): 1, "": 2}


async def test_a_file_that_grows_is_not_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with deaf(tmp_path, monkeypatch) as told:
        with (tmp_path / name(1)).open("wb", buffering=0) as file:
            for _ in range(40):
                file.write(b"x")
                await asyncio.sleep(RENEW / 4)
            assert told == {}
        await until(lambda: told[name(1)] == 1)


async def test_one_that_is_told_does_not_hide_one_that_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    handle = Watcher._handle

    def hears(self: Watcher, event: Event, inotify: Inotify) -> None:
        if event.name is None or event.name.name != name(1):
            handle(self, event, inotify)

    monkeypatch.setattr(Watcher, "_handle", hears)
    async with deaf(tmp_path, monkeypatch, hears=True) as told:
        await looks()
        for second in range(3):
            put(tmp_path / name(second), b"x")
        await until(lambda: told[name(1)] > 0)
        await looks()
    assert told == {name(0): 1, name(1): 1, name(2): 1, "": 1}


async def test_while_the_kernel_tells_nothing_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with deaf(tmp_path, monkeypatch, hears=True) as told:
        for second in range(30):
            put(tmp_path / name(second), b"x")
            await asyncio.sleep(RENEW / 3)
        await looks()
        for second in range(30):
            (tmp_path / name(second)).unlink()
        await looks()
    assert told == {name(second): 1 for second in range(30)}


async def test_detectors_that_share_a_directory_do_not_hide_one_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By name every file of V1 comes after all of H1's; the latest are those of the latest seconds."""
    monkeypatch.setattr(watch, "REMEMBERED", 6)
    for second in range(20):
        put(tmp_path / name(second), b"x")
        put(tmp_path / name(second).replace("H", "V"), b"x")
    async with deaf(tmp_path, monkeypatch) as told:
        for second in (20, 21):
            put(tmp_path / name(second), b"x")
            await until(lambda second=second: told[name(second)] > 0)
        await looks()
    assert set(told.values()) == {1, 2}
    assert told[""] == 2


async def test_of_more_than_it_remembers_it_takes_the_latest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "REMEMBERED", 5)
    for second in range(20):
        put(tmp_path / name(second), b"x")
    async with deaf(tmp_path, monkeypatch) as told:
        put(tmp_path / name(20), b"x")
        await until(lambda: told[name(20)] > 0)
        await looks()
    assert told == {**{name(second): 1 for second in range(21)}, "": 1}
