from __future__ import annotations

import asyncio
import gc
import hashlib
import json
import random
import signal
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiomqtt
import brokers
import fakes
import paho.mqtt.client as paho
import pytest
from jsonschema import Draft202012Validator
from paho.mqtt.enums import CallbackAPIVersion

from gwstream.config import PublishConfig, SummaryConfig
from gwstream.demo.broker import Broker
from gwstream.demo.child import free_port
from gwstream.errors import ConfigError, PublishError
from gwstream.prior import Prior
from gwstream.publish import Delivered, Outbox, Publisher, check_broker, connection
from gwstream.records import NANO, Outgoing
from gwstream.summary import Summarizer, schema

STEPS = ("source", "conditioning_queue", "conditioning", "batching", "inference_queue", "inference", "summary")


def outgoing(number: int = 0, detector: str = "H1", kind: str = "posterior") -> Outgoing:
    window = fakes.window(number, detector)
    summarizer = Summarizer(SummaryConfig(), Prior())
    if kind == "network":
        summarizer.add(fakes.posterior(fakes.window(number, "V1")))
    summaries = summarizer.add(fakes.posterior(window))
    summaries += (summarizer.unweighted(fakes.unweighted(fakes.trigger(window))),)
    summary = next(one for one in summaries if one.kind == kind)
    arrived = time.monotonic_ns() - 60_000_000
    marks = tuple((step, arrived + (k + 1) * 7_000_001) for k, step in enumerate(STEPS))
    return Outgoing(summary=summary, arrived=arrived, marks=marks, data_end_ns=window.gps_ns + NANO)


def settings(port: int, **more: Any) -> PublishConfig:
    return PublishConfig(port=port, **{"keepalive": 2, "backoff": 0.3, "timeout": 1.0, **more})


class Notes:
    """An observer and a tally that remember."""

    def __init__(self) -> None:
        self.delivered_: list[Delivered] = []
        self.connections: list[tuple[bool, str]] = []
        self.depth = 0
        self.counts: Counter[tuple[str, str, str]] = Counter()

    def delivered(self, delivered: Delivered) -> None:
        self.delivered_.append(delivered)

    def connection(self, up: bool, reason: str) -> None:
        self.connections.append((up, reason))

    def outbox(self, depth: int) -> None:
        self.depth = depth

    def tally(self, stage: str, reason: str, detector: str, count: int = 1) -> None:
        self.counts[stage, reason, detector] += count


@asynccontextmanager
async def running(publisher: Publisher) -> AsyncIterator[Publisher]:
    task = asyncio.create_task(publisher.run())
    try:
        yield publisher
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(true: Callable[[], bool], limit: float = 10.0) -> None:
    async with asyncio.timeout(limit):
        while not true():
            await asyncio.sleep(0.01)


class Subscriber:
    """Plain paho in a thread of its own: nothing of gwstream, and it comes back by itself."""

    def __init__(self, port: int, topic: str = "gwstream/#") -> None:
        self.messages: list[paho.MQTTMessage] = []
        self.subscribed = threading.Event()
        self._client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        self._client.reconnect_delay_set(0.05, 0.1)
        self._client.on_connect = lambda client, *_: client.subscribe(topic, qos=1)
        self._client.on_subscribe = lambda *_: self.subscribed.set()
        self._client.on_message = lambda _, __, message: self.messages.append(message)
        self._client.connect("127.0.0.1", port, keepalive=5)

    async def __aenter__(self) -> Subscriber:
        self._client.loop_start()
        await asyncio.to_thread(self.subscribed.wait, 5)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._client.disconnect()
        await asyncio.to_thread(self._client.loop_stop)

    def of(self, part: str) -> list[paho.MQTTMessage]:
        return [message for message in self.messages if part in message.topic]


async def test_a_plain_subscriber_gets_valid_messages_with_properties(tmp_path: Path) -> None:
    async with brokers.mosquitto(tmp_path) as broker, Subscriber(broker.port) as subscriber:
        publisher = Publisher(settings(broker.port, expiry=77, retention=77))
        hashes = {"hash": "0" * 64, "conditioning_hash": "1" * 64}
        publisher.tell(engine="torch", load="every second window", model={"name": "bbh-1det", "version": "1", **hashes})
        async with running(publisher):
            await publisher.put(outgoing(0, "H1"))
            await publisher.put(outgoing(0, "H1", "event"))
            await publisher.put(replace(outgoing(0, "L1"), load="every second window"))
            await publisher.put(outgoing(0, "L1", "network"))
            assert await publisher.drain(5) == 0
            await until(lambda: len(subscriber.messages) >= 5)
    loads = {m.topic: json.loads(m.payload).get("delivery", {}).get("load") for m in subscriber.messages}
    assert {topic: load for topic, load in loads.items() if load} == {"gwstream/L1/posterior": "every second window"}
    assert {m.topic for m in subscriber.messages} == {
        "gwstream/network/event",
        "gwstream/H1/posterior",
        "gwstream/H1/event",
        "gwstream/L1/posterior",
        "gwstream/gwstream/status",
    }
    validator = Draft202012Validator(schema())
    for message in subscriber.messages:
        body = json.loads(message.payload)
        validator.validate(body)
        assert message.qos == 1
        properties = message.properties
        assert properties is not None
        assert properties.ContentType == "application/json"
        user = dict(properties.UserProperty)
        assert user["schema"] == body["schema"]
        if "delivery" in body:
            assert properties.MessageExpiryInterval == 77
            assert (user["model"], user["model_version"]) == ("fake", "1")


async def test_the_hash_holds_for_the_very_bytes_on_the_wire() -> None:
    async with Broker() as broker, Subscriber(broker.port) as subscriber:
        publisher = Publisher(settings(broker.port))
        async with running(publisher):
            sent = outgoing()
            await publisher.put(sent)
            await until(lambda: bool(subscriber.of("/posterior")))
    payload = bytes(subscriber.of("/posterior")[0].payload)
    assert sent.summary.posterior in payload
    part = json.loads(payload)["posterior"]
    canonical = json.dumps(part, sort_keys=True, separators=(",", ":")).encode()
    assert hashlib.sha256(canonical).hexdigest() == json.loads(payload)["sha256"]


async def test_the_latency_of_the_stages_adds_up_and_clocks_are_right() -> None:
    now_gps = (fakes.GPS + 3) * NANO
    notes = Notes()
    async with Broker() as broker:
        publisher = Publisher(settings(broker.port), observers=[notes], now_ns=lambda: now_gps)
        async with running(publisher):
            sent = outgoing()
            await publisher.put(sent)
            await publisher.drain(5)
    delivery = notes.delivered_[0].delivery
    latency = dict(delivery["latency"])
    total = latency.pop("total")
    assert list(latency) == [*STEPS, "publish"]
    assert sum(latency.values()) == pytest.approx(total, abs=1e-6)
    assert latency["inference"] == pytest.approx(7.000001e-3, abs=1e-9)
    assert 0.06 <= total <= notes.delivered_[0].latency < 2
    assert delivery["since_last_sample"] == pytest.approx(2.0)
    assert delivery["since_coalescence"] == pytest.approx((now_gps - sent.summary.gps_ns) / NANO, abs=1e-6)


async def test_nothing_is_lost_when_the_broker_is_killed_in_a_flow(tmp_path: Path) -> None:
    notes = Notes()
    async with brokers.mosquitto(tmp_path) as broker, Subscriber(broker.port) as subscriber:
        publisher = Publisher(settings(broker.port), tally=notes.tally, observers=[notes])
        async with running(publisher):
            for number in range(300):
                await publisher.put(outgoing(number, "H1" if number % 2 else "L1"))
                await asyncio.sleep(0.005)
                if number in (80, 190):
                    await broker.kill()
                    await asyncio.sleep(0.1)
                if number in (110, 220):
                    await broker.start()
            assert await publisher.drain(10) == 0
            ids = {delivered.outgoing.summary.id for delivered in notes.delivered_}
            assert len(ids) == 300
            assert not notes.counts
            await until(lambda: bool(subscriber.messages))
    assert sum(up for up, _ in notes.connections) >= 3
    for detector in ("H1", "L1"):
        mine = [d.delivery for d in notes.delivered_ if d.outgoing.summary.detector == detector]
        assert sorted(d["sequence"] for d in mine) == list(range(150))
    assert max(d.delivery["attempt"] for d in notes.delivered_) >= 1
    assert notes.depth == 0


async def test_a_broker_that_dies_leaves_no_riddle_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Not "Future exception was never retrieved", whichever way we learned of its end."""

    async def meet(broker: brokers.Mosquitto) -> None:
        client = connection.client(settings(broker.port), connection.Credentials(None, None))
        with suppress(aiomqtt.MqttError):
            async with client:
                await broker.kill()
                await until(client._disconnected.done)
                raise aiomqtt.MqttError("noticed otherwise")

    async with brokers.mosquitto(tmp_path) as broker:
        await meet(broker)
        gc.collect()
    assert "never retrieved" not in caplog.text


async def test_a_socket_that_is_closed_before_the_loop_writes_leaves_none_either(
    caplog: pytest.LogCaptureFixture,
) -> None:
    client = connection.client(settings(free_port()), connection.Credentials(None, None))
    for closed in (True, False):
        with socket.socket() as sock:
            client._on_socket_register_write(client._client, None, sock)
            if not closed:
                await asyncio.sleep(0.05)
                assert asyncio.get_running_loop().remove_writer(sock.fileno())
        await asyncio.sleep(0.05)
    assert not caplog.text


async def test_a_dead_broker_is_noticed_without_sending(tmp_path: Path) -> None:
    notes = Notes()
    async with brokers.mosquitto(tmp_path) as broker, running(Publisher(settings(broker.port), observers=[notes])):
        await until(lambda: bool(notes.connections))
        await broker.kill()
        await until(lambda: not notes.connections[-1][0], 2)
    assert notes.connections[-1][1] == f"127.0.0.1:{broker.port}: connection lost"


async def test_a_frozen_broker_is_noticed_and_what_was_in_flight_goes_again(tmp_path: Path) -> None:
    notes = Notes()
    async with brokers.mosquitto(tmp_path) as broker:
        publisher = Publisher(settings(broker.port), observers=[notes])
        async with running(publisher):
            await publisher.put(outgoing(20))
            await until(lambda: len(notes.delivered_) == 1)
            assert broker.process is not None
            broker.process.send_signal(signal.SIGSTOP)
            for number in range(20):
                await publisher.put(outgoing(number))
            await until(lambda: not notes.connections[-1][0], 20)
            assert publisher.depth == 20
            broker.process.send_signal(signal.SIGCONT)
            assert await publisher.drain(10) == 0
    assert [d.delivery["sequence"] for d in notes.delivered_] == list(range(21))  # what was in flight keeps its place
    assert notes.delivered_[1].delivery["attempt"] == 2


async def test_the_last_will_and_the_status_are_retained(tmp_path: Path) -> None:
    async def retained(port: int) -> dict[str, Any]:
        async with aiomqtt.Client("127.0.0.1", port, protocol=aiomqtt.ProtocolVersion.V5) as late:
            await late.subscribe("gwstream/site/status", qos=1)
            message = await asyncio.wait_for(anext(aiter(late.messages)), 5)
            assert message.retain
            return dict(json.loads(bytes(message.payload)))

    async with brokers.mosquitto(tmp_path) as broker, Subscriber(broker.port) as subscriber:
        config = settings(broker.port, instance="site")
        publisher = Publisher(config)
        publisher.tell(detectors={"H1": {"state": "waiting"}})
        async with running(publisher):
            await until(lambda: len(subscriber.of("status")) == 1)
            publisher.tell(detectors={"H1": {"state": "ready"}})
            await until(lambda: len(subscriber.of("status")) == 2)  # at once, not at the next interval
            online = await retained(broker.port)
            assert online["state"] == "online"
            assert online["detectors"] == {"H1": {"state": "ready"}}
            assert online["counts"] == {"posterior": 0, "unweighted": 0, "event": 0, "network": 0, "dropped": 0}
        stopped = await retained(broker.port)
        assert (stopped["state"], stopped["reason"]) == ("offline", "stopped")
        # A process that is cut off says nothing: the broker says it for us.
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            "import asyncio; from gwstream.publish import Publisher; from gwstream.config import PublishConfig\n"
            "async def main():\n"
            f"    await Publisher(PublishConfig(port={broker.port}, instance='site', keepalive=2)).run()\n"
            "asyncio.run(main())",
        )
        before = len(subscriber.of("status"))
        await until(lambda: len(subscriber.of("status")) > before, 20)
        child.kill()
        await child.wait()
        await until(lambda: len(subscriber.of("status")) > before + 1)
        gone = await retained(broker.port)
    assert (gone["state"], gone["reason"]) == ("offline", "connection lost")


async def test_a_second_connection_of_ours_ends_up_online(tmp_path: Path) -> None:
    """After a half-open connection the will of the old must not hide the new."""
    async with (
        brokers.mosquitto(tmp_path) as broker,
        Subscriber(broker.port) as subscriber,
        running(Publisher(settings(broker.port, backoff=60))),
    ):
        await until(lambda: len(subscriber.of("status")) == 1)
        async with running(Publisher(settings(broker.port))):
            await until(lambda: len(subscriber.of("status")) >= 3)
            states = [json.loads(m.payload)["state"] for m in subscriber.of("status")]
            assert states[:3] == ["online", "offline", "online"]


async def test_a_full_outbox_drops_the_oldest_and_counts_it() -> None:
    notes = Notes()
    port = free_port()
    publisher = Publisher(settings(port, queue=5), tally=notes.tally, observers=[notes])
    for number in range(8):
        await publisher.put(outgoing(number))
    assert publisher.depth == 5
    assert notes.counts == {("publish", "outbox_full", "H1"): 3}
    async with Broker(port), running(publisher):
        assert await publisher.drain(5) == 0
    assert [d.delivery["sequence"] for d in notes.delivered_] == [3, 4, 5, 6, 7]  # the gap shows what is missing


async def test_what_is_not_live_waits_for_room() -> None:
    port = free_port()
    notes = Notes()
    config = settings(port, queue=2)
    publisher = Publisher(config, outbox=Outbox(config, tally=notes.tally, live=False), observers=[notes])
    for number in range(2):
        await publisher.put(outgoing(number))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(publisher.put(outgoing(2)), 0.1)
    async with Broker(port), running(publisher):
        await asyncio.wait_for(publisher.put(outgoing(3)), 5)
        assert await publisher.drain(5) == 0
    assert len(notes.delivered_) == 3
    assert not notes.counts


async def test_what_is_not_drained_is_counted_and_said(caplog: pytest.LogCaptureFixture) -> None:
    notes = Notes()
    publisher = Publisher(settings(free_port()), tally=notes.tally)
    await publisher.put(outgoing())
    begin = time.monotonic()
    assert await publisher.drain(0.2) == 1
    assert time.monotonic() - begin < 1
    assert notes.counts == {("publish", "undelivered", "H1"): 1}
    assert "1 messages are lost" in caplog.text  # nobody scrapes a process that has ended


async def test_pauses_between_attempts_grow_to_the_limit_and_are_jittered(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    sleep = asyncio.sleep

    async def noted(seconds: float) -> None:
        if seconds > 0:
            pauses.append(seconds)
        await sleep(0)

    monkeypatch.setattr("gwstream.publish.asyncio.sleep", noted)
    random.seed(3)
    async with running(Publisher(settings(free_port(), backoff=1.0))):
        while len(pauses) < 12:
            await sleep(0.01)
    assert pauses[0] <= 0.1
    assert all(0.5 <= pause <= 1.0 for pause in pauses[5:])
    assert len(set(pauses)) == len(pauses)


async def test_a_connection_that_breaks_during_the_farewell_does_not_keep_us(monkeypatch: pytest.MonkeyPatch) -> None:
    async def breaks(self: Publisher, credentials: object) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise aiomqtt.MqttError("gone") from None

    monkeypatch.setattr(Publisher, "_connected", breaks)
    task = asyncio.create_task(Publisher(settings(1)).run())
    await asyncio.sleep(0.05)
    task.cancel()
    done, _ = await asyncio.wait((task,), timeout=3)
    assert done
    assert task.cancelled()


async def test_an_unreachable_broker_is_said_in_plain_words() -> None:
    port = free_port()
    with pytest.raises(
        PublishError, match=rf"127\.0\.0\.1:{port}: connection refused; start it, or correct publish\.host"
    ):
        await check_broker(settings(port))


async def test_something_else_on_the_port_is_said() -> None:
    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        left.set()

    left = asyncio.Event()
    server = await asyncio.start_server(mute, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        with pytest.raises(PublishError, match=f"no MQTT v5 broker at 127.0.0.1:{port}: no answer in time"):
            await check_broker(settings(port, timeout=0.3))
        await asyncio.wait_for(left.wait(), 5)  # a connection that came to nothing is closed within the keepalive


async def test_users_and_passwords(tmp_path: Path) -> None:
    if brokers.MOSQUITTO is None:
        pytest.skip("mosquitto is not installed: apt-get install mosquitto")
    passwords = tmp_path / "passwd"
    tool = await asyncio.create_subprocess_exec("mosquitto_passwd", "-b", "-c", str(passwords), "ann", "right")
    assert await tool.wait() == 0
    passwords.chmod(0o644)
    tmp_path.chmod(0o755)
    good, bad = tmp_path / "good", tmp_path / "bad"
    good.write_text("right\n")
    bad.write_text("wrong\n")
    extra = f"allow_anonymous false\npassword_file {passwords}\nuser root\n"
    async with brokers.mosquitto(tmp_path, extra) as broker:
        await check_broker(settings(broker.port, username="ann", password_file=good))
        with pytest.raises(PublishError, match=r"refuses user 'ann' .*publish\.password_file"):
            await check_broker(settings(broker.port, username="ann", password_file=bad))
        with pytest.raises(PublishError, match="without user name"):
            await check_broker(settings(broker.port))
        notes = Notes()
        refused = Publisher(settings(broker.port, username="ann", password_file=bad), observers=[notes])
        async with running(refused):  # while running it is no reason to give up
            await until(lambda: len(notes.connections) >= 2)
    assert all(not up for up, _ in notes.connections)
    with pytest.raises(ConfigError, match=r"publish\.password_file"):
        await check_broker(settings(1, username="ann", password_file=tmp_path / "none"))


async def test_what_the_broker_refuses_to_take_is_counted_as_lost(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    notes = Notes()
    rights = brokers.rights(tmp_path, "readwrite gwstream/gwstream/status")
    async with brokers.mosquitto(tmp_path, rights) as broker:
        publisher = Publisher(settings(broker.port), tally=notes.tally, observers=[notes])
        async with running(publisher):
            for number in range(3):
                await publisher.put(outgoing(number))
            await publisher.drain(5)
    assert notes.counts == {("publish", "refused", "H1"): 3}
    assert not notes.delivered_  # acknowledged, but nobody will ever have them
    lines = [line for record in caplog.records if "has the user the right" in (line := record.getMessage())]
    assert len(lines) == 1
    assert "Not authorized" in lines[0]


async def test_of_several_on_the_wire_the_one_that_is_refused_is_the_one_that_is_lost(tmp_path: Path) -> None:
    notes = Notes()
    rights = brokers.rights(tmp_path, "readwrite gwstream/gwstream/status", "readwrite gwstream/L1/#")
    async with brokers.mosquitto(tmp_path, rights) as broker:
        publisher = Publisher(settings(broker.port), tally=notes.tally, observers=[notes])
        for number in range(30):
            await publisher.put(outgoing(number, "L1" if number % 3 else "H1"))
        async with running(publisher):
            await publisher.drain(10)
    assert notes.counts == {("publish", "refused", "H1"): 10}
    assert [one.outgoing.summary.detector for one in notes.delivered_] == ["L1"] * 20


async def test_a_message_the_broker_cannot_stand_does_not_block_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gwstream.publish.ATTEMPTS", 3)
    notes = Notes()
    extra = "allow_anonymous true\nmax_packet_size 4000\n"  # a status fits, a posterior does not
    async with brokers.mosquitto(tmp_path, extra) as broker, Subscriber(broker.port) as subscriber:
        publisher = Publisher(settings(broker.port), tally=notes.tally, observers=[notes])
        async with running(publisher):
            for number in range(2):
                await publisher.put(outgoing(number))
            assert await publisher.drain(10) == 0
            before = len(subscriber.of("status"))
            publisher.tell(engine="torch")
            await until(lambda: len(subscriber.of("status")) > before)
    assert notes.counts == {("publish", "too_many_attempts", "H1"): 2}
    assert not notes.delivered_


@pytest.mark.parametrize("after", [1, 2])  # acknowledgements: of the status, of the posterior
async def test_told_to_stop_in_the_moment_of_an_acknowledgement_it_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    seen: list[int] = []
    noted = connection.Client._on_publish

    def stopping(client: connection.Client, *about: Any) -> None:
        noted(client, *about)
        seen.append(about[2])
        if len(seen) == after:
            task.cancel()

    monkeypatch.setattr(connection.Client, "_on_publish", stopping)
    async with brokers.mosquitto(tmp_path) as broker, Subscriber(broker.port) as subscriber:
        publisher = Publisher(settings(broker.port))
        await publisher.put(outgoing())
        task = asyncio.create_task(publisher.run())
        done, _ = await asyncio.wait([task], timeout=10)
        await until(lambda: len(subscriber.of("status")) == 2)
    assert done
    assert task.cancelled()
    assert [json.loads(one.payload)["state"] for one in subscriber.of("status")] == ["online", "offline"]


class Mute:
    """Between publisher and broker: while ``mute``, it hands on that we are taken in and that our status has come, and
    no other answer of the broker."""

    def __init__(self, target: int) -> None:
        self.mute = True
        self.taken_in = 0
        self._target = target

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
        with suppress(OSError):
            await asyncio.gather(self._asked(reader, far_writer), self._answered(far_reader, writer))

    async def _asked(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(4096):
            writer.write(data)
        writer.close()

    async def _answered(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(2):
            writer.write(await reader.read(4096))
        self.taken_in += 1
        while data := await reader.read(4096):
            if not self.mute:
                writer.write(data)
        writer.close()


async def test_a_broker_that_answers_late_costs_no_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As over a link so slow that a status gets through in time and a posterior does not, for a while."""
    monkeypatch.setattr("gwstream.publish.ATTEMPTS", 3)
    notes = Notes()
    async with brokers.mosquitto(tmp_path) as broker:
        way = Mute(broker.port)
        server = await asyncio.start_server(way.accept, "127.0.0.1", 0)
        config = settings(server.sockets[0].getsockname()[1], timeout=0.3, backoff=0.05, keepalive=60)
        publisher = Publisher(config, tally=notes.tally, observers=[notes])
        async with Subscriber(broker.port) as subscriber, running(publisher):
            for number in range(3):
                await publisher.put(outgoing(number))
            await until(lambda: way.taken_in > 8, 60)
            assert publisher.depth == 3
            way.mute = False
            assert await publisher.drain(10) == 0
            attempts = [json.loads(one.payload)["delivery"]["attempt"] for one in subscriber.of("/posterior")]
        server.close()
    assert not notes.counts
    assert [one.outgoing.summary.id for one in notes.delivered_] == [outgoing(n).summary.id for n in range(3)]
    assert max(attempts) > 3
