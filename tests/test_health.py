"""What hangs is said, and systemd's watchdog hears of it by silence: the record alone, then a daemon's own process."""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import jsonschema
import pytest
from brokers import mosquitto
from test_flow import Received, folders, play, subscriber
from test_service import Systemd

from gwstream.config import default_model
from gwstream.demo import child
from gwstream.health import Health
from gwstream.summary import schema

WATCHED = 3.0  # s of systemd's watchdog
LONG = 60.0  # s that a slow machine may take for anything


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_idle_is_well_and_a_piece_that_takes_long_is_not() -> None:
    clock = Clock()
    health = Health(3.0, monotonic=clock)
    clock.now += 1000
    assert health.stuck() == []
    with health.work("inference"):
        clock.now += 3
        assert health.stuck() == []
        clock.now += 1
        (found,) = health.stuck()
        assert (found.part, found.stage, found.seconds) == ("inference", "inference", 4)
        assert str(found).startswith("inference: stuck for 4 s, since GPS ")
    assert health.stuck() == []


def test_a_piece_may_have_a_limit_of_its_own_and_may_fail() -> None:
    clock = Clock()
    health = Health(3.0, monotonic=clock)

    def fails() -> None:
        with health.work("source H1", 60):
            clock.now += 59
            assert health.stuck() == []
            clock.now += 2
            assert [one.part for one in health.stuck()] == ["source H1"]
            raise OSError("so it goes")

    with pytest.raises(OSError, match="so it goes"):
        fails()
    assert health.stuck() == []


def test_each_part_is_named_once_by_its_oldest_piece() -> None:
    clock = Clock()
    health = Health(3.0, monotonic=clock)
    with health.work("publish"):
        clock.now += 10
        with health.work("inference"), health.work("publish"):
            clock.now += 5
            assert [(one.part, one.seconds) for one in health.stuck()] == [("publish", 15), ("inference", 5)]


def test_who_polls_must_go_on_until_it_ends() -> None:
    clock = Clock()
    health = Health(3.0, monotonic=clock)
    for _ in range(5):
        health.polled("source H1", 1.0)
        clock.now += 4
        assert health.stuck() == []
    clock.now += 0.1
    (found,) = health.stuck()
    assert (found.part, found.stage) == ("source H1", "source")
    health.ended("source H1")
    assert health.stuck() == []


def test_listeners_hear_at_each_look() -> None:
    clock, heard = Clock(), list[list[str]]()
    health = Health(3.0, monotonic=clock)
    health.listen(lambda stuck: heard.append([one.part for one in stuck]))
    assert health.look() == []
    with health.work("conditioning"):
        clock.now += 4
        health.look()
    assert heard == [[], ["conditioning"]]


def test_threads_may_use_it_at_once() -> None:
    health, stop = Health(-1.0), threading.Event()  # a piece is late as soon as it begins

    def works(part: str) -> None:
        while not stop.is_set():
            with health.work(part):
                pass

    threads = [threading.Thread(target=works, args=(f"source {k}",)) for k in range(4)]
    for thread in threads:
        thread.start()
    seen = {one.part for _ in range(5000) for one in health.stuck()}
    stop.set()
    for thread in threads:
        thread.join()
    assert seen <= {f"source {k}" for k in range(4)}
    assert health.stuck() == []


@dataclass
class Watched:
    """A daemon whose parts hang while there is a file of their name, and all that is told of it."""

    root: Path
    process: asyncio.subprocess.Process
    port: int
    systemd: Systemd
    got: list[Received]

    def hang(self, part: str, yes: bool) -> None:
        if yes:
            (self.root / part).touch()
        else:
            (self.root / part).unlink()

    async def health(self, page: str = "healthz") -> tuple[int, list[str]]:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=LONG)) as session,
            session.get(f"http://127.0.0.1:{self.port}/{page}") as answer,
        ):
            return answer.status, (await answer.json())["reasons"]

    async def stage(self, stage: str) -> float:
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://127.0.0.1:{self.port}/metrics") as answer,
        ):
            lines = (await answer.text()).splitlines()
        (value,) = [line.split()[1] for line in lines if line.startswith(f'gwstream_stage_stuck{{stage="{stage}"}}')]
        return float(value)

    async def until_status(self, status: int) -> list[str]:
        async with asyncio.timeout(LONG):
            while (found := await self.health())[0] != status:
                await asyncio.sleep(0.1)
        return found[1]

    async def pings(self) -> int:
        """Those of twice the watchdog's limit, after what was on its way."""
        for seconds in (0.5, 2 * WATCHED):
            self.systemd.heard.clear()
            with pytest.raises(TimeoutError):
                await self.systemd.until("nothing like it", seconds)
        return self.systemd.heard.count("WATCHDOG=1")

    async def told(self, right: Callable[[list[str]], bool]) -> None:
        """Until the status on the broker names the right parts."""
        async with asyncio.timeout(LONG):
            while not (last := [one.body for one in self.got if "stuck" in one.body][-1:]) or not right(
                [one["part"] for one in last[0]["stuck"]]
            ):
                await asyncio.sleep(0.1)
        jsonschema.Draft202012Validator(schema()).validate(last[0])

    def log(self) -> str:
        return (self.root / "log").read_text()


@asynccontextmanager
async def watched(root: Path, patch: pytest.MonkeyPatch) -> AsyncIterator[Watched]:
    for path in folders(root).values():
        path.mkdir()
    port, systemd = child.free_port(), Systemd(str(root / "notify"))
    for name, value in {
        "HANG": str(root),
        "NOTIFY_SOCKET": systemd.address,
        "WATCHDOG_USEC": str(round(WATCHED * 1e6)),
        "PYTHONFAULTHANDLER": "1",
    }.items():
        patch.setenv(name, value)
    async with mosquitto(root) as broker:
        config = root / "gwstream.toml"
        settings = child.Settings(
            directories=folders(root),
            model=default_model(),
            broker_port=broker.port,
            http_port=port,
            more="stuck = 2\n",
        )
        config.write_text(settings.toml())
        program = (sys.executable, str(Path(__file__).with_name("hanging.py")))
        with closing(systemd), subscriber(broker.port) as got:
            async with child.daemon(config, root / "log", port, program) as process:
                await systemd.until("READY=1", LONG)
                yield Watched(root, process, port, systemd, got)


async def test_an_engine_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with watched(tmp_path, monkeypatch) as it:
        await asyncio.to_thread(play, tmp_path, 0.1, slice(0, 16))
        assert await it.pings() > 0
        assert await it.health() == (200, [])
        it.hang("engine", True)
        await asyncio.to_thread(play, tmp_path, 0.1, slice(16, 20))
        (reason,) = await it.until_status(503)
        assert reason.startswith("inference: stuck for ")
        assert await it.pings() == 0
        assert any(line.startswith("STATUS=inference: stuck for ") for line in it.systemd.heard)
        assert (await it.health("readyz"))[1][0].startswith("inference: stuck for ")
        assert await it.stage("inference") == 1
        assert await it.stage("conditioning") == 0
        await it.told(lambda parts: parts == ["inference"])
        it.hang("engine", False)  # it comes back after all
        await it.until_status(200)
        await it.told(lambda parts: parts == [])
        assert await it.pings() > 0
        assert await it.stage("inference") == 0
        it.hang("engine", True)
        await asyncio.to_thread(play, tmp_path, 0.1, slice(20, 24))
        await it.until_status(503)
        it.process.send_signal(signal.SIGABRT)  # as systemd's watchdog does
        assert await it.process.wait() == -signal.SIGABRT
    log = it.log()
    assert "systemd restarts us if that lasts 3 s more" in log
    assert "inference: goes on" in log
    assert "in hang" in log  # where: Python's fault handler has written the stacks


async def test_a_source_that_is_silent_is_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with watched(tmp_path, monkeypatch) as it:
        assert await it.pings() > 0  # no frame in all that time
        assert await it.health() == (200, [])
        folders(tmp_path)["H1"].rmdir()  # nor is it deaf without its directory
        assert await it.pings() > 0
        assert await it.health() == (200, [])
        assert "stuck" not in it.log()


async def test_a_source_that_looks_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with watched(tmp_path, monkeypatch) as it:
        assert await it.pings() > 0
        it.hang("source", True)
        async with asyncio.timeout(LONG):
            while len(found := (await it.health())[1]) < 2:
                await asyncio.sleep(0.1)
        assert sorted(reason.split(": stuck")[0] for reason in found) == ["source H1", "source L1"]
        assert await it.pings() == 0
        assert await it.stage("source") == 1
        it.hang("source", False)
        await it.until_status(200)
        assert await it.pings() > 0


async def test_a_loop_that_is_blocked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with watched(tmp_path, monkeypatch) as it:
        assert await it.pings() > 0
        it.hang("loop", True)
        assert await it.pings() == 0
        assert it.process.returncode is None
        it.hang("loop", False)
        await it.until_status(200)
        assert await it.pings() > 0
        assert "stuck" not in it.log()  # what polls was late with the loop: that is no news
