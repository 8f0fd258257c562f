"""What the soak puts around the frames: a broker, a subscriber that never gives up, a disk, and the daemon itself."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import common
import paho.mqtt.client as paho
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from gwstream.clock import gps_now_ns
from gwstream.demo import child
from gwstream.demo.broker import Broker as Embedded
from gwstream.records import NANO

MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
LIMIT = 120.0  # s for anything
STATE_MB = 128  # more than the archives below, a write-ahead log, and compiled networks
LINE = re.compile(r"(\w+)(?:\{(.*)\})? (\S+)")
LABEL = re.compile(r'(\w+)="([^"]*)"')

Metrics = dict[tuple[str, ...], float]
"""By name and the values of the labels, in the order of the labels' names."""


class Broker:
    """Mosquitto with persistence where it is installed; else the embedded one, which keeps and freezes nothing."""

    real = MOSQUITTO is not None

    def __init__(self, folder: Path) -> None:
        self.port = child.free_port()
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._embedded: Embedded | None = None

    async def start(self) -> None:
        if MOSQUITTO is None:
            self._embedded = Embedded(self.port)
            await self._embedded.__aenter__()
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        settings = self._folder / "mosquitto.conf"
        settings.write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous true\npersistence true\n"
            f"persistence_location {self._folder}/\nautosave_interval 1\nautosave_on_changes true\n"
            "max_inflight_messages 0\nmax_queued_messages 0\nuser root\n"
        )
        self._run(settings)
        end = time.monotonic() + LIMIT
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", self.port)
            except OSError:
                if time.monotonic() > end:
                    raise SystemExit(f"mosquitto does not start; see {self._folder}/log") from None
                await asyncio.sleep(0.02)
            else:
                writer.close()
                return

    def _run(self, settings: Path) -> None:
        assert MOSQUITTO is not None
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen([MOSQUITTO, "-c", str(settings)], stdout=log, stderr=log)

    async def end(self, kind: str) -> None:
        """``kind``: as in `soak_plan.BROKER`."""
        if self._embedded is not None:
            embedded, self._embedded = self._embedded, None
            await embedded.__aexit__(None, None, None)
        elif self._process is not None:
            if kind == "broker frozen":
                self._process.send_signal(signal.SIGSTOP)
                return
            self._process.send_signal(signal.SIGKILL if "killed" in kind else signal.SIGTERM)
            await asyncio.to_thread(self._process.wait)
            if "its state lost" in kind:
                (self._folder / "mosquitto.db").unlink(missing_ok=True)

    async def back(self, kind: str) -> None:
        """After an outage of this kind."""
        if kind == "broker frozen" and self._process is not None:
            self._process.send_signal(signal.SIGCONT)
        else:
            await self.start()

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


@dataclass
class Told:
    """What reached the subscriber: digests by kind and id, how often, and sequence numbers by topic's level.

    ``heard``: GPS s at which a broker granted its subscriptions; ``forgot``: at which one ended that may have lost what
    it had acknowledged.
    """

    digests: dict[tuple[str, str], set[str]] = field(default_factory=dict)
    count: Counter[tuple[str, str]] = field(default_factory=Counter)
    sequences: dict[str, dict[int, set[str]]] = field(default_factory=dict)
    heard: list[float] = field(default_factory=list)
    forgot: list[float] = field(default_factory=list)
    wrong: int = 0
    """Messages whose own digest does not hold."""


def digest_of(payload: bytes | bytearray, part: str) -> str:
    """SHA-256 of the bytes of this part, which comes last in a message."""
    return hashlib.sha256(payload[payload.index(f'"{part}":'.encode()) + len(part) + 3 : -1]).hexdigest()


class Subscriber:
    """Of posteriors and events, with a session of its own at the broker, which connects again for ever."""

    def __init__(self, port: int) -> None:
        self.connected = False
        self._port = port
        self._client = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id="witness", protocol=paho.MQTTv5)
        self._client.reconnect_delay_set(1, 1)
        self._client.on_connect = self._up
        self._client.on_subscribe = self._granted
        self._client.on_disconnect = self._down
        self._client.on_message = self._take

    def start(self) -> None:
        session = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        session.SessionExpiryInterval = 86_400
        self._client.connect("127.0.0.1", self._port, keepalive=5, clean_start=False, properties=session)
        self._client.loop_start()

    def stop(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def _up(self, client: paho.Client, *_: Any) -> None:
        client.subscribe([("gwstream/+/posterior", 1), ("gwstream/+/event", 1)])

    def _granted(self, *_: Any) -> None:
        self.connected = True

    def _down(self, *_: Any) -> None:
        self.connected = False

    def _take(self, _client: Any, _data: Any, message: paho.MQTTMessage) -> None:
        """A message came."""
        raise NotImplementedError


class Witness(Subscriber):
    """Keeps what is needed to judge it."""

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self.told = Told()

    def _granted(self, *about: Any) -> None:
        super()._granted(*about)
        self.told.heard.append(gps_now_ns() / NANO)

    def fresh(self) -> Told:
        """What came since the last time."""
        told, self.told = self.told, Told()
        return told

    def _take(self, _client: Any, _data: Any, message: paho.MQTTMessage) -> None:
        body, told = json.loads(message.payload), self.told
        _, level, kind = message.topic.split("/")
        network = level == "network"
        part = body["network"] if network else body["posterior"]
        digest = digest_of(message.payload, "network" if network else "posterior")
        told.wrong += digest != body["sha256"]
        name = part["id"] if kind == "posterior" else body["event"]["id"] + body["event"].get("state", "")
        key = ("network" if network else kind, name)
        told.digests.setdefault(key, set()).add(digest)
        told.count[key] += 1
        told.sequences.setdefault(level, {}).setdefault(body["delivery"]["sequence"], set()).add(f"{kind} {name}")


class Disk:
    """A small file system for the state directory, where we may mount one; it can be filled."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self.real = os.geteuid() == 0 and not self._mount("-t", "tmpfs", "-o", f"size={STATE_MB}m", "tmpfs")

    def _mount(self, *options: str) -> int:
        command = ["mount", *options, str(self.directory)]
        return subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode

    def fill(self) -> None:
        if self.real:
            with contextlib.suppress(OSError), (self.directory / "filler").open("wb", buffering=0) as file:
                for size in (2**20, 4096, 1):
                    with contextlib.suppress(OSError):
                        while file.write(bytes(size)) == size:
                            pass

    def empty(self) -> None:
        (self.directory / "filler").unlink(missing_ok=True)

    def close(self) -> None:
        if self.real:
            subprocess.run(["umount", "-l", str(self.directory)], check=False)


class Daemon:
    """``gwstream run`` in a process of its own, again and again, and what its metrics say.

    ``exposition``: the last of them as they came; ``latest``: the same, parsed; ``lives``: processes so far.
    """

    def __init__(self, folder: Path, settings: child.Settings, log: Path) -> None:
        self._folder, self._log = folder, log
        self.port = settings.http_port
        self.config = folder / "gwstream.toml"
        text = settings.toml().replace("[publish]\n", "[publish]\narchive_mb = 24\nsamples_mb = 24\n")
        text = text.replace(
            "[inference]\n", "[inference]\nlatency_target = 600\n"
        )  # strain comes as fast as it is judged
        self.config.write_text(text.replace("[metrics]\n", "[metrics]\nrequest_rate = 1000\n"), encoding="utf-8")
        self.process: asyncio.subprocess.Process | None = None
        self.lives = 0
        self.latest: Metrics = {}
        self.exposition = ""
        self._before: Counter[tuple[str, ...]] = Counter()
        self._session: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        """Without waiting until it is up."""
        self.lives += 1
        self._before = self.totals()
        self.latest = {}
        with self._log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "gwstream", "run", str(self.config)),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | {"PYTHONUNBUFFERED": "1"},
                start_new_session=True,
            )

    async def end(self, number: signal.Signals) -> int:
        """Send it a signal and wait for its end; returns the exit status."""
        assert self.process is not None
        self.process.send_signal(number)
        return await asyncio.wait_for(self.process.wait(), LIMIT)

    async def ask(self) -> Metrics:
        """Its metrics; those of before where it does not answer. Raises `SystemExit` where it has ended unasked."""
        if self.process is None or self.process.returncode is not None:
            raise SystemExit(f"the daemon has ended by itself:\n{child.tail(self._log, 30)}")
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30))
        try:
            async with self._session.get(f"http://127.0.0.1:{self.port}/metrics") as answer:
                now = gps_now_ns()
                text = await answer.text()
        except (aiohttp.ClientError, TimeoutError):
            return self.latest
        if answer.status == 200:
            self.exposition = text
            self.latest = dict(_parsed(text))
            self.latest["asked",] = now / NANO
        return self.latest

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
            await self.process.wait()

    def position(self, detector: str) -> int:
        """GPS second up to which it has read strain; 0: none yet in this life."""
        age = self.latest.get(("gwstream_data_age_seconds", detector))
        return 0 if age is None else round(self.latest["asked",] - age)

    @property
    def behind(self) -> float:
        """Records and batches that wait for their turn."""
        found = self._sum("gwstream_stage_seconds_count", "source", "batching")
        return found - self._sum("gwstream_stage_seconds_count", "conditioning") - self._sum("gwstream_batches_total")

    @property
    def pending(self) -> float:
        """Windows behind the gate that were neither told nor shed."""
        shed = sum(number for key, number in self.latest.items() if key[-2:] == ("overload", "inference"))
        return self._sum("gwstream_triggers_total") - self._sum("gwstream_posteriors_total") - shed

    @property
    def idle(self) -> bool:
        """Whether all was judged and told."""
        return self.behind == 0 and self.pending <= 0

    def _sum(self, name: str, *labels: str) -> float:
        """Of a metric's series, or of those with one of these for a label."""
        return sum(
            number
            for key, number in self.latest.items()
            if key[0] == name and (not labels or any(label in key for label in labels))
        )

    def totals(self) -> Counter[tuple[str, ...]]:
        """All its counters over its lives."""
        now = {key: value for key, value in self.latest.items() if key[0].endswith("_total")}
        return self._before + Counter(now)

    def process_figures(self) -> tuple[float, int]:
        """Resident MB and open descriptors; 0 of a process that is gone."""
        assert self.process is not None
        try:
            return common.rss(self.process.pid), len(os.listdir(f"/proc/{self.process.pid}/fd"))  # noqa: PTH208
        except OSError:
            return 0.0, 0


def _parsed(text: str) -> Iterator[tuple[tuple[str, ...], float]]:
    for line in text.splitlines():
        match = LINE.fullmatch(line)
        if match is not None and "_bucket" not in match[1]:
            labels = sorted(LABEL.findall(match[2] or ""))
            yield (match[1], *(value for _, value in labels)), float(match[3])
