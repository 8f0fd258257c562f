"""The outbox: what was taken on is sent as it was stored, over crashes, full disks and damaged files."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import shutil
import signal
import sqlite3
import sys
import tempfile
import textwrap
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import brokers
import pytest
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st
from test_publish import Notes, Subscriber, outgoing, running, settings, until

from gwstream.config import PublishConfig
from gwstream.demo.child import free_port
from gwstream.errors import ConfigError
from gwstream.publish import Outbox, Publisher, outbox, store
from gwstream.publish.message import compose
from gwstream.publish.rows import ACKNOWLEDGED, GIVEN_UP, WAITING, Kept
from gwstream.records import NANO, Outgoing


async def write(box: Outbox) -> None:
    """Run the outbox until all is on disk."""
    task = asyncio.create_task(box.run())
    await asyncio.wait_for(box.written(), 10)
    task.cancel()


async def send(box: Outbox, number: int) -> list[Kept]:
    """Have so many acknowledged."""
    flying = list(box.depart(number))
    for kept in flying:
        kept.attempt += 1
        kept.delivery = {"sequence": kept.sequence, "attempt": kept.attempt}
        box.acknowledged(kept)
    box.returned()
    return flying


def crash(box: Outbox) -> None:
    """What a kill leaves: nothing is written any more, and the lock is free."""
    assert box._store is not None
    os.close(box._store._lock)
    box._thread.shutdown()
    box._store = None


def names(kept: Sequence[Kept]) -> list[tuple[str, str]]:
    return [(one.outgoing.summary.kind, one.outgoing.summary.id) for one in kept]


async def test_what_was_not_acknowledged_outlives_the_process_as_it_was(tmp_path: Path) -> None:
    sent = [outgoing(0), outgoing(0, "H1", "event"), outgoing(1, "L1"), outgoing(1, "L1", "network"), outgoing(2)]
    sent[3] = replace(sent[3], load="fewer draws")
    async with Outbox(PublishConfig(), tmp_path) as box:
        for one in sent:
            assert await box.put(one)
        assert box.first is None  # nothing is sent before it is written
        await write(box)
        assert [kept.outgoing for kept in await send(box, 2)] == sent[:2]
    async with Outbox(PublishConfig(), tmp_path) as box:
        left = box.left()
        assert [kept.outgoing.summary for kept in left] == [one.summary for one in sent[2:]]
        assert [kept.outgoing.marks for kept in left] == [one.marks for one in sent[2:]]  # times count on
        assert [kept.outgoing.arrived for kept in left] == [one.arrived for one in sent[2:]]
        assert [kept.outgoing.load for kept in left] == ["", "fewer draws", ""]
        assert [kept.sequence for kept in left] == [0, 0, 2]
        assert {kept.attempt for kept in left} == {1}  # it may have been sent before
        assert await box.put(outgoing(3))
        assert box.left()[-1].sequence == 3


async def test_more_than_the_queue_holds_before_the_first_write_keeps_nothing_back(tmp_path: Path) -> None:
    notes = Notes()
    async with Outbox(PublishConfig(queue=3), tmp_path, tally=notes.tally) as box:
        for k in range(5):
            await box.put(outgoing(k))
        await write(box)
        assert [kept.outgoing.summary.id for kept in box.left()] == [outgoing(k).summary.id for k in (2, 3, 4)]
        assert box.first is not None  # they may be sent
        assert notes.counts["publish", "not_durable", "H1"] == 2
        assert notes.counts["publish", "outbox_full", "H1"] == 2


async def test_a_known_id_is_never_stored_or_sent_again(tmp_path: Path) -> None:
    notes = Notes()
    async with Outbox(PublishConfig(), tmp_path, tally=notes.tally) as box:
        await box.put(outgoing(0))
        await box.put(outgoing(1))
        await write(box)
        await send(box, 1)
    async with Outbox(PublishConfig(), tmp_path, tally=notes.tally) as box:
        assert not await box.put(outgoing(0))  # acknowledged
        assert not await box.put(outgoing(1))  # waits
        assert notes.counts == {("publish", "repeated", "H1"): 2}
        other = outgoing(1)
        object.__setattr__(other.summary, "sha256", "0" * 64)
        assert not await box.put(other)
        assert notes.counts["publish", "other_bytes", "H1"] == 1
        assert [kept.outgoing.summary.sha256 for kept in box.left()] == [outgoing(1).summary.sha256]


async def test_a_network_event_may_be_withdrawn_and_stand_again(tmp_path: Path) -> None:
    stands, gone = outgoing(0, "H1", "network"), outgoing(0, "H1", "network")
    object.__setattr__(gone.summary, "event", {**(gone.summary.event or {}), "state": "withdrawn"})
    async with Outbox(PublishConfig(), tmp_path) as box:
        assert [await box.put(one) for one in (stands, stands, gone, gone, stands)] == [True, False, True, False, True]
        await write(box)
    async with Outbox(PublishConfig(), tmp_path) as box:
        assert not await box.put(stands)
        assert await box.put(gone)


@pytest.mark.parametrize("kind", ["event", "network"])
async def test_an_event_is_told_again_where_a_lesser_one_was_told_since(tmp_path: Path, kind: str) -> None:
    """As by a daemon that is started again and judges the windows of one signal in another order."""
    lesser, better = outgoing(0, "H1", kind), outgoing(1, "H1", kind)
    replaces = {**(better.summary.event or {}), "supersedes": [lesser.summary.id]}
    anew = replace(better, summary=replace(better.summary, event=replaces))
    async with Outbox(PublishConfig(), tmp_path) as box:
        assert [await box.put(one) for one in (better, better)] == [True, False]
        await write(box)
    notes = Notes()
    async with Outbox(PublishConfig(), tmp_path, tally=notes.tally) as box:
        assert not await box.put(anew)  # nothing was told since
        assert [await box.put(one) for one in (lesser, anew, anew, lesser)] == [True, True, False, False]
        other = replace(anew, summary=replace(anew.summary, sha256="0" * 64))
        assert not await box.put(other)
        assert [kept.sequence for kept in box.left()] == [0, 1, 2]
        assert notes.counts["publish", "other_bytes", "H1" if kind == "event" else "network"] == 1


async def test_a_network_event_replaces_what_the_process_before_told_of_its_members(tmp_path: Path) -> None:
    """H1 and L1 were told together; killed; the next one sees H1 with V1 first, and all three then."""

    def event(number: int, *supersedes: str, state: str = "standing") -> Outgoing:
        out = outgoing(number, "H1", "network")
        part = {**(out.summary.event or {}), "state": state, "supersedes": list(supersedes)}
        return replace(out, summary=replace(out.summary, event=part))

    first, other = event(0, "E-H1", "E-L1"), event(9, "E-K1", "E-G1")
    async with Outbox(PublishConfig(), tmp_path) as box:
        assert [await box.put(one) for one in (other, first)] == [True, True]
        await write(box)
    two, three = event(1, "E-H1", "E-V1"), event(2, event(1).summary.id, "E-H1", "E-L1", "E-V1")
    async with Outbox(PublishConfig(), tmp_path) as box:
        assert [await box.put(one) for one in (two, three, first, three)] == [True, True, False, False]
        told = [(kept.outgoing.summary.event or {})["supersedes"] for kept in box.left()]
        assert told[2:] == [[first.summary.id, "E-H1", "E-V1"], [two.summary.id, "E-H1", "E-L1", "E-V1"]]


STEPS = st.one_of(
    st.tuples(st.just("put"), st.integers(0, 30), st.sampled_from(["H1", "L1"])),
    st.tuples(st.just("write"), st.just(0), st.just("")),
    st.tuples(st.just("send"), st.integers(1, 5), st.just("")),
    st.tuples(st.just("drop"), st.just(0), st.just("")),
    st.tuples(st.just("crash"), st.just(0), st.just("")),
    st.tuples(st.just("leave"), st.just(0), st.just("")),
)


@effort(max_examples=60, deadline=None)
@given(st.lists(STEPS, max_size=40))
def test_any_course_of_events_keeps_the_promises(steps: list[tuple[str, int, str]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(course(steps, Path(folder)))


async def course(steps: list[tuple[str, int, str]], folder: Path) -> None:
    """Nothing that was on disk is lost, sent in other bytes, out of order, or under a used sequence number."""
    stored: dict[tuple[str, str], str] = {}  # id -> digest, in order
    settled: dict[tuple[str, str], bool] = {}  # whether the disk knows
    used: dict[tuple[str, int], str] = {}
    box = await Outbox(PublishConfig(), folder).__aenter__()

    def restarted() -> None:
        for key in [key for key, sure in settled.items() if not sure]:
            del settled[key]
        assert names(box.left()) == [key for key in stored if key not in settled]

    for step, number, detector in steps:
        if step == "put":
            one = outgoing(number, detector)
            before = box.depth
            taken = await box.put(one)
            key = (one.summary.kind, one.summary.id)
            assert not (taken and key in stored)
            assert box.depth == before + taken
        elif step == "write":
            await write(box)
            stored |= {key: kept.outgoing.summary.sha256 for kept in box.left() for key in names([kept])}
            settled = dict.fromkeys(settled, True)
        elif step == "send":
            settled |= dict.fromkeys(names(await send(box, number)), False)
        elif step == "drop" and box.first is not None:
            settled[names([box.first])[0]] = False
            box.drop(box.first, "outbox_full", "")
        elif step == "crash":
            crash(box)
            box = await Outbox(PublishConfig(), folder).__aenter__()
            restarted()
        elif step == "leave":
            stored |= {key: kept.outgoing.summary.sha256 for kept in box.left() for key in names([kept])}
            settled = dict.fromkeys(settled, True)
            await box.__aexit__()
            box = await Outbox(PublishConfig(), folder).__aenter__()
            restarted()
        for kept in box.left():
            summary = kept.outgoing.summary
            assert stored.get((summary.kind, summary.id), summary.sha256) == summary.sha256
            if kept.stored:
                assert used.setdefault((summary.detector, kept.sequence), summary.id) == summary.id
        assert [kept.n for kept in box.left()] == sorted(kept.n for kept in box.left())
    await box.__aexit__()


async def test_what_has_waited_too_long_goes_first_and_is_counted(tmp_path: Path) -> None:
    notes = Notes()
    now = 10**12
    config = PublishConfig(retention=60)
    async with Outbox(config, tmp_path, tally=notes.tally, monotonic_ns=lambda: now) as box:
        await box.put(outgoing(0))
        await write(box)
        now += 40 * NANO
        await box.put(outgoing(1))
        await write(box)
        now += 40 * NANO
        assert [kept.sequence for kept in await send(box, 5)] == [1]
        assert notes.counts == {("publish", "outbox_age", "H1"): 1}
        assert box.dropped == 1
        await write(box)
    rows = list(store.read(tmp_path, 0, 2**62))
    assert [row.state for row in rows] == [GIVEN_UP, ACKNOWLEDGED]  # it can still be had from the archive


async def test_age_does_not_jump_with_the_wall_clock(tmp_path: Path) -> None:
    wall = 10**18
    async with Outbox(PublishConfig(), tmp_path, now_ns=lambda: wall) as box:
        await box.put(outgoing(0))
        await write(box)
    async with Outbox(PublishConfig(), tmp_path, now_ns=lambda: wall + 10**16) as box:
        assert len(box.depart(1)) == 1


async def test_the_archive_is_bounded_by_age_and_size_and_spares_what_waits(tmp_path: Path) -> None:
    now = 10**12
    config = PublishConfig(archive_days=1, archive_mb=0.1, retention=10**6, expiry=10**6)
    notes = Notes()
    async with Outbox(config, tmp_path, tally=notes.tally, monotonic_ns=lambda: now) as box:
        for number in range(60):
            await box.put(outgoing(number))
            await write(box)
            await send(box, 1 if number < 57 else 0)
        await write(box)
        rows = list(store.read(tmp_path, 0, 2**62))
        assert 3 < len(rows) < 40
        assert sum(len(row.outgoing.summary.posterior) for row in rows) < 100_000
        assert [row.state for row in rows[-3:]] == [WAITING] * 3
        assert notes.counts == {("publish", "archive_size", ""): 60 - len(rows)}
        now += 2 * 86400 * NANO
        await box.put(outgoing(99))
        await write(box)
        await write(box)
        states = Counter(row.state for row in store.read(tmp_path, 0, 2**62))
        assert states == {WAITING: 4}
        assert notes.counts["publish", "archive_age", ""] == len(rows) - 3


async def test_of_a_full_outbox_unweighted_posteriors_go_first(tmp_path: Path) -> None:
    notes = Notes()
    kinds = ("posterior", "unweighted", "event", "unweighted", "posterior", "unweighted")
    async with Outbox(PublishConfig(queue=4), tmp_path, tally=notes.tally) as box:
        for number, kind in enumerate(kinds):
            await box.put(outgoing(number, "H1", kind))
            await write(box)
        assert [one.outgoing.summary.kind for one in box.left()] == ["posterior", "event", "posterior", "unweighted"]
        assert notes.counts == {("publish", "outbox_unweighted", "H1"): 2}
        for number in (10, 11):
            await box.put(outgoing(number))
            await write(box)
        assert [one.sequence for one in box.left()] == [2, 4, 6, 7]
        await write(box)
        assert notes.counts == {("publish", "outbox_unweighted", "H1"): 3, ("publish", "outbox_full", "H1"): 1}
    assert Counter(row.state for row in store.read(tmp_path, 0, 2**62)) == {WAITING: 4, GIVEN_UP: 4}


async def test_of_a_full_archive_unweighted_posteriors_go_first(tmp_path: Path) -> None:
    notes = Notes()
    async with Outbox(PublishConfig(archive_mb=0.15), tmp_path, tally=notes.tally) as box:
        for number in range(40):
            await box.put(outgoing(number, "H1", "unweighted" if number % 4 else "posterior"))
            await write(box)
            await send(box, 1)
        await write(box)
    kept = Counter(row.outgoing.summary.kind for row in store.read(tmp_path, 0, 2**62))
    assert kept["posterior"] == 10  # all of them
    assert 0 < kept["unweighted"] < 20
    assert notes.counts == {("publish", "archive_size", ""): 30 - kept["unweighted"]}


async def test_two_daemons_do_not_share_a_directory(tmp_path: Path) -> None:
    async with Outbox(PublishConfig(), tmp_path):
        with pytest.raises(ConfigError, match=r"another daemon keeps its state there: .* publish\.instance"):
            await Outbox(PublishConfig(), tmp_path).__aenter__()
    async with Outbox(PublishConfig(), tmp_path) as box:
        assert box.durable


@pytest.mark.parametrize("damage", ["garbage", "cut", "version"])
async def test_a_damaged_file_is_set_aside(tmp_path: Path, damage: str) -> None:
    async with Outbox(PublishConfig(), tmp_path) as box:
        for number in range(9):
            await box.put(outgoing(number))
        await write(box)
    file = tmp_path / store.NAME
    content = file.read_bytes()
    if damage == "garbage":
        file.write_bytes(b"x" * len(content))
    elif damage == "cut":
        file.write_bytes(content[: len(content) // 2])
    else:
        with sqlite3.connect(file) as db:
            db.execute("PRAGMA user_version = 99")
    notes = Notes()
    async with Outbox(PublishConfig(), tmp_path, tally=notes.tally) as box:
        assert box.durable
        assert box.depth == 0
        await box.put(outgoing(20))
        await write(box)
    assert notes.counts == {("publish", "set_aside", ""): 1}
    assert (tmp_path / "outbox.damaged").exists()


async def aged(folder: Path) -> list[Kept]:
    """An outbox of forty messages of two detectors, of which the first eight were acknowledged; those that wait."""
    async with Outbox(PublishConfig(), folder) as box:
        for number in range(20):
            await box.put(outgoing(number))
            await box.put(outgoing(number, "L1"))
        await send(box, 8)
        await write(box)
        return box.left()


async def goes_on(folder: Path) -> tuple[list[Kept], Notes]:
    """A daemon with that outbox sends what is in it, takes up no message anew, and is durable at the end."""
    notes = Notes()
    async with Outbox(PublishConfig(), folder, tally=notes.tally) as box:
        task = asyncio.create_task(box.run())
        found = box.left()
        for number in range(20):
            assert not await box.put(outgoing(number))
        await box.put(outgoing(20))
        await box.put(outgoing(20, "L1"))
        await until(lambda: box.durable and not box._unwritten)
        while box.first is not None:
            await send(box, 8)
        await until(lambda: box.durable and not box._settled)
        task.cancel()
    return found, notes


@pytest.mark.parametrize("column", ["journey", "kind", "detector", "event", "id"])
async def test_a_bit_that_flipped_costs_one_message_at_most(tmp_path: Path, column: str) -> None:
    """The text of one that waits is none any more: SQLite notices nothing, and gives it."""
    waited = await aged(tmp_path)
    with sqlite3.connect(tmp_path / store.NAME) as db:
        db.execute(f"UPDATE message SET {column} = CAST(x'7bff' AS TEXT) WHERE n = ?", (waited[0].n,))
    notes = Notes()
    async with Outbox(PublishConfig(), tmp_path, tally=notes.tally) as box:
        assert box.durable
        assert names(box.left()) == names(waited[1:])
        assert [kept.sequence for kept in box.left()] == [kept.sequence for kept in waited[1:]]
        assert await box.put(outgoing(20))
        assert box.left()[-1].sequence == 20
        await write(box)
    assert notes.counts == {("publish", "set_aside", ""): 1}
    rows = [row for row in store.read(tmp_path, 0, 2**62) if row.state == WAITING]
    assert [row.outgoing.summary.id for row in rows] == [
        *(kept.outgoing.summary.id for kept in waited[1:]),
        outgoing(20).summary.id,
    ]
    assert [row.outgoing.summary.posterior for row in rows[:-1]] == [k.outgoing.summary.posterior for k in waited[1:]]


async def test_damage_that_is_found_while_writing_is_mended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page that no start looks at: the file is set aside then, and what memory knows is written to a new one."""
    monkeypatch.setattr(outbox, "RETRY", 0.05)
    waited = await aged(tmp_path)
    file = tmp_path / store.NAME
    with sqlite3.connect(file) as db:
        (page,) = db.execute("SELECT rootpage FROM sqlite_master WHERE name = 'told'").fetchone()
        (size,) = db.execute("PRAGMA page_size").fetchone()
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with file.open("r+b") as opened:
        opened.seek((page - 1) * size)
        opened.write(bytes(size))
    found, notes = await goes_on(tmp_path)
    assert names(found) == names(waited)
    assert notes.counts["publish", "set_aside", ""] == 1
    assert "other_bytes" not in {reason for _, reason, _ in notes.counts}
    rows = list(store.read(tmp_path, 0, 2**62))
    assert {row.state for row in rows} == {ACKNOWLEDGED}
    assert {k.outgoing.summary.id for k in waited} < {row.outgoing.summary.id for row in rows}
    async with Outbox(PublishConfig(), tmp_path) as box:  # numbers go on in the new file, too
        await box.put(outgoing(21))
        await box.put(outgoing(21, "L1"))
        assert [kept.sequence for kept in box.left()] == [21, 21]


async def test_a_damaged_body_is_not_sent(tmp_path: Path) -> None:
    """Its digest tells, where a file that is damaged is read as far as that goes."""
    waited = await aged(tmp_path)
    with sqlite3.connect(tmp_path / store.NAME) as db:
        db.execute("UPDATE message SET part = CAST('{}' AS BLOB) WHERE n = ?", (waited[3].n,))
        db.execute("UPDATE message SET journey = 'no' WHERE n = ?", (waited[5].n,))
    async with Outbox(PublishConfig(), tmp_path) as box:
        assert names(box.left()) == names([*waited[:3], waited[4], *waited[6:]])


async def test_what_the_disk_will_never_hold_is_not_remembered_for_it(tmp_path: Path) -> None:
    """Disk and broker away, and unweighted posteriors given up first: what is to be written then stays bounded."""
    (tmp_path / "state").write_text("in the way")
    async with Outbox(PublishConfig(queue=4), tmp_path / "state") as box:
        for number in range(60):
            await box.put(outgoing(number, kind="posterior" if number % 3 else "unweighted"))
        assert box.depth == 4
        assert len(box._unwritten) == 4
        assert len(box._settled) <= 4


@contextmanager
def full_disk(limit: int) -> Iterator[None]:
    """No file of this process grows beyond ``limit`` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


async def test_with_a_full_disk_it_goes_on_in_memory_and_writes_when_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "RETRY", 0.05)
    notes = Notes()
    async with brokers.mosquitto(tmp_path) as broker, Subscriber(broker.port) as subscriber:
        config = settings(broker.port)
        async with Outbox(config, tmp_path / "state", tally=notes.tally) as box:
            publisher = Publisher(config, outbox=box, observers=[notes])
            async with running(publisher):
                await publisher.put(outgoing(0))
                await until(lambda: len(subscriber.of("/posterior")) == 1)
                with full_disk(20_000):
                    for number in range(1, 9):
                        await publisher.put(outgoing(number))
                    await until(lambda: len(subscriber.of("/posterior")) == 9)
                    await until(lambda: not json.loads(subscriber.of("status")[-1].payload)["durable"])
                    assert json.loads(subscriber.of("status")[-1].payload)["trouble"]
                await until(lambda: box.durable)
                await until(lambda: json.loads(subscriber.of("status")[-1].payload)["durable"])
                await publisher.put(outgoing(9))
                await publisher.drain(5)
    assert notes.counts == {("publish", "not_durable", "H1"): 8}
    rows = list(store.read(tmp_path / "state", 0, 2**62))
    assert [row.sequence for row in rows] == list(range(10))  # all are in the archive in the end
    assert {row.state for row in rows} == {ACKNOWLEDGED}


@pytest.mark.parametrize("killed", [True, False])
async def test_a_start_on_a_full_disk_goes_on_from_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed: bool
) -> None:
    """No id comes again, no number is used twice, what waits is sent; and it is written when there is room."""
    monkeypatch.setattr(outbox, "RETRY", 0.05)
    folder = tmp_path / "state"
    before = await Outbox(PublishConfig(), folder).__aenter__()
    for number in range(4):
        await before.put(outgoing(number))
    await write(before)
    await send(before, 2)
    await write(before)
    waited = names(before.left())
    if killed:
        shutil.copytree(folder, tmp_path / "killed")
        folder = tmp_path / "killed"
    await before.__aexit__()
    notes = Notes()
    with full_disk(0):
        box = await Outbox(PublishConfig(), folder, tally=notes.tally).__aenter__()
        task = asyncio.create_task(box.run())
        assert not box.durable
        assert names(box.left()) == waited
        assert not await box.put(outgoing(1))
        await box.put(outgoing(4))
        sent = [*await send(box, 2), *await send(box, 2)]
        assert [kept.sequence for kept in sent] == [2, 3, 4]
    await until(lambda: box.durable and not box._settled)
    task.cancel()
    await box.__aexit__()
    rows = list(store.read(folder, 0, 2**62))
    assert [(row.sequence, row.state) for row in rows] == [(number, ACKNOWLEDGED) for number in range(5)]
    assert notes.counts == {("publish", "repeated", "H1"): 1, ("publish", "not_durable", "H1"): 1}


async def test_a_directory_that_cannot_be_had_is_no_reason_to_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "RETRY", 0.05)
    async with Outbox(PublishConfig(), tmp_path / "state") as box:
        await box.put(outgoing(0))
        await write(box)
    (tmp_path / "state").rename(tmp_path / "old")
    (tmp_path / "state").write_text("in the way")
    async with Outbox(PublishConfig(), tmp_path / "state") as box:
        assert not box.durable
        await box.put(outgoing(1))
        assert names(await send(box, 5)) == [("posterior", outgoing(1).summary.id)]
        await box.put(outgoing(2))
        task = asyncio.create_task(box.run())
        (tmp_path / "state").unlink()
        (tmp_path / "old").rename(tmp_path / "state")
        await until(lambda: box.durable)
        task.cancel()
        assert [kept.outgoing.summary.id for kept in box.left()] == [outgoing(n).summary.id for n in (0, 2)]
        await box.put(outgoing(3))
    rows = list(store.read(tmp_path / "state", 0, 2**62))
    assert [row.outgoing.summary.id for row in rows] == [outgoing(n).summary.id for n in range(4)]


async def test_a_disk_that_does_not_answer_holds_nothing_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "STUCK", 0.1)
    real = store.Store.write

    def slow(*args: Any) -> Counter[str]:
        time.sleep(0.5)
        return real(*args)

    monkeypatch.setattr(store.Store, "write", slow)
    async with Outbox(PublishConfig(), tmp_path) as box:
        task = asyncio.create_task(box.run())
        await box.put(outgoing(0))
        await until(lambda: box.first is not None)
        assert box.trouble == "the disk does not answer"
        await send(box, 1)
        monkeypatch.setattr(store.Store, "write", real)
        await until(lambda: box.durable)
        await box.written()
        task.cancel()
    assert [row.state for row in store.read(tmp_path, 0, 2**62)] == [ACKNOWLEDGED]


async def test_only_what_is_written_may_be_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = store.Store.write

    def slow(*args: Any) -> Counter[str]:
        written = real(*args)
        time.sleep(0.2)
        return written

    monkeypatch.setattr(store.Store, "write", slow)
    async with Outbox(PublishConfig(), tmp_path) as box:
        task = asyncio.create_task(box.run())
        await box.put(outgoing(0))
        await asyncio.sleep(0.1)
        await box.put(outgoing(1))  # while the first is being written
        await until(lambda: box.first is not None)
        assert [kept.sequence for kept in box.depart(9)] == [0]
        box.returned()
        await box.written()
        assert [kept.sequence for kept in box.depart(9)] == [0, 1]
        task.cancel()


async def test_ten_minutes_without_a_broker_are_caught_up_in_order(tmp_path: Path) -> None:
    notes = Notes()
    port = free_port()
    config = settings(port, backoff=5.0)
    async with Outbox(config, tmp_path / "state", tally=notes.tally) as box:
        publisher = Publisher(config, outbox=box, observers=[notes])
        async with running(publisher):
            for number in range(600):
                await publisher.put(outgoing(number))
                await publisher.put(outgoing(number, "H1", "event"))
            await publisher.stored()
            async with brokers.mosquitto(tmp_path, port=port) as broker:
                began = time.monotonic()
                async with Subscriber(broker.port, "gwstream/H1/#") as subscriber:
                    assert await publisher.drain(30) == 0
                    print(f"\n1200 messages in {time.monotonic() - began:.1f} s after the broker came")
                    await until(lambda: len(subscriber.messages) >= 1000)
    sequences = [one.delivery["sequence"] for one in notes.delivered_]
    assert sequences == list(range(1200))
    received = [json.loads(one.payload)["delivery"]["sequence"] for one in subscriber.messages]
    assert received == sorted(received)
    assert not notes.counts


CHILD = """
import asyncio, sys
from pathlib import Path
from gwstream.publish import Outbox, Publisher
from test_publish import outgoing, settings

async def main(port, folder, count):
    config = settings(port, backoff=0.3)
    async with Outbox(config, Path(folder)) as box:
        publisher = Publisher(config, outbox=box)
        task = asyncio.create_task(publisher.run())
        for number in range(count):          # what a restart on the same frames gives
            await publisher.put(outgoing(number))
            await asyncio.sleep(0.004)
        await publisher.drain(30)
        task.cancel()

asyncio.run(main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
"""


async def test_killed_at_any_instant_nothing_is_lost_or_told_otherwise(tmp_path: Path) -> None:
    count, state = 150, tmp_path / "state"

    async def start() -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            textwrap.dedent(CHILD),
            *(str(broker.port), str(state), str(count)),
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )

    def stored() -> int:
        return len(list(store.read(state, 0, 2**62))) if (state / store.NAME).exists() else 0

    async with brokers.mosquitto(tmp_path) as broker, Subscriber(broker.port, "gwstream/H1/#") as subscriber:
        for round_ in range(4):
            child = await start()
            await until(lambda: len(subscriber.messages) > 25 * round_ + 5, 60)  # noqa: B023
            await asyncio.sleep(0.003 * round_)
            child.kill()
            assert await child.wait() == -signal.SIGKILL
        child = await start()
        assert await asyncio.wait_for(child.wait(), 60) == 0
        await until(lambda: stored() == count)
        bodies = [json.loads(one.payload) for one in subscriber.messages]
        wanted = {outgoing(number).summary.id: outgoing(number).summary.posterior for number in range(count)}
        await until(lambda: {b["posterior"]["id"] for b in bodies} == set(wanted))
    for one, body in zip(subscriber.messages, bodies, strict=True):
        assert wanted[body["posterior"]["id"]] in one.payload
    pairs = {(body["delivery"]["sequence"], body["posterior"]["id"]) for body in bodies}
    assert sorted(number for number, _ in pairs) == list(range(count))  # each number is one id's, and none is missing


async def test_the_archive_gives_back_the_bytes_that_were_sent(tmp_path: Path) -> None:
    async with brokers.mosquitto(tmp_path) as broker, Subscriber(broker.port) as subscriber:
        config = settings(broker.port)
        async with Outbox(config, tmp_path / "state") as box:
            publisher = Publisher(config, outbox=box)
            async with running(publisher):
                for number in range(5):
                    await publisher.put(outgoing(number))
                await publisher.drain(5)
                await until(lambda: len(subscriber.of("/posterior")) == 5)
    rows = list(store.read(tmp_path / "state", 0, 2**62))
    again = [compose(row.outgoing.summary, json.loads(row.delivery or "{}")) for row in rows]
    assert again == [bytes(one.payload) for one in subscriber.of("/posterior")]
