"""The text of ``report.md``."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import kstest

from gwstream.records import PARAMETERS, Floats
from gwstream.training import judge
from gwstream.training.figures import Against, Efficiency, Figures
from gwstream.training.judge import Verdict
from gwstream.training.population import FIXED, PER_DETECTOR, STATED
from gwstream.training.scores import Scores

LEAST_P = 0.002
ROWS = (
    ("below 6", 0.0, 6.0),
    ("**6 to 30**", *STATED),
    ("30 and above", 30.0, math.inf),
    ("6 to 8", 6.0, 8.0),
    ("8 to 12", 8.0, 12.0),
    ("12 to 20", 12.0, 20.0),
    ("20 to 30", 20.0, 30.0),
    ("30 to 60", 30.0, 60.0),
    ("60 and above", 60.0, math.inf),
)
WORDS = [name.replace("_", " ") for name in PARAMETERS]


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """All that a report is made of; ``asked``: the command's options.

    ``seconds``: of the injections, of those into the fixed spectrum, of the exact posteriors.
    """

    model: Path
    seed: int
    asked: str
    scores: Scores
    confirmation: Scores | None
    fixed: Scores | None
    verdicts: list[Verdict]
    figures: Figures
    passed: bool
    seconds: tuple[float, float, float]


def least_p(scores: Scores) -> tuple[float, float]:
    """The least of the parameters' Kolmogorov-Smirnov p-values, as served and of the network alone."""
    weighted, raw = (smallest_p(scores.column(name)) for name in ("weighted", "raw"))
    return weighted, raw


def smallest_p(ranks: Floats) -> float:
    """The least of the parameters' Kolmogorov-Smirnov p-values of ranks (n, 5) against uniform."""
    return min(float(kstest(column, "uniform").pvalue) for column in ranks.T)


def write(results: Results) -> str:
    """The whole report as Markdown."""
    parts = [_opening(results), _ranks(results.scores), _efficiency(results), _by_snr(results.scores)]
    if results.figures.against is not None:
        parts.append(_exact(results.verdicts, results.figures.against))
    parts.append(_closing(results))
    return "\n\n".join("\n".join(part) for part in parts) + "\n"


def _opening(results: Results) -> list[str]:
    scores, name, seed = results.scores, results.model.name, results.seed
    weighted, raw = least_p(scores)
    detectors = -(-len(scores.snr) // PER_DETECTOR)
    lines = [
        f"# {name}: is it calibrated?",
        "",
        f"`gwstream validate models/{name} {results.asked}`: {len(scores.snr)} injections from the served prior into "
        f"noise of {detectors} detectors of the training family, drawn anew, through the engine that serves. Every one "
        "is scored, whether or not gate and quality would let it by. Everything is drawn from the seed, so another "
        "machine finds the same figures but for rounding; durations are this one's.",
        "",
        f"**{'Passed' if results.passed else 'Failed'}**: the least of five Kolmogorov-Smirnov p-values is "
        f"{weighted:.4f} as served and {raw:.4f} for the network alone; both must exceed {LEAST_P}, or else one "
        "confirmation with the next seed and four times the injections decides.",
    ]
    if results.confirmation is not None:
        again = least_p(results.confirmation)
        lines.append(
            f"It was needed: with seed {seed + 1} and {len(results.confirmation.snr)} injections they are "
            f"{again[0]:.4f} and {again[1]:.4f}."
        )
    return lines


def _ranks(scores: Scores) -> list[str]:
    weighted, raw = scores.column("weighted"), scores.column("raw")
    lines = [
        "![P-P plot](pp.png)",
        "",
        "Bands hold 68 and 99.7 % of calibrated curves at each level. In per cent, with binomial standard errors, how "
        "many truths lie in the central 50 and 90 % intervals:",
        "",
        "| parameter | KS p, served | network | 50 %, served | network | 90 %, served | network |",
        "|---|---|---|---|---|---|---|",
    ]
    for k, word in enumerate(WORDS):
        p = [f"{kstest(ranks[:, k], 'uniform').pvalue:.3f}" for ranks in (weighted, raw)]
        held = [_coverage(ranks[:, k], width) for width in (0.5, 0.9) for ranks in (weighted, raw)]
        lines.append(f"| {word} | {' | '.join(p)} | {' | '.join(held)} |")
    return lines


def _coverage(ranks: Floats, width: float) -> str:
    inside = float(np.mean(np.abs(ranks - 0.5) < width / 2))
    return f"{100 * inside:.1f} ± {100 * math.sqrt(max(inside * (1 - inside), 1e-4) / ranks.size):.1f}"


def _efficiency(results: Results) -> list[str]:
    found = results.figures
    rows = [("family of the training, drawn anew", found.family), (f"{FIXED}, 64 s of history", found.fixed)]
    return [
        "## How good is the network's proposal?",
        "",
        f"Over injections of optimal SNR {STATED[0]:g} to {STATED[1]:g}, before any adaptation, the effective fraction "
        "of 2000 draws:",
        "",
        "| spectra | injections | median | 10th percentile |",
        "|---|---|---|---|",
        *(f"| {name} | {_cells(one)} |" for name, one in rows if one is not None),
        "",
        f"Mean of ln p - ln q at the truth, which estimates KL(p\u2016q): {found.divergence[0]:.2f} ± "
        f"{found.divergence[1]:.2f} nats over the {found.family.injections} of the family.",
        "",
        "![Effective fraction by SNR](efficiency.png)",
    ]


def _cells(one: Efficiency) -> str:
    return f"{one.injections} | {one.median:.2f} | {one.tenth:.2f}"


def _by_snr(scores: Scores) -> list[str]:
    lines = [
        "By optimal SNR, and for those alone whose window passes the gate. Chosen by the truth itself, not even an "
        "exact posterior covers at its level; so coverage, of all five parameters together as served, is shown here "
        "and not tested.",
        "",
        "| SNR | injections | network: median | 10th percentile | served: median | 10th percentile | 50 % | 90 % |",
        "|---|---|---|---|---|---|---|---|",
    ]
    chosen = [(name, scores.between(low, high)) for name, low, high in ROWS]
    for name, part in [*chosen, ("gated only", scores.chosen(scores.column("passed") > 0))]:
        if not part.snr:
            continue
        fractions = [np.quantile(part.column(which), q) for which in ("raw_ess", "ess") for q in (0.5, 0.1)]
        ranks = part.column("weighted")
        held = [100 * float(np.mean(np.abs(ranks - 0.5) < width / 2)) for width in (0.5, 0.9)]
        cells = [f"{value:.2f}" for value in fractions] + [f"{value:.1f} %" for value in held]
        lines.append(f"| {name} | {len(part.snr)} | {' | '.join(cells)} |")
    return lines


def _exact(verdicts: list[Verdict], found: Against) -> list[str]:
    low, high = judge.SNR
    lines = [
        "## Against the exact posterior",
        "",
        f"{found.signals} signals fixed by rule: of another seed's injections the first whose optimal SNR lies in each "
        f"of {found.signals} intervals, even in ln SNR from {low:g} to {high:g}. Jensen-Shannon divergences in mnat "
        f"({judge.BINS} equal bins over the exact 0.01 to 99.99 %), of {2 * judge.BLOCK} draws of the network alone, "
        f"and of the daemon's posterior drawn again by its id: {judge.BLOCK} draws, or more until {judge.ENOUGH} are "
        "effective. The floor is what as many draws of the exact posterior itself come to.",
        "",
        "| | network: median | distance, median | largest | floor | served: median | largest | floor |",
        "|---|---|---|---|---|---|---|---|",
        f"| {found.signals} signals | {found.raw_median:.1f} | {found.raw_distance:.1f} | {found.raw_max:.1f} "
        f"| {found.raw_floor:.2f} "
        f"| {found.weighted_median:.2f} | {found.weighted_max:.2f} | {found.weighted_floor:.2f} |",
        "",
        "The median of the network is over the four parameters besides the distance. ln Bayes factors from "
        f"{judge.BLOCK} draws lie at most {found.log_bayes:.3f} from the exact ones.",
        "",
        "![Divergence by SNR](exact.png)",
        "",
        "| SNR | network | served | floor of served | ln Bayes factor less exact | draws | effective |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in verdicts:
        parts = [" / ".join(f"{value:.1f}" for value in row) for row in (one.network, one.weighted)]
        cells = [*parts, f"{one.weighted_floor.mean():.2f}", f"{one.log_bayes_error:+.3f}", str(one.draws)]
        lines.append(f"| {one.snr:.1f} | {' | '.join(cells)} | {one.effective:.0f} |")
    lines += ["", f"Five figures a cell: {', '.join(WORDS)}. Corners over the exact posterior:", ""]
    lines += [f"![SNR {verdicts[k].snr:.1f}](corner-{k + 1}.png)" for k in pictured(len(verdicts))]
    return lines


def pictured(signals: int) -> list[int]:
    """Which verdicts get a corner plot: a faint, a middling and a loud one."""
    return sorted({signals // 6, signals // 2, signals - 1 - signals // 6}) if signals else []


def _closing(results: Results) -> list[str]:
    scores = results.scores
    residual = float(kstest(scores.column("residual_p"), "uniform").pvalue)
    seconds = scores.column("seconds")
    spent = [f"{value / 60:.1f}" for value in results.seconds]
    lines = [
        "## The rest",
        "",
        f"Residual test: its p-values are uniform with Kolmogorov-Smirnov p {residual:.3f}.",
        "",
        f"A served posterior took {1e3 * np.median(seconds):.0f} ms in the median, and at most "
        f"{1e3 * np.quantile(seconds, 0.9):.0f} ms for nine in ten, on one core. The injections took {spent[0]} "
        f"minutes, those into the fixed spectrum {spent[1]}, the exact posteriors {spent[2]}.",
    ]
    if (results.model / "real.md").exists():
        lines += ["", "Coverage in real noise, real events, glitches and false alarms: [real.md](real.md)."]
    return lines
