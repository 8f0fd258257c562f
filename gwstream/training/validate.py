"""``gwstream validate``: is the served posterior calibrated? Injections from the served prior, every one scored.

It runs the engine that serves, on windows of a family of detectors drawn anew, and writes ``report.md`` with pictures
beside the weights. The rule is stated before the run: the smallest of five Kolmogorov-Smirnov p-values must exceed
0.002, else one confirmation with the next seed and four times the injections decides.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from scipy.stats import kstest

from gwstream.config import InferenceConfig
from gwstream.inference import Inference, load_model
from gwstream.inference.importance import effective, normalised
from gwstream.records import PARAMETERS, Batch, Floats, Window
from gwstream.summary.statistics import ranks
from gwstream.training import pictures
from gwstream.training.dataset import Simulator, family
from gwstream.training.judge import judge, table

LEAST_P = 0.002
DETECTORS = 32
SNR_EDGES = (0.0, 6.0, 8.0, 12.0, 20.0, 30.0, 60.0, math.inf)


@dataclass
class Scores:
    """One row an injection: ranks (n, 5) weighted and raw in [0, 1], and scalars (n,)."""

    weighted: list[Floats] = field(default_factory=list)
    raw: list[Floats] = field(default_factory=list)
    snr: list[float] = field(default_factory=list)
    optimal_snr: list[float] = field(default_factory=list)
    ess: list[float] = field(default_factory=list)
    raw_ess: list[float] = field(default_factory=list)
    divergence: list[float] = field(default_factory=list)
    residual_p: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def column(self, name: str) -> Floats:
        """One of the lists as an array."""
        return np.asarray(getattr(self, name), np.float64)


def validate(model: Path, *, injections: int = 1000, seed: int = 1, output: Path | None = None, exact: int = 0) -> bool:
    """Score ``injections`` with ``seed`` and write the report into ``output`` (default: the model's folder).

    ``exact``: number of signals to compare with their exact posterior, half a minute each. Returns whether the stated
    rule passes. Raises `ModelError` for a model that cannot be loaded.
    """
    folder = output or model
    folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    scores = score(model, injections, seed)
    p = smallest_p(scores.column("weighted"))
    confirmation = None
    if p <= LEAST_P:
        confirmation = score(model, 4 * injections, seed + 1)
    passed = (p if confirmation is None else smallest_p(confirmation.column("weighted"))) > LEAST_P
    pictures.percentile_plot(scores.column("weighted"), scores.column("raw"), folder / "pp.png")
    pictures.efficiency_plot(scores.column("optimal_snr"), scores.column("raw_ess"), folder / "efficiency.png")
    verdicts = judge(model, exact, seed) if exact else []
    text = _report(model, scores, confirmation, (injections, seed, time.monotonic() - began, passed))
    if verdicts:
        text += "\n".join(["", f"## Against the exact posterior: {exact} signals", "", *table(verdicts), ""])
    (folder / "report.md").write_text(text, encoding="utf-8")
    return passed


def smallest_p(ranks: Floats) -> float:
    """The least of the parameters' Kolmogorov-Smirnov p-values of ranks (n, 5) against uniform."""
    return min(float(kstest(column, "uniform").pvalue) for column in ranks.T)


def score(model: Path, injections: int, seed: int) -> Scores:
    """Every injection through gate-less inference; progress on the terminal."""
    from rich.progress import track

    loaded = load_model(model)
    inference = Inference(loaded, InferenceConfig(model=model))
    spec = loaded.spec
    rng = np.random.default_rng([seed, 20201])
    members = family(spec, loaded.bank, min(DETECTORS, injections), rng)
    simulator = Simulator(spec, loaded.bank)
    generator = torch.Generator().manual_seed(seed)
    truths = inference.prior.draw(rng, injections)
    scores = Scores()
    for index in track(range(injections), description=f"seed {seed}"):
        member = members[index % len(members)]
        x = truths[index : index + 1]
        samples = simulator.windows(member, x, 1, generator)[0].double().numpy()
        _score(inference, simulator.window(member, samples, index), x, scores)
    return scores


def _score(inference: Inference, window: Window, truth: Floats, scores: Scores) -> None:
    proposed = inference.propose(window)
    e = proposed.mixture.draw(proposed.rng, 2000)
    log_weights = proposed.log_target(e) - proposed.mixture.log_density(e)
    trigger = inference.gate(Batch((window,), 1))[0]
    began = time.perf_counter()
    posterior = inference.infer(trigger)
    scores.seconds.append(time.perf_counter() - began)
    scores.weighted.append(ranks(posterior.samples, posterior.weights, truth, proposed.rng))
    scores.raw.append(ranks(proposed.parameters(e), np.full(len(e), 1 / len(e)), truth, proposed.rng))
    waveform = proposed.templates.waveforms(truth)[0].astype(np.float64)
    scores.optimal_snr.append(float(np.linalg.norm(waveform)))
    scores.snr.append(posterior.snr)
    scores.ess.append(posterior.ess / len(posterior.weights))
    scores.raw_ess.append(effective(normalised(log_weights)) / len(e))
    scores.residual_p.append(posterior.residual_p)
    at = proposed.anchor.encode(truth)
    log_p = proposed.log_target(at)[0] - posterior.log_bayes
    scores.divergence.append(float(log_p - proposed.mixture.log_density(at)[0]))


def _report(model: Path, scores: Scores, confirmation: Scores | None, run: tuple[int, int, float, bool]) -> str:
    injections, seed, seconds, passed = run
    weighted = scores.column("weighted")
    lines = [
        f"# {model.name}: is it calibrated?",
        "",
        f"`gwstream validate models/{model.name} --injections {injections} --seed {seed}`: {injections} injections "
        f"from the served prior into noise of {min(DETECTORS, injections)} detectors of the training family, drawn "
        f"anew; all are scored, whether or not the gate would pass them. It took {seconds / 60:.1f} minutes.",
        "",
        f"**{'Passed' if passed else 'Failed'}**: smallest Kolmogorov-Smirnov p {smallest_p(weighted):.4f}, "
        f"required above {LEAST_P}." + (_confirmed(confirmation, seed + 1) if confirmation is not None else ""),
        "",
        "![P-P plot](pp.png)",
        "",
        "| parameter | KS p, weighted | KS p, network alone | within 50 % | within 90 % |",
        "|---|---|---|---|---|",
        *_parameter_rows(weighted, scores.column("raw")),
        "",
        "Central intervals; binomial standard errors are "
        f"{100 * math.sqrt(0.25 / injections):.1f} and {100 * math.sqrt(0.09 / injections):.1f} points.",
        "",
        "![Efficiency](efficiency.png)",
        "",
        "Effective fraction of 2000 draws, by optimal SNR in the window: of the network's own proposal, and as served "
        "(adapted where the first was poor).",
        "",
        "| SNR | injections | network: median | 10th percentile | served: median | 10th percentile |",
        "|---|---|---|---|---|---|",
        *_efficiency_rows(scores),
        "",
        *_closing(scores),
    ]
    return "\n".join(lines) + "\n"


def _confirmed(scores: Scores, seed: int) -> str:
    ranks = scores.column("weighted")
    return f" The confirmation with seed {seed} and {len(ranks)} injections gave {smallest_p(ranks):.4f}, and decides."


def _parameter_rows(weighted: Floats, raw: Floats) -> list[str]:
    rows = []
    for index, name in enumerate(PARAMETERS):
        ranks = weighted[:, index]
        inside = [100 * float(np.mean(np.abs(ranks - 0.5) < width / 2)) for width in (0.5, 0.9)]
        p, raw_p = (float(kstest(column, "uniform").pvalue) for column in (ranks, raw[:, index]))
        rows.append(f"| {name} | {p:.3f} | {raw_p:.3f} | {inside[0]:.1f} % | {inside[1]:.1f} % |")
    return rows


def _efficiency_rows(scores: Scores) -> list[str]:
    snr, raw, served = scores.column("optimal_snr"), scores.column("raw_ess"), scores.column("ess")
    rows = []
    for low, high in pairwise(SNR_EDGES):
        chosen = (snr >= low) & (snr < high)
        if chosen.any():
            name = f"{low:g}-{high:g}" if math.isfinite(high) else f"over {low:g}"
            figures = [np.quantile(values[chosen], q) for values in (raw, served) for q in (0.5, 0.1)]
            rows.append(f"| {name} | {int(chosen.sum())} | " + " | ".join(f"{value:.2f}" for value in figures) + " |")
    return rows


def _closing(scores: Scores) -> list[str]:
    snr = scores.column("optimal_snr")
    chosen = (snr >= 6) & (snr < 30)
    divergence = scores.column("divergence")[chosen]
    known = "too few of these to say"
    if len(divergence) > 1:
        known = f"{divergence.mean():.2f} ± {divergence.std() / math.sqrt(len(divergence)):.2f} nats"
    residual = float(kstest(scores.column("residual_p"), "uniform").pvalue)
    seconds = scores.column("seconds")
    return [
        f"For SNR 6-30 ({int(chosen.sum())} injections) the mean of ln p - ln q at the truth, which estimates the "
        f"divergence KL(p|q) of the network from the posterior, is {known}.",
        "",
        f"Residual test: its p-values are uniform with Kolmogorov-Smirnov p {residual:.3f}.",
        "",
        f"A served posterior took {1e3 * np.median(seconds):.0f} ms (median; 90th percentile "
        f"{1e3 * np.quantile(seconds, 0.9):.0f} ms) on one core.",
    ]
