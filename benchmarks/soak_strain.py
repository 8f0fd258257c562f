"""The strain of the soak as it was meant, the frames that are written of it, and what must come of them.

`expected` is the oracle: the records that a right reader makes of an episode's frames, through the package's own stages
in one process that is never interrupted.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from functools import partial

import common
import gwframe
import numpy as np
from soak_plan import DETECTORS, GAPS, LOST, PAUSE, RATE, Episode, Fault

from gwstream.conditioning import Conditioner
from gwstream.config import Config
from gwstream.inference import Inference, Model, load_model
from gwstream.pipeline import run
from gwstream.pipeline.parts import Parts
from gwstream.records import NANO, Floats, Gap, Outgoing, Strain
from gwstream.source import gwf, quality
from gwstream.source.channels import state_channel
from gwstream.source.noise import Noise
from gwstream.source.simulated import Signals
from gwstream.source.writer import frame_bytes

CURVE = "aLIGO_O4_high"
SNR = (7.0, 25.0)  # of a binary in the first detector; all see it
DELAY = 0.010  # s by which the others see it earlier or later, at most
BEFORE = 2  # s of strain that the oracle reads of the episode before: the daemon knows of a pause, too


class Sky:
    """Strain of an episode without faults, asked for in order of time, second by second."""

    def __init__(self, episode: Episode) -> None:
        rng = episode.rng("signals")
        injections: dict[str, list[object]] = {name: [] for name in DETECTORS}
        for begin in np.arange(episode.start + 20, episode.end - 2, episode.signals):
            at = begin + rng.uniform(0, episode.signals)
            first, _ = common.draw(rng, DETECTORS[0], round(at * NANO), SNR, CURVE)
            for name in DETECTORS:
                other = replace(
                    first,
                    detector=name,
                    gps_ns=first.gps_ns + round(rng.uniform(-DELAY, DELAY) * NANO),
                    effective_distance=first.effective_distance * rng.uniform(0.8, 1.5),
                    phase=rng.uniform(0, np.pi),
                )
                injections[name].append(other)
        seed = int(episode.rng("noise").integers(2**31))
        self._noise = {name: Noise(CURVE, RATE, seed, name) for name in DETECTORS}
        self._signals = {name: Signals(iter(ones), RATE) for name, ones in injections.items()}  # type: ignore[arg-type]

    def second(self, detector: str, second: int) -> Floats:
        """(RATE,)."""
        start = second * RATE
        return self._noise[detector].samples(start, RATE) + self._signals[detector].samples(start, RATE)


def spoilt(samples: Floats, fault: Fault | None) -> Floats:
    """The samples of a second that a fault has changed before they were written."""
    if fault is None or fault.kind not in ("not a number", "infinite", "zeros"):
        return samples
    rng = np.random.default_rng(fault.number)
    begin = int(rng.integers(RATE // 2))
    changed = samples.copy()
    if fault.kind == "zeros":
        changed[:] = 0.0
    else:
        changed[begin : begin + int(rng.integers(1, RATE // 2))] = np.nan if fault.kind == "not a number" else np.inf
    return changed


def frame(detector: str, second: int, samples: Floats, fault: Fault | None) -> bytes:
    """The file of a second, with what the fault has done to it."""
    kind = fault.kind if fault is not None else ""
    if kind == "wrong channel":
        other = gwframe.Frame(start=second, duration=1, name=detector, run=0)
        other.add_channel(f"{detector}:SOMETHING_ELSE", samples, RATE)
        other.add_channel(state_channel(detector), np.full(16, 3, np.uint32), 16)
        return bytes(other.write_bytes())
    if kind == "wrong rate":
        return frame_bytes(detector, second, np.repeat(samples, 2), 2 * RATE)
    return frame_bytes(detector, second, spoilt(samples, fault), RATE, 1 if kind == "vetoed" else 3)


def damaged(body: bytes, fault: Fault) -> bytes:
    """The file with a bit flipped, or cut."""
    rng = np.random.default_rng(fault.number)
    if fault.kind.startswith("truncated"):
        return body[: int(rng.integers(len(body)))]
    mutant = bytearray(body)
    mutant[int(rng.integers(gwf.HEADER, len(body) - gwf.TRAILER.size))] ^= 1 << int(rng.integers(8))
    return bytes(mutant)


@dataclass(frozen=True)
class Right:
    """A source of the records that a right reader makes of an episode. ``after``: another one came before it."""

    episode: Episode
    after: bool
    detectors = DETECTORS
    live = False

    async def stream(self, detector: str) -> AsyncIterator[Strain | Gap]:
        start = self.episode.start
        if self.after:
            before = np.random.default_rng(0).normal(size=BEFORE * RATE) * 1e-21
            yield Strain(detector=detector, start=(start - PAUSE - BEFORE) * RATE, rate=RATE, samples=before, dq=3)
            yield _gap(detector, start - PAUSE, PAUSE)
        sky, faults = Sky(self.episode), self.episode.at(detector)
        for second in range(start, self.episode.end):
            samples, fault = sky.second(detector, second), faults.get(second)
            if fault is not None and (fault.kind in LOST or fault.kind in ("wrong rate", "vetoed")):
                yield _gap(detector, second, 1)
                continue
            values = spoilt(samples, fault)
            stretch = quality.Stretch(
                detector=detector, start=second * RATE, rate=RATE, samples=values, state=np.full(16, 3), mask=3
            )
            for record in quality.records(stretch):
                yield record


def _gap(detector: str, start: int, length: int) -> Gap:
    return Gap(detector=detector, start=start * RATE, rate=RATE, length=length * RATE, reason="missing")


def gap_seconds(episode: Episode, detector: str) -> float:
    """Of strain that cannot be used, the pause before the episode apart."""
    lost = 0.0
    for fault in episode.at(detector).values():
        if fault.kind in ("not a number", "infinite"):
            lost += float(np.count_nonzero(~np.isfinite(spoilt(np.ones(RATE), fault)))) / RATE
        elif fault.kind in GAPS:
            lost += 1.0
    return lost


class Kept:
    """A publisher that keeps the digest of each posterior, and the network events that stand."""

    def __init__(self) -> None:
        self.told: dict[str, str] = {}
        self.network: dict[str, str] = {}

    async def put(self, outgoing: Outgoing) -> None:
        summary = outgoing.summary
        if summary.kind == "posterior":
            self.told[summary.id] = hashlib.sha256(summary.posterior).hexdigest()
        elif summary.kind == "network":
            stands(self.network, summary.id, summary.event or {}, summary.sha256)

    async def run(self) -> None:
        await asyncio.Event().wait()

    async def drain(self, limit: float) -> None:
        return


def stands(network: dict[str, str], name: str, event: Mapping[str, object], digest: str) -> None:
    """Note a network event among those that stand, and forget what it replaces or withdraws."""
    for other in (str(one) for one in event["supersedes"]):  # type: ignore[attr-defined]
        network.pop(other, None)
    network.pop(name, None)
    if event["state"] == "standing":
        network[name] = digest


_loaded: list[Model] = []  # once a process


def expected(episode: Episode, after: bool) -> tuple[dict[str, str], dict[str, str]]:
    """SHA-256 by id of every posterior that an episode must bring, and of the network events that stand in the end."""
    if not _loaded:
        _loaded.append(load_model(common.MODEL))
    return asyncio.run(_expected(episode, after, _loaded[0]))


async def _expected(episode: Episode, after: bool, model: Model) -> tuple[dict[str, str], dict[str, str]]:
    detectors = {name: {} for name in DETECTORS}  # type: dict[str, dict[str, object]]
    config = Config.model_validate({"source": {"kind": "simulated", "detectors": detectors}})
    kept = Kept()
    parts = Parts(
        config=config,
        source=Right(episode, after),
        conditioner=partial(Conditioner, model.spec),
        spec=model.spec.conditioning,
        inference=Inference(model, config.inference),
        prior=model.spec.prior,
        publisher=kept,
    )
    await run(parts, asyncio.Event())
    return kept.told, kept.network
