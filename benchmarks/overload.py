"""More live strain than the machine holds: what is given up, how late events come meanwhile, and how it recovers.

The pipeline in this process, with the shipped model. Two detectors with signals run all the time; after a calm, more
join them until the inference has several times the work it can do, and after a while they leave again. Strain is made
before the clock starts, so that the machine does nothing but judge it.

    python benchmarks/overload.py --calm 20 --busy 60 --after 100 --times 2
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import common
import numpy as np
from drawings import COLOURS, panels

from gwstream.conditioning import Conditioner
from gwstream.config import Config, SourceConfig
from gwstream.inference import Inference, Model, load_model
from gwstream.pipeline import run
from gwstream.pipeline.parts import Parts
from gwstream.records import LOADS, NANO, Batch, Gap, Outgoing, Strain, Trigger, Whitener, Window
from gwstream.source.simulated import Simulated

RATE = 4096
START = 1_400_000_000
WARM_UP = 16  # s of strain before the first window that counts
STEADY = ("H1", "L1")
PIECE = 32  # s of noise, which those that join later have in common
NAMES = [f"{letter}{digit}" for letter, digit in itertools.product("ABCDEFGIJKMNOPQRSTUVWXYZ", "123456789")]


class Live:
    """Strain that was made before, a second of it every second; ``times``: when each detector begins and ends, in s."""

    live = True

    def __init__(self, strain: Mapping[str, Sequence[Strain]], times: Mapping[str, tuple[int, int]]) -> None:
        self.detectors = tuple(times)
        self._strain, self._times = strain, times
        self.origin = 0.0

    async def stream(self, detector: str) -> AsyncIterator[Strain | Gap]:
        records = self._strain.get(detector, self._strain[""])
        loop = asyncio.get_running_loop()
        for second in range(*self._times[detector]):
            await asyncio.sleep(self.origin + second - loop.time())
            one = records[second % len(records)]
            start = (START + second) * RATE
            yield dataclasses.replace(one, detector=detector, start=start, arrived=time.monotonic_ns())


async def made(model: Model, detectors: Sequence[str], seconds: int, interval: float) -> dict[str, list[Strain]]:
    """Noise, with signals every ``interval`` s (0: none)."""
    table = {
        "kind": "simulated",
        "detectors": {name: {} for name in detectors},
        "speed": 0,
        "start": START,
        "duration": seconds,
        "injection_interval": interval,
    }
    found: dict[str, list[Strain]] = {}
    async with Simulated(SourceConfig.model_validate(table), model.spec.prior) as source:
        for name in detectors:
            found[name] = [one async for one in source.stream(name) if isinstance(one, Strain)]
    return found


def cost(inference: Inference, windows: Sequence[Window]) -> float:
    """Core-s that the gate takes for a second of strain, a new spectrum included."""
    spent = []
    for k in range(8):
        whitener = dataclasses.replace(windows[0].whitener, id=f"cost-{k}")
        batch = Batch(tuple(dataclasses.replace(one, whitener=whitener) for one in windows), len(windows))
        begin = time.process_time()
        inference.gate(batch)
        spent.append(time.process_time() - begin)
    return float(np.median(spent[2:]))


@dataclass
class Seen:
    """Everything that happens, by the loop's time; a publisher and an observer."""

    levels: list[tuple[float, int]] = field(default_factory=list)
    depths: list[tuple[float, int]] = field(default_factory=list)
    events: list[tuple[float, float]] = field(default_factory=list)
    """When it was told, and how long after the frame's arrival, in s."""
    lost: list[tuple[float, str, int]] = field(default_factory=list)
    come: int = 0
    judged: int = 0
    passed: int = 0
    told: int = 0

    def load(self, level: int, text: str) -> None:
        self.levels.append((self._now(), level))
        print(f"{self._now() - self.levels[0][0]:7.1f} s  {text}", flush=True)

    def queue(self, stage: str, depth: int) -> None:
        if stage == "inference":
            self.depths.append((self._now(), depth))

    def gated(self, batch: Batch, triggers: Sequence[Trigger]) -> None:
        self.judged += len(triggers)
        self.passed += sum(one.passed for one in triggers)

    def conditioned(self, detector: str, windows: Sequence[Window], whitener: Whitener | None) -> None:
        self.come += len(windows)

    def tally(self, stage: str, reason: str, detector: str, count: int = 1) -> None:
        if stage == "inference":
            self.lost.append((self._now(), reason, count))

    async def put(self, outgoing: Outgoing) -> None:
        summary = outgoing.summary
        self.told += summary.kind == "posterior"
        if summary.kind == "event" and summary.event is not None and not summary.event["supersedes"]:
            self.events.append((self._now(), (time.monotonic_ns() - outgoing.arrived) / NANO))

    async def run(self) -> None:
        await asyncio.Event().wait()

    async def drain(self, limit: float) -> None:
        return

    def record(self, record: Strain | Gap) -> None: ...

    def outgoing(self, outgoing: Outgoing, window: Window) -> None: ...

    def calibrated(self, report: object) -> None: ...

    def stage(self, stage: str, seconds: float) -> None: ...

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    @property
    def balance(self) -> int:
        """Windows that nobody accounts for."""
        given_up = sum(count for _, reason, count in self.lost if reason in ("coarser_hop", "overload"))
        return self.come - (self.judged - self.passed) - self.told - given_up


async def played(options: argparse.Namespace) -> tuple[Seen, float, list[tuple[str, float, float]], str]:
    """What happened, when it began, the phases, and a line about the load."""
    model = load_model(common.MODEL)
    config = Config.model_validate({"source": {"kind": "simulated", "detectors": {name: {} for name in STEADY}}})
    inference = Inference(model, config.inference)
    inference.warm()
    total = WARM_UP + options.calm + options.busy + options.after
    strain = await made(model, STEADY, total, options.interval)
    strain[""] = (await made(model, ("X1",), PIECE, 0))["X1"]
    conditioner = Conditioner(model.spec, "X1")
    windows = [one for record in strain[""] for one in conditioner.push(record)][-16:]
    each = cost(inference, windows)
    joining = min(max(1, round(options.times / each) - len(STEADY)), len(NAMES))
    begin, end = WARM_UP + options.calm, WARM_UP + options.calm + options.busy
    joined = begin - 12  # their first window comes when they have a spectrum
    source = Live(strain, dict.fromkeys(STEADY, (0, total)) | dict.fromkeys(NAMES[:joining], (joined, end)))
    seen = Seen()
    parts = Parts(
        config=config,
        source=source,
        conditioner=partial(Conditioner, model.spec),
        spec=model.spec.conditioning,
        inference=inference,
        prior=inference.prior,
        publisher=seen,
        observers=(seen,),
        tally=seen.tally,
    )
    origin = source.origin = asyncio.get_running_loop().time()
    await run(parts, asyncio.Event())
    phases = [("calm", WARM_UP, begin), ("overload", begin, end), ("after", end, total)]
    about = f"{joining} detectors join {len(STEADY)}; a second of strain takes {1e3 * each:.0f} core-ms of the gate"
    return seen, origin, [(name, float(low), float(high)) for name, low, high in phases], about


def rows(seen: Seen, origin: float, phases: Sequence[tuple[str, float, float]]) -> list[list[object]]:
    out: list[list[object]] = []
    for name, low, high in phases:
        late = [latency for at, latency in seen.events if low <= at - origin < high]
        lost: Counter[str] = Counter()
        for at, reason, count in seen.lost:
            if low <= at - origin < high:
                lost[reason] += count
        shares = np.bincount(steps(seen.levels, origin, np.arange(low, high, 0.25)), minlength=len(LOADS))
        depth = max((one for at, one in seen.depths if low <= at - origin < high), default=0)
        p50, p99 = np.percentile(late, (50, 99)) if late else (np.nan, np.nan)
        levels = ", ".join(f"{LOADS[k]} {100 * n / shares.sum():.0f} %" for k, n in enumerate(shares) if n)
        given_up = ", ".join(f"{reason} {count}" for reason, count in sorted(lost.items())) or "nothing"
        out.append([name, f"{high - low:.0f}", len(late), f"{p50:.2f}", f"{p99:.2f}", depth, levels, given_up])
    return out


def steps(levels: Sequence[tuple[float, int]], origin: float, at: np.ndarray) -> np.ndarray:
    """The level at each of these times."""
    times, values = zip(*levels, strict=True)
    return np.asarray(values)[np.searchsorted(np.asarray(times) - origin, at, side="right") - 1]


def draw(seen: Seen, origin: float, phases: Sequence[tuple[str, float, float]]) -> None:
    """Level, backlog and latency of events over time."""
    with panels(common.picture("overload"), 3, (15, 4)) as (level, depth, late):
        at = np.arange(0, phases[-1][2], 0.25)
        level.step(at, steps(seen.levels, origin, at), where="post", color=COLOURS[0])
        level.set_yticks(range(len(LOADS)), LOADS)
        times, depths = zip(*seen.depths, strict=True)
        depth.plot(np.asarray(times) - origin, depths, color=COLOURS[1], lw=0.8)
        depth.set_ylabel("batches and windows that wait")
        told, latencies = zip(*(seen.events or [(np.nan, np.nan)]), strict=True)
        late.plot(np.asarray(told) - origin, latencies, "o", ms=4, color=COLOURS[3])
        late.set(ylabel="frame to first event message, s", yscale="log")
        for axis in (level, depth, late):
            axis.axvspan(*phases[1][1:], color="#eeeeee", zorder=0)
            axis.set(xlabel="s", xlim=(0, phases[-1][2]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calm", type=int, default=20, help="s before the others join")
    parser.add_argument("--busy", type=int, default=60, help="s that they stay")
    parser.add_argument("--after", type=int, default=100, help="s without them")
    parser.add_argument("--times", type=float, default=2.0, help="work for the gate, in what one core can do")
    parser.add_argument("--interval", type=float, default=2.0, help="s between signals in each steady detector")
    options = parser.parse_args()
    seen, origin, phases, about = asyncio.run(played(options))
    head = [
        "phase",
        "s",
        "events",
        "p50, s",
        "p99, s",
        "most that waited",
        "level",
        "given up (windows, or posteriors)",
    ]
    print(f"\n{common.machine()}\n{about}\n\n{common.table(head, rows(seen, origin, phases))}")
    print(f"\n{seen.come} windows: {seen.judged} judged, {seen.told} posteriors, {seen.balance} unaccounted for")


if __name__ == "__main__":
    main()
