"""What each engine costs for each model, and how far it is from torch: side by side, taken in turn, in one run.

Times are processor time of one core, in ms: of the network alone, for one window and for each of 16 that share a bucket
(with half as many latents each), and of a whole posterior behind the gate, draws, likelihood and tests included. A
start is what it takes to make the engine ready for one window at a time, in s, without importing torch: the first
compiles and keeps what it compiled, in a directory that is empty before, and the next loads it. The first of a kind
pays for importing it, too. Engines that keep nothing take as long each time.

    python benchmarks/engines.py
    python benchmarks/engines.py models/bbh-1det --rounds 100
"""

from __future__ import annotations

import argparse
import time
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory

import common
import numpy as np
from drawings import bars
from torch import Tensor

from gwstream.config import InferenceConfig
from gwstream.errors import EngineError
from gwstream.inference import Inference, Model, load_model
from gwstream.inference.engines import Candidate, Engine, chosen
from gwstream.inference.golden import golden
from gwstream.inference.parity import TOLERANCE, Golden
from gwstream.inference.runners import example
from gwstream.records import Batch, Trigger
from gwstream.training.population import Population

SNRS = (8.0, 30.0)  # of the signals whose posteriors are made
WINDOWS = 6
BUCKET = 16


@dataclass
class Timed:
    """One engine with one model; times in ms, one a round."""

    model: str
    name: str
    inference: Inference
    engine: Engine
    starts: tuple[float, float]
    distance: float
    bucket: tuple[Tensor, ...]
    network: list[float] = field(default_factory=list)
    shared: list[float] = field(default_factory=list)
    posterior: list[float] = field(default_factory=list)
    ess: list[float] = field(default_factory=list)

    def take(self, window: Golden, trigger: Trigger, *, counts: bool) -> None:
        """One round."""
        begin = time.process_time()
        self.engine.run(*window.inputs)
        middle = time.process_time()
        posterior = self.inference.infer(trigger)
        end = time.process_time()
        self.engine.run(*self.bucket)
        last = time.process_time()
        if counts:
            self.shared.append(1e3 * (last - end) / BUCKET)
            self.network.append(1e3 * (middle - begin))
            self.posterior.append(1e3 * (end - middle))
            self.ess.append(posterior.ess)

    def row(self) -> list[object]:
        tolerance = TOLERANCE["bf16" if self.name.endswith("bf16") else "fp32"]
        return [
            self.model,
            self.name,
            *(f"{start:.2f}" for start in self.starts),
            common.spread(self.network),
            common.spread(self.shared),
            common.spread(self.posterior),
            f"{np.median(self.ess):.0f}",
            f"{self.distance:.1g}" + (", given up" if self.distance > tolerance else ""),
        ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, nargs="*", help="folders; left out: all that ship")
    parser.add_argument("--rounds", type=int, default=30, help="a round runs each engine once")
    args = parser.parse_args()
    folders = args.models or sorted(path.parent for path in common.MODEL.parent.glob("*/model.toml"))
    with suppress(PackageNotFoundError):
        print(f"OpenVINO {version('openvino')}, ", end="")
    print(f"{common.machine()}\n{args.rounds} rounds, signals of SNR {SNRS[0]:g} to {SNRS[1]:g}: median (quartiles)\n")
    head = ["model", "engine", "first start, s", "next, s", "network, ms", "of 16, each, ms", "posterior, ms"]
    head += ["ESS", "from torch, sd"]
    made: list[Timed] = []
    failures: list[str] = []
    with TemporaryDirectory() as cache:
        for folder in folders:
            made += measure(folder, args.rounds, Path(cache), failures)
    print(common.table(head, [one.row() for one in made]))
    took = {
        "network": [float(np.median(one.network)) for one in made],
        "network, of 16 windows each": [float(np.median(one.shared)) for one in made],
        "whole posterior": [float(np.median(one.posterior)) for one in made],
    }
    bars(common.picture("engines"), [f"{one.model}, {one.name}" for one in made], took, "processor time, ms")
    print("".join(f"\n{failure}" for failure in failures))


def measure(folder: Path, rounds: int, cache: Path, failures: list[str]) -> list[Timed]:
    """The engines with one model; ``cache``: holds nothing of it; ``failures``: gets the engines that cannot run it."""
    model = load_model(folder)
    windows = golden(model, InferenceConfig().latents)
    made: list[Timed] = []
    bucket = example(model, InferenceConfig().latents, BUCKET)
    for candidate in candidates(cache):
        try:
            first, engine = started(candidate, model)
            following, engine = started(candidate, model)
            inference = Inference(model, candidate.config)
        except EngineError as problem:
            failures.append(f"{model.name}, {candidate.name}: {problem}")
            continue
        distance = 0.0 if engine.kind == "torch" else max(one.distance(model.net, engine) for one in windows)
        made.append(Timed(model.name, candidate.name, inference, engine, (first, following), distance, bucket))
    triggers = signals(model, made[0].inference)
    for number in range(-1, rounds):  # the first, which pays for what is done once, does not count
        for one in made:
            one.take(windows[number % len(windows)], triggers[number % len(triggers)], counts=number >= 0)
    return made


def started(candidate: Candidate, model: Model) -> tuple[float, Engine]:
    """An engine, and the processor time it took, s. Raises `EngineError`."""
    begin = time.process_time()
    engine = candidate.build(model.net, partial(example, model, candidate.config.latents))
    return time.process_time() - begin, engine


def candidates(cache: Path) -> list[Candidate]:
    """All engines that are installed, in each precision they know; torch first."""
    single = chosen(InferenceConfig(engine="auto", cache=cache))
    half = [
        Candidate(one.engine, one.config.model_copy(update={"engine": one.engine.kind, "precision": "bf16"}))
        for one in single
        if "bf16" in one.engine.precisions
    ]
    named = [Candidate(one.engine, one.config.model_copy(update={"engine": one.engine.kind})) for one in single]
    return named[::-1] + half


def signals(model: Model, inference: Inference) -> list[Trigger]:
    """Windows behind the gate with signals from the prior."""
    population = Population(model, inference.prior, 1)
    found: list[Trigger] = []
    number = 0
    while len(found) < WINDOWS:
        case = population.case(number)
        number += 1
        if SNRS[0] < case.optimal_snr < SNRS[1]:
            found += inference.gate(Batch((case.window,), 1))
    return found


if __name__ == "__main__":
    main()
