"""Posteriors of fixed signals, network alone and as served, against the exact ones of `exact`.

The distance is the Jensen-Shannon divergence of each parameter's marginal in mnat: 40 equal bins over the exact
posterior's 0.01 to 99.99 % range. From finite draws even equal distributions differ; that floor is simulated beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from gwstream.config import InferenceConfig
from gwstream.inference import Inference, load_model
from gwstream.records import PARAMETERS, Batch, Floats, Window
from gwstream.training.dataset import Simulator, family
from gwstream.training.exact import exact

BINS = 40
DRAWS = 40_000
DETECTORS = 6
SNR = (6.0, 50.0)


@dataclass(frozen=True, slots=True)
class Verdict:
    """One signal: optimal SNR; divergences (5,) in mnat of the network, as served, and of equal distributions.

    ``log_bayes`` as served and ``exact_log_bayes`` by quadrature; ``effective`` draws behind the served figures.
    """

    snr: float
    network: Floats
    served: Floats
    floor: Floats
    log_bayes: float
    exact_log_bayes: float
    effective: float


def judge(model: Path, signals: int, seed: int) -> list[Verdict]:
    """The first ``signals`` injections of ``seed`` with optimal SNR 6 to 50; half a minute each."""
    from rich.progress import track

    loaded = load_model(model)
    inference = Inference(loaded, InferenceConfig(model=model, draws=DRAWS))
    spec = loaded.spec
    rng = np.random.default_rng([seed, 20202])
    members = family(spec, loaded.bank, DETECTORS, rng)
    simulator = Simulator(spec, loaded.bank)
    generator = torch.Generator().manual_seed(seed)
    chosen: list[Window] = []
    while len(chosen) < signals:
        member = members[len(chosen) % len(members)]
        x = inference.prior.draw(rng, 1)
        samples = simulator.windows(member, x, 1, generator)[0].double().numpy()
        window = simulator.window(member, samples, len(chosen))
        norm = float(np.linalg.norm(inference.propose(window).templates.waveforms(x)))
        if SNR[0] <= norm <= SNR[1]:
            chosen.append(window)
    return [_verdict(inference, window, rng) for window in track(chosen, description="exact posteriors")]


def _verdict(inference: Inference, window: Window, rng: np.random.Generator) -> Verdict:
    posterior = inference.infer(inference.gate(Batch((window,), 1))[0])
    proposed = inference.propose(window)
    raw = proposed.parameters(proposed.mixture.draw(proposed.rng, DRAWS))
    truth = exact(window.samples, proposed.templates, inference.prior)
    draws, other = truth.draw(rng, DRAWS), truth.draw(rng, max(100, round(posterior.ess)))
    return Verdict(
        snr=posterior.snr,
        network=divergences(raw, None, draws),
        served=divergences(posterior.samples, posterior.weights, draws),
        floor=divergences(other, None, draws),
        log_bayes=posterior.log_bayes,
        exact_log_bayes=truth.log_bayes,
        effective=posterior.ess,
    )


def divergences(samples: Floats, weights: Floats | None, exact_draws: Floats) -> Floats:
    """Jensen-Shannon divergence (5,) in mnat of marginals of (S, 5) draws from those of exact draws (T, 5)."""
    out = []
    for k in range(len(PARAMETERS)):
        low, high = np.quantile(exact_draws[:, k], [1e-4, 1 - 1e-4])
        edges = np.linspace(float(low), float(high), BINS + 1)
        p = _histogram(samples[:, k], edges, weights)
        q = _histogram(exact_draws[:, k], edges, None)
        middle = 0.5 * (p + q)
        out.append(500 * (_relative_entropy(p, middle) + _relative_entropy(q, middle)))
    return np.array(out)


def _histogram(values: Floats, edges: Floats, weights: Floats | None) -> Floats:
    """Normalised, what lies outside counted in the outermost bins."""
    counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges, weights=weights)
    return np.asarray(counts / counts.sum())


def _relative_entropy(p: Floats, q: Floats) -> float:
    full = p > 0
    return float(np.sum(p[full] * np.log(p[full] / q[full])))


def table(verdicts: list[Verdict]) -> list[str]:
    """Lines of the report."""
    rows = [
        "| SNR | network, mnat | as served, mnat | floor, mnat | ln Bayes factor, served - exact | effective draws |",
        "|---|---|---|---|---|---|",
    ]
    for one in sorted(verdicts, key=lambda verdict: verdict.snr):
        parts = [" / ".join(f"{value:.1f}" for value in row) for row in (one.network, one.served, one.floor)]
        difference = one.log_bayes - one.exact_log_bayes
        rows.append(f"| {one.snr:.1f} | {' | '.join(parts)} | {difference:+.3f} | {one.effective:.0f} |")
    network, served, floor = (np.array([getattr(v, name) for v in verdicts]) for name in ("network", "served", "floor"))
    rows += [
        "",
        "Five figures a cell: " + ", ".join(name.replace("_", " ") for name in PARAMETERS) + ". "
        f"Median over signals and parameters: network {np.median(network):.1f}, as served {np.median(served):.1f}, "
        f"floor {np.median(floor):.1f} mnat; largest {network.max():.1f}, {served.max():.1f} and {floor.max():.1f}.",
    ]
    return rows
