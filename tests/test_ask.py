"""Triggers over real brokers: from who asks, by the desk, and back; who may not; and the real model on GW150914."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import signal
import subprocess
import time
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import brokers
import fakes
import numpy as np
import paho.mqtt.client as paho
import pytest
import trained
from jsonschema import Draft202012Validator
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from test_flow import DETECTORS, daemon, folders, mosquitto, play, subscriber, taken_in, wait
from test_publish import outgoing, running, settings, until
from test_security import ann, mine, site

from gwstream import cli
from gwstream.asked import Address, Reply, Request
from gwstream.client import Answer, Broker, ask
from gwstream.config import SummaryConfig
from gwstream.errors import AskError, SubscribeError
from gwstream.prior import Prior
from gwstream.publish import Desk, Publisher, desk
from gwstream.records import NANO, Batch, Summary
from gwstream.summary import Summarizer, schema

AT = fakes.GPS + 0.75
AT_NS = fakes.GPS * NANO + 750_000_000
VALID = Draft202012Validator(schema())
ON: dict[str, Any] = {"triggers": {"enabled": True, "per_second": 50}}


def summary(detector: str = "H1") -> Summary:
    made = fakes.posterior(fakes.window(0, detector))
    return Summarizer(SummaryConfig(), Prior()).answer(made, Prior())


class Served:
    """A publisher with a desk, where a pipeline would answer H1 and L1 at once, and refuse all others."""

    def __init__(self, config: Any, detectors: tuple[str, ...] = ("H1", "L1")) -> None:
        self.counts: Counter[tuple[str, str, str]] = Counter()
        self.answered: list[str] = []
        self.requests: list[Request] = []
        self.names: set[str] = set()
        self.detectors = detectors
        self.desk = Desk(config, tally=self._tally, answered=self.answered.append)
        self.desk.serve(self._receive)
        self.publisher = Publisher(config, desk=self.desk, tally=self._tally)

    def _tally(self, stage: str, reason: str, detector: str, count: int = 1) -> None:
        self.counts[stage, reason, detector] += count

    def _receive(self, request: Request) -> None:
        self.requests.append(request)
        self.names.add(request.name)
        now = time.monotonic_ns()
        for detector in request.detectors:
            reply = Reply(to=request.to, name=request.name, gps_ns=request.gps_ns, detector=detector)
            if detector in self.detectors:
                marks = (("arrived", now), ("waiting", now), ("inference", now))
                self.desk.reply(dataclasses.replace(reply, summary=summary(detector), marks=marks))
            else:
                self.desk.reply(dataclasses.replace(reply, reason="unknown_detector", text="this daemon has others"))


@asynccontextmanager
async def serving(config: Any, *detectors: str) -> AsyncIterator[Served]:
    served = Served(config, detectors or ("H1", "L1"))
    async with running(served.publisher):
        yield served


class Stranger:
    """Sends anything, and hears what comes on ``reply/#`` and everywhere else."""

    def __init__(self, port: int) -> None:
        self.heard: list[paho.MQTTMessage] = []
        self.client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        self.client.on_message = lambda _, __, message: self.heard.append(message)
        self.client.connect("127.0.0.1", port)
        self.client.subscribe("#", qos=1)
        self.client.loop_start()

    def send(self, payload: bytes, response: str | None = None, correlation: bytes = b"", **more: Any) -> None:
        properties = Properties(PacketTypes.PUBLISH)
        if response is not None:
            properties.ResponseTopic = response
        if correlation:
            properties.CorrelationData = correlation
        self.client.publish("gwstream/trigger", payload, qos=1, properties=properties, **more)

    def replies(self) -> list[tuple[str, dict[str, Any]]]:
        others = ("gwstream/trigger", "gwstream/gwstream/status")
        return [(m.topic, json.loads(m.payload)) for m in self.heard if m.topic not in others]

    async def __aenter__(self) -> Stranger:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.client.disconnect()
        await asyncio.to_thread(self.client.loop_stop)


def trigger(**changes: object) -> bytes:
    return json.dumps({"id": "ann-1", "gps": AT, "detectors": ["H1"], **changes}).encode()


async def listening(served: Served, stranger: Stranger) -> None:
    """Until what is sent to the desk arrives there."""
    async with asyncio.timeout(20):
        while not served.requests:
            stranger.send(trigger(id="there"))
            await asyncio.sleep(0.1)
    await until(lambda: len(stranger.replies()) == len(served.requests))
    served.requests.clear()
    served.answered.clear()
    stranger.heard.clear()


async def test_an_answer_comes_back_to_who_asked_with_all_that_marks_it(tmp_path: Path) -> None:
    async with (
        brokers.mosquitto(tmp_path) as broker,
        Stranger(broker.port) as stranger,
        serving(settings(broker.port, **ON)) as served,
    ):
        await listening(served, stranger)
        stranger.send(trigger(), "gwstream/reply/ann/7", b"\x00\x01")
        stranger.send(trigger(id="bob", detectors=["V1"], reply_to="gwstream/reply/bob"))
        stranger.send(trigger(id="eve"))
        await until(lambda: len(stranger.replies()) == 3)
        found = dict(stranger.replies())
        (raw,) = (one for one in stranger.heard if one.topic == "gwstream/reply/ann/7")
        assert served.answered == ["H1", "H1"]
        assert served.counts == {("trigger", "unknown_detector", ""): 1}
    assert set(found) == {"gwstream/reply/ann/7", "gwstream/reply/bob", "gwstream/reply/eve"}
    for body in found.values():
        VALID.validate(body)
    answer, error = found["gwstream/reply/ann/7"], found["gwstream/reply/bob"]
    assert answer["schema"] == "gwstream.answer/1"
    assert answer["answer"] == {
        "id": f"A-ann-1-{answer['posterior']['id']}", "trigger": "ann-1", "gps_ns": AT_NS,
    }  # fmt: skip
    assert answer["sha256"] == summary().sha256
    steps = answer["delivery"]["latency"]
    assert steps.pop("total") == pytest.approx(sum(steps.values()), abs=1e-6)
    assert raw.properties.CorrelationData == b"\x00\x01"  # type: ignore[union-attr]
    assert raw.properties.ContentType == "application/json"  # type: ignore[union-attr]
    assert dict(raw.properties.UserProperty)["schema"] == "gwstream.answer/1"  # type: ignore[union-attr]
    assert not raw.retain
    assert (error["reason"], error["detector"], error["trigger"]) == ("unknown_detector", "V1", "bob")


async def test_what_is_no_trigger_gets_an_error_or_nothing_and_does_no_harm(tmp_path: Path) -> None:
    async with (
        brokers.mosquitto(tmp_path) as broker,
        Stranger(broker.port) as stranger,
        serving(settings(broker.port, **ON)) as served,
    ):
        await listening(served, stranger)
        stranger.send(b"\xff{", "gwstream/reply/a")
        stranger.send(trigger(gps=-1))
        stranger.send(trigger(id="x"), "gwstream/H1/event")
        stranger.send(trigger(id="y", reply_to="gwstream/gwstream/status"))
        stranger.send(b"z" * 3000, "gwstream/reply/b")
        stranger.send(b"z" * 200_000, "gwstream/reply/c")  # the broker keeps it
        stranger.send(trigger(id="last"))
        await until(lambda: any(topic == "gwstream/reply/last" for topic, _ in stranger.replies()))
        found = stranger.replies()
        await served.publisher.put(outgoing(0, "H1"))
        assert await served.publisher.drain(5) == 0
        assert [one.name for one in served.requests] == ["last"]
        malformed, elsewhere = ("trigger", "malformed", ""), ("trigger", "reply_elsewhere", "")
        assert served.counts == {malformed: 3, elsewhere: 2}
    for _, body in found:
        VALID.validate(body)
    told = [(topic, body.get("reason")) for topic, body in found]
    assert sorted(told[:-1]) == [
        ("gwstream/reply/a", "malformed"), ("gwstream/reply/ann-1", "malformed"), ("gwstream/reply/b", "malformed"),
    ]  # fmt: skip


async def test_a_flood_is_refused_and_counted_and_messages_go_on(tmp_path: Path) -> None:
    flood = 2000
    slow: dict[str, Any] = {"triggers": {"enabled": True, "per_second": 0.1}}
    async with (
        brokers.mosquitto(tmp_path) as broker,
        Stranger(broker.port) as stranger,
        serving(settings(broker.port, **slow)) as served,
    ):
        await until(lambda: any("status" in one.topic for one in stranger.heard))
        await asyncio.sleep(0.3)
        for number in range(flood):
            stranger.send(trigger(id=f"n{number}"))
        await served.publisher.put(outgoing(0, "H1"))
        assert await served.publisher.drain(10) == 0
        await until(lambda: served.counts["trigger", "too_many", ""] + len(served.requests) >= flood, 120)
        assert 1 <= len(served.requests) <= desk.BURST + 3
        refusals = [body for _, body in stranger.replies() if body.get("reason") == "too_many"]
        assert 1 <= len(refusals) < 400


async def test_a_retained_trigger_is_not_for_us_and_a_lost_connection_is_subscribed_anew(tmp_path: Path) -> None:
    async with brokers.mosquitto(tmp_path) as broker, Stranger(broker.port) as stranger:
        stranger.send(trigger(id="old"), retain=True)
        await until(lambda: any(one.topic == "gwstream/trigger" for one in stranger.heard))
        async with serving(settings(broker.port, **ON)) as served:
            await listening(served, stranger)
            assert served.names == {"there"}
            await broker.kill()
            served.desk.reply(Reply(to=Address("gwstream/reply/late"), name="late", reason="no_data", text="x"))
            await broker.start()
            await until(lambda: served.desk.depth == 0, 20)
            async with Stranger(broker.port) as other:
                await listening(served, other)


async def test_a_reply_is_not_kept_for_long_nor_without_bound(tmp_path: Path) -> None:
    served = Served(settings(1, **ON))
    now = [0]
    served.desk._monotonic_ns = lambda: now[0]
    for _ in range(desk.REPLIES + 5):
        served.desk.reply(Reply(to=Address("x"), name="a", summary=summary(), marks=(("arrived", 0),)))
    assert served.desk.depth == desk.REPLIES
    assert served.counts == {("trigger", "unsent", ""): 5}
    now[0] = round((desk.PATIENCE + 1) * NANO)
    await served.desk.send(None)  # type: ignore[arg-type]  # there is nothing left to send
    assert served.desk.depth == 0
    assert served.counts == {("trigger", "unsent", ""): desk.REPLIES + 5}
    for _ in range(100):
        served.desk.reply(Reply(to=Address("x"), name="a", reason="busy", text="x"))
    assert served.counts["trigger", "busy", ""] == 100
    assert served.desk.depth == desk.BURST  # who is refused often is not told each time


async def test_a_daemon_that_stops_sends_the_replies_that_are_due(tmp_path: Path) -> None:
    async with brokers.mosquitto(tmp_path) as broker, Stranger(broker.port) as stranger:
        async with serving(settings(broker.port, **ON)) as served:
            await listening(served, stranger)
            for number in range(desk.BURST):
                to = Address(f"gwstream/reply/n{number}")
                served.desk.reply(Reply(to=to, name="a", reason="stopping", text="the daemon stops"))
            await served.publisher.drain(5)
            assert served.desk.depth == 0
        await until(lambda: len(stranger.replies()) == desk.BURST)


async def test_a_reply_at_the_last_moment_does_not_hold_up_the_end(tmp_path: Path) -> None:
    async with (
        brokers.mosquitto(tmp_path) as broker,
        Stranger(broker.port) as stranger,
        asyncio.timeout(20),
        serving(settings(broker.port, **ON)) as served,
    ):
        await listening(served, stranger)
        await asyncio.sleep(0.1)
        served.desk.reply(Reply(to=Address("gwstream/reply/a"), name="a", reason="stopping", text="the daemon stops"))


async def test_off_is_the_default_and_subscribes_to_nothing(tmp_path: Path) -> None:
    async with brokers.mosquitto(tmp_path) as broker, Stranger(broker.port) as stranger:
        assert not settings(broker.port).triggers.enabled
        async with running(Publisher(settings(broker.port))) as publisher:
            await until(lambda: any("status" in one.topic for one in stranger.heard))
            stranger.send(trigger())
            await asyncio.sleep(0.3)
            assert publisher.depth == 0
            assert stranger.replies() == []


async def test_with_the_shipped_rights_only_who_is_named_may_ask(tmp_path: Path) -> None:
    line = "# user ann\n# topic write gwstream/trigger\n"
    shipped = (Path(__file__).parent.parent / "deploy" / "mosquitto.acl").read_text()
    assert line in shipped
    for rights, may in (("", False), (line.replace("# ", ""), True)):
        folder = tmp_path / str(may)
        folder.mkdir()
        async with site(folder, rights=rights) as at, serving(mine(at, **ON)) as served:
            async with ann(at) as client:
                await client.subscribe("gwstream/reply/#", qos=1)
                for _ in range(20):
                    await client.publish("gwstream/trigger", trigger(), qos=1)
                    await client.publish("gwstream/reply/ann-1", b"forged", qos=1)
                    await asyncio.sleep(0.05)
                assert set(client.refused.values()) == {"Not authorized"}
                assert len(client.refused) == (20 if may else 40)
                if may:
                    async with asyncio.timeout(5):
                        first = await anext(aiter(client.messages))
                    assert json.loads(first.payload)["answer"]["trigger"] == "ann-1"  # type: ignore[arg-type]
            assert bool(served.requests) is may


async def test_in_python_it_is_one_call(tmp_path: Path) -> None:
    async with brokers.mosquitto(tmp_path) as broker, Stranger(broker.port) as stranger:
        where = Broker(port=broker.port)
        async with serving(settings(broker.port, **ON)) as served:
            await listening(served, stranger)
            found = await ask(AT, ("L1", "H1"), where, distance_prior="volume")
            assert list(found) == ["L1", "H1"]
            assert all(type(one) is Answer for one in found.values())
            assert found["H1"].chirp_mass.median == pytest.approx(28, abs=5)
            assert (found["H1"].detector, found["H1"].sequence) == ("H1", -1)
            assert found["H1"].trigger == served.requests[0].name
            assert served.requests[0].distance == "volume"
            with pytest.raises(AskError, match=r"V1: unknown_detector: this daemon has others") as told:
                await ask(AT, ("V1", "H1"), where, timeout=5)
            assert list(told.value.answers) == ["H1"]
            two = settings(broker.port, instance="two", **ON)
            async with serving(two, "V1") as other:
                await until(lambda: other.publisher._desk is not None)
                while not other.requests:
                    await asyncio.sleep(0.1)
                    stranger.send(trigger(id="there"))
                both = await ask(AT, ("V1", "H1"), where, timeout=5)  # each refuses the other's
                assert list(both) == ["V1", "H1"]
        with pytest.raises(AskError, match=r"H1: no_answer: .*publish\.triggers enabled"):
            await ask(AT, "H1", where, timeout=0.5)
    with pytest.raises(SubscribeError, match=r"cannot ask at .*; start a broker there, or name another"):
        await ask(AT, "H1", where)


async def test_on_the_command_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    async with (
        brokers.mosquitto(tmp_path) as broker,
        Stranger(broker.port) as stranger,
        serving(settings(broker.port, **ON)) as served,
    ):
        await listening(served, stranger)
        where = ("--broker", f"127.0.0.1:{broker.port}", "--timeout", "5")
        words = ["ask", str(AT), "--detector", "H1", "--detector", "V1", *where]
        assert await asyncio.to_thread(cli.main, words) == 66
        out, complaint = capfd.readouterr()
        assert json.loads(out)["posterior"]["detector"] == "H1"
        assert "V1: unknown_detector" in complaint
        assert await asyncio.to_thread(cli.main, words[:4] + list(where)) == 0
        assert served.requests[-1].gps_ns == AT_NS


def test_what_is_asked_for_is_what_would_have_been_told() -> None:
    """The same bytes as behind the gate; by another prior another id; and what is at hand for live windows stays."""
    judge = trained.inference()
    wave, _ = trained.signal(38.0, 31.0, 0.76, 0.6, 12.0)
    found = trained.window(trained.noise(1, 5)[0] + wave, 3)
    own = judge.infer(judge.gate(Batch((found,), 1))[0])
    whiteners = {name: list(kept) for name, kept in judge._live.items()}
    asked = judge.asked(found)
    assert asked.id == own.id
    assert np.array_equal(asked.samples, own.samples)
    assert np.array_equal(asked.weights, own.weights)
    other = dataclasses.replace(found, whitener=dataclasses.replace(found.whitener, id="of long ago"))
    volume = judge.asked(other, "volume")
    assert volume.id != judge.identity(other)
    near, far = (float(np.average(one.samples[:, 2], weights=one.weights)) for one in (asked, volume))
    assert far > near
    assert judge.prior.distance_density == "uniform"
    assert {name: list(kept) for name, kept in judge._live.items()} == whiteners
    for row in trained.noise(8, 77):  # windows that no gate would have let through
        assert np.isfinite(judge.asked(trained.window(row, 9)).weights).all()


def test_gw150914_behind_a_shut_gate(tmp_path: Path) -> None:
    """The daemon's own process on the recording, with a gate that nothing passes."""
    if brokers.MOSQUITTO is None:
        pytest.skip("mosquitto is not installed: apt-get install mosquitto")
    for path in folders(tmp_path).values():
        path.mkdir()
    more = "gate_snr = 100.0\n[publish.triggers]\nenabled = true\nper_second = 50\n"
    with (
        mosquitto(tmp_path) as broker,
        subscriber(broker) as got,
        daemon(tmp_path, broker, more) as (process, http),
    ):
        wait(lambda: any(one.body.get("state") == "online" for one in got), 120, "the daemon")
        play(tmp_path, pause=0.1)
        wait(lambda: taken_in(http), 120, "all strain")
        where = Broker(port=broker)
        answers = asyncio.run(ask(1126259462.42, DETECTORS, where, timeout=60))
        with pytest.raises(AskError, match="H1: too_old: windows go back to GPS 11262594"):
            asyncio.run(ask(1126259450.0, "H1", where, timeout=60))
        with pytest.raises(AskError, match="H1: too_new: strain ends"):
            asyncio.run(ask(1126260000.0, "H1", where, timeout=60))
        send = ("mosquitto_pub", "-V", "mqttv5", "-p", str(broker), "-t", "gwstream/trigger", "-m", '{"id": 7}')
        subprocess.run((*send, "-D", "publish", "response-topic", "gwstream/reply/x"), check=True, timeout=30)
        wait(lambda: any(one.topic == "gwstream/reply/x" for one in got), 30, "the error")
        with urllib.request.urlopen(f"http://127.0.0.1:{http}/metrics", timeout=10) as answer:
            metrics = answer.read().decode()
        process.send_signal(signal.SIGTERM)
        assert process.wait(40) == 0, (tmp_path / "log").read_text()
    for name in DETECTORS:
        found = answers[name]
        assert found.gps == pytest.approx({"H1": 1126259462.427, "L1": 1126259462.4205}[name], abs=0.010)
        assert found.chirp_mass.p5 < 31.0 < found.chirp_mass.p95
        assert found.snr > 9
        VALID.validate(found.body)
        assert f'gwstream_published_total{{detector="{name}",kind="answer"}} 1.0' in metrics
    into = 1126259462.42 - answers["H1"].body["posterior"]["window"]["gps"]
    assert abs(into - 0.75) <= 1 / 32 + 1e-6
    (error,) = (one.body for one in got if one.topic == "gwstream/reply/x")
    assert error["reason"] == "malformed"
    for reason in ("too_old", "too_new", "malformed"):
        assert f'gwstream_dropped_total{{detector="",reason="{reason}",stage="trigger"}} 1.0' in metrics
    told = [one for one in got if one.topic != "gwstream/trigger"]
    for one in told:
        VALID.validate(one.body)
    assert {one.topic.split("/")[1] for one in told} == {"gwstream", "reply"}  # no posterior, no event
