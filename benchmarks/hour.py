"""An hour of simulated strain with 60 signals of SNR 8 to 30, replayed as fast as the machine goes.

Recovery by SNR, events from noise alone, and the memory of the process over the hour. The daemon's stages run as
``gwstream simulate`` in a process of its own.

    python benchmarks/hour.py --seconds 3600
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import common
import numpy as np
from drawings import COLOURS, panels

from gwstream.cli.base import add_engine
from gwstream.injection import Injection, write

GPS = 1_400_000_000  # where simulated strain starts
DETECTOR = "H1"
CURVE = "aLIGO_O4_high"
EVERY = 60
NANO = 1_000_000_000
MATCH = 0.05  # s between an event's coalescence and the injection's
SNRS = (8, 10, 12, 15, 20, 30)

Message = dict  # parsed JSON


@dataclass(slots=True)
class Run:
    """Messages of events that nothing supersedes, by id; memory in MB by GPS s of strain; wall time in s."""

    events: dict[str, Message] = field(default_factory=dict)
    posteriors: int = 0
    memory: list[float] = field(default_factory=list)
    wall: float = 0.0


def signals(seconds: int, seed: int) -> list[tuple[Injection, float]]:
    rng = np.random.default_rng(seed)
    out = []
    for begin in range(0, seconds, EVERY):
        at = GPS + begin + rng.uniform(25, EVERY - 5)  # the PSD needs 12 s
        out.append(common.draw(rng, DETECTOR, round(at * NANO), (SNRS[0], SNRS[-1]), CURVE))
    return out


async def run(path: Path, seconds: int, seed: int, engine: str) -> Run:
    out = Run()
    begin = time.monotonic()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gwstream", "simulate", "--json", "--detectors", DETECTOR, "--asd", CURVE),
        *("--duration", str(seconds), "--injections", str(path), "--seed", str(seed), "--speed", "0"),
        *("--engine", engine),
        stdout=asyncio.subprocess.PIPE,
        limit=2**22,
    )
    watching = asyncio.create_task(watch(process.pid, out.memory))
    assert process.stdout is not None
    while line := await process.stdout.readline():
        take(json.loads(line), out)
    watching.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await watching
    if code := await process.wait():
        raise SystemExit(f"gwstream simulate ended with status {code}")
    out.wall = time.monotonic() - begin
    return out


async def watch(pid: int, memory: list[float]) -> None:
    while True:
        await asyncio.sleep(1)
        memory.append(common.rss(pid))


def take(message: Message, out: Run) -> None:
    if message["schema"].startswith("gwstream.posterior/"):
        out.posteriors += 1
    elif message["schema"].startswith("gwstream.event/"):
        for old in message["event"]["supersedes"]:
            out.events.pop(old, None)
        out.events[message["event"]["id"]] = message


def recovered(injection: Injection, events: list[Message]) -> Message | None:
    near = [e for e in events if abs(e["posterior"]["coalescence"]["gps_ns"] - injection.gps_ns) < MATCH * NANO]
    return max(near, key=lambda e: e["posterior"]["snr"], default=None)


def report(injected: list[tuple[Injection, float]], out: Run, seconds: int) -> str:
    events = list(out.events.values())
    rows = []
    for low, high in itertools.pairwise(SNRS):
        chosen = [(one, snr) for one, snr in injected if low <= snr < high]
        found = [(snr, event) for one, snr in chosen if (event := recovered(one, events))]
        inside = sum(covers(one, event) for one, _ in chosen if (event := recovered(one, events)))
        ratio = [event["posterior"]["snr"] / snr for snr, event in found]
        rows.append(
            (
                f"{low} to {high}",
                len(chosen),
                len(found),
                f"{np.median(ratio):.2f}" if ratio else "",
                f"{inside} of {len(found)}",
            )
        )
    matched = [e for e in events if any(recovered(one, [e]) for one, _ in injected)]
    near = [
        e
        for e in events
        if any(abs(e["posterior"]["coalescence"]["gps_ns"] - one.gps_ns) < 0.5 * NANO for one, _ in injected)
    ]
    memory = out.memory or [float("nan")]
    quarters = [memory[min(len(memory) - 1, round(part * (len(memory) - 1)))] for part in (0.1, 0.25, 0.5, 0.75, 0.99)]
    return "\n".join(
        [
            f"{common.machine()}, engine {', '.join(sorted({e['posterior']['engine'] for e in events}))}",
            f"{seconds} s of {CURVE} noise, {len(injected)} signals; {out.posteriors} posteriors, {len(events)} events",
            f"events from noise alone: {len(events) - len(near)}; beside a signal, but not at its time: "
            f"{len(near) - len(matched)}",
            f"wall time {out.wall:.0f} s: {seconds / out.wall:.0f} times real time",
            "resident memory at 10, 25, 50, 75, 99 % of the run: " + ", ".join(f"{m:.0f}" for m in quarters) + " MB",
            *(aside(event, injected) for event in near if event not in matched),
            "",
            common.table(
                ("optimal SNR", "injected", "found", "median SNR found / optimal", "chirp mass in its 90 %"), rows
            ),
        ]
    )


def draw(injected: list[tuple[Injection, float]], events: list[Message]) -> None:
    """The SNR of every signal as it was found, at 0 where it was not."""
    with panels(common.picture("hour"), 1, (4.5, 4.0)) as (axis,):
        found = [(snr, e["posterior"]["snr"] if (e := recovered(one, events)) else 0.0) for one, snr in injected]
        axis.plot(*zip(*found, strict=True), "o", color=COLOURS[0])
        axis.plot(SNRS, SNRS, color=COLOURS[-1], linewidth=1)
        axis.set(xlabel="optimal SNR", ylabel="SNR found")


def aside(event: Message, injected: list[tuple[Injection, float]]) -> str:
    """An event beside a signal, in words."""
    part = event["posterior"]
    one, snr = min(injected, key=lambda pair: abs(pair[0].gps_ns - part["coalescence"]["gps_ns"]))
    offset = (part["coalescence"]["gps_ns"] - one.gps_ns) / NANO
    quality = part["quality"]
    return (
        f"- {1e3 * offset:+.0f} ms from a signal of SNR {snr:.0f} ({one.mass_1:.0f} + {one.mass_2:.0f} Msun): "
        f"SNR {part['snr']:.1f}, ln B {part['log_bayes']:.0f}, {quality['verdict']}, {', '.join(quality['reasons'])}"
    )


def covers(injection: Injection, event: Message) -> bool:
    chirp = (injection.mass_1 * injection.mass_2) ** 0.6 / (injection.mass_1 + injection.mass_2) ** 0.2
    said = event["posterior"]["parameters"]["chirp_mass"]
    return bool(said["p5"] <= chirp <= said["p95"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=3600, help="of strain (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    add_engine(parser)
    args = parser.parse_args()
    injected = signals(args.seconds, args.seed)
    with tempfile.TemporaryDirectory(prefix="gwstream-hour-") as folder:
        path = Path(folder) / "injections.jsonl"
        write(path, [one for one, _ in injected])
        out = asyncio.run(run(path, args.seconds, args.seed, args.engine))
    print(report(injected, out, args.seconds))
    draw(injected, list(out.events.values()))


if __name__ == "__main__":
    main()
