"""How many detectors the daemon holds in real time on this machine, at 16 windows a second each.

The daemon as it ships (``gwstream run``) in a process of its own; frames of N detectors with made-up names, a second
long, renamed into place in /dev/shm at real time; a broker, and a subscriber without gwstream, in processes of their
own. Frames are made before the clock starts, from a few sources of noise of 128 s that join on to themselves:
detectors share a source, and so its signals, one in 20 s, which puts about 1 % of the windows behind the gate. The
daemon has 66 s of strain before the clock starts, as fast as it takes them, so that its histories are full.

A number is held when all windows but the last two seconds' were judged at the end, the backlog does not grow, nothing
was dropped and no posterior had fewer draws. Processor time is the daemon's own, from /proc; that of broker, writer and
subscriber stands beside it.

    python benchmarks/capacity.py --search
    python benchmarks/capacity.py --streams 16 --minutes 30
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import string
import sys
import tempfile
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import common
import latency
import numpy as np
from drawings import COLOURS, panels

from gwstream.demo import child
from gwstream.demo.broker import Broker
from gwstream.source import writer
from gwstream.source.channels import state_channel, strain_channel

GPS = 1_400_000_000
CURVE = "aLIGO_O4_high"
LEAST = 18  # s of strain until there are windows of every detector
FIRST = 14  # s of strain that a detector has no windows of, at most
KEPT = 76  # s that frames stay in place
PERIOD = 128  # s after which a source's noise begins again
EVERY = 20  # s between two signals of a source
SNRS = (10.0, 20.0)
NANO = 1_000_000_000
POLL = 2  # s between two looks at the metrics
BEHIND = 2.0  # s of windows that may be open at the end
CATCH_UP = 600.0  # s that the daemon may take for the strain before the clock starts
AHEAD = 4  # s of it that may wait
RATE_OF_WINDOWS = 16
GIVEN_UP = ("inference: coarser_hop", "inference: overload")  # windows
HOME = "H1"  # whose channels all frames have


@dataclass(frozen=True, slots=True)
class Look:
    """The daemon at one moment: s since the clock started, windows judged, behind the gate, core-s, MB."""

    at: float
    windows: float
    triggers: float
    core: float
    memory: float


@dataclass(frozen=True, slots=True)
class Length:
    """s of strain that is there when the daemon starts, and s at real time after it."""

    before: int
    seconds: int


@dataclass(slots=True)
class Run:
    """One number of streams: what was seen. ``latencies``: s from the rename to each message; ``others``: cores."""

    streams: int
    rate: int
    seconds: int
    before: int = 66
    looks: list[Look] = field(default_factory=list)
    dropped: dict[str, float] = field(default_factory=dict)
    latencies: list[float] = field(default_factory=list)
    draws: set[int] = field(default_factory=set)
    others: float = 0.0
    caught_up: float = 0.0

    @property
    def backlog(self) -> np.ndarray:
        """(looks, 2): s since the start, and s of strain that wait, all detectors together divided by their number."""
        begin = self.looks[0]
        return np.array(
            [
                (
                    one.at,
                    one.at - (one.windows - begin.windows) / (RATE_OF_WINDOWS * self.streams),
                )
                for one in self.looks
            ]
        )

    @property
    def growth(self) -> float:
        """s of backlog a second, fitted to the second half."""
        late = self.backlog[len(self.looks) // 2 :]
        return float(np.polyfit(late[:, 0], late[:, 1], 1)[0]) if len(late) > 2 else float("nan")

    @property
    def cores(self) -> float:
        """Of the daemon, on average."""
        first, last = self.looks[0], self.looks[-1]
        return (last.core - first.core) / (last.at - first.at)

    @property
    def behind_gate(self) -> float:
        first, last = self.looks[0], self.looks[-1]
        return (last.triggers - first.triggers) / max(last.windows - first.windows, 1)

    @property
    def held(self) -> bool:
        return self.backlog[-1, 1] <= BEHIND and abs(self.growth) < 0.05 and not self.dropped and len(self.draws) <= 1

    def row(self) -> list[object]:
        marks = np.percentile(self.latencies, [50, 99]) if self.latencies else [np.nan] * 2
        return [
            self.streams,
            "yes" if self.held else "no",
            f"{self.cores:.2f}",
            f"{1e3 * self.cores / self.streams:.1f}",
            f"{self.others:.2f}",
            f"{100 * self.behind_gate:.2f} %",
            *(f"{1e3 * mark:.0f}" for mark in marks),
            f"{1e3 * max(self.latencies, default=np.nan):.0f}",
            f"{self.backlog[-1, 1]:.2f}",
            f"{1e3 * self.growth:+.1f}",
            f"{max(one.memory for one in self.looks):.0f}",
            f"{self.before / self.caught_up:.0f}",
            ", ".join(f"{reason} {count:.0f}" for reason, count in self.dropped.items()) or "nothing",
        ]


HEAD = (
    "streams",
    "held",
    "cores, daemon",
    "core-ms a stream and s",
    "cores, others",
    "behind the gate",
    "p50, ms",
    "p99, ms",
    "max, ms",
    "backlog, s",
    "growth, ms/s",
    "MB",
    "catch-up, times real time",
    "dropped",
)


def names(count: int) -> list[str]:
    """H1, L1, V1, then made-up ones."""
    made = [letter + digit for digit in string.digits for letter in string.ascii_uppercase]
    real = ["H1", "L1", "V1"]
    return [*real, *(name for name in made if name not in real)][:count]


class Frames:
    """Frames of a few sources, made ahead in ``pool`` under their second's name; strain repeats, GPS does not."""

    def __init__(self, pool: Path, rate: int, sources: int, seed: int = 1) -> None:
        self.pool, self.rate, self.sources = pool, rate, sources
        rng = np.random.default_rng(seed)
        self._strain = [common.noise(rng, CURVE, rate, PERIOD) for _ in range(sources)]
        for number, strain in enumerate(self._strain):
            for at in np.arange(3 + EVERY * number / sources, PERIOD - 8, EVERY) + rng.uniform(0, 1):
                injection, _ = common.draw(rng, HOME, GPS * NANO + round(at * NANO), SNRS, CURVE)
                start, wave = injection.strain(rate)
                place = (start - GPS * rate + np.arange(len(wave))) % len(strain)
                strain[place] += wave

    def second(self, source: int, second: int) -> Path:
        """The frame of a source for a second since `GPS`, made at the first call."""
        path = self.pool / f"{source}-{second}.gwf"
        if not path.exists():
            begin = second % PERIOD * self.rate
            samples = self._strain[source][begin : begin + self.rate]
            path.write_bytes(writer.frame_bytes(HOME, GPS + second, samples, self.rate))
        return path

    def ready(self, last: int) -> None:
        for second in range(last):
            for source in range(self.sources):
                self.second(source, second)


class Writer:
    """Puts a second's frames of all detectors in place: hard links made ahead, so that all it does is rename."""

    def __init__(self, folder: Path, frames: Frames, streams: int) -> None:
        self.directories = {name: folder / name for name in names(streams)}
        self._ahead = folder / "ahead"
        self._frames = frames
        self.renamed: dict[int, int] = {}
        for directory in (*self.directories.values(), self._ahead):
            directory.mkdir(parents=True)

    def link(self, second: int) -> None:
        """Get ready for ``second``; names of two detectors may differ in nothing but the folder."""
        for number, name in enumerate(self.directories):
            source = self._frames.second(number % self._frames.sources, second)
            os.link(source, self._ahead / f"{name}-{second}")

    def put(self, second: int) -> None:
        self.renamed[second] = time.monotonic_ns()
        for name, directory in self.directories.items():
            (self._ahead / f"{name}-{second}").rename(directory / writer.frame_name(name, GPS + second))
            old = directory / writer.frame_name(name, GPS + second - KEPT)
            old.unlink(missing_ok=True)


def settings(writing: Writer, broker: int, page: int) -> str:
    detectors = "".join(
        f"\n[source.detectors.{name}]\ndirectory = {json.dumps(str(directory))}\n"
        f'channel = "{strain_channel(HOME)}"\nstate_channel = "{state_channel(HOME)}"\n'
        for name, directory in writing.directories.items()
    )
    plain = child.Settings(directories={}, model=common.MODEL, broker_port=broker, http_port=page).toml()
    return plain.replace('[source]\nkind = "frames"\n', f'[source]\nkind = "frames"\n{detectors}')


async def metrics(session: aiohttp.ClientSession, page: int) -> dict[str, float]:
    """Every sample of /metrics, by its name with labels."""
    async with session.get(f"http://127.0.0.1:{page}/metrics") as answer:
        lines = (await answer.text()).splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[:1] != "#")}


def total(found: dict[str, float], name: str) -> float:
    return sum(value for key, value in found.items() if key.partition("{")[0] == name)


def lost(found: dict[str, float]) -> dict[str, float]:
    """What was dropped, known signals and web pages aside."""
    out: dict[str, float] = {}
    for key, value in found.items():
        if key.startswith("gwstream_dropped_total") and value and 'stage="calibration"' not in key:
            stage, reason = (key.split(f'{label}="')[1].split('"')[0] for label in ("stage", "reason"))
            out[f"{stage}: {reason}"] = out.get(f"{stage}: {reason}", 0) + value
    return out


def core(pid: int) -> float:
    """Processor seconds of a process so far, all its threads together."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def children() -> list[int]:
    """Our own children, whichever thread started them: broker, subscriber, daemon."""
    lists = Path("/proc/self/task").glob("*/children")
    return [int(pid) for path in lists for pid in path.read_text(encoding="utf-8").split()]


async def run(streams: int, length: Length, frames: Frames, folder: Path) -> Run:
    """One number of streams for so many seconds."""
    before, seconds = length.before, length.seconds
    frames.ready(before + seconds)
    writing = Writer(folder, frames, streams)
    for second in range(before + seconds):
        writing.link(second)
    out = Run(streams, frames.rate, seconds, before)
    async with Broker() as broker, aiohttp.ClientSession() as session:
        page = child.free_port()
        config = folder / "gwstream.toml"
        config.write_text(settings(writing, broker.port, page), encoding="utf-8")
        async with child.daemon(config, folder / "daemon.log", page) as daemon:
            listener = await asyncio.create_subprocess_exec(
                sys.executable, __file__, "--subscribe", str(broker.port), stdout=asyncio.subprocess.PIPE, limit=2**22
            )
            assert listener.stdout is not None
            await listener.stdout.readline()
            received: list[tuple[int, dict]] = []
            reading = asyncio.create_task(latency.read(listener.stdout, received))
            out.caught_up = await caught_up(session, page, writing, before)
            earlier = lost(await metrics(session, page))
            others = [os.getpid(), *(pid for pid in children() if pid != daemon.pid)]
            spent = sum(core(pid) for pid in others)
            begin = time.monotonic_ns()
            for second in range(seconds):
                await asyncio.sleep((begin + second * NANO - time.monotonic_ns()) / NANO)
                if second % POLL == 0:
                    out.looks.append(look(await metrics(session, page), daemon.pid, begin))
                    await asyncio.sleep((begin + second * NANO - time.monotonic_ns()) / NANO)
                writing.put(before + second)
                child.check(daemon, folder / "daemon.log")
            await asyncio.sleep(1)
            found = await metrics(session, page)
            out.looks.append(look(found, daemon.pid, begin))
            out.others = (sum(core(pid) for pid in others) - spent) / out.looks[-1].at
            since = ((key, count - earlier.get(key, 0)) for key, count in lost(found).items())
            out.dropped = {key: count for key, count in since if count}
            listener.terminate()
            await listener.wait()
            await reading
    take(out, received, writing)
    return out


async def caught_up(session: aiohttp.ClientSession, page: int, writing: Writer, before: int) -> float:
    """Put the strain before the clock in place, never much more than was judged, and wait for the rest of it, and until
    the daemon gives nothing up for its haste; s it took, with the daemon's first posterior."""
    begin = time.monotonic()
    last, since, put = -1.0, begin, 0
    waiting = 1.0
    second = RATE_OF_WINDOWS * len(writing.directories)  # windows
    while put < before or time.monotonic() - since < 3 or last <= 0 or waiting > 0:
        if time.monotonic() - begin > CATCH_UP:
            raise SystemExit(f"the daemon did not work through the strain before the clock in {CATCH_UP:g} s")
        found = await metrics(session, page)
        judged = total(found, "gwstream_windows_total")
        given_up = sum(count for reason, count in lost(found).items() if reason in GIVEN_UP)
        if put < before and judged + given_up >= second * (max(put - FIRST, 0) - AHEAD):
            writing.put(put)
            put += 1
            continue
        waiting = total(found, "gwstream_triggers_total") - total(found, "gwstream_posteriors_total")
        waiting += total(found, "gwstream_load_level")
        if judged != last or waiting > 0:
            last, since = judged, time.monotonic()
        await asyncio.sleep(0.1)
    return since - begin


def look(found: dict[str, float], pid: int, begin: int) -> Look:
    return Look(
        (time.monotonic_ns() - begin) / NANO,
        total(found, "gwstream_windows_total"),
        total(found, "gwstream_triggers_total"),
        core(pid),
        common.rss(pid),
    )


def take(out: Run, received: Sequence[tuple[int, dict]], writing: Writer) -> None:
    """Latencies and draws of the posteriors of frames that came at real time."""
    for at, message in received:
        delivery = message["delivery"]
        end = delivery["sent_gps"] - delivery["since_last_sample"]
        last = int(np.ceil(end - 1e-4)) - 1 - GPS
        if last >= out.before:
            out.latencies.append((at - writing.renamed[last]) / NANO)
            out.draws.add(message["posterior"]["sampling"]["draws"])


def steps(most: int) -> Generator[int, bool, None]:
    """Numbers of streams to try; the answer, whether it was held, is sent back."""
    good, bad, number = 0, most + 1, min(8, most)
    while bad - good > max(good // 8, 1):
        if (yield number):
            good = number
        else:
            bad = number
        number = min(2 * good, most) if bad > most else (good + bad) // 2
        if number == good:
            return


def search(most: int, length: Length, frames: Frames, folder: Path) -> list[Run]:
    """The runs of a search for the largest number that is held, to an eighth."""
    runs: list[Run] = []
    trying = steps(most)
    number = next(trying)
    while True:
        with tempfile.TemporaryDirectory(dir=folder) as own:
            runs.append(asyncio.run(run(number, length, frames, Path(own))))
        print(f"{number} streams: {'held' if runs[-1].held else 'not held'}", file=sys.stderr)
        try:
            number = trying.send(runs[-1].held)
        except StopIteration:
            return sorted(runs, key=lambda one: one.streams)


def draw(runs: Sequence[Run]) -> None:
    """Backlog of every run, and cores against streams."""
    with panels(common.picture("capacity"), 2, (10, 4)) as axes:
        for one, colour in zip(runs, COLOURS * 4, strict=False):
            axes[0].plot(*one.backlog.T, color=colour, label=f"{one.streams} streams")
        axes[0].set(xlabel="s", ylabel="s of strain that wait", ylim=(0, None))
        axes[0].legend()
        axes[1].plot([one.streams for one in runs], [one.cores for one in runs], "o-", color=COLOURS[0], label="daemon")
        axes[1].plot(
            [one.streams for one in runs], [one.others for one in runs], "o-", color=COLOURS[5], label="others"
        )
        axes[1].set(xlabel="streams", ylabel="cores", xlim=(0, None), ylim=(0, None))
        axes[1].legend()


def report(runs: Sequence[Run], searched: bool) -> str:
    lines = [
        common.machine(),
        f"frames of 1 s at {runs[0].rate} Hz, {RATE_OF_WINDOWS} windows a second and stream, {runs[0].seconds} s each "
        f"after {runs[0].before} s of strain; latency from the rename to each posterior at a subscriber",
        "",
        common.table(HEAD, [one.row() for one in runs]),
    ]
    if searched:
        held = [one.streams for one in runs if one.held]
        lines += ["", f"held in real time: {max(held, default=0)} streams"]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, nargs="+", default=[16], help="detectors (default: 16)")
    parser.add_argument("--search", action="store_true", help="find the largest number held instead")
    parser.add_argument("--most", type=int, default=128, help="for the search (default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=0.75, help="a run, after the warm-up (default: %(default)g)")
    parser.add_argument("--before", type=int, default=66, help="s of strain before the clock (default: %(default)s)")
    parser.add_argument("--rate", type=int, default=16384, help="Hz (default: %(default)s)")
    parser.add_argument("--sources", type=int, default=8, help="different strains (default: %(default)s)")
    parser.add_argument("--subscribe", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.subscribe:
        latency.subscribe(args.subscribe, "gwstream/+/posterior")
        return
    if args.before < LEAST:
        parser.error(f"--before {args.before}: the first windows come after {LEAST} s")
    length = Length(args.before, round(60 * args.minutes))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the daemon and the frames go with us
    with tempfile.TemporaryDirectory(prefix="gwstream-capacity-", dir="/dev/shm") as place:
        folder = Path(place)
        pool = folder / "pool"
        pool.mkdir()
        frames = Frames(pool, args.rate, args.sources)
        if args.search:
            runs = search(args.most, length, frames, folder)
        else:
            runs = []
            for number in args.streams:
                with tempfile.TemporaryDirectory(dir=folder) as own:
                    runs.append(asyncio.run(run(number, length, frames, Path(own))))
    print(report(runs, args.search))
    draw(runs)


if __name__ == "__main__":
    main()
