"""Posteriors of fixed signals, network alone and as served, against the exact ones of `exact`.

The distance is the Jensen-Shannon divergence of each parameter's marginal in mnat: 40 equal bins over the exact
posterior's 0.01 to 99.99 % range. From finite draws even equal distributions differ; that floor is simulated beside it.
Exact posteriors depend on window and prior, not on the network, so they are kept on disk and networks share them.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from gwstream.config import InferenceConfig
from gwstream.inference import Inference, load_model
from gwstream.inference.importance import effective, normalised, sample
from gwstream.inference.likelihood import Templates
from gwstream.prior import Prior
from gwstream.records import PARAMETERS, Floats, Window
from gwstream.training.exact import exact
from gwstream.training.population import Case, Population

BINS = 40
BLOCK = 20_000  # draws at a time, and those that ln evidence is judged by
ENOUGH = 10_000  # effective draws wanted
MOST = 20  # blocks at most
EXACT_DRAWS = 100_000
SHOWN = 5000  # draws kept for a picture
FLOORS = 50  # simulations of the floor
SNR = (6.0, 50.0)
SEED = 20_203
CACHE = Path("runs/exact")
PHASE = PARAMETERS.index("phase")
RECIPE = 3  # of what is kept on disk


@dataclass(frozen=True, slots=True)
class Verdict:
    """One signal: optimal SNR; divergences (5,) in mnat of the network, as served, and of equal distributions from as
    many draws; ln Bayes factor of the first `BLOCK` draws less the exact one; draws and effective draws as served.

    ``exact``, ``served``, ``raw``: draws (n, 5) of each for a picture.
    """

    snr: float
    network: Floats
    network_floor: Floats
    weighted: Floats
    weighted_floor: Floats
    log_bayes_error: float
    draws: int
    effective: float
    exact: Floats
    served: Floats
    raw: Floats


@dataclass(frozen=True, slots=True)
class Reference:
    """Draws (n, 5) of an exact posterior, and its ln Bayes factor."""

    draws: Floats
    log_bayes: float


def judge(
    model: Path, signals: int, seed: int, *, cache: Path = CACHE, jobs: int = 1, engine: str = "auto"
) -> list[Verdict]:
    """Verdicts by ascending SNR; ``cache``: folder of exact posteriors; ``jobs``: processes."""
    from rich.progress import track

    numbers = range(signals)
    name = f"{model.name}, exact posteriors"
    settings = InferenceConfig(model=model, engine=engine)
    return list(track(_verdicts(settings, signals, seed, cache, jobs), description=name, total=len(numbers)))


def _verdicts(settings: InferenceConfig, signals: int, seed: int, cache: Path, jobs: int) -> Iterator[Verdict]:
    columns = (repeat(settings), repeat(signals), repeat(seed), repeat(cache), range(signals))
    if jobs == 1:
        yield from map(_verdict, *columns)
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        yield from pool.map(_verdict, *columns)


def edges(signals: int) -> Floats:
    """SNRs (signals + 1,) between which the signals lie, one in each, evenly spaced in their logarithm."""
    return np.geomspace(*SNR, signals + 1)


@lru_cache(maxsize=1)
def _bench(settings: InferenceConfig, signals: int, seed: int) -> tuple[Inference, list[Case]]:
    """Signal k is the first injection of the population whose optimal SNR lies in the k-th interval of `edges`."""
    loaded = load_model(settings.model)
    inference = Inference(loaded, settings)
    population = Population(loaded, inference.prior, seed + SEED)
    chosen: dict[int, Case] = {}
    number, limits = 0, edges(signals)
    while len(chosen) < signals:
        case = population.case(number)
        place = int(np.searchsorted(limits, case.optimal_snr, side="right")) - 1
        if 0 <= place < signals:
            chosen.setdefault(place, case)
        number += 1
    return inference, [chosen[place] for place in range(signals)]


def _verdict(settings: InferenceConfig, signals: int, seed: int, cache: Path, number: int) -> Verdict:
    inference, cases = _bench(settings, signals, seed)
    case = cases[number]
    proposed = inference.propose(case.window)
    reference = kept(case.window, proposed.templates, inference.prior, cache)
    raw = proposed.parameters(proposed.proposal.draw(proposed.rng, 2 * BLOCK))
    samples, weights, draws, log_bayes = _redrawn(inference, case.window)
    effective_draws = effective(weights)
    rng = np.random.default_rng(number)
    chosen = rng.choice(len(weights), SHOWN, p=weights)
    return Verdict(
        snr=case.optimal_snr,
        network=divergences(raw, None, reference.draws),
        network_floor=floors(len(raw), reference.draws, rng),
        weighted=divergences(samples, weights, reference.draws),
        weighted_floor=floors(round(effective_draws), reference.draws, rng),
        log_bayes_error=log_bayes - reference.log_bayes,
        draws=draws,
        effective=effective_draws,
        exact=reference.draws[:SHOWN],
        served=samples[chosen],
        raw=raw[:SHOWN],
    )


def _redrawn(inference: Inference, window: Window) -> tuple[Floats, Floats, int, float]:
    """The daemon's posterior with more draws, in the stream of its id: samples, weights, their number, ln evidence.

    As many blocks as `ENOUGH` effective draws need; the evidence is that of the first.
    """
    proposed = inference.propose(window)
    samples: list[Floats] = []
    log_weights: list[Floats] = []
    first = math.nan
    for _ in range(MOST):
        found = sample(proposed.proposal, proposed.log_target, BLOCK, proposed.rng)
        first = found.log_evidence if math.isnan(first) else first
        samples.append(proposed.parameters(found.e))
        log_weights.append(found.log_weights)
        weights = normalised(np.concatenate(log_weights))
        if effective(weights) >= ENOUGH:
            break
    return np.concatenate(samples), weights, len(weights), first


def kept(window: Window, templates: Templates, prior: Prior, cache: Path) -> Reference:
    """The exact posterior of a window, from the folder if it is there."""
    path = cache / f"{_key(window, templates, prior)}.npz"
    if path.exists():
        with np.load(path, allow_pickle=False) as file:
            return Reference(file["draws"].astype(np.float64), float(file["log_bayes"]))
    judged = exact(window.samples, templates, prior)
    draws = judged.draw(np.random.default_rng(0), EXACT_DRAWS).astype(np.float32)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}.npz")  # two processes may be at the same one
    np.savez(part, draws=draws, log_bayes=judged.log_bayes)
    part.replace(path)
    return Reference(draws.astype(np.float64), judged.log_bayes)


def _key(window: Window, templates: Templates, prior: Prior) -> str:
    """Digest of all that an exact posterior depends on."""
    digest = hashlib.sha256(json.dumps([RECIPE, EXACT_DRAWS, asdict(prior)], sort_keys=True).encode())
    bank = templates.bank
    for array in (window.samples, window.whitener.taps, bank.basis, bank.grid, bank.limits):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:24]


def divergences(samples: Floats, weights: Floats | None, exact_draws: Floats) -> Floats:
    """Jensen-Shannon divergence (5,) in mnat of marginals of (S, 5) draws from those of exact draws (T, 5)."""
    turn = _middle(exact_draws)
    exact_draws, samples = _unwrapped(exact_draws, turn), _unwrapped(samples, turn)
    out = []
    for k in range(len(PARAMETERS)):
        bins = _edges(exact_draws[:, k])
        p = _histogram(samples[:, k], bins, weights)
        out.append(_jensen_shannon(p, _histogram(exact_draws[:, k], bins, None)))
    return np.array(out)


def floors(draws: int, exact_draws: Floats, rng: np.random.Generator) -> Floats:
    """What `divergences` says, in the mean, of ``draws`` draws from the exact distribution itself: (5,) in mnat."""
    exact_draws = _unwrapped(exact_draws, _middle(exact_draws))
    out = []
    for k in range(len(PARAMETERS)):
        values = exact_draws[:, k]
        p = _histogram(values, _edges(values), None)
        first, second = (rng.multinomial(n, p, FLOORS) / n for n in (max(1, draws), len(values)))
        out.append(np.mean([_jensen_shannon(a, b) for a, b in zip(first, second, strict=True)]))
    return np.array(out)


def _middle(draws: Floats) -> float:
    """Circular mean of the phase."""
    return 0.5 * float(np.angle(np.mean(np.exp(2j * draws[:, PHASE]))))


def _unwrapped(draws: Floats, middle: float) -> Floats:
    """Phases counted from half a period before ``middle``, so that no peak is cut in two."""
    out = draws.copy()
    out[:, PHASE] = np.mod(draws[:, PHASE] - middle + math.pi / 2, math.pi) - math.pi / 2
    return out


def _edges(values: Floats) -> Floats:
    low, high = np.quantile(values, [1e-4, 1 - 1e-4])
    return np.linspace(float(low), float(high), BINS + 1)


def _histogram(values: Floats, bins: Floats, weights: Floats | None) -> Floats:
    """Normalised, what lies outside counted in the outermost bins."""
    counts, _ = np.histogram(np.clip(values, bins[0], bins[-1]), bins, weights=weights)
    return np.asarray(counts / counts.sum())


def _jensen_shannon(p: Floats, q: Floats) -> float:
    """In mnat."""
    middle = 0.5 * (p + q)
    return 500 * (_relative_entropy(p, middle) + _relative_entropy(q, middle))


def _relative_entropy(p: Floats, q: Floats) -> float:
    full = p > 0
    return float(np.sum(p[full] * np.log(p[full] / q[full])))
