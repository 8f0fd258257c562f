"""A real daemon, a real broker, frames of made-up noise, and an account of all that must come of them.

`Oracle` cuts the strain that the daemon ought to read into windows, in this process. `World.settled` waits for as many,
and then every second, window, posterior and message must be accounted for: what came, and what was counted as lost.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import tomllib
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import paho.mqtt.client as paho
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from test_flow import Received, free_port, wait

from gwstream.conditioning import Conditioner
from gwstream.config import InferenceConfig, default_model
from gwstream.demo import child
from gwstream.inference import Inference, load_model
from gwstream.model import read_spec
from gwstream.records import Batch, Floats, Gap, Strain, Window
from gwstream.source.writer import frame_bytes, frame_name, put
from gwstream.summary import schema

GPS = 1_400_000_000
RATE = 1024
WARM = 14  # s until there are windows
PATIENCE = 0.6  # s
START = 240.0  # s that it may take to start on a busy machine,
LONG = 120.0  # and for anything else
GATE = "gate_snr = 4.4\ndraws = 100\nlatents = 20\n"  # of noise about one window a second passes
LINE = re.compile(r"(\w+)(?:\{(.*)\})? (\S+)")
LABEL = re.compile(r'(\w+)="([^"]*)"')
VALIDATOR = jsonschema.Draft202012Validator(schema())

Record = Strain | Gap


def noise(detector: str, second: int) -> Floats:
    """(RATE,) of GPS second ``second``: other numbers in each detector."""
    return np.random.default_rng([*detector.encode(), second]).normal(size=RATE) * 1e-21


def content(detector: str, second: int, samples: Floats | None = None, state: int | None = 3) -> bytes:
    return frame_bytes(detector, second, noise(detector, second) if samples is None else samples, RATE, state)


def strain(detector: str, second: int, samples: Floats | None = None) -> Strain:
    taken = noise(detector, second) if samples is None else samples
    return Strain(detector=detector, start=second * RATE, rate=RATE, samples=taken, dq=3)


def gap(detector: str, second: int, end: int, reason: str = "missing") -> Gap:
    return Gap(detector=detector, start=second * RATE, rate=RATE, length=(end - second) * RATE, reason=reason)


class Oracle:
    """What must come of one detector's records: seconds of strain and of gaps, and its windows by their start."""

    def __init__(self, detector: str) -> None:
        self._conditioner = Conditioner(read_spec(default_model() / "model.toml"), detector)
        self.seconds = {"strain": 0.0, "gap": 0.0}
        self.cut: list[Window] = []
        self.windows: set[int] = set()

    def push(self, record: Record) -> None:
        self.seconds["strain" if isinstance(record, Strain) else "gap"] += (record.end - record.start) / record.rate
        windows = self._conditioner.push(record)
        self.cut += windows
        self.windows |= {window.gps_ns for window in windows}


@cache
def judge() -> Inference:
    config = InferenceConfig.model_validate(tomllib.loads(GATE))
    return Inference(load_model(default_model()), config)


def passing(windows: Sequence[Window]) -> set[int]:
    """Starts of the windows that pass the gate."""
    batches = [Batch(windows=tuple(windows[k : k + 16]), bucket=16) for k in range(0, len(windows), 16)]
    return {one.window.gps_ns for batch in batches for one in judge().gate(batch) if one.passed}


@dataclass
class Metrics:
    """A scrape: every value by name and labels' values, in the order of the labels' names."""

    values: dict[tuple[str, ...], float]

    def of(self, name: str, *labels: str) -> float:
        """The sum over the series that have all these labels."""
        return sum(v for key, v in self.values.items() if key[0] == name and set(labels) <= set(key[1:]))

    def dropped(self, detector: str, stage: str = "source") -> Counter[str]:
        """By reason."""
        name = "gwstream_dropped_total"
        return Counter(
            {k[2]: round(v) for k, v in self.values.items() if (k[0], *k[1:2], k[-1]) == (name, detector, stage)}
        )


@dataclass
class Witness:
    """A subscriber that connects again for ever; ``ready``: it is subscribed."""

    got: list[Received]
    ready: threading.Event


@contextmanager
def witness(port: int, name: str = "") -> Iterator[Witness]:
    """All that comes. With a ``name``, the broker keeps for it what comes while it is away."""
    it = Witness([], threading.Event())
    client = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id=name, protocol=paho.MQTTv5)

    def note(_client: Any, _data: Any, message: paho.MQTTMessage) -> None:
        user = dict(getattr(message.properties, "UserProperty", []))
        it.got.append(Received(message.topic, message.payload, "", user, None))

    client.reconnect_delay_set(0.05, 0.1)
    client.on_message = note
    client.on_connect = lambda *_: client.subscribe("gwstream/#", qos=1)
    client.on_subscribe = lambda *_: it.ready.set()
    client.on_disconnect = lambda *_: it.ready.clear()
    session = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    if name:
        session.SessionExpiryInterval = 3600
    client.connect("127.0.0.1", port, keepalive=60, clean_start=not name, properties=session)
    client.loop_start()
    try:
        assert it.ready.wait(LONG)
        yield it
    finally:
        client.disconnect()
        client.loop_stop()


def the_same(got: Sequence[Received]) -> dict[tuple[str, str], bytes]:
    """What was told, by kind and id: its bytes have the digest that it came with, and are those of each repeat.

    A sequence number is one message's.
    """
    parts: dict[tuple[str, str], bytes] = {}
    used: dict[tuple[str, int], tuple[str, str]] = {}
    for one in got:
        _, level, kind = one.topic.split("/")
        if kind != "status":
            part, number = one.part, one.body["delivery"]["sequence"]
            assert hashlib.sha256(part).hexdigest() == one.body["sha256"], one.id
            assert parts.setdefault(one.id, part) == part, one.id
            assert used.setdefault((level, number), one.id) == one.id, f"{level} {number}"
    return parts


@dataclass
class World:
    """A daemon at work in ``root``, and what a subscriber of its broker has ``got``."""

    root: Path
    detectors: Sequence[str]
    broker: int
    got: list[Received]
    program: Sequence[str] = (sys.executable, "-m", "gwstream")
    source: str = ""
    inference: str = GATE
    publish: str = ""
    drain: float = 20.0
    more: str = ""
    state: Path | None = None
    second: int = GPS
    process: subprocess.Popen[bytes] | None = None
    http: int = field(default_factory=free_port)
    ended: Counter[tuple[str, ...]] = field(default_factory=Counter)
    """Counters of lives that are over."""

    def __post_init__(self) -> None:
        self.oracles = {name: Oracle(name) for name in self.detectors}
        for name in self.detectors:
            self.folder(name).mkdir(parents=True)
        settings = child.Settings(
            directories={name: self.folder(name) for name in self.detectors},
            model=default_model(),
            broker_port=self.broker,
            http_port=self.http,
            source=f"patience = {PATIENCE}\n{self.source}",
            more=f"drain = {self.drain}\n{self.more}\n[calibration]\ninterval = 0\n",
            state=str(self.state or self.root / "state"),
        )
        text = settings.toml().replace("[inference]\n", f"[inference]\n{self.inference}")
        text = text.replace("[publish]\n", f"[publish]\nbackoff = 0.5\n{self.publish}")
        self.config = self.root / "gwstream.toml"
        self.config.write_text(text.replace("[metrics]\n", "[metrics]\nrequest_rate = 1000\n"))

    def folder(self, detector: str) -> Path:
        return self.root / detector

    @property
    def stored(self) -> Path:
        """Where it keeps its state."""
        return (self.state or self.root / "state") / "gwstream-gwstream"

    # -- its life

    def start(self, *, up: bool = True) -> None:
        with (self.root / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [*self.program, "run", str(self.config)],
                stdout=log,
                stderr=log,
                env=os.environ | {"PYTHONUNBUFFERED": "1"},
            )
        if up:
            self.until(lambda: self.health()[0] == 200, "the daemon", START)
            self.until(lambda: self.metrics().of("gwstream_broker_connected") == 1, "the connection", START)

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send it a signal; its exit status, once it has ended."""
        if number == signal.SIGTERM:
            with suppress(OSError):
                self.ended += self.counters()
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(LONG)

    def gone(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def log(self) -> str:
        return (self.root / "log").read_text(errors="replace")

    def until(self, condition: Callable[[], object], what: str, seconds: float = LONG) -> None:
        """Wait, as long as the daemon lives."""

        def checked() -> object:
            assert self.process is not None
            assert self.process.poll() is None, (
                f"ended while we waited for {what}:\n{child.tail(self.root / 'log', 40)}"
            )
            return condition()

        wait(checked, seconds, what)

    # -- what it says of itself

    def ask(self, page: str) -> tuple[int, bytes]:
        """Status and answer; 0 where there is none."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.http}/{page}", timeout=10) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as problem:
            return problem.code, problem.read()
        except OSError:
            return 0, b""

    def health(self) -> tuple[int, list[str]]:
        status, body = self.ask("healthz")
        return status, json.loads(body)["reasons"] if body else []

    def metrics(self) -> Metrics:
        found: dict[tuple[str, ...], float] = {}
        for line in self.ask("metrics")[1].decode().splitlines():
            match = LINE.fullmatch(line)
            if match is not None and "_bucket" not in match[1]:
                values = (value for _, value in sorted(LABEL.findall(match[2] or "")))
                found[match[1], *values] = float(match[3])
        return Metrics(found)

    def counters(self) -> Counter[tuple[str, ...]]:
        return Counter({k: v for k, v in self.metrics().values.items() if k[0].endswith("_total")})

    def status(self) -> dict[str, Any]:
        """The last one on the broker."""
        return [one.body for one in self.got if one.topic.endswith("/status")][-1]

    # -- frames

    def write(self, detector: str, body: bytes, second: int | None = None, duration: int = 1) -> Path:
        """Rename a frame into place."""
        name = frame_name(detector, self.second if second is None else second, duration)
        return put(self.folder(detector) / name, body)

    def meant(self, record: Record) -> None:
        """The daemon must make this of what was written."""
        self.oracles[record.detector].push(record)

    def clean(self, detector: str, *seconds: int) -> None:
        """Frames without fault; of no seconds: of the present one."""
        for second in seconds or (self.second,):
            self.write(detector, content(detector, second), second)
            self.meant(strain(detector, second))

    def play(self, seconds: int, pause: float = 0.0) -> None:
        """So many seconds of all detectors without fault."""
        for _ in range(seconds):
            for name in self.detectors:
                self.clean(name)
            self.second += 1
            time.sleep(pause)

    def busy(self, posteriors: int, until: Callable[[], object] = lambda: True) -> None:
        """Strain, second by second as it is judged, until so many more windows are behind the gate, and ``until``."""
        first = self.metrics().of("gwstream_triggers_total")
        while self.metrics().of("gwstream_triggers_total") < first + posteriors or not until():
            self.play(1)
            wanted = sum(len(oracle.windows) for oracle in self.oracles.values())
            self.until(lambda: self.metrics().of("gwstream_windows_total") >= wanted, "the gate")  # noqa: B023

    def read(self, detector: str, seconds: float) -> None:
        """Until so many seconds have been taken in."""
        self.until(
            lambda: self.metrics().of("gwstream_strain_seconds_total", detector) >= seconds,
            f"{seconds:g} s of {detector}",
        )

    # -- the account

    def settled(self, seconds: float = LONG) -> Metrics:
        """Wait until all that was meant has come of it, and see that nothing else did."""
        last = Metrics({})

        def done() -> bool:
            nonlocal last
            last = self.metrics()
            return not self._open(last)

        try:
            self.until(done, "the account", seconds)
        except AssertionError as problem:
            raise AssertionError(f"{problem}\n{self._open(last)}\n{self.log()[-3000:]}") from None
        self.told()
        assert self.health() == (200, [])
        assert "Traceback" not in self.log(), self.log()[-3000:]
        return last

    def _open(self, m: Metrics) -> list[str]:
        """What does not add up, or not yet."""
        faults = []

        def same(what: str, found: float, wanted: float) -> None:
            if abs(found - wanted) > 1e-6:
                faults.append(f"{what}: {found:g}, not {wanted:g}")

        for name, oracle in self.oracles.items():
            lost = sum(m.dropped(name, "inference").values())
            same(f"{name} strain", m.of("gwstream_strain_seconds_total", name), oracle.seconds["strain"])
            same(f"{name} gaps", m.of("gwstream_gap_seconds_total", name), oracle.seconds["gap"])
            judged, made = m.of("gwstream_windows_total", name), m.of("gwstream_posteriors_total", name)
            if not lost:
                same(f"{name} windows", judged, len(oracle.windows))
                same(f"{name} posteriors", made, m.of("gwstream_triggers_total", name))
            elif judged > len(oracle.windows) or judged + lost < len(oracle.windows):
                faults.append(f"{name} windows: {judged:g} and {lost} given up of {len(oracle.windows)}")
            same(f"{name} sent", m.of("gwstream_published_total", name, "posterior"), made)
        same("queued", m.of("gwstream_queue_depth"), 0)
        return faults

    def told(self) -> None:
        """Every message is valid and of a window that ought to be, with the same bytes whenever it comes.

        Every sequence number is there, and is one message's.
        """
        self.until(lambda: not self._missing(), f"messages: {self._missing()}")
        got = list(self.got)
        for one in got:
            VALIDATOR.validate(one.body)
        for kind, name in the_same(got):
            if kind == "posterior":
                detector, start = name.split("-")[:2]
                assert int(start) in self.oracles[detector].windows, name

    def complete(self) -> None:
        """Over all its lives: a posterior of each window that passes the gate, and of no other."""
        for name, oracle in self.oracles.items():
            wanted = passing(oracle.cut)

            def found(name: str = name) -> set[int]:
                parts = [one.body["posterior"] for one in list(self.got) if one.topic == f"gwstream/{name}/posterior"]
                return {int(part["id"].split("-")[1]) for part in parts}

            with suppress(AssertionError):
                self.until(lambda: found() >= wanted, "posteriors")  # noqa: B023
            assert found() == wanted
            assert wanted
        self.told()
        assert self.health() == (200, [])

    def _missing(self) -> list[str]:
        """Sequence numbers that did not come, though a later one, or a posterior that was made, says they are."""
        numbers: dict[str, set[int]] = {}
        ids = {one.body["posterior"]["id"] for one in list(self.got) if one.topic.endswith("/posterior")}
        made = Counter(name.split("-")[0] for name in ids)
        for one in list(self.got):
            if not one.topic.endswith("/status"):
                numbers.setdefault(one.topic.split("/")[1], set()).add(one.body["delivery"]["sequence"])
        holes = [f"{level} {n}" for level, seen in numbers.items() for n in sorted(set(range(max(seen))) - seen)]
        totals = self.ended + self.counters()
        for name in self.detectors:
            wanted = sum(v for k, v in totals.items() if k[0] == "gwstream_posteriors_total" and name in k)
            if made[name] < wanted:
                holes.append(f"{made[name]} posteriors of {name}, not {wanted:g}")
        return holes


@contextmanager
def world(
    root: Path, broker: int, detectors: Sequence[str] = ("H1",), *, listener: Witness | None = None, **more: Any
) -> Iterator[World]:
    """A daemon that is up and has its spectra.

    ``listener``: who has subscribed, else one at ``broker``. ``more``: as in `World`, and ``warm``: False leaves all
    that to do.
    """
    warm = more.pop("warm", True)
    with ExitStack() as stack:
        listener = listener or stack.enter_context(witness(broker))
        it = World(root, detectors, broker, listener.got, **more)
        stack.callback(it.gone)
        if warm:
            it.start()
            it.play(WARM)
            it.settled()
        yield it
