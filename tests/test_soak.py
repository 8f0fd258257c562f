"""The soak: a minute of it, interrupted once, and whether its judge sees what it is there to see."""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from gwstream.config import PublishConfig
from gwstream.publish import Outbox
from gwstream.records import NANO, Outgoing, Summary

FOLDER = Path(__file__).resolve().parent.parent / "benchmarks"
SEED = 463  # whose two minutes have a fault of nearly every kind
SHORT = ("--hours", "0.1", "--episode", "60", "--busy", "12", "--signals", "8", "--seed", str(SEED))
WORST = ("daemon killed", "broker killed", "broker restarted, its state lost", "disk full")
LONG = 240.0  # s that a busy machine may take for a minute of it


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> dict[str, ModuleType]:
    monkeypatch.syspath_prepend(str(FOLDER))
    return {name: importlib.import_module(f"soak_{name}") for name in ("plan", "judge", "world", "strain", "report")}


def start(folder: Path, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(FOLDER / "soak.py"), *SHORT, "--into", str(folder), *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.mark.timeout(2 * LONG)
def test_a_minute_of_it_interrupted_once(tmp_path: Path) -> None:
    first, end = start(tmp_path), time.monotonic() + LONG
    while not (tmp_path / "episodes" / "0000.json").exists():
        assert first.poll() is None, first.communicate()[0]
        assert time.monotonic() < end
        time.sleep(0.1)
    first.send_signal(signal.SIGTERM)
    said, _ = first.communicate(timeout=60)
    assert first.returncode == 1
    assert "the same command goes on" in said
    second = start(tmp_path)
    said, _ = second.communicate(timeout=LONG)
    assert second.returncode == 0, said
    assert "episode 0:" not in said
    assert "| never acknowledged | 0 |" in said
    rows = dict(line.strip("| ").split(" | ") for line in said.splitlines() if line.count("|") == 3)
    assert int(rows["posteriors expected"]) > 30
    assert int(rows["messages received"]) >= int(rows["posteriors expected"])
    skipped = {name.rsplit(": ", 1)[1] for name in rows if name.startswith("skipped")}
    assert skipped <= {"disk full"}  # where nothing may be mounted
    happened = {name.removeprefix("fault: ") for name in rows if name.startswith("fault: ")}
    assert happened >= {*WORST} - skipped
    assert len(happened | skipped) == 17
    assert rows["of these `kill -9` of the daemon"] == "1"
    assert rows["of these broker outages"] == "2"
    assert (tmp_path / "report.png").stat().st_size > 1000
    other = start(tmp_path, "--seed", "2")
    said, _ = other.communicate(timeout=60)
    assert other.returncode == 1
    assert "a soak with other options" in said


def test_the_whole_of_it_has_the_faults_that_are_asked_for(modules: dict[str, ModuleType]) -> None:
    plan = modules["plan"]
    episodes = [plan.Episode(seed=1, index=index, count=72, length=1200) for index in range(72)]
    faults = Counter(fault.kind for one in episodes for fault in one.faults)
    assert faults.total() >= 1000
    assert faults["daemon killed"] >= 30
    assert sum(faults[kind] for kind in plan.BROKER) >= 100
    assert set(faults) == {*plan.FRAME, *plan.BROKER, *plan.DAEMON, plan.DISK}
    assert episodes[40].faults == plan.Episode(seed=1, index=40, count=72, length=1200).faults
    for one in episodes:
        assert all(one.start < fault.second <= fault.second + fault.length < one.end for fault in one.faults)
        disk = [fault for fault in one.faults if fault.kind == plan.DISK]
        assert not disk or not any(fault.kind in plan.DAEMON for fault in one.faults)  # that may repeat a sequence


async def archived(folder: Path, ids: list[str], modules: dict[str, ModuleType]) -> tuple[Any, dict[str, str]]:
    """A short episode, and an archive in which ``ids`` of it are acknowledged."""
    episode = modules["plan"].Episode(seed=1, index=0, count=1, length=60, busy=0.0)
    digests = {}
    async with Outbox(PublishConfig(), folder) as outbox:
        run = asyncio.create_task(outbox.run())
        for name in ids:
            part = f'{{"id":"{name}"}}'.encode()
            digests[name] = hashlib.sha256(part).hexdigest()
            summary = Summary(
                kind="posterior",
                detector="H1",
                id=name,
                gps_ns=(episode.start + 30) * NANO,
                posterior=part,
                sha256=digests[name],
            )
            await outbox.put(Outgoing(summary=summary, arrived=0, marks=(), data_end_ns=0))
        await outbox.written()
        for kept in outbox.depart(len(ids)):
            kept.delivery = {"sent_gps": 1000.0}
            outbox.acknowledged(kept)
        outbox.returned()
        await outbox.written()
        run.cancel()
    return episode, digests


def told(world: ModuleType, digests: dict[str, str]) -> Any:
    found = world.Told()
    for number, (name, digest) in enumerate(digests.items()):
        found.digests["posterior", name] = {digest}
        found.count["posterior", name] = 1
        found.sequences.setdefault("H1", {})[number] = {name}
    return found


async def test_the_judge_sees_what_is_wrong(tmp_path: Path, modules: dict[str, ModuleType]) -> None:
    episode, right = await archived(tmp_path, ["a", "b", "c"], modules)

    def wrong(expected: dict[str, str], received: Any, counted: Counter[Any] | None = None) -> dict[str, list[str]]:
        judge = modules["judge"].Judge(tmp_path)
        verdict = judge.of(episode, False, (expected, {}), received, counted or Counter())
        return {name: found for name, found in verdict["wrong"].items() if found}

    world = modules["world"]
    assert wrong(right, told(world, right)) == {}
    assert wrong({**right, "d": "0"}, told(world, right)) == {"never acknowledged": ["d"]}
    part = {name: right[name] for name in "ab"}
    assert wrong(part, told(world, part)) == {
        "not expected": ["c"],
        "stored with other bytes": ["c"],
        "acknowledged, but not received": ["c"],
    }
    for ended, heard, right_so in (
        (1001.0, 1003.0, True),
        (990.0, 1000.5, True),
        (990.0, 999.0, False),
        (1003.0, 0, False),
    ):
        deaf = told(world, part)
        deaf.forgot, deaf.heard = [ended], [980.0, heard, 2000.0]
        assert wrong(right, deaf) == ({} if right_so else {"acknowledged, but not received": ["c"]})
    assert wrong(right, told(world, {**right, "a": "0"})) == {"received with other bytes": ["posterior a"]}
    again = told(world, right)
    again.count["posterior", "a"] = 2
    assert wrong(right, again) == {}
    again.digests["posterior", "a"].add("0")
    assert wrong(right, again) == {"received with other bytes": ["posterior a"]}
    twice = told(world, right)
    twice.sequences["H1"][0].add("other")
    assert wrong(right, twice) == {"sequence numbers used twice": ["H1 0"]}
    shed = Counter({("gwstream_dropped_total", "H1", "overload", "inference"): 2.0})
    assert wrong(right, told(world, right), shed) == {"dropped by the daemon": ["2 H1 overload inference"]}


async def test_the_judge_sees_gaps(tmp_path: Path, modules: dict[str, ModuleType]) -> None:
    plan, judge = modules["plan"], modules["judge"]
    episode, _ = await archived(tmp_path, ["a", "b"], modules)
    rows = judge.Judge(tmp_path)._rows(episode)
    assert judge.Judge(tmp_path)._gaps(rows) == []
    assert judge.Judge(tmp_path)._gaps(rows[1:]) == ["H1 0"]
    harmed = plan.Episode(seed=1, index=0, count=1, length=600, busy=5.0)
    assert harmed.predicted
    assert len(judge._uncounted(harmed, Counter())) == len(harmed.predicted)
    counted = Counter(
        {
            ("gwstream_dropped_total", detector, reason, "source"): float(number)
            for (detector, reason), number in harmed.predicted.items()
        }
    )
    assert judge._uncounted(harmed, counted) == []
    assert len(judge._ungapped(harmed, False, counted)) == len(plan.DETECTORS)
    seconds = {name: modules["strain"].gap_seconds(harmed, name) for name in plan.DETECTORS}
    assert min(seconds.values()) > 1
    for name, number in seconds.items():
        counted["gwstream_gap_seconds_total", name] = number
    assert judge._ungapped(harmed, False, counted) == []


def test_memory_that_grows_is_seen(modules: dict[str, ModuleType]) -> None:
    report, origin = modules["report"], modules["plan"].ORIGIN
    for slope, least, most in ((0.0, -0.001, 0.001), (0.05, 0.08, 0.12)):  # per hour
        samples = [
            (7, origin + second, 500.0 * (1 + slope * max(0, second - 3600) / 3600), 20)
            for second in range(0, 12000, 50)
        ]
        grown = report.growth(report.lives([{"samples": samples}], 12000))
        assert least <= grown[7] <= most
    assert report.growth(report.lives([{"samples": samples[:60]}], 12000)) == {}
