"""Subscribers in Python, with a real broker and messages of the real publisher."""

from __future__ import annotations

import asyncio
import json
import math
import re
import subprocess
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import aiomqtt
import brokers
import fakes
import pytest
from test_publish import outgoing, running, settings

from gwstream import client
from gwstream.client import Broker, Gap, blocking, events, network_events, posteriors, track
from gwstream.client.connection import broker_at
from gwstream.client.messages import NotOurs, parse
from gwstream.client.track import Track
from gwstream.errors import ConfigError, SubscribeError
from gwstream.publish import Publisher, message
from gwstream.records import NANO, Outgoing

ROOT = Path(__file__).resolve().parents[1]
T = TypeVar("T")


def body(number: int = 0, sequence: int = 0, detector: str = "H1", kind: str = "posterior") -> bytes:
    """As the publisher composes it."""
    out = outgoing(number, detector, kind)
    return payload(out, sequence)


def payload(out: Outgoing, sequence: int) -> bytes:
    part = message.delivery(out, sequence=sequence, attempt=1, monotonic_ns=out.arrived + 77_000_000, gps_ns=NANO)
    return message.compose(out.summary, part)


class Reader:
    """Collects what a stream gives, in a task of its own."""

    def __init__(self) -> None:
        self.got: list[Any] = []
        self.gaps: list[Gap] = []
        self._news = asyncio.Event()

    async def run(self, stream: AsyncGenerator[Any, None]) -> None:
        async with aclosing(stream):
            async for one in stream:
                self.got.append(one)
                self._news.set()

    async def until(self, true: Callable[[], bool], limit: float = 15) -> None:
        async with asyncio.timeout(limit):
            while not true():
                self._news.clear()
                try:
                    await asyncio.wait_for(self._news.wait(), 0.05)
                except TimeoutError:
                    continue


@asynccontextmanager
async def reading(
    kind: Callable[..., AsyncGenerator[Any, None]], port: int, *, broker: dict[str, Any] | None = None, **filters: Any
) -> AsyncIterator[Reader]:
    """A reader that is subscribed: it has had a first message, which is not kept."""
    reader = Reader()
    where = Broker(port=port, **(broker or {}))
    filters.setdefault("on_gap", reader.gaps.append)
    task = asyncio.create_task(reader.run(kind(where, **filters)))
    try:
        await subscribed(port, task)
        yield reader
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def subscribed(port: int, task: asyncio.Task[None]) -> None:
    """Wait for the broker's count of subscriptions."""
    async with aiomqtt.Client("127.0.0.1", port) as watch, asyncio.timeout(15):
        await watch.subscribe("$SYS/broker/subscriptions/count")
        async for told in watch.messages:
            if task.done():
                await task
            if int(bytes(told.payload)) >= 2:  # type: ignore[arg-type]
                return


EAGER = "allow_anonymous true\nsys_interval 1\n"


async def test_messages_have_types_and_all_their_content(tmp_path: Path) -> None:
    async with (
        brokers.mosquitto(tmp_path, EAGER) as broker,
        reading(posteriors, broker.port) as one,
        reading(events, broker.port) as two,
        reading(network_events, broker.port) as three,
    ):
        publisher = Publisher(settings(broker.port))
        async with running(publisher):
            for out in (outgoing(0), outgoing(0, "H1", "event"), outgoing(0, "L1", "network")):
                await publisher.put(out)
            await one.until(lambda: bool(one.got and two.got and three.got))
    (posterior,), (event,), (network,) = one.got, two.got, three.got
    assert (type(posterior), type(event)) == (client.Posterior, client.Event)
    assert event.id == f"E-{posterior.id}"
    assert posterior.gps_ns == json.loads(outgoing(0).summary.posterior)["coalescence"]["gps_ns"]
    assert posterior.gps == pytest.approx(fakes.GPS + 0.75, abs=0.01)
    told = posterior.body["posterior"]["parameters"]["chirp_mass"]
    assert (posterior.chirp_mass.median, posterior.chirp_mass.p95) == (told["median"], told["p95"])
    assert str(posterior.chirp_mass).endswith("] Msun")
    assert {"mass_1", "mass_2", "effective_distance", "chirp_mass"} <= set(posterior.parameters)
    assert posterior.latency > 0
    assert (posterior.sequence, event.sequence) == (0, 1)
    assert set(network.members) == {"L1", "V1"}
    assert not network.withdrawn
    assert [*one.gaps, *two.gaps, *three.gaps] == []


async def test_filters_duplicates_gaps_and_foreign_messages(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with brokers.mosquitto(tmp_path, EAGER) as broker:
        picky = {"detectors": {"H1"}, "snr": 11.0, "log_bayes": 1.0}
        async with reading(posteriors, broker.port, **picky) as reader, aiomqtt.Client("127.0.0.1", broker.port) as out:

            async def send(content: bytes, topic: str = "gwstream/H1/posterior") -> None:
                await out.publish(topic, content, qos=1)

            await send(body(0, 0))
            await send(body(0, 0))  # delivered again
            await send(b"\xff{", "gwstream/H1/event")
            await send(b'{"schema": "gwstream.posterior/9"}')
            await send(body(1, 1, "L1"), "gwstream/L1/posterior")
            await send(body(1, 1).replace(b'"snr":12.0', b'"snr":9.0'))
            await send(body(2, 2).replace(b'"snr":12.0', b'"snr":null'))
            await send(body(3, 6))  # 3 to 5 are missing
            await send(body(4, 0))  # counted anew
            await send(body(5, 1))
            await reader.until(lambda: len(reader.got) >= 4)
    assert [one.sequence for one in reader.got] == [0, 6, 0, 1]
    assert reader.gaps == [Gap("H1", 3, 5)]
    assert (reader.gaps[0].lost, str(reader.gaps[0])) == (3, "H1: 3 messages did not come, numbers 3 to 5")
    assert sum("left out" in record.message for record in caplog.records) == 2


async def test_unweighted_ones_come_to_those_who_ask_for_them(tmp_path: Path) -> None:
    async with brokers.mosquitto(tmp_path) as broker:
        publisher = Publisher(settings(broker.port))
        async with (
            reading(posteriors, broker.port) as usual,
            reading(posteriors, broker.port, unweighted=True) as every,
            running(publisher),
        ):
            for number, kind in enumerate(("unweighted", "posterior", "unweighted", "posterior")):
                await publisher.put(outgoing(number, "H1", kind))
            await every.until(lambda: len(every.got) == 4)
            await usual.until(lambda: len(usual.got) == 2)
    assert [one.weighted for one in every.got] == [False, True, False, True]
    assert all(one.weighted for one in usual.got)
    assert not usual.gaps  # they were counted, though they were left out
    assert math.isnan(every.got[0].snr)
    assert every.got[0].reasons == ("unweighted",)


async def test_only_good_ones(tmp_path: Path) -> None:
    async with (
        brokers.mosquitto(tmp_path, EAGER) as broker,
        reading(posteriors, broker.port, good=True) as reader,
        aiomqtt.Client("127.0.0.1", broker.port) as out,
    ):
        suspect = body(0, 0).replace(b'"verdict":"good"', b'"verdict":"suspect"')
        assert suspect != body(0, 0)
        await out.publish("gwstream/H1/posterior", suspect, qos=1)
        await out.publish("gwstream/H1/posterior", body(1, 1), qos=1)
        await reader.until(lambda: bool(reader.got))
    assert [one.sequence for one in reader.got] == [1]


async def test_it_comes_back_after_the_broker_and_notices_what_was_lost(tmp_path: Path) -> None:
    async with brokers.mosquitto(tmp_path, EAGER) as broker, reading(posteriors, broker.port) as reader:
        publisher = Publisher(settings(broker.port))
        async with running(publisher):
            await publisher.put(outgoing(0))
            await reader.until(lambda: len(reader.got) == 1)
            await broker.kill()
            await broker.start()  # and has forgotten us
            number = 0
            while len(reader.got) < 2:
                number += 1
                await publisher.put(outgoing(number))
                await asyncio.sleep(0.1)
    first, last = reader.got[0].sequence, reader.got[1].sequence
    assert sum(gap.lost for gap in reader.gaps) == last - first - 1


async def test_a_broker_keeps_messages_for_a_program_with_an_identifier(tmp_path: Path) -> None:
    mine = {"identifier": "catalogue"}
    async with brokers.mosquitto(tmp_path, EAGER) as broker, aiomqtt.Client("127.0.0.1", broker.port) as out:
        async with reading(posteriors, broker.port, broker=mine):
            pass
        await out.publish("gwstream/H1/posterior", body(0, 0), qos=1)
        async with reading(posteriors, broker.port, broker=mine) as reader:
            await reader.until(lambda: bool(reader.got))
    assert [one.sequence for one in reader.got] == [0]


async def test_a_broker_keeps_nothing_for_a_program_without_one(tmp_path: Path) -> None:
    async with brokers.mosquitto(tmp_path, EAGER) as broker:
        async with reading(posteriors, broker.port):
            pass
        async with aiomqtt.Client("127.0.0.1", broker.port) as watch, asyncio.timeout(15):
            await watch.subscribe("$SYS/broker/clients/total")
            async for told in watch.messages:
                if int(bytes(told.payload)) == 1:  # type: ignore[arg-type]  # the one that counts
                    break


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("mq", "mq", 1883),
        ("mq:99", "mq", 99),
        ("127.0.0.1:1884", "127.0.0.1", 1884),
        ("::1", "::1", 1883),
        ("[::1]:99", "::1", 99),
    ],
)
def test_a_broker_may_be_a_text(text: str, host: str, port: int) -> None:
    assert broker_at(text) == Broker(host=host, port=port)


@pytest.mark.parametrize("text", ["mq:mqtt", "mq:", "mq:0", "mq:65536", ":99", ""])
def test_a_text_that_is_no_broker_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="write it as HOST"):
        broker_at(text)


async def test_without_broker_or_rights_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(SubscribeError, match=r"cannot subscribe at 127\.0\.0\.1:1: .*; start a broker there, or name"):
        await anext(posteriors("127.0.0.1:1"))
    rights = tmp_path / "rights.json"
    default = {"publishClientSend": True, "publishClientReceive": True, "subscribe": False, "unsubscribe": True}
    rights.write_text(json.dumps({"defaultACLAccess": default, "clients": [], "groups": [], "roles": []}))
    plugin = next(Path("/usr/lib").glob("*/mosquitto_dynamic_security.so"))
    options = f"allow_anonymous true\nuser root\nplugin {plugin}\nplugin_opt_config_file {rights}\n"
    async with brokers.mosquitto(tmp_path, options) as broker:
        with pytest.raises(SubscribeError, match=r"does not let us read gwstream/\+/posterior: Not authorized"):
            await asyncio.wait_for(anext(events(Broker(port=broker.port))), 5)


async def test_blocking_reads_while_its_program_is_busy(tmp_path: Path) -> None:
    async with brokers.mosquitto(tmp_path, EAGER) as broker, aiomqtt.Client("127.0.0.1", broker.port) as out:

        def program() -> list[int]:
            found = []
            for one in blocking(posteriors(Broker(port=broker.port, identifier="plain"))):
                found.append(one.sequence)
                if len(found) == 3:
                    break
            return found

        task = asyncio.create_task(asyncio.to_thread(program))
        number = 0
        while not task.done():
            await out.publish("gwstream/H1/posterior", body(number, number), qos=1)
            number += 1
            await asyncio.sleep(0.1)
        found = await task
    assert found == [found[0], found[0] + 1, found[0] + 2]
    with pytest.raises(SubscribeError):
        next(blocking(posteriors(Broker(port=1))))


def test_a_withdrawn_network_event_is_news_and_so_is_one_that_stands_again() -> None:
    out = outgoing(0, "L1", "network")
    assert out.summary.event is not None
    gone = replace(out, summary=replace(out.summary, event={**out.summary.event, "state": "withdrawn"}))
    track = Track()
    order = [payload(out, 0), payload(gone, 1), payload(gone, 1), payload(out, 2), payload(out, 2)]
    assert [track.new(parse(one))[0] for one in order] == [True, True, False, True, False]


@pytest.mark.parametrize("kind", ["event", "network"])
def test_an_event_told_anew_under_a_higher_number_is_news(kind: str) -> None:
    lesser, better = (outgoing(number, "L1", kind) for number in range(2))
    track = Track()
    order = [payload(better, 0), payload(lesser, 1), payload(better, 2), payload(better, 2), payload(lesser, 3)]
    told = [track.new(parse(one)) for one in order]
    assert told == [(True, None), (True, None), (True, None), (False, None), (True, None)]
    assert track.new(parse(payload(outgoing(2, "L1", "posterior"), 4))) == (True, None)


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(track, "DETECTORS", 3)
    known, one = Track(), parse(body())
    assert isinstance(one, client.Message)
    for number in range(5):
        known.new(replace(one, detector=f"X{number}", id=str(number), sequence=number))
    assert len(known._last) == 3
    gap = known.new(replace(one, detector="X4", id="later", sequence=6))[1]
    assert gap == Gap("X4", 5, 5)


def test_a_repeat_is_new_where_it_was_missed_and_says_nothing_of_gaps() -> None:
    out = outgoing(0, "L1", "network")
    assert out.summary.event is not None
    gone = replace(out, summary=replace(out.summary, event={**out.summary.event, "state": "withdrawn"}))
    track = Track()
    for one in (payload(out, 0), payload(gone, 1), payload(outgoing(1, "L1"), 7)):
        track.new(parse(one))
    again = [payload(out, 0), payload(gone, 1), payload(out, 2), payload(outgoing(2, "L1"), 3)]
    told = [track.new(parse(one), repeat=True) for one in again]
    assert told == [(False, None), (False, None), (True, None), (True, None)]
    assert track.new(parse(payload(outgoing(3, "L1"), 8))) == (True, None)  # it follows 7, not 3


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"schema": "gwstream.event/1"}', b'{"schema": ["x"]}', b"1"])
def test_what_is_no_message_is_refused(content: bytes) -> None:
    with pytest.raises(NotOurs):
        parse(content)


def test_what_is_not_a_number_comes_as_nan() -> None:
    assert math.isnan(parse(body().replace(b'"snr":12.0', b'"snr":null')).snr)


async def test_the_example_of_the_readme_runs(tmp_path: Path) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(import asyncio\nfrom gwstream\.client.*?)```", readme, re.DOTALL)
    before = example.partition("async for")[0]
    assert len([line for line in before.splitlines() if line.strip()]) + 1 <= 5  # lines to the first event
    async with brokers.mosquitto(tmp_path, EAGER) as broker, aiomqtt.Client("127.0.0.1", broker.port) as out:
        here = example.replace('"127.0.0.1"', f'"127.0.0.1:{broker.port}"')
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-u", "-c", here), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        assert process.stdout is not None
        line = asyncio.create_task(process.stdout.readline())
        number = 0
        while not line.done():
            await out.publish("gwstream/H1/event", body(number, number, "H1", "event"), qos=1)
            number += 1
            await asyncio.sleep(0.1)
        process.terminate()
        await process.wait()
    said = (await line).decode()
    assert re.match(r"H1 14000000\d\d\.\d+ [\d.]+ \[[\d.]+, [\d.]+\] Msun (good|\()", said), said


def test_importing_it_is_light() -> None:
    script = "import sys, gwstream.client; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], timeout=60).returncode == 0
