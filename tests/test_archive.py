"""What was sent can be sent again: the same ids and bytes, beside a daemon that runs, and by a replay of its frames."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import brokers
import pytest
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
    rights = tmp_path / "acl"
    rights.write_text("topic read gwstream/#\n")
    async with brokers.mosquitto(tmp_path, f"allow_anonymous true\nacl_file {rights}\nuser root\n") as broker:
        with pytest.raises(PublishError, match="right to write"):
            await archive.send(settings(broker.port), found, rate=1000)
    with pytest.raises(ConfigError, match="no such file"):
        list(Archive(tmp_path / "elsewhere", 0, EVER))


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
    lines = gwstream(*ask, "--json").splitlines()  # it was killed since
    assert lines == [payload for _, payload in first]
    files = [str(file) for path in folders(tmp_path).values() for file in sorted(path.iterdir())]
    replayed = parts(gwstream("replay", *files, "--json").splitlines())
    assert len(replayed) >= 5
    assert replayed == parts(lines)
