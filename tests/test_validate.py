from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from trained import FOLDER

from gwstream.records import PARAMETERS
from gwstream.training import validate as validation
from gwstream.training.validate import LEAST_P, Scores, smallest_p, validate

INJECTIONS = 30


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bool, Scores]:
    """A short validation of the shipped model, and its scores."""
    folder = tmp_path_factory.mktemp("validation")
    kept: list[Scores] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(validation, "DETECTORS", 4)
        score = validation.score

        def keep(model: Path, injections: int, seed: int) -> Scores:
            kept.append(score(model, injections, seed))
            return kept[-1]

        patch.setattr(validation, "score", keep)
        passed = validate(FOLDER, injections=INJECTIONS, seed=3, output=folder / "report")
    return folder / "report", passed, kept[0]


def test_report_and_pictures_are_written(report: tuple[Path, bool, Scores]) -> None:
    folder, passed, _ = report
    assert sorted(path.name for path in folder.iterdir()) == ["efficiency.png", "pp.png", "report.md"]
    for picture in folder.glob("*.png"):
        assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
        assert picture.stat().st_size > 5000
    text = (folder / "report.md").read_text(encoding="utf-8")
    assert ("**Passed**" if passed else "**Failed**") in text
    assert f"--injections {INJECTIONS} --seed 3" in text
    for name in PARAMETERS:
        assert f"| {name} |" in text
    assert "nan" not in text
    assert str(FOLDER.parents[1]) not in text


def test_report_states_the_figures_of_the_scores(report: tuple[Path, bool, Scores]) -> None:
    folder, _, scores = report
    text = (folder / "report.md").read_text(encoding="utf-8")
    weighted = scores.column("weighted")
    assert f"smallest Kolmogorov-Smirnov p {smallest_p(weighted):.4f}" in text
    p = stats.kstest(weighted[:, 2], "uniform").pvalue
    row = next(line for line in text.splitlines() if line.startswith("| effective_distance |"))
    assert f"| {p:.3f} |" in row


def test_every_injection_is_scored_inside_its_limits(report: tuple[Path, bool, Scores]) -> None:
    _, _, scores = report
    for name in ("weighted", "raw"):
        ranks = scores.column(name)
        assert ranks.shape == (INJECTIONS, 5)
        assert ((ranks >= 0) & (ranks <= 1 + 1e-9)).all()
    for name in ("ess", "raw_ess"):
        assert ((scores.column(name) > 0) & (scores.column(name) <= 1)).all()
    assert np.isfinite(scores.column("divergence")).all()
    assert len(scores.optimal_snr) == INJECTIONS


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


def fake_scores(injections: int, exponent: float, seed: int) -> Scores:
    rng = np.random.default_rng(seed)
    scores = Scores()
    for _ in range(injections):
        scores.weighted.append(rng.random(5) ** exponent)
        scores.raw.append(rng.random(5))
        for values, low, high in (
            (scores.snr, 7, 20), (scores.optimal_snr, 7, 20), (scores.ess, 0.3, 0.9), (scores.raw_ess, 0.1, 0.9),
            (scores.divergence, 0, 1), (scores.residual_p, 0, 1), (scores.seconds, 0.1, 0.2),
        ):  # fmt: skip
            values.append(float(rng.uniform(low, high)))
    return scores


@pytest.mark.parametrize(("first", "second", "passes"), [(1.0, None, True), (2.0, 1.0, True), (2.0, 2.0, False)])
def test_a_first_failure_is_decided_by_a_larger_confirmation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: float, second: float | None, passes: bool
) -> None:
    asked: list[tuple[int, int]] = []

    def score(model: Path, injections: int, seed: int) -> Scores:
        asked.append((injections, seed))
        return fake_scores(injections, first if len(asked) == 1 else second or 1.0, seed)

    monkeypatch.setattr(validation, "score", score)
    assert validate(tmp_path, injections=200, seed=5) is passes
    assert asked == ([(200, 5)] if second is None else [(200, 5), (800, 6)])
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert ("confirmation" in text) == (second is not None)
    assert ("**Passed**" in text) == passes
