from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from trained import FOLDER

from gwstream.errors import ModelError
from gwstream.training import compare as comparison
from gwstream.training import figures
from gwstream.training.compare import compare
from gwstream.training.figures import Against, Efficiency, Figures
from gwstream.training.validate import Plan

PLAN = Plan(injections=10, seed=4)


def known(plan: Plan, weights: str) -> Figures:
    return Figures(
        weights=weights,
        plan=plan.options,
        family=Efficiency(injections=5, median=0.71, tenth=0.32),
        fixed=Efficiency(injections=5, median=0.83, tenth=0.44),
        divergence=(0.35, 0.02),
        against=Against(
            signals=12, raw_median=4.1, raw_distance=9.2, raw_max=43.0, raw_floor=0.2, weighted_median=0.4,
            weighted_max=1.4, weighted_floor=0.3, log_bayes=0.021, least_effective=8123.0,
        ),
        milliseconds=27.4,
    )  # fmt: skip


@pytest.fixture
def models(tmp_path: Path) -> list[Path]:
    """Two folders with the shipped network, one of them with what its training was."""
    out = []
    for name in ("first", "second"):
        folder = tmp_path / name
        folder.mkdir()
        for file in ("model.toml", "weights.safetensors"):
            shutil.copy(FOLDER / file, folder)
        out.append(folder)
    (out[0] / "training.json").write_text(json.dumps({"seed": 9, "samples": 2_500_000}))
    (out[0] / "held-out.csv").write_text("500,256000,3.5\n1000,512000,2.5\n")
    return out


def test_table_has_a_row_a_network_and_measures_each_once(
    tmp_path: Path, models: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[Path] = []

    def measure(model: Path, plan: Plan) -> Figures:
        measured.append(model)
        return known(plan, comparison.load_model(model).hash)

    monkeypatch.setattr(comparison, "measure", measure)
    text = compare(models, PLAN, tmp_path).read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| [")]
    assert len(rows) == 2
    for figure in ("| 2.5 M |", "| 9 |", "| 0.71 / 0.32 |", "| 0.83 / 0.44 |", "| 0.35 ± 0.02 |", "| 4.1 / 9.2 / 43 |"):
        assert figure in rows[0], figure
    for figure in ("| 1.4 (8123) |", "| 0.021 |", "| 27 |", "| ? |"):
        assert figure in rows[1], figure
    assert f"gwstream compare models/first models/second {PLAN.options}`" in text
    assert "not shipped" not in text
    assert (tmp_path / "loss.png").stat().st_size > 5000
    elsewhere = compare(models, PLAN, tmp_path / "table").read_text(encoding="utf-8")
    assert measured == models  # nothing anew
    assert "| first |" in elsewhere
    assert "not shipped" in elsewhere
    compare(models[:1], Plan(injections=11, seed=4), tmp_path / "table")
    assert measured == [*models, models[0]]  # another plan, other figures


def test_figures_survive_their_file(tmp_path: Path) -> None:
    assert figures.read(tmp_path) is None
    whole = known(PLAN, "abc")
    figures.write(tmp_path, whole)
    assert figures.read(tmp_path) == whole


def test_a_model_that_cannot_be_loaded_is_told_before_any_is_measured(
    tmp_path: Path, models: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparison, "measure", lambda *_: pytest.fail("measured"))
    with pytest.raises(ModelError):
        compare([*models, tmp_path / "absent"], PLAN, tmp_path)
