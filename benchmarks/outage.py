"""A broker away for ten minutes while posteriors come at one a second: how soon is all of it delivered, and how?

The daemon as it ships in a process of its own on frames of several detectors at real time (those of `capacity`, with a
signal in 20 s each), a real mosquitto that keeps its sessions, and a subscriber with one. Mosquitto is killed, and is
back after ``--minutes``. Frames go on through it and after it. What had to be delivered is read from the daemon's own
store afterwards, and its bytes are compared with those that the subscriber received.

Exit status 1: a message was lost, came with other bytes or out of order, or came later than `BAR` after the broker; or
there were fewer posteriors than one a second.

    python benchmarks/outage.py
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import capacity
import common
import paho.mqtt.client as paho
import soak_world
from rich.console import Console
from rich.progress import track

from gwstream.demo import child
from gwstream.publish.store import read

BAR = 10.0  # s
BEFORE = 66  # s of strain before the clock starts
UP = 20  # s at real time before the outage, and after it
STREAMS = 7
RATE = 1024  # Hz
KIND = "broker killed"
FAR = 2**62  # ns
INSTANCE = "gwstream-gwstream"


Message = tuple[str, int, str, str]
"""Detector or "network", sequence number, kind, digest."""


class Subscriber(soak_world.Subscriber):
    """``came``: monotonic s and what came then, in that order."""

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self.came: list[tuple[float, Message]] = []

    def _take(self, _client: Any, _data: Any, message: paho.MQTTMessage) -> None:
        now, sequence = time.monotonic(), json.loads(message.payload)["delivery"]["sequence"]
        _, level, kind = message.topic.split("/")
        network = level == "network"
        digest = soak_world.digest_of(message.payload, "network" if network else "posterior")
        self.came.append((now, (level, sequence, "network" if network else kind, digest)))


@dataclass(frozen=True, kw_only=True)
class Outage:
    """``length``: s; ``due``: made before the broker was ``back`` (monotonic s), and not delivered before; ``stored``:
    all that the daemon made; ``came``: what the subscriber received, in order, each with its time."""

    length: float
    back: float
    due: Sequence[Message]
    stored: Sequence[Message]
    came: Sequence[tuple[float, Message]]

    @property
    def times(self) -> list[float]:
        """s after the broker was back at which what was due came, each for the first time."""
        due = set(self.due)
        first = {message: at for at, message in reversed(self.came) if message in due}
        return sorted(at - self.back for at in first.values())

    @property
    def disorder(self) -> int:
        """Messages that came for the first time after one of the same detector with a higher number."""
        highest: dict[str, int] = {}
        seen: set[Message] = set()
        wrong = 0
        for _, message in self.came:
            detector, sequence, *_ = message
            wrong += message not in seen and sequence < highest.get(detector, -1)
            seen.add(message)
            highest[detector] = max(sequence, highest.get(detector, -1))
        return wrong

    @property
    def wrong(self) -> dict[str, int]:
        """Whatever should be 0."""
        came = {message for _, message in self.came}
        return {
            "lost": len(set(self.stored) - came),
            "with other bytes": len(came - set(self.stored)),
            "out of order": self.disorder,
        }

    @property
    def pace(self) -> float:
        """Posteriors a second that were made while the broker was away."""
        return sum(kind == "posterior" for _, _, kind, _ in self.due) / self.length

    @property
    def held(self) -> bool:
        return self.pace >= 1 and not any(self.wrong.values()) and self.times[-1] <= BAR


def made(state: Path) -> list[Message]:
    """What the daemon's store holds."""
    rows = [(row.sequence, row.outgoing.summary) for row in read(state, 0, FAR)]
    return [(summary.detector, sequence, summary.kind, summary.sha256) for sequence, summary in rows]


async def run(minutes: float, folder: Path) -> Outage:
    """One outage."""
    length = round(60 * minutes)
    frames = capacity.Frames(folder / "pool", RATE, STREAMS)
    frames.pool.mkdir()
    frames.ready(BEFORE + capacity.PERIOD)
    writing = capacity.Writer(folder, frames, STREAMS)
    broker = soak_world.Broker(folder / "broker")
    await broker.start()
    subscriber = Subscriber(broker.port)
    try:
        subscriber.start()
        page, config, state = child.free_port(), folder / "gwstream.toml", folder / "state"
        text = capacity.settings(writing, broker.port, page)
        config.write_text(text.replace('state = ""', f"state = {json.dumps(str(state))}"), encoding="utf-8")
        async with child.daemon(config, folder / "daemon.log", page), aiohttp.ClientSession() as session:
            for second in range(BEFORE):
                writing.link(second)
            await capacity.caught_up(session, page, writing, BEFORE)
            clock = Clock(writing, BEFORE)
            await clock.run(UP, "all is well")
            before = set(made(state / INSTANCE))
            await broker.end(KIND)
            await clock.run(length, "broker away")
            await broker.back(KIND)
            back = time.monotonic()
            due = [message for message in made(state / INSTANCE) if message not in before]
            await clock.run(UP, "broker back")
            await settled(session, page)
        stored = made(state / INSTANCE)
    finally:
        subscriber.stop()
        broker.kill()
    return Outage(length=length, back=back, due=due, stored=stored, came=subscriber.came)


class Clock:
    """Frames at real time, from ``second`` on."""

    def __init__(self, writing: capacity.Writer, second: int) -> None:
        self._writing, self._second = writing, second
        self._began = time.monotonic() - second

    async def run(self, seconds: int, what: str) -> None:
        for _ in track(range(seconds), what, console=Console(stderr=True), transient=True):
            await asyncio.sleep(self._began + self._second - time.monotonic())
            self._writing.link(self._second)
            self._writing.put(self._second)
            self._second += 1


async def settled(session: aiohttp.ClientSession, page: int) -> None:
    """Wait until nothing waits for the broker any more."""
    end = time.monotonic() + 60
    while capacity.total(await capacity.metrics(session, page), "gwstream_outbox_used_ratio"):
        if time.monotonic() > end:
            return
        await asyncio.sleep(0.2)


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="(default: %(default)s)")
    minutes = parser.parse_args().minutes
    with tempfile.TemporaryDirectory(prefix="gwstream-outage-", dir="/dev/shm") as folder:
        found = asyncio.run(run(minutes, Path(folder)))
    print(common.machine())
    rows = [
        ("broker away, s", f"{found.length:g}"),
        ("messages made meanwhile", len(found.due)),
        ("of these posteriors, a second", f"{found.pace:.2f}"),
        ("the last of them delivered, s after the broker was back", f"{max(found.times, default=float('nan')):.1f}"),
        ("received, all told", len(found.came)),
        ("repeated", len(found.came) - len({message for _, message in found.came})),
        *found.wrong.items(),
    ]
    print(common.table(("what", "figure"), rows))
    return not found.held


if __name__ == "__main__":
    raise SystemExit(main())
