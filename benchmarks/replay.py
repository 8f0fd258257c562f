"""How fast recorded strain is replayed: seconds of strain a second, one and two detectors.

The command itself, ``gwstream replay FILES``, in a process of its own, over frames of 64 s as archives hold them:
coloured noise with a signal every minute, so that weights are made for windows behind the gate alone. Two lengths are
replayed; the speed is that of the seconds between them, so Python's imports and the warm-up of the model do not count,
and the whole run's stands beside it. Wall time, and processor time of all threads.

    python benchmarks/replay.py
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import common
import numpy as np
from drawings import COLOURS, panels

from gwstream.source import writer

GPS = 1_400_000_000
CURVE = "aLIGO_O4_high"
FRAME = 64  # s
EVERY = 60.0  # s between two signals
SNRS = (10.0, 20.0)
NANO = 1_000_000_000
DETECTORS = ("H1", "L1")


@dataclass(frozen=True, slots=True)
class Once:
    """One replay: s by the clock, core-s, posteriors, signals told as events."""

    wall: float
    core: float
    posteriors: int
    events: int


@dataclass(slots=True)
class Speed:
    """A number of detectors at a rate; runs of the short and of the long recording, in turn."""

    detectors: int
    rate: int
    short: int
    long: int
    runs: list[tuple[Once, Once]] = field(default_factory=list)

    @property
    def speeds(self) -> list[float]:
        """Times real time, one a round."""
        return [(self.long - self.short) / (b.wall - a.wall) for a, b in self.runs]

    @property
    def whole(self) -> list[float]:
        """The same with the start in it."""
        return [self.long / b.wall for _, b in self.runs]

    def row(self) -> list[object]:
        cores = [1e3 * (b.core - a.core) / (self.long - self.short) / self.detectors for a, b in self.runs]
        last = self.runs[-1][1]
        return [
            self.detectors,
            self.rate,
            common.spread(self.speeds),
            common.spread(self.whole),
            common.spread(cores),
            f"{last.posteriors} of {16 * (self.long - 12) * self.detectors}",
            last.events,
        ]


def record(folder: Path, detector: str, rate: int, seconds: int) -> list[Path]:
    """Frames of 64 s with noise and signals; noise that joins on to itself after 256 s, signals where they fall."""
    rng = np.random.default_rng(ord(detector[0]))
    noise = common.noise(rng, CURVE, rate, 4 * FRAME)
    strain = np.tile(noise, -(-seconds // (4 * FRAME)))[: seconds * rate]
    for at in np.arange(40.0, seconds - 2, EVERY):
        injection, _ = common.draw(rng, detector, GPS * NANO + round((at + rng.uniform(0, 1)) * NANO), SNRS, CURVE)
        start, wave = injection.strain(rate)
        offset = start - GPS * rate
        strain[offset : offset + len(wave)] += wave[: len(strain) - offset]
    paths = []
    for begin in range(0, seconds, FRAME):
        path = folder / writer.frame_name(detector, GPS + begin, FRAME)
        samples = strain[begin * rate : (begin + FRAME) * rate]
        path.write_bytes(writer.frame_bytes(detector, GPS + begin, samples, rate))
        paths.append(path)
    return paths


def replay(files: Sequence[Path]) -> Once:
    """``gwstream replay`` of these files; raises `SystemExit` with its words where it fails."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as problems:
        begin = time.monotonic()
        command = [sys.executable, "-m", "gwstream", "replay", *map(str, files)]
        process = subprocess.Popen(command, stdout=out, stderr=problems)
        _, status, used = os.wait4(process.pid, 0)
        wall = time.monotonic() - begin
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        problems.seek(0)
        if process.returncode:
            raise SystemExit(f"gwstream replay ended with {process.returncode}:\n{problems.read().decode()}")
        schemas = [json.loads(line)["schema"] for line in out]
    events = sum(name.startswith("gwstream.event/") for name in schemas)
    posteriors = sum(name.startswith("gwstream.posterior/") for name in schemas)
    return Once(wall, used.ru_utime + used.ru_stime, posteriors, events)


def measure(rate: int, short: int, long: int, rounds: int, folder: Path) -> list[Speed]:
    """One and two detectors, in turn."""
    paths = {name: record(folder, name, rate, long) for name in DETECTORS}
    found = [Speed(number, rate, short, long) for number in (1, 2)]
    for _ in range(rounds):
        for speed in found:
            parts = [paths[name] for name in DETECTORS[: speed.detectors]]
            less, all_of = ([path for part in parts for path in part[: end // FRAME]] for end in (short, long))
            speed.runs.append((replay(less), replay(all_of)))
    return found


def draw(found: Sequence[Speed]) -> None:
    with panels(common.picture("replay"), 1, (6, 3.5)) as axes:
        labels = [f"{one.detectors} at {one.rate} Hz" for one in found]
        medians = [float(np.median(one.speeds)) for one in found]
        errors = [[m - min(one.speeds), max(one.speeds) - m] for one, m in zip(found, medians, strict=True)]
        axes[0].bar(labels, medians, yerr=np.transpose(errors), color=COLOURS[0], ecolor=COLOURS[5])
        axes[0].set(ylabel="s of strain a second", xlabel="detectors")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=1024, help="of the long recording (default: %(default)s)")
    parser.add_argument("--short", type=int, default=256, help="of the short one (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="(default: %(default)s)")
    parser.add_argument("--rates", type=int, nargs="+", default=[4096, 16384], help="Hz (default: 4096 16384)")
    args = parser.parse_args()
    if args.short % FRAME or args.seconds % FRAME or args.short >= args.seconds:
        parser.error(f"--short and --seconds are multiples of {FRAME}, the first the smaller")
    found: list[Speed] = []
    for rate in args.rates:
        with tempfile.TemporaryDirectory(prefix="gwstream-replay-", dir="/dev/shm") as folder:
            found += measure(rate, args.short, args.seconds, args.rounds, Path(folder))
    print(common.machine("openvino"))
    print(f"{args.rounds} rounds over {args.seconds} s and {args.short} s, a signal a minute: median (quartiles)\n")
    head = (
        "detectors",
        "Hz",
        "times real time",
        "with the start",
        "core-ms a second and detector",
        "posteriors of windows",
        "events",
    )
    print(common.table(head, [one.row() for one in found]))
    draw(found)


if __name__ == "__main__":
    main()
