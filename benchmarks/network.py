"""Coincidence: which signals two detectors find together, how good their common chirp mass is, what chance makes.

Pairs of detectors of the training family, signals from the served prior: masses and, within light travel, times in
common; distance and phase each its own. Chirp masses are scored on all of them, whether or not the gate passes them.

    python benchmarks/network.py
"""

from __future__ import annotations

import argparse
import itertools
import math
from dataclasses import dataclass, replace

import common
import numpy as np
import torch
from drawings import bars

from gwstream.cli.base import add_engine
from gwstream.config import InferenceConfig, SummaryConfig
from gwstream.inference import Inference, load_model
from gwstream.prior import Prior
from gwstream.records import NANO, Batch, Posterior
from gwstream.settings import default_model
from gwstream.summary import Summarizer, network
from gwstream.summary.chirp_mass import ChirpMasses
from gwstream.summary.coincidence import Coincidences, Member, light_travel
from gwstream.summary.events import Event, Rank
from gwstream.summary.message import chirp_mass
from gwstream.summary.statistics import mean_sd
from gwstream.training.dataset import Simulator, family

DETECTORS = ("H1", "L1")
FAMILY = 16
EDGES = (0.0, 10.0, 15.0, 30.0, math.inf)


@dataclass(frozen=True)
class Pair:
    """A signal in both detectors: whether both gates pass, whether it makes a network event, its chirp mass, and the
    smaller of the standard deviations that the detectors give it."""

    members: tuple[Member, Member]
    passed: bool
    together: bool
    truth: float
    sd: float

    @property
    def snr(self) -> float:
        return math.hypot(*(one.snr for one in self.members))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=600, help="signals, each in two detectors")
    parser.add_argument("--seed", type=int, default=1)
    add_engine(parser)
    args = parser.parse_args()
    inference = Inference(load_model(default_model()), InferenceConfig(engine=args.engine))
    pairs = simulate(inference, args.pairs, args.seed)
    print(f"{common.machine()}, engine {inference.engine}\n\n{report(pairs)}")
    names, behind, together = zip(*recovered(pairs), strict=True)
    kinds = {"behind both gates": behind, "made a network event": together}
    bars(common.picture("network"), names, kinds, "signals, by combined SNR")


def simulate(inference: Inference, count: int, seed: int) -> list[Pair]:
    from rich.progress import track

    model = inference.model
    rng = np.random.default_rng([seed, 4])
    generator = torch.Generator().manual_seed(seed)
    members = family(model.spec, model.bank, FAMILY, rng)
    simulator = Simulator(model.spec, model.bank)
    light = light_travel()(*DETECTORS)
    low, high = model.spec.prior.time
    out = []
    for index in track(range(count), description="pairs"):
        x = model.spec.prior.draw(rng, 2)
        x[1, :2] = x[0, :2]
        x[0, 3] = rng.uniform(low + light, high - light)
        x[1, 3] = x[0, 3] + rng.uniform(-light, light)
        found, passed = [], True
        for detector, truth in zip(DETECTORS, x, strict=True):
            member = members[rng.integers(FAMILY)]
            samples = simulator.windows(member, truth[None], 1, generator)[0].double().numpy()
            window = replace(simulator.window(member, samples, 10 * index), detector=detector, dq=3)
            trigger = inference.gate(Batch((window,), 1))[0]
            passed &= trigger.passed
            found.append(inference.infer(trigger))
        out.append(judged(found, passed, float(chirp_mass(x[:1])[0]), model.spec.prior))
    return out


def judged(found: list[Posterior], passed: bool, truth: float, prior: Prior) -> Pair:
    made = Summarizer(SummaryConfig(), prior)
    masses = ChirpMasses(prior)
    members = tuple(_member(one, masses) for one in found)
    told = [summary for one in found for summary in made.add(one)]
    sd = min(mean_sd(chirp_mass(one.samples), one.weights)[1] for one in found)
    return Pair((members[0], members[1]), passed, any(one.kind == "network" for one in told), truth, sd)


def report(pairs: list[Pair]) -> str:
    masses = ChirpMasses(common.spec().prior)
    head = ("combined SNR", "signals behind both gates", "made a network event")
    return "\n".join([common.table(head, recovered(pairs)), "", mass(pairs, masses), "", chance(pairs)])


def recovered(pairs: list[Pair]) -> list[tuple[str, int, int]]:
    """By combined SNR: signals behind both gates, and how many made a network event."""
    rows = []
    for low, high in itertools.pairwise(EDGES):
        chosen = [one for one in pairs if one.passed and low <= one.snr < high]
        found = sum(one.together for one in chosen)
        name = f"{low:g} to {high:g}" if math.isfinite(high) else f"over {low:g}"
        rows.append((name, len(chosen), found))
    return rows


def mass(pairs: list[Pair], masses: ChirpMasses) -> str:
    """Coverage, bias and width of the common chirp mass; all pairs."""
    rows = []
    for name, chosen in (("all", pairs), ("behind both gates", [one for one in pairs if one.passed])):
        inside, below, narrower = [], [], []
        for one in chosen:
            found = masses.posterior([member.mass for member in one.members])
            inside.append(found.p5 <= one.truth <= found.p95)
            below.append(one.truth < found.median)
            narrower.append(found.sd / one.sd)
        error = math.sqrt(0.09 / len(chosen))
        rows.append(
            (
                name,
                len(chosen),
                f"{np.mean(inside):.3f} ± {error:.3f}",
                f"{np.mean(below):.3f} ± {0.5 / math.sqrt(len(chosen)):.3f}",
                f"{np.median(narrower):.2f}",
            )
        )
    head = ("signals", "number", "truth in 90 % interval", "truth below median", "sd / the better detector's")
    return common.table(head, rows)


def chance(pairs: list[Pair]) -> str:
    """Of events of different signals, how many chirp masses agree; and how often times do, from the limits."""
    members = [one.members for one in pairs if one.passed]
    state = Coincidences(3.0, light_travel())
    compared = [state.pair(a[0], b[1]) for a, b in itertools.permutations(members, 2)]
    agree = float(np.mean([abs(one.mass_difference) <= 3.0 for one in compared]))
    limit = float(np.mean([one.limit for one in compared]))
    rows = []
    for rate in (0.1, 1.0, 10.0, 60.0):
        hourly = 2 * rate**2 * limit / 3600
        rows.append(
            (f"{rate:g}", f"{hourly:.2g}", f"{hourly * agree:.2g}", f"{1 / (hourly * agree * 24 * 365.25):.2g}")
        )
    head = ("events an hour in each", "agree in time, an hour", "and in chirp mass", "years between two")
    text = (
        f"Mean limit in time {1e3 * limit:.1f} ms; chirp masses of different signals agree in {100 * agree:.0f} %.\n\n"
    )
    return text + common.table(head, rows)


def _member(posterior: Posterior, masses: ChirpMasses) -> Member:
    event = Event(Rank(True, posterior.log_bayes, posterior.id), posterior.window.gps_ns + NANO)
    return network.member(posterior, event, (), masses)


if __name__ == "__main__":
    main()
