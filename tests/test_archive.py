"""What was sent can be sent again: the same ids and bytes, beside a daemon that runs, and by a replay of its frames."""

from __future__ import annotations

import asyncio
import json
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import brokers
import numpy as np
import pytest
from safetensors import safe_open
from test_flow import DETECTORS, Received, daemon, folders, play, subscriber, wait
from test_flow import mosquitto as broker_process
from test_outbox import crash, send, write
from test_publish import Notes, Subscriber, outgoing, running, settings, until

from gwstream import cli
from gwstream.config import PublishConfig
from gwstream.demo.child import free_port
from gwstream.errors import ConfigError, PublishError
from gwstream.publish import Outbox, Publisher, archive, store
from gwstream.publish.archive import Archive
from gwstream.publish.rows import GIVEN_UP
from gwstream.records import NANO

EVER = 2**62
REPEAT = ("repeat", "true")


async def filled(folder: Path, port: int, number: int) -> None:
    """A store with so many messages that were acknowledged."""
    config = settings(port)
    async with Outbox(config, folder) as box:
        publisher = Publisher(config, outbox=box)
        async with running(publisher):
            for k in range(number):
                await publisher.put(outgoing(k, DETECTORS[k % 2]))
            assert await publisher.drain(20) == 0


async def test_all_is_sent_again_byte_for_byte(tmp_path: Path) -> None:
    async with brokers.mosquitto(tmp_path) as broker, Subscriber(broker.port, "gwstream/+/posterior") as subscriber:
        await filled(tmp_path / "state", broker.port, 20)
        await until(lambda: len(subscriber.messages) == 20)
        told: list[int] = []
        found = Archive(tmp_path / "state", 0, EVER)
        assert await archive.send(settings(broker.port), found, rate=1000, told=told.append) == 20
        assert told == [8, 16, 20]
        assert found.waiting == 0
        await until(lambda: len(subscriber.messages) == 40)
    first, second = subscriber.messages[:20], subscriber.messages[20:]
    assert [(one.topic, one.payload) for one in second] == [(one.topic, one.payload) for one in first]
    for one, again in zip(first, second, strict=True):
        assert one.properties is not None
        assert again.properties is not None
        before = one.properties.UserProperty
        assert again.properties.UserProperty == [*before, REPEAT]
        assert again.properties.MessageExpiryInterval == one.properties.MessageExpiryInterval


async def test_times_and_detectors_choose(tmp_path: Path) -> None:
    async with brokers.mosquitto(tmp_path) as broker:
        await filled(tmp_path / "state", broker.port, 20)
    times = sorted(outgoing(k, DETECTORS[k % 2]).summary.gps_ns for k in range(20))
    one = [m.summary.gps_ns for m in Archive(tmp_path / "state", times[3], times[9])]
    assert sorted(one) == times[3:9]  # from is in, to is not
    only = Archive(tmp_path / "state", 0, EVER, frozenset({"L1"}))
    assert {m.summary.detector for m in only} == {"L1"}
    assert len(list(only)) == 10


async def test_many_rows_are_read_piece_by_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "READ_AT_ONCE", 7)
    async with brokers.mosquitto(tmp_path) as broker:
        await filled(tmp_path / "state", broker.port, 20)
    rows = list(store.read(tmp_path / "state", 0, EVER))
    assert [row.n for row in rows] == list(range(1, 21))


async def test_what_waits_is_the_daemons_and_what_was_given_up_is_composed(tmp_path: Path) -> None:
    async with brokers.mosquitto(tmp_path) as broker, Subscriber(broker.port) as subscriber:
        async with Outbox(PublishConfig(), tmp_path / "state") as box:
            for k in range(3):
                await box.put(outgoing(k))
            await write(box)
            await send(box, 1)
            first = box.first
            assert first is not None
            box.drop(first, "too_many_attempts", "")
            await write(box)
            crash(box)  # as a daemon that was killed leaves it
        found = Archive(tmp_path / "state", 0, EVER)
        assert await archive.send(settings(broker.port), found, rate=1000) == 2
        assert found.waiting == 1
        await until(lambda: len(subscriber.messages) == 2)
    rows = list(store.read(tmp_path / "state", 0, EVER))
    assert [row.state for row in rows].count(GIVEN_UP) == 1  # reading changes nothing
    body = json.loads(subscriber.messages[1].payload)
    assert outgoing(1).summary.posterior in subscriber.messages[1].payload
    assert (body["delivery"]["sequence"], body["delivery"]["attempt"]) == (1, archive.AGAIN)
    assert 0 < body["delivery"]["latency"]["total"] < 60


async def test_a_daemon_that_is_connected_stays_so(tmp_path: Path) -> None:
    async with brokers.mosquitto(tmp_path) as broker, Subscriber(broker.port) as subscriber:
        notes, config = Notes(), settings(broker.port)
        async with Outbox(config, tmp_path / "state") as box:
            publisher = Publisher(config, outbox=box, observers=[notes])
            async with running(publisher):
                for k in range(30):
                    await publisher.put(outgoing(k))
                await publisher.drain(10)
                await box.written()
                sent = await archive.send(config, Archive(tmp_path / "state", 0, EVER), rate=1000)
                await publisher.put(outgoing(30))
                assert await publisher.drain(10) == 0
                await until(lambda: len(subscriber.of("/posterior")) == 61)
        assert sent == 30
        assert notes.connections == [(True, "")]  # once, and nobody has taken its place
        assert all(b"offline" not in bytes(one.payload) for one in subscriber.of("/status")[:-1])


async def test_without_broker_or_right_it_says_so(tmp_path: Path) -> None:
    async with brokers.mosquitto(tmp_path) as broker:
        await filled(tmp_path / "state", broker.port, 3)
    found = Archive(tmp_path / "state", 0, EVER)
    with pytest.raises(PublishError, match="no MQTT v5 broker"):
        await archive.send(settings(free_port()), found, rate=1000)
    async with brokers.mosquitto(tmp_path, brokers.rights(tmp_path, "read gwstream/#")) as broker:
        with pytest.raises(PublishError, match="right to write"):
            await archive.send(settings(broker.port), found, rate=1000)
    with pytest.raises(ConfigError, match="no such file"):
        list(Archive(tmp_path / "elsewhere", 0, EVER))


async def test_draws_are_kept_with_their_posteriors_within_their_own_bound(tmp_path: Path) -> None:
    sent = [outgoing(k) for k in range(6)]
    each = len(sent[0].summary.samples)
    config, notes = PublishConfig(samples_mb=4.5 * each / 1e6), Notes()
    async with Outbox(config, tmp_path, tally=notes.tally) as box:
        for one in (*sent[:3], outgoing(0, "H1", "event")):
            await box.put(one)
        await write(box)
        assert not any(kept.outgoing.summary.samples for kept in box.left())  # memory has the messages alone
        for one in sent[3:]:
            await box.put(one)
        await write(box)
        await send(box, 7)
        await write(box)
    assert notes.counts == {("publish", "samples_size", ""): 2}
    found = dict(Archive(tmp_path, 0, EVER).samples())
    assert found == {one.summary.id: one.summary.samples for one in sent[2:]}
    assert len(list(Archive(tmp_path, 0, EVER))) == 7  # the messages stay
    async with Outbox(PublishConfig(samples_mb=each / 1e6), tmp_path) as box:  # a smaller bound holds for what is there
        await box.put(outgoing(6))
        await write(box)
    assert list(dict(Archive(tmp_path, 0, EVER).samples())) == [outgoing(6).summary.id]


async def test_draws_go_when_their_message_goes(tmp_path: Path) -> None:
    now = 10**12
    async with Outbox(PublishConfig(archive_days=1), tmp_path, monotonic_ns=lambda: now) as box:
        await box.put(outgoing(0))
        await write(box)
        await send(box, 1)
        now += 2 * 86400 * NANO
        await box.put(outgoing(1))
        await write(box)
        assert box._store is not None
        assert box._store._samples == len(outgoing(1).summary.samples)
    with closing(sqlite3.connect(tmp_path / store.NAME)) as db:
        assert db.execute("SELECT body FROM samples").fetchall() == [(outgoing(1).summary.samples,)]


async def test_no_draws_where_none_are_wanted_or_the_disk_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Outbox(PublishConfig(samples_mb=0), tmp_path / "none") as box:
        await box.put(outgoing(0))
        assert box.left()[0].outgoing.summary.samples == b""
        await write(box)
    assert list(Archive(tmp_path / "none", 0, EVER).samples()) == []
    real = store.Store.write

    def refuses(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store.Store, "write", refuses)
    async with Outbox(PublishConfig(), tmp_path / "full") as box:
        task = asyncio.create_task(box.run())
        await box.put(outgoing(0))
        await until(lambda: bool(box.trouble))
        await box.put(outgoing(1))
        assert [kept.outgoing.summary.samples for kept in box._unwritten.values()] == [b"", b""]
        task.cancel()
        monkeypatch.setattr(store.Store, "write", real)


async def test_a_file_of_before_has_no_draws_and_gets_a_place_for_them(tmp_path: Path) -> None:
    async with Outbox(PublishConfig(), tmp_path) as box:
        await box.put(outgoing(0))
        await write(box)
    with closing(sqlite3.connect(tmp_path / store.NAME)) as db:
        db.execute("DROP TABLE samples")
    assert list(Archive(tmp_path, 0, EVER).samples()) == []
    async with Outbox(PublishConfig(), tmp_path) as box:
        assert box.depth == 1
        await box.put(outgoing(1))
        await write(box)
    assert [name for name, _ in Archive(tmp_path, 0, EVER).samples()] == [outgoing(1).summary.id]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "gwstream.toml"
    path.write_text('[source.detectors.H1]\ndirectory = "H1"\n[service]\nstate = ""\n')
    return path


def test_the_command_says_what_is_wrong(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["publish", str(config), "--from", "5"]) == 78
    assert "stores nothing" in capsys.readouterr().err
    assert cli.main(["publish", str(config), "--from", "5", "--state", str(config.parent)]) == 78
    assert "no such file" in capsys.readouterr().err
    assert cli.main(["publish", str(config), "--from", "5", "--to", "5", "--state", str(config.parent)]) == 78
    assert "--from is the earlier one" in capsys.readouterr().err
    for wrong in ("yesterday", "-1", "1.1234567891"):
        with pytest.raises(SystemExit):
            cli.main(["publish", str(config), f"--from={wrong}"])
        assert "GPS seconds" in capsys.readouterr().err


def gwstream(*arguments: str) -> bytes:
    done = subprocess.run([sys.executable, "-m", "gwstream", *arguments], capture_output=True, timeout=200)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def parts(payloads: list[bytes]) -> dict[str, bytes]:
    """The bytes of the part made of the strain, by id, of posteriors."""
    found = {}
    for payload in payloads:
        body = json.loads(payload)
        if body["schema"] == "gwstream.posterior/1":
            start = payload.index(b'"posterior":')
            found[body["posterior"]["id"]] = payload[start:]
            assert json.loads(b"{" + payload[start:])["posterior"] == body["posterior"]
    return found


def _quiet(got: list[Received]) -> bool:
    """Nothing but the status has come for three seconds."""

    def told() -> int:
        return sum(not one.topic.endswith("/status") for one in got)

    before = told()
    time.sleep(3)
    return told() == before


@contextmanager
def sent(root: Path) -> Iterator[tuple[list[Received], int]]:
    """All of the recording through a daemon, which then waits, and is killed; its messages and the broker's port."""
    for path in folders(root).values():
        path.mkdir()
    with (
        broker_process(root) as broker,
        subscriber(broker) as got,
        daemon(root, broker) as (process, http),
    ):
        wait(lambda: any(one.body.get("state") == "online" for one in got), 100, "the daemon")
        play(root, pause=0.1)

        def told() -> bool:
            assert process.poll() is None, (root / "log").read_text()
            with urllib.request.urlopen(f"http://127.0.0.1:{http}/metrics", timeout=30) as answer:
                lines = answer.read().decode().splitlines()
            return all(f'gwstream_strain_seconds_total{{detector="{name}"}} 32.0' in lines for name in DETECTORS)

        wait(told, 100, "all strain")
        wait(lambda: any(one.topic == "gwstream/network/event" for one in got), 100, "the network event")
        wait(partial(_quiet, got), 100, "an end")
        yield got, broker
        process.send_signal(signal.SIGKILL)


def _compare(messages: list[tuple[str, bytes]], folder: Path, said: bytes) -> None:
    """The draws of each posterior give the numbers of its message."""
    told = [json.loads(payload)["posterior"] for topic, payload in messages if topic.endswith("/posterior")]
    assert said.decode() == f"draws of {len(told)} posteriors in {folder}\n"
    assert {file.stem for file in folder.iterdir()} == {one["id"] for one in told}
    for one in told:
        with safe_open(folder / f"{one['id']}.safetensors", "numpy") as file:
            about, x, w = (
                json.loads(file.metadata()["gwstream"]),
                file.get_tensor("samples"),
                file.get_tensor("weights"),
            )
        assert (about["id"], about["detector"]) == (one["id"], one["detector"])
        assert x.shape == (one["sampling"]["draws"], len(about["parameters"]))
        assert w.sum() == pytest.approx(1, abs=1e-4)
        assert 1 / np.sum(w**2) == pytest.approx(one["sampling"]["ess"], rel=1e-3)
        for name in ("mass_1", "mass_2", "effective_distance"):
            column = x[:, about["parameters"].index(name)]
            assert np.average(column, weights=w) == pytest.approx(one["parameters"][name]["mean"], rel=1e-4)
            assert about["units"][about["parameters"].index(name)] == one["parameters"][name]["unit"]
        time = about["window_gps_ns"] / 1e9 + np.average(x[:, about["parameters"].index("coalescence_time")], weights=w)
        assert time == pytest.approx(one["coalescence"]["gps"], abs=0.01)


@pytest.mark.skipif(brokers.MOSQUITTO is None, reason="needs mosquitto")
def test_the_daemons_messages_come_again_and_a_replay_makes_the_same(tmp_path: Path) -> None:
    config = str(tmp_path / "gwstream.toml")
    ask = ("publish", config, "--from", "1126259447")
    with sent(tmp_path) as (got, broker):
        first = [(one.topic, one.payload) for one in got if not one.topic.endswith("/status")]
        assert len(first) >= 8
        text = gwstream(*ask, "--to", "1126259500").decode()
        assert text == f"{len(first)} messages sent again to 127.0.0.1:{broker}\n"
        wait(lambda: len(got) >= 2 * len(first), 60, "the repeats")
        again = [one for one in got if one.user.get("repeat") == "true"]
        assert [(one.topic, one.payload) for one in again] == first
        assert not any(one.body.get("state") == "offline" for one in got)
        assert gwstream(*ask, "--to", "1126259448") == f"0 messages sent again to 127.0.0.1:{broker}\n".encode()
    _compare(first, tmp_path / "draws", gwstream(*ask, "--samples", str(tmp_path / "draws")))  # it was killed since
    lines = gwstream(*ask, "--json").splitlines()
    assert lines == [payload for _, payload in first]
    files = [str(file) for path in folders(tmp_path).values() for file in sorted(path.iterdir())]
    replayed = parts(gwstream("replay", *files, "--json").splitlines())
    assert len(replayed) >= 5
    assert replayed == parts(lines)
