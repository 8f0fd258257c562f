from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from trained import FOLDER, shipped

from gwstream.config import InferenceConfig
from gwstream.inference import Inference, Model
from gwstream.records import PARAMETERS
from gwstream.training import figures, judge, report, scores
from gwstream.training import validate as validation
from gwstream.training.report import LEAST_P, smallest_p
from gwstream.training.scores import Scores
from gwstream.training.validate import Plan, validate

PLAN = Plan(injections=40, seed=3, fixed=20, exact=2)


@pytest.fixture(scope="module")
def validated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bool, list[Scores]]:
    """A short validation of the shipped model, and its scores: of the family, of the fixed spectrum."""
    folder = tmp_path_factory.mktemp("validation")
    kept: list[Scores] = []

    def keep(*arguments: object, **settings: object) -> Scores:
        kept.append(scores.score(*arguments, **settings))
        return kept[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(validation, "score", keep)
        patch.setattr("gwstream.training.judge.MOST", 2)
        passed = validate(FOLDER, Plan(injections=40, seed=3, fixed=20, exact=2, cache=folder), folder / "report")
    return folder / "report", passed, kept


def test_report_and_pictures_are_written(validated: tuple[Path, bool, list[Scores]]) -> None:
    folder, passed, _ = validated
    pictures = ["corner-1.png", "corner-2.png", "efficiency.png", "exact.png", "pp.png"]
    assert sorted(path.name for path in folder.iterdir()) == [*pictures, "report.md"]
    text = (folder / "report.md").read_text(encoding="utf-8")
    for name in pictures:
        assert (folder / name).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
        assert (folder / name).stat().st_size > 5000
        assert f"({name})" in text
    assert ("**Passed**" if passed else "**Failed**") in text
    assert f"validate models/bbh-1det {PLAN.options}`" in text
    for name in PARAMETERS:
        assert f"| {name.replace('_', ' ')} |" in text
    assert "nan" not in text
    assert str(FOLDER.parents[1]) not in text


def test_report_states_the_figures_of_the_scores(validated: tuple[Path, bool, list[Scores]]) -> None:
    folder, _, (family, fixed) = validated
    text = (folder / "report.md").read_text(encoding="utf-8")
    weighted = family.column("weighted")
    assert f"p-values is {smallest_p(weighted):.4f} as served" in text
    p = stats.kstest(weighted[:, 2], "uniform").pvalue
    row = next(line for line in text.splitlines() if line.startswith("| effective distance |"))
    assert f"| {p:.3f} |" in row
    inside = np.mean(np.abs(weighted[:, 2] - 0.5) < 0.45)
    assert f"| {100 * inside:.1f} ± {100 * np.sqrt(inside * (1 - inside) / 40):.1f} |" in row
    fraction = np.median(fixed.column("raw_ess"))
    assert f"| aLIGO_O4_high, 64 s of history | {len(fixed.snr)} | {fraction:.2f} |" in text


def test_every_injection_is_scored_inside_its_limits(validated: tuple[Path, bool, list[Scores]]) -> None:
    _, _, (family, fixed) = validated
    for name in ("weighted", "raw"):
        ranks = family.column(name)
        assert ranks.shape == (PLAN.injections, 5)
        assert ((ranks >= 0) & (ranks <= 1 + 1e-9)).all()
    for name in ("ess", "raw_ess"):
        assert ((family.column(name) > 0) & (family.column(name) <= 1)).all()
    assert np.isfinite(family.column("divergence")).all()
    assert family.column("optimal_snr").min() < 6  # the gate would not have passed it
    snr = fixed.column("optimal_snr")
    assert 0 < len(snr) < PLAN.fixed
    assert ((snr >= 6) & (snr < 30)).all()


def test_injections_are_the_same_however_they_are_shared_out(validated: tuple[Path, bool, list[Scores]]) -> None:
    _, _, (family, _) = validated
    shared = scores.score(FOLDER, 40, 3, snr=(6.0, 30.0), jobs=2)
    alone = family.between(6.0, 30.0)
    for name in ("weighted", "raw", "optimal_snr", "divergence", "raw_ess"):
        assert np.array_equal(shared.column(name), alone.column(name)), name


def test_ranks_of_a_wrong_posterior_fail_the_rule() -> None:
    rng = np.random.default_rng(1)
    right = rng.random((1000, 5))
    assert smallest_p(right) > LEAST_P
    z = rng.standard_normal(1000)
    for wrong in (stats.norm.cdf(1.3 * z), stats.norm.cdf(0.75 * z), stats.norm.cdf(z + 0.2)):
        for k in (0, 3, 4):
            ranks = right.copy()
            ranks[:, k] = wrong
            assert smallest_p(ranks) <= LEAST_P


def test_smallest_p_is_the_least_of_the_five() -> None:
    ranks = np.random.default_rng(2).random((200, 5))
    assert smallest_p(ranks) == min(stats.kstest(ranks[:, k], "uniform").pvalue for k in range(5))


def fake_scores(injections: int, exponent: float, seed: int, raw: float = 1.0) -> Scores:
    rng = np.random.default_rng(seed)
    made = Scores()
    for _ in range(injections):
        made.weighted.append(rng.random(5) ** exponent)
        made.raw.append(rng.random(5) ** raw)
        for values, low, high in (
            (made.snr, 7, 20), (made.optimal_snr, 4, 40), (made.ess, 0.3, 0.9), (made.raw_ess, 0.1, 0.9),
            (made.divergence, 0, 1), (made.residual_p, 0, 1), (made.seconds, 0.1, 0.2), (made.passed, 1, 1),
        ):  # fmt: skip
            values.append(float(rng.uniform(low, high)))
    return made


@pytest.mark.parametrize(
    ("first", "raw", "second", "passes"),
    [(1.0, 1.0, None, True), (2.0, 1.0, 1.0, True), (2.0, 1.0, 2.0, False), (1.0, 2.0, 1.0, True)],
)
def test_a_first_failure_is_decided_by_a_larger_confirmation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: float, raw: float, second: float | None, passes: bool
) -> None:
    asked: list[tuple[int, int]] = []

    def score(model: Path, injections: int, seed: int, *, jobs: int, engine: str) -> Scores:
        asked.append((injections, seed))
        again = len(asked) > 1
        return fake_scores(injections, second or 1.0 if again else first, seed, 1.0 if again else raw)

    monkeypatch.setattr(validation, "score", score)
    assert validate(FOLDER, Plan(injections=200, seed=5, fixed=0, exact=0), tmp_path) is passes
    assert asked == ([(200, 5)] if second is None else [(200, 5), (800, 6)])
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert ("It was needed" in text) == (second is not None)
    assert ("**Passed**" in text) == passes


def test_report_points_to_real_data_where_there_is_a_report_on_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(validation, "score", lambda *_, **__: fake_scores(50, 1.0, 1))
    monkeypatch.setattr(validation, "load_model", lambda _: shipped())
    for there in (False, True):
        if there:
            (tmp_path / "real.md").write_text("# on real data", encoding="utf-8")
        validate(tmp_path, Plan(injections=50, fixed=0, exact=0))
        assert ("(real.md)" in (tmp_path / "report.md").read_text(encoding="utf-8")) == there


def test_figures_are_those_of_the_stated_population() -> None:
    made = fake_scores(400, 1.0, 1)
    snr = made.column("optimal_snr")
    chosen = (snr >= 6) & (snr < 30)
    found = figures.figures("hash", "plan", made, None, [])
    assert 0 < chosen.sum() == found.family.injections < 400
    assert found.family.median == np.median(made.column("raw_ess")[chosen])
    assert found.family.tenth == np.quantile(made.column("raw_ess")[chosen], 0.1)
    divergence = made.column("divergence")[chosen]
    assert found.divergence == pytest.approx((divergence.mean(), stats.sem(divergence)))
    assert found.milliseconds == pytest.approx(1e3 * np.median(made.column("seconds")[chosen]))


def test_pictured_signals_are_three_apart() -> None:
    assert report.pictured(12) == [2, 6, 9]
    assert report.pictured(1) == [0]
    assert report.pictured(0) == []


def test_it_is_measured_on_the_engine_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which both parts take from the settings, and which the report's command names."""
    asked: list[str] = []

    class Asked(Inference):
        def __init__(self, model: Model, config: InferenceConfig) -> None:
            asked.append(config.engine)
            super().__init__(model, config)

    for part in (scores, judge):
        monkeypatch.setattr(part, "Inference", Asked)
        part._bench.cache_clear()
    scores.score(FOLDER, 1, 3, engine="torch")
    judge._bench(InferenceConfig(model=FOLDER, engine="torch"), 1, 3)
    assert asked == ["torch", "torch"]
    assert Plan(engine="torch").options.endswith(" --engine torch")
    for part in (scores, judge):
        part._bench.cache_clear()
