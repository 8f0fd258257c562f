"""Latency from a frame's rename to the first message of an event, in the hands of a subscriber without gwstream.

Two detectors at 16384 Hz, a frame of each every second at real time, 16 windows a second, one injected signal a
detector every 10 s. Daemon (``gwstream run``), broker, subscriber (plain paho) and writer are processes of their own;
all frames are made before the clock starts. One machine, so one monotonic clock. A message waits for its frame before
anything of ours begins: the time from the last sample it needs, and from coalescence, holds that wait.

    python benchmarks/latency.py --seconds 300
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import common
import numpy as np
from drawings import COLOURS, panels

from gwstream.demo import child
from gwstream.demo.broker import Broker
from gwstream.injection import Injection
from gwstream.source import writer

GPS = 1_400_000_000
WARM_UP = 40  # s until the PSD has 32 s of history, so that no posterior is suspect
EVERY = 10
DETECTORS = ("H1", "L1")
CURVE = "aLIGO_O4_high"
NANO = 1_000_000_000
MATCH = 0.05  # s between an event's coalescence and the injection's


@dataclass(slots=True)
class Play:
    """What was played: the frames, the signals with their SNR, and when each frame was renamed (monotonic ns)."""

    rate: int
    seconds: int
    frames: dict[tuple[str, int], bytes] = field(default_factory=dict)
    signals: list[tuple[Injection, float]] = field(default_factory=list)
    renamed: dict[tuple[str, int], int] = field(default_factory=dict)
    begin: int = 0
    calibration: float = 16.0  # s of strain with one known signal; 0: none
    counted: dict[str, float] = field(default_factory=dict)  # of known signals, as the daemon's metrics say


@dataclass(frozen=True, slots=True)
class Found:
    """An event message: s after the rename of the last frame it needed, after the last sample, after coalescence.

    ``steps``: what the daemon says of its own stages, in s; ``name``: detector, and s since `GPS` of its coalescence.
    """

    name: str
    latency: float
    since_last_sample: float
    since_coalescence: float
    steps: dict[str, float]

    @property
    def waited(self) -> float:
        """s that the last sample lay in a frame that was not there yet."""
        return self.since_last_sample - self.latency


def make(rate: int, seconds: int, seed: int) -> Play:
    """All frames, in memory."""
    rng = np.random.default_rng(seed)
    play = Play(rate, WARM_UP + seconds)
    for number, detector in enumerate(DETECTORS):
        strain = common.noise(rng, CURVE, rate, play.seconds)
        times = np.arange(WARM_UP + 2 + number * EVERY / len(DETECTORS), play.seconds - 3, EVERY)
        for at in times + rng.uniform(0, 1, len(times)):  # everywhere within a frame
            injection, snr = common.draw(rng, detector, GPS * NANO + round(at * NANO), (10, 20), CURVE)
            start, wave = injection.strain(rate)
            offset = start - GPS * rate
            low, high = max(offset, 0), min(offset + len(wave), len(strain))
            strain[low:high] += wave[low - offset : high - offset]
            play.signals.append((injection, snr))
        for second in range(play.seconds):
            samples = strain[second * rate : (second + 1) * rate]
            play.frames[detector, second] = writer.frame_bytes(detector, GPS + second, samples, rate)
    return play


async def run(play: Play, folder: Path) -> tuple[list[tuple[int, dict]], list[float]]:
    """Play it; event messages with the monotonic ns of their receipt, and the daemon's memory in MB, once a second."""
    directories = {name: folder / name for name in DETECTORS}
    for directory in directories.values():
        directory.mkdir()
    received: list[tuple[int, dict]] = []
    memory: list[float] = []
    async with Broker() as broker:
        page = child.free_port()
        config = folder / "gwstream.toml"
        settings = child.Settings(
            directories=directories,
            model=common.MODEL,
            broker_port=broker.port,
            http_port=page,
            more=f"\n[calibration]\ninterval = {play.calibration}\n",
        )
        config.write_text(settings.toml(), encoding="utf-8")
        async with child.daemon(config, folder / "daemon.log", page) as daemon:
            listener = await asyncio.create_subprocess_exec(
                sys.executable, __file__, "--subscribe", str(broker.port), stdout=asyncio.subprocess.PIPE, limit=2**22
            )
            assert listener.stdout is not None
            await listener.stdout.readline()  # it is subscribed
            reading = asyncio.create_task(read(listener.stdout, received))
            play.begin = time.monotonic_ns()
            for second in range(play.seconds):
                await asyncio.sleep((play.begin + (second + 1) * NANO - time.monotonic_ns()) / NANO)
                for name, directory in directories.items():
                    final = directory / writer.frame_name(name, GPS + second)
                    play.renamed[name, second] = time.monotonic_ns()
                    writer.put(final, play.frames[name, second])
                    with contextlib.suppress(FileNotFoundError):
                        (directory / writer.frame_name(name, GPS + second - 60)).unlink()
                child.check(daemon, folder / "daemon.log")
                memory.append(common.rss(daemon.pid))
            await asyncio.sleep(2)
            play.counted = await known(page)
            listener.terminate()
            await listener.wait()
            await reading
    return received, memory


async def known(port: int) -> dict[str, float]:
    """Known signals that were judged, by what became of them, all detectors together."""
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/metrics") as answer:
        lines = (await answer.text()).splitlines()
    out = {"judged": 0.0, "made strain wait": 0.0, "no pause": 0.0, "trigger": 0.0}
    for line in lines:
        name, _, value = line.rpartition(" ")
        if name.startswith("gwstream_calibration_injections_total"):
            out["judged"] += float(value)
        elif name.startswith("gwstream_dropped_total") and 'stage="calibration"' in name:
            out[name.split('reason="')[1].split('"')[0]] += float(value)
    return out


async def read(stream: asyncio.StreamReader, received: list[tuple[int, dict]]) -> None:
    while line := await stream.readline():
        at, _, payload = line.partition(b" ")
        received.append((int(at), json.loads(payload)))


def subscribe(port: int, *topics: str) -> None:
    """The subscriber's process: prints the time of receipt and the payload of each message on ``topics``."""
    import paho.mqtt.client as mqtt

    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)

    def on_subscribe(*_: object) -> None:
        print(flush=True)

    def on_message(_client: object, _userdata: object, message: mqtt.MQTTMessage) -> None:
        at = time.monotonic_ns()
        sys.stdout.buffer.write(b"%d %s\n" % (at, message.payload))
        sys.stdout.buffer.flush()

    client.on_subscribe = on_subscribe
    client.on_message = on_message
    client.connect("127.0.0.1", port)
    client.subscribe([(topic, 1) for topic in topics])
    client.loop_forever()


def told(play: Play, received: list[tuple[int, dict]]) -> Iterator[list[Found]]:
    """For each signal all messages of its event, the first one first; none: missed."""
    for injection, _ in play.signals:
        found = []
        for at, message in received:
            part = message["posterior"]
            apart = part["coalescence"]["gps_ns"] - injection.gps_ns
            if part["detector"] == injection.detector and abs(apart) < MATCH * NANO:
                delivery = message["delivery"]
                end = delivery["sent_gps"] - delivery["since_last_sample"]
                last = int(np.ceil(end - 1e-4)) - 1 - GPS  # the frame that holds the last sample needed
                renamed = play.renamed[injection.detector, last]
                now = (at - play.begin) / NANO  # since GPS, as play is at real time
                merged = injection.gps_ns / NANO - GPS
                name = f"{injection.detector} {merged:.1f}"
                found.append(Found(name, (at - renamed) / NANO, now - (end - GPS), now - merged, delivery["latency"]))
        yield found


def noise_events(play: Play, received: list[tuple[int, dict]]) -> int:
    """Events that belong to no signal."""
    told: dict[str, tuple[str, int]] = {}
    for _, message in received:
        for old in message["event"]["supersedes"]:
            told.pop(old, None)
        part = message["posterior"]
        told[message["event"]["id"]] = (part["detector"], part["coalescence"]["gps_ns"])
    return sum(
        not any(i.detector == name and abs(i.gps_ns - gps_ns) < 0.5 * NANO for i, _ in play.signals)
        for name, gps_ns in told.values()
    )


def report(play: Play, received: list[tuple[int, dict]], memory: list[float]) -> str:
    every = [found for found in told(play, received) if found]
    head = [
        common.machine(),
        f"{len(DETECTORS)} detectors at {play.rate} Hz, {play.seconds - WARM_UP} s after {WARM_UP} s of warm-up, "
        f"{len(play.signals)} signals of SNR 10 to 20: {len(every)} found, "
        f"{len(play.signals) - len(every)} missed, "
        f"{noise_events(play, received)} events from noise alone",
        f"resident memory of the daemon: {memory[len(memory) // 4]:.0f} MB after a quarter, "
        f"{memory[-1]:.0f} MB at the end, {max(memory):.0f} MB at most",
        f"known signals, one in {play.calibration:g} s a detector: "
        + ", ".join(f"{name} {count:.0f}" for name, count in play.counted.items()),
    ]
    if every:
        first = [messages[0] for messages in every]
        head += ["", times(first, [one for messages in every for one in messages]), "", stages(first)]
        draw(first)
    return "\n".join(head)


def times(first: list[Found], every: list[Found]) -> str:
    """Marks of every kind of latency."""
    rows = []
    for label, values in (
        ("rename to first event message", [one.latency for one in first]),
        ("rename to any event message, updates too", [one.latency for one in every]),
        ("the frame's own wait: last sample to rename", [one.waited for one in first]),
        ("last sample to first event message", [one.since_last_sample for one in first]),
        ("coalescence to first event message", [one.since_coalescence for one in first]),
    ):
        marks = [*np.percentile(values, [50, 90, 99]), max(values)]
        rows.append((label, *(f"{1e3 * mark:.0f}" for mark in marks)))
    return common.table(("ms", "p50", "p90", "p99", "max"), rows)


def stages(first: list[Found]) -> str:
    """Each step and queue as the daemon says: median, share of the whole, and what it was in the worst message."""
    worst = max(first, key=lambda one: one.latency)
    whole = sum(one.steps["total"] for one in first)
    rows = [
        (
            name,
            f"{1e3 * np.median([one.steps[name] for one in first]):.1f}",
            f"{100 * sum(one.steps[name] for one in first) / whole:.0f} %",
            f"{1e3 * worst.steps[name]:.1f}",
        )
        for name in first[0].steps
    ]
    return common.table(("step, as the daemon says", "median ms", "share", f"worst message ({worst.name} s)"), rows)


def draw(first: list[Found]) -> None:
    """Shares of the steps, and the three latencies of all first messages."""
    with panels(common.picture("latency"), 2, (11, 3.5)) as axes:
        names = [name for name in first[0].steps if name != "total"]
        axes[0].barh(names, [1e3 * np.mean([one.steps[name] for one in first]) for name in names], color=COLOURS[0])
        axes[0].invert_yaxis()
        axes[0].set(xlabel="mean, ms")
        level = (np.arange(len(first)) + 0.5) / len(first)
        for label, colour, values in (
            ("since the rename", COLOURS[0], [one.latency for one in first]),
            ("since the last sample", COLOURS[2], [one.since_last_sample for one in first]),
            ("since coalescence", COLOURS[3], [one.since_coalescence for one in first]),
        ):
            axes[1].step(1e3 * np.sort(values), level, color=colour, label=label)
        axes[1].set(xlabel="ms to the first event message", ylabel="fraction", xscale="log", ylim=(0, 1))
        axes[1].legend()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=300, help="measured, after the warm-up (default: %(default)s)")
    parser.add_argument("--rate", type=int, default=16384, help="Hz (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--calibration", type=float, default=16.0, help="s a known signal; 0: none")
    parser.add_argument("--subscribe", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.subscribe:
        subscribe(args.subscribe, *(f"gwstream/{name}/event" for name in DETECTORS))
        return
    play = make(args.rate, args.seconds, args.seed)
    play.calibration = args.calibration
    with tempfile.TemporaryDirectory(prefix="gwstream-latency-", dir="/dev/shm") as folder:
        received, memory = asyncio.run(run(play, Path(folder)))
    print(report(play, received, memory))


if __name__ == "__main__":
    main()
