"""``gwstream validate``: is the served posterior calibrated? Injections from the served prior, every one scored.

It runs the engine that serves and writes ``report.md`` with pictures beside the weights. The rule is stated before the
run: the smallest Kolmogorov-Smirnov p-value of five parameters, as served and of the network alone, must exceed 0.002,
else one confirmation with the next seed and four times the injections decides.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from gwstream.inference import load_model
from gwstream.training import figures, pictures, report
from gwstream.training.judge import CACHE, Verdict, judge
from gwstream.training.population import FIXED, STATED
from gwstream.training.report import LEAST_P, Results, least_p
from gwstream.training.scores import Scores, score


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much to measure.

    ``injections`` from ``seed``; ``fixed``: as many into one named spectrum, those outside the stated SNRs left out;
    ``exact``: signals to compare with their exact posterior, which are kept in ``cache``; ``jobs``: processes;
    ``engine``: that of the settings' inference.engine.
    """

    injections: int = 2000
    seed: int = 1
    fixed: int = 1000
    exact: int = 12
    cache: Path = CACHE
    jobs: int = 1
    engine: str = "auto"

    @property
    def options(self) -> str:
        """What figures depend on, as options of the command."""
        engine = "" if self.engine == "auto" else f" --engine {self.engine}"
        return f"--injections {self.injections} --seed {self.seed} --fixed {self.fixed} --exact {self.exact}{engine}"


def validate(model: Path, plan: Plan, output: Path | None = None) -> bool:
    """Write the report into ``output`` (default: the model's folder); returns whether the stated rule passes.

    Raises `ModelError` for a model that cannot be loaded.
    """
    weights = load_model(model).hash
    folder = output or model
    folder.mkdir(parents=True, exist_ok=True)
    times = [time.monotonic()]
    scores = score(model, plan.injections, plan.seed, jobs=plan.jobs, engine=plan.engine)
    confirmation = None
    if min(least_p(scores)) <= LEAST_P:
        confirmation = score(model, 4 * plan.injections, plan.seed + 1, jobs=plan.jobs, engine=plan.engine)
    times.append(time.monotonic())
    fixed = _fixed(model, plan)
    times.append(time.monotonic())
    verdicts = (
        judge(model, plan.exact, plan.seed, cache=plan.cache, jobs=plan.jobs, engine=plan.engine) if plan.exact else []
    )
    times.append(time.monotonic())
    found = figures.figures(weights, plan.options, scores, fixed, verdicts)
    results = Results(
        model=model,
        seed=plan.seed,
        asked=plan.options,
        scores=scores,
        confirmation=confirmation,
        fixed=fixed,
        verdicts=verdicts,
        figures=found,
        passed=min(least_p(confirmation or scores)) > LEAST_P,
        seconds=(times[1] - times[0], times[2] - times[1], times[3] - times[2]),
    )
    _draw(results, folder)
    (folder / "report.md").write_text(report.write(results), encoding="utf-8")
    return results.passed


def measure(model: Path, plan: Plan) -> figures.Figures:
    """The figures alone, from injections of the stated population alone."""
    scores = score(model, plan.injections, plan.seed, snr=STATED, jobs=plan.jobs, engine=plan.engine)
    verdicts = (
        judge(model, plan.exact, plan.seed, cache=plan.cache, jobs=plan.jobs, engine=plan.engine) if plan.exact else []
    )
    return figures.figures(load_model(model).hash, plan.options, scores, _fixed(model, plan), verdicts)


def _fixed(model: Path, plan: Plan) -> Scores | None:
    if not plan.fixed:
        return None
    return score(model, plan.fixed, plan.seed, detectors=FIXED, snr=STATED, jobs=plan.jobs, engine=plan.engine)


def _draw(results: Results, folder: Path) -> None:
    scores, verdicts = results.scores, results.verdicts
    pictures.percentile_plot(scores.column("weighted"), scores.column("raw"), folder / "pp.png")
    pictures.efficiency_plot(scores.column("optimal_snr"), scores.column("raw_ess"), folder / "efficiency.png")
    if verdicts:
        pictures.divergence_plot(verdicts, folder / "exact.png")
    for k in report.pictured(len(verdicts)):
        one: Verdict = verdicts[k]
        pictures.corner_plot(one, folder / f"corner-{k + 1}.png")
