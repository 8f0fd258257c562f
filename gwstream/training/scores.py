"""What each injection says of a network and of the posterior served from it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, fields
from functools import lru_cache
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gwstream.config import InferenceConfig
from gwstream.inference import Inference, load_model
from gwstream.inference.importance import effective, normalised
from gwstream.records import Batch, Floats
from gwstream.summary.statistics import ranks
from gwstream.training.population import FAMILY, PER_DETECTOR, Case, Population

EVERY = (0.0, float("inf"))


@dataclass
class Scores:
    """One row an injection: ranks (n, 5) as served and of the network alone, in [0, 1], and scalars (n,).

    ``ess`` and ``raw_ess``: effective fractions of the draws, as served and of the network's own; ``divergence``:
    ln p - ln q of the network at the truth; ``seconds`` of a served posterior; ``passed``: 1 where the gate passes it.
    """

    weighted: list[Floats] = field(default_factory=list)
    raw: list[Floats] = field(default_factory=list)
    snr: list[float] = field(default_factory=list)
    optimal_snr: list[float] = field(default_factory=list)
    ess: list[float] = field(default_factory=list)
    raw_ess: list[float] = field(default_factory=list)
    divergence: list[float] = field(default_factory=list)
    residual_p: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    passed: list[float] = field(default_factory=list)

    def column(self, name: str) -> Floats:
        """One of the lists as an array."""
        return np.asarray(getattr(self, name), np.float64)

    def between(self, low: float, high: float) -> Scores:
        """Those of an optimal SNR from ``low`` to below ``high``."""
        snr = self.column("optimal_snr")
        return self.chosen((snr >= low) & (snr < high))

    def chosen(self, rows: NDArray[np.bool_]) -> Scores:
        """Those of a mask (n,)."""
        kept = np.flatnonzero(rows)
        return Scores(**{one.name: [getattr(self, one.name)[k] for k in kept] for one in fields(self)})

    def extend(self, other: Scores) -> None:
        """Add another's rows."""
        for one in fields(self):
            getattr(self, one.name).extend(getattr(other, one.name))


def score(
    model: Path,
    injections: int,
    seed: int,
    *,
    detectors: str = FAMILY,
    snr: tuple[float, float] = EVERY,
    jobs: int = 1,
    engine: str = "auto",
) -> Scores:
    """The first ``injections`` of a `Population` through inference, whether or not the gate would pass them.

    ``snr``: range of optimal SNRs outside of which an injection is left out. ``jobs``: processes.
    """
    from rich.progress import track

    parts = [range(low, min(low + PER_DETECTOR, injections)) for low in range(0, injections, PER_DETECTOR)]
    scores = Scores()
    name = f"{model.name}, {detectors}, seed {seed}"
    settings = InferenceConfig(model=model, engine=engine)
    for part in track(_scored(settings, seed, detectors, snr, parts, jobs), description=name, total=len(parts)):
        scores.extend(part)
    return scores


def _scored(
    settings: InferenceConfig, seed: int, detectors: str, snr: tuple[float, float], parts: list[range], jobs: int
) -> Iterator[Scores]:
    columns = (repeat(settings), repeat(seed), repeat(detectors), repeat(snr), parts)
    if jobs == 1:
        yield from map(_part, *columns)
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        yield from pool.map(_part, *columns)


@lru_cache(maxsize=1)
def _bench(settings: InferenceConfig, seed: int, detectors: str) -> tuple[Inference, Population]:
    loaded = load_model(settings.model)
    inference = Inference(loaded, settings)
    return inference, Population(loaded, inference.prior, seed, detectors)


def _part(settings: InferenceConfig, seed: int, detectors: str, snr: tuple[float, float], numbers: range) -> Scores:
    inference, population = _bench(settings, seed, detectors)
    scores = Scores()
    for number in numbers:
        case = population.case(number)
        if snr[0] <= case.optimal_snr < snr[1]:
            _score(inference, case, scores)
    return scores


def _score(inference: Inference, case: Case, scores: Scores) -> None:
    trigger = inference.gate(Batch((case.window,), 1))[0]
    began = time.perf_counter()
    posterior = inference.infer(trigger)
    scores.seconds.append(time.perf_counter() - began)
    proposed = inference.propose(case.window)
    draws = len(posterior.weights)
    samples, weights = posterior.samples, posterior.weights
    if posterior.rounds > 1:  # else what was served are the network's own draws
        e = proposed.proposal.draw(proposed.rng, draws)
        samples = proposed.parameters(e)
        weights = normalised(proposed.log_target(e) - proposed.proposal.log_density(e))
    rng = np.random.default_rng(case.number)
    scores.weighted.append(ranks(posterior.samples, posterior.weights, case.truth, rng))
    scores.raw.append(ranks(samples, np.full(draws, 1 / draws), case.truth, rng))
    scores.optimal_snr.append(case.optimal_snr)
    scores.snr.append(posterior.snr)
    scores.ess.append(posterior.ess / draws)
    scores.raw_ess.append(effective(weights) / draws)
    scores.residual_p.append(posterior.residual_p)
    scores.passed.append(float(trigger.passed))
    at = proposed.anchor.encode(case.truth)
    log_p = proposed.log_target(at)[0] - posterior.log_bayes
    scores.divergence.append(float(log_p - proposed.proposal.log_density(at)[0]))
