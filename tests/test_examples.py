"""The examples of docs/examples, as their users start them: a real broker, and messages of the real publisher."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import shutil
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import files as installed
from pathlib import Path
from types import ModuleType
from typing import Any

import aiomqtt
import brokers
import fakes
import lal
import pytest
from jsonschema import Draft202012Validator
from test_client import EAGER, body, payload
from test_publish import outgoing, running, settings
from test_samples import keeper
from test_web import new_feed

from gwstream.client.messages import Message, parse
from gwstream.config import MetricsConfig
from gwstream.publish import Publisher
from gwstream.web import serving

EXAMPLES = Path(__file__).resolve().parents[1] / "docs" / "examples"
SUSPECT = (b'"verdict":"good"', b'"verdict":"suspect"')


@asynccontextmanager
async def started(broker: brokers.Mosquitto, *command: str, **options: Any) -> AsyncIterator[asyncio.StreamReader]:
    """An example that has subscribed; gives what it prints."""
    process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, start_new_session=True, **options)
    try:
        async with aiomqtt.Client("127.0.0.1", broker.port) as watch, asyncio.timeout(30):
            await watch.subscribe("$SYS/broker/subscriptions/count")
            async for told in watch.messages:
                if int(bytes(told.payload)) >= 2 or process.returncode is not None:  # type: ignore[arg-type]
                    break
        assert process.returncode is None
        assert process.stdout is not None
        yield process.stdout
    finally:
        if process.returncode is None:
            os.killpg(process.pid, 15)  # a pipe in a shell has two processes
        await process.wait()


async def line(output: asyncio.StreamReader) -> str:
    return (await asyncio.wait_for(output.readline(), 20)).decode().rstrip("\n")


async def send(broker: brokers.Mosquitto, *bodies: bytes) -> None:
    async with aiomqtt.Client("127.0.0.1", broker.port) as out:
        for one in bodies:
            await out.publish("gwstream/H1/event", one, qos=1)


def needs(program: str, package: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed: apt-get install {package}")


async def test_python_with_draws(tmp_path: Path) -> None:
    made = keeper()
    one = made.infer(fakes.trigger(fakes.window(0)), 1)
    mean = one.weights @ one.samples[:, 0], one.weights @ one.samples[:, 1]
    async with (
        brokers.mosquitto(tmp_path, EAGER) as broker,
        serving(MetricsConfig(port=0), feed=new_feed(), exposition=bytes, samples=made.document) as http,
    ):
        script = (
            sys.executable,
            "-u",
            str(EXAMPLES / "events.py"),
            f"127.0.0.1:{broker.port}",
            f"http://127.0.0.1:{http}",
        )
        async with started(broker, *script, stderr=PIPE) as output:
            publisher = Publisher(settings(broker.port))
            async with running(publisher):
                await publisher.put(outgoing(0, kind="event"))
                said, masses = await line(output), await line(output)
                await send(broker, body(1, 9, kind="event").replace(*SUSPECT))
                later, gone = await line(output), await line(output)
    assert said.startswith(f"E-{one.id}  H1  GPS 1400000000.7")
    assert said.endswith("] Msun  good")
    assert masses == f"    mean masses {mean[0]:.1f} and {mean[1]:.1f} Msun"
    assert "Msun  suspect: " in later
    assert "not among the last posteriors" in gone


async def test_shell_and_jq(tmp_path: Path) -> None:
    needs("jq", "jq")
    needs("mosquitto_sub", "mosquitto-clients")
    script = ("sh", str(EXAMPLES / "events.sh"), "127.0.0.1")
    async with (
        brokers.mosquitto(tmp_path, EAGER) as broker,
        started(broker, *script, str(broker.port)) as output,
    ):
        network = payload(outgoing(5, "L1", "network"), 3)
        await send(broker, body(0, 0, kind="event").replace(*SUSPECT), network, body(1, 1, kind="event"))
        said = (await line(output)).split("\t")
    posterior = json.loads(body(1, 1, kind="event"))
    mass = posterior["posterior"]["parameters"]["chirp_mass"]
    assert said[1] == "H1"
    assert said[-1] == posterior["event"]["id"]
    assert [float(one) for one in said[2:6]] == [12.0, mass["median"], mass["p5"], mass["p95"]]


@pytest.mark.peers
async def test_javascript(tmp_path: Path) -> None:
    needs("node", "nodejs")
    needs("npm", "npm")
    shutil.copy(EXAMPLES / "events.mjs", tmp_path)
    npm = await asyncio.create_subprocess_exec("npm", "install", "--silent", "mqtt@5", cwd=tmp_path)
    assert await npm.wait() == 0
    async with brokers.mosquitto(tmp_path, EAGER) as broker:
        script = ("node", "events.mjs", f"mqtt://127.0.0.1:{broker.port}")
        async with started(broker, *script, cwd=tmp_path) as output:
            first, second = body(0, 0, kind="event"), body(1, 1, kind="event").replace(*SUSPECT)
            await send(broker, first, first, second, body(0, 2, kind="event"))
            said = [await line(output) for _ in range(3)]
    ids = [json.loads(one)["event"]["id"] for one in (first, second, first)]  # told anew under a higher number
    assert [one.split()[0] for one in said] == ids
    assert said[0].endswith("] Msun good")
    assert said[1].endswith("] Msun suspect")


def bridge() -> ModuleType:
    spec = importlib.util.spec_from_file_location("igwn_alerts", EXAMPLES / "igwn_alerts.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def valid(alert: dict[str, Any]) -> None:
    """By the public schema; times are checked here, for a validator leaves formats alone."""
    (path,) = (one for one in installed("igwn-gwalert-schema") or () if one.name.endswith(".schema.json"))
    Draft202012Validator(json.loads(path.read_text())).validate(alert)
    for text in (alert["time_created"], *([alert["event"]["time"]] if alert["event"] else [])):
        assert datetime.fromisoformat(text.replace("Z", "+00:00")).utcoffset() is not None


async def test_good_events_become_valid_alerts(tmp_path: Path) -> None:
    async with brokers.mosquitto(tmp_path, EAGER) as broker:
        script = (sys.executable, "-u", str(EXAMPLES / "igwn_alerts.py"), "--far", "1e-5", f"127.0.0.1:{broker.port}")
        async with started(broker, *script) as output:
            await send(broker, body(0, 0, kind="event").replace(*SUSPECT), body(1, 1), body(2, 2, kind="event"))
            alert = json.loads(await line(output))
    valid(alert)
    assert (alert["alert_type"], alert["event"]["instruments"]) == ("PRELIMINARY", ["H1"])
    assert alert["superevent_id"] == json.loads(body(2, 2, kind="event"))["event"]["id"]
    gps = json.loads(body(2, 2, kind="event"))["posterior"]["coalescence"]["gps"]
    moment = datetime(*lal.GPSToUTC(int(gps))[:6], tzinfo=UTC).timestamp() + gps % 1
    assert datetime.fromisoformat(alert["event"]["time"]).timestamp() == pytest.approx(moment, abs=1e-3)
    assert alert["event"]["far"] == 1e-5


def told(kind: str, number: int = 0, detector: str = "H1", **event: Any) -> Message:
    out = outgoing(number, detector, kind)
    if event:
        assert out.summary.event is not None
        out = replace(out, summary=replace(out.summary, event={**out.summary.event, **event}))
    message = parse(payload(out, 0))
    assert isinstance(message, Message)
    return message


def test_an_alert_is_updated_and_taken_back_with_its_event() -> None:
    alerts = bridge().Alerts(1e-5)

    def kinds(message: Message) -> list[tuple[str, str]]:
        made = list(alerts.of(message))
        for one in made:
            valid(one)
        return [(one["alert_type"], one["superevent_id"]) for one in made]

    l1, v1, network = told("event", detector="L1"), told("event", detector="V1"), told("network", detector="L1")
    assert set(network.supersedes) == {l1.id, v1.id}  # type: ignore[attr-defined]
    assert kinds(told("posterior")) == []
    assert kinds(l1) == [("PRELIMINARY", l1.id)]
    assert kinds(v1) == [("PRELIMINARY", v1.id)]
    # one source after all: one alert stands, the other is taken back
    (kept, first), (dropped, second) = kinds(network)
    assert (kept, dropped, {first, second}) == ("UPDATE", "RETRACTION", {l1.id, v1.id})
    # what a member says later is in the network's next word, and no event of its own
    assert kinds(told("event", detector="L1", id="E-L1-later", supersedes=[l1.id])) == []
    later = told("network", detector="L1", id="N-later", supersedes=[network.id, "E-L1-later"])
    assert kinds(later) == [("UPDATE", first)]
    withdrawn = told("network", detector="L1", id="N-later", supersedes=[network.id], state="withdrawn")
    # what is left of its members stands for itself: the alert is that of the first, the other has one of its own
    other = v1.id if first == l1.id else "E-L1-later"
    assert kinds(withdrawn) == [("UPDATE", first), ("PRELIMINARY", other)]
    assert kinds(told("network", detector="L1", state="withdrawn")) == []  # nobody was told of it
    assert kinds(told("event", detector="L1", id="E-L1-last", supersedes=["E-L1-later"])) == [
        ("UPDATE", first if other == v1.id else other)
    ]


def test_an_alert_is_taken_back_where_nothing_good_is_left() -> None:
    alerts = bridge().Alerts(1e-5)
    l1, v1 = (replace(told("event", detector=name), good=False) for name in ("L1", "V1"))
    network = told("network", detector="L1")
    withdrawn = told("network", detector="L1", state="withdrawn")
    made = [one["alert_type"] for event in (l1, v1, network, withdrawn) for one in alerts.of(event)]
    assert made == ["PRELIMINARY", "RETRACTION"]


def test_an_event_told_anew_takes_the_lesser_ones_alert_back() -> None:
    alerts = bridge().Alerts(1e-5)
    better, lesser = told("event", 0), told("event", 1)
    anew = told("event", 0, supersedes=[lesser.id])
    made = [(one["alert_type"], one["superevent_id"]) for event in (better, lesser, anew) for one in alerts.of(event)]
    standing = ("UPDATE", better.id), ("RETRACTION", lesser.id)
    assert made == [("PRELIMINARY", better.id), ("PRELIMINARY", lesser.id), *standing]
