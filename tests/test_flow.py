"""The whole flow with real parts: GW150914 as 1-s frames, the daemon's own process, a broker, a plain subscriber."""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import jsonschema
import paho.mqtt.client as paho
import pytest

from gwstream import settings
from gwstream.conditioning import Conditioner
from gwstream.config import Config
from gwstream.demo.broker import Broker
from gwstream.inference import Inference, Model, load_model
from gwstream.pipeline import run
from gwstream.pipeline.parts import Parts
from gwstream.records import Gap, Outgoing, Strain
from gwstream.source import open_source, recording
from gwstream.source.writer import split, write_frame
from gwstream.summary import canonical, schema

DETECTORS = ("H1", "L1")
COALESCENCE = {"H1": 1126259462.427, "L1": 1126259462.4205}
LEAST_SNR = {"H1": 13.0, "L1": 9.0}
MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait(condition: Callable[[], object], seconds: float, what: str) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"{what}: not after {seconds:g} s"
        time.sleep(0.02)


@dataclass
class Received:
    """One message as a subscriber has it."""

    topic: str
    payload: bytes
    content_type: str
    user: dict[str, str]
    expiry: int | None
    body: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.body = json.loads(self.payload)

    @property
    def part(self) -> bytes:
        """What was made of the strain, as it came: the last part of a posterior, event or network event."""
        name = next(name for name in ("posterior", "network") if name in self.body)
        part = self.payload[self.payload.index(f',"{name}":{{'.encode()) + len(name) + 4 : -1]
        assert json.loads(part) == self.body[name]
        return part

    @property
    def id(self) -> tuple[str, str]:
        """Of a posterior, event or network event, with its kind: what has it has the same `part`."""
        _, level, kind = self.topic.split("/")
        if kind == "posterior":
            return kind, self.body["posterior"]["id"]
        return "network" if level == "network" else kind, self.body["event"]["id"]


@contextmanager
def subscriber(port: int) -> Iterator[list[Received]]:
    """Everything a plain MQTT v5 client receives."""
    got: list[Received] = []
    client = paho.Client(paho.CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
    ready: list[bool] = []

    def note(_client: Any, _data: Any, message: paho.MQTTMessage) -> None:
        p = message.properties
        user = dict(getattr(p, "UserProperty", []))
        expiry = getattr(p, "MessageExpiryInterval", None)
        got.append(Received(message.topic, message.payload, getattr(p, "ContentType", ""), user, expiry))

    client.on_message = note
    client.on_subscribe = lambda *_: ready.append(True)
    client.connect("127.0.0.1", port)
    client.subscribe("gwstream/#", qos=1)
    client.loop_start()
    try:
        wait(lambda: ready, 10, "subscription")
        yield got
    finally:
        client.disconnect()
        client.loop_stop()


@contextmanager
def mosquitto(folder: Path) -> Iterator[int]:
    assert MOSQUITTO is not None
    port = free_port()
    conf = folder / "mosquitto.conf"
    conf.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\n")
    process = subprocess.Popen([MOSQUITTO, "-c", str(conf)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def up() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    try:
        wait(up, 10, "mosquitto")
        yield port
    finally:
        process.terminate()
        process.wait(10)


@contextmanager
def embedded() -> Iterator[int]:
    broker = Broker()
    broker._start()
    try:
        yield broker.port
    finally:
        broker._stop()


def folders(root: Path) -> dict[str, Path]:
    return {name: root / name for name in DETECTORS}


def play(root: Path, pause: float, seconds_of: slice = slice(None), names: Sequence[str] = DETECTORS) -> None:
    """Write the recording as frames, the detectors a second at a time."""
    scores = {name: list(split(recording.read(name)))[seconds_of] for name in names}
    for seconds in zip(*scores.values(), strict=True):
        for name, (gps, samples) in zip(scores, seconds, strict=True):
            write_frame(folders(root)[name], name, gps, samples, 4096)
        time.sleep(pause)


@contextmanager
def daemon(folder: Path, broker: int, more: str = "") -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """``gwstream run`` on frames in ``folder``, and its HTTP port. ``more``: settings of [inference]."""
    http = free_port()
    lines = [f"[source.detectors.{name}]\ndirectory = {str(path)!r}" for name, path in folders(folder).items()]
    lines += [f"[inference]\nmodel = {str(settings.default_model())!r}\nlatency_target = 60.0\n{more}"]  # equal draws
    lines += [f"[publish]\nport = {broker}"]
    lines += [f"[metrics]\nport = {http}", "[service]\ndrain = 30.0", f"state = {str(folder / 'state')!r}"]
    path = folder / "gwstream.toml"
    path.write_text("\n".join(lines))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-m", "gwstream", "run", str(path)], stdout=log, stderr=log)
        try:
            yield process, http
        finally:
            process.kill()
            process.wait()


def taken_in(http: int) -> bool:
    """Whether the daemon has read all of the recording."""
    with urllib.request.urlopen(f"http://127.0.0.1:{http}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return all(f'gwstream_strain_seconds_total{{detector="{name}"}} 32.0' in lines for name in DETECTORS)


@pytest.fixture(scope="module", params=["embedded", "mosquitto"])
def live(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Received]]:
    """All messages of the recording, ten times faster than it was, through the daemon's own process."""
    if request.param == "mosquitto" and MOSQUITTO is None:
        pytest.skip("mosquitto is not installed: apt-get install mosquitto")
    root = tmp_path_factory.mktemp("live")
    for path in folders(root).values():
        path.mkdir()
    with (
        mosquitto(root) if request.param == "mosquitto" else embedded() as broker,
        subscriber(broker) as got,
        daemon(root, broker) as (process, http),
    ):

        def online() -> bool:
            assert process.poll() is None, (root / "log").read_text()
            return any(one.body.get("state") == "online" for one in got)

        wait(online, 60, "the daemon")
        play(root, pause=0.1)
        wait(lambda: taken_in(http), 60, "all strain")
        process.send_signal(signal.SIGTERM)
        assert process.wait(40) == 0, (root / "log").read_text()
        wait(lambda: got[-1].body.get("state") == "offline", 10, "the farewell")
        yield got


def of_kind(got: list[Received], kind: str) -> list[Received]:
    return [one for one in got if one.topic.endswith(f"/{kind}")]


def test_every_message_is_valid(live: list[Received]) -> None:
    check = jsonschema.Draft202012Validator(schema())
    for one in live:
        check.validate(one.body)
        kind = one.topic.rsplit("/", 1)[1]
        name = "network_event" if one.topic == "gwstream/network/event" else kind
        assert one.body["schema"] == f"gwstream.{name}/1"
        assert one.content_type == "application/json"
        assert one.user["schema"] == one.body["schema"]
        if name == "network_event":
            assert one.expiry is not None
            assert hashlib.sha256(canonical(one.body["network"])).hexdigest() == one.body["sha256"]
        elif kind != "status":
            assert one.topic == f"gwstream/{one.body['posterior']['detector']}/{kind}"
            assert one.user["model_version"] == one.body["posterior"]["model"]["version"]
            assert one.expiry is not None
            assert hashlib.sha256(canonical(one.body["posterior"])).hexdigest() == one.body["sha256"]
        elif one.body["state"] == "online":
            assert set(one.body["detectors"]) == set(DETECTORS)  # those without strain too


@pytest.mark.parametrize("detector", DETECTORS)
def test_gw150914_is_the_only_event(live: list[Received], detector: str) -> None:
    told = [one.body for one in live if one.topic == f"gwstream/{detector}/event"]
    replaced = {name for body in told for name in body["event"]["supersedes"]}
    standing = [body["posterior"] for body in told if body["event"]["id"] not in replaced]
    assert len(standing) == 1
    assert replaced < {body["event"]["id"] for body in told}
    found = standing[0]
    assert found["coalescence"]["gps"] == pytest.approx(COALESCENCE[detector], abs=0.010)
    chirp = found["parameters"]["chirp_mass"]
    assert chirp["p5"] < 31.0 < chirp["p95"]
    assert found["snr"] > LEAST_SNR[detector]
    assert found["quality"]["reasons"] == ["short PSD history"]
    assert found["data"] == {"dq": 3, "gap": False}
    assert not found["simulated"]


def test_both_detectors_make_one_network_event(live: list[Received]) -> None:
    told = [one.body for one in live if one.topic == "gwstream/network/event"]
    replaced = {name for body in told for name in body["event"]["supersedes"]}
    (standing,) = [body for body in told if body["event"]["id"] not in replaced]
    assert {body["event"]["state"] for body in told} == {"standing"}
    found = standing["network"]
    assert [one["detector"] for one in found["members"]] == list(DETECTORS)
    singles = {one.body["event"]["id"]: one.body for one in of_kind(live, "event") if "posterior" in one.body}
    last = {name: [k for k, b in singles.items() if b["posterior"]["detector"] == name][-1] for name in DETECTORS}
    assert [one["event"] for one in found["members"]] == [last[name] for name in DETECTORS]
    assert set(last.values()) <= set(standing["event"]["supersedes"])
    parts = [singles[last[name]]["posterior"] for name in DETECTORS]
    assert found["snr"] == pytest.approx(sum(part["snr"] ** 2 for part in parts) ** 0.5, rel=1e-6)
    assert found["snr"] == pytest.approx(17.4, abs=0.3)
    assert found["log_bayes"] == pytest.approx(sum(part["log_bayes"] for part in parts), rel=1e-6)
    chirp = found["chirp_mass"]
    assert chirp["p5"] < 31.0 < chirp["p95"]
    assert chirp["p95"] - chirp["p5"] < 3.0  # H1 alone: 3.3
    (pair,) = found["pairs"]
    assert pair["delay"] == pytest.approx(-0.0069, abs=0.002)  # L1 first
    assert found["quality"] == {"verdict": "suspect", "reasons": ["fewer than two good members"]}  # short history
    for body in told:
        assert body["delivery"]["since_first_event"] >= 0


def test_latencies_add_up(live: list[Received]) -> None:
    messages = [one.body["delivery"] for one in live if "delivery" in one.body]
    assert messages
    for delivery in messages:
        steps = dict(delivery["latency"])
        total = steps.pop("total")
        assert sum(steps.values()) == pytest.approx(total, abs=1e-3)
        assert min(steps.values()) >= 0
        assert 0 < total < 60
    for name in (*DETECTORS, "network"):
        sequences = [b.body["delivery"]["sequence"] for b in live if b.topic.startswith(f"gwstream/{name}/")]
        assert sorted(sequences) == list(range(len(sequences)))


# the same frames, three ways


class Capture:
    """A publisher that keeps what it is given."""

    def __init__(self) -> None:
        self.sent: list[Outgoing] = []

    async def put(self, outgoing: Outgoing) -> None:
        self.sent.append(outgoing)

    async def run(self) -> None:
        await asyncio.Event().wait()

    async def drain(self, limit: float) -> None:
        return


class Whole:
    """The whole recording as one record a detector."""

    detectors = DETECTORS
    live = False

    async def stream(self, detector: str) -> AsyncIterator[Strain | Gap]:
        yield replace(recording.read(detector), dq=3)


@asynccontextmanager
async def whole() -> AsyncIterator[Whole]:
    yield Whole()


async def posteriors(model: Model, config: Config, source: Any) -> dict[str, bytes]:
    """Posterior parts by id, and those of network events that stand, through the pipeline in this process."""
    publisher = Capture()
    async with source as opened:
        parts = Parts(
            config=config,
            source=opened,
            conditioner=partial(Conditioner, model.spec),
            spec=model.spec.conditioning,
            inference=Inference(model, config.inference),
            prior=model.spec.prior,
            publisher=publisher,
        )
        await run(parts, asyncio.Event())
    told = {one.summary.id: one.summary.posterior for one in publisher.sent if one.summary.kind == "posterior"}
    for summary in (one.summary for one in publisher.sent if one.summary.kind == "network"):
        assert summary.event is not None
        told = {name: part for name, part in told.items() if name not in summary.event["supersedes"]}
        told[summary.id] = summary.posterior
    return told


@pytest.fixture(scope="module")
def model() -> Model:
    return load_model(settings.default_model())


@pytest.fixture(scope="module")
def replayed(model: Model, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The frames from a folder, as fast as they are taken."""
    root = tmp_path_factory.mktemp("replay")
    for path in folders(root).values():
        path.mkdir()
    play(root, pause=0.0)
    detectors = {name: {"files": sorted(path.iterdir())} for name, path in folders(root).items()}
    config = Config.model_validate({"source": {"kind": "replay", "speed": 0, "detectors": detectors}})
    return asyncio.run(posteriors(model, config, open_source(config.source)))


@pytest.fixture(scope="module")
def at_once(model: Model) -> dict[str, bytes]:
    """One array a detector, and batches of another size."""
    table = {"source": {"kind": "simulated", "detectors": {name: {} for name in DETECTORS}}, "batching": {"size": 5}}
    return asyncio.run(posteriors(model, Config.model_validate(table), whole()))


def test_replay_and_one_array_give_the_same_bytes(replayed: dict[str, bytes], at_once: dict[str, bytes]) -> None:
    assert len(replayed) >= 5
    assert [name[:6] for name in replayed if name.startswith("N-")] == ["N-H1L1"]
    assert replayed == at_once


def test_the_daemon_gives_the_same_bytes(live: list[Received], replayed: dict[str, bytes]) -> None:
    on_the_wire = {one.body["posterior"]["id"]: canonical(one.body["posterior"]) for one in of_kind(live, "posterior")}
    for body in (one.body for one in live if one.topic == "gwstream/network/event"):
        on_the_wire = {name: part for name, part in on_the_wire.items() if name not in body["event"]["supersedes"]}
        on_the_wire[body["event"]["id"]] = canonical(body["network"])
    assert on_the_wire == replayed
