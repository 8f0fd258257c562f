from __future__ import annotations

import csv
import dataclasses
import math
import re
import time
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from trained import tiny_bank, tiny_recipe

from gwstream.errors import ConfigError, ModelError
from gwstream.inference import checkpoint, load_model
from gwstream.inference.aggregate import Aggregate
from gwstream.inference.features import size
from gwstream.inference.networks.base import Objective
from gwstream.inference.residual import FIRST
from gwstream.model import ModelSpec, TrainingSpec, read_spec
from gwstream.training import aggregate, batches, glance, recipe
from gwstream.training import train as loop
from gwstream.training.dataset import Examples, Simulator
from gwstream.training.log import logged, table


@pytest.fixture(autouse=True)
def _one_bank(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bank of the tiny recipe is built once: it is the same every time, as test_bank.py shows."""
    torch.set_num_threads(1)
    bank = tiny_bank()
    monkeypatch.setattr(loop.bank_builder, "build", lambda spec: bank)
    monkeypatch.setattr(batches, "SAMPLE", 512)
    monkeypatch.setattr(loop, "SAVE_EVERY", 15)
    held = held_examples()
    monkeypatch.setattr(loop, "held_out", lambda *args: held)
    monkeypatch.setattr(loop, "gather", lambda *args: gathered())


@cache
def held_examples() -> Examples:
    spec = ModelSpec.model_validate({"name": "tiny", "bank": {"gate": 4}})
    return batches.held_out(spec, tiny_bank(), Simulator(spec, tiny_bank()), 256)


@cache
def gathered() -> Aggregate | None:
    spec = ModelSpec.model_validate({"name": "tiny", "bank": {"gate": 4}, "training": {"samples": 3200}})
    return aggregate.gather(spec, tiny_bank(), Simulator(spec, tiny_bank()))


@cache
def finished(folder: Path) -> Path:
    return loop.train(tiny_recipe(folder / "whole"), output=folder / "run")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("training")


def losses(path: Path) -> list[list[float]]:
    with path.open() as file:
        return [[float(value) for value in row] for row in csv.reader(file)]


def test_a_run_makes_a_model_that_loads_and_its_loss_falls(whole: Path) -> None:
    weights = finished(whole)
    assert weights == whole / "whole" / "weights.safetensors"
    model = load_model(weights.parent)
    assert model.name == "tiny"
    for name in ("training.json", "held-out.csv"):  # what `gwstream compare` tells of the run
        assert (weights.parent / name).read_bytes() == (whole / "run" / name).read_bytes()
    assert len(model.net.shift) == size(model.bank, 26)
    rows = losses(whole / "run" / "loss.csv")
    assert [int(row[0]) for row in rows] == [20, 40]
    judged = losses(whole / "run" / "held-out.csv")
    assert [int(row[0]) for row in judged] == [15, 30, 45]
    assert judged[-1][2] < judged[0][2] - 0.5
    assert all(math.isfinite(value) for row in rows for value in row)


def test_the_aggregate_knows_windows_like_those_of_the_training(whole: Path) -> None:
    known = load_model(finished(whole).parent).aggregate
    assert known is not None
    held = held_examples()
    codes = held.y[held.snr > 6.5].double().numpy()
    p = np.array([known.p_value(known.distance(code)) for code in codes])
    assert np.mean(p < 0.1) < 0.3
    strange = codes + 10 * codes.std(0) * np.random.default_rng(1).standard_normal(codes.shape)
    assert np.mean([known.p_value(known.distance(code)) < 0.01 for code in strange]) > 0.9


def test_older_weights_can_be_given_an_aggregate(whole: Path, tmp_path: Path) -> None:
    model = load_model(finished(whole).parent)
    folder = tiny_recipe(tmp_path / "tiny").parent
    checkpoint.save(folder / checkpoint.WEIGHTS, model.spec, model.bank, model.net)
    assert load_model(folder).aggregate is None
    aggregate.add(folder)
    found = load_model(folder)
    assert found.aggregate is not None
    first, second = (load_file(path / checkpoint.WEIGHTS) for path in (whole / "whole", folder))
    assert set(first) == set(second)
    assert all(torch.equal(value, second[name]) for name, value in first.items() if name.startswith(("net.", "bank.")))


def test_interrupted_and_resumed_equals_uninterrupted(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = finished(whole)
    recipe = tiny_recipe(tmp_path / "cut")
    step = loop._step

    def stopped(spec: ModelSpec, data: Examples, run: loop.Run, fraction: float) -> Any:
        if run.step == 33:
            raise KeyboardInterrupt
        return step(spec, data, run, fraction)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "_step", stopped)
        with pytest.raises(KeyboardInterrupt):
            loop.train(recipe, output=tmp_path / "run")
    assert not (recipe.parent / "weights.safetensors").exists()
    torch.randn(100)  # whatever else was drawn in between must not matter
    resumed = loop.train(recipe, output=tmp_path / "run", resume=True)
    one, two = load_file(expected), load_file(resumed)
    assert one.keys() == two.keys()
    for name, value in one.items():
        assert torch.equal(value, two[name]), name
    for name, value in load_file(whole / "run" / "checkpoint.safetensors").items():
        assert torch.equal(value, load_file(tmp_path / "run" / "checkpoint.safetensors")[name]), name


def test_another_seed_gives_another_network(whole: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path / "other", samples=1000)
    a, b = (load_file(loop.train(recipe, output=tmp_path / f"{seed}", seed=seed)) for seed in (1, 2))
    assert not torch.equal(a["net.trunk.0.weight"], b["net.trunk.0.weight"])


def test_resume_without_a_checkpoint_is_a_model_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"checkpoint\.safetensors: no checkpoint to resume from"):
        loop.train(tiny_recipe(tmp_path / "new"), output=tmp_path / "run", resume=True)


def test_the_budget_ends_a_run(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path / "long", samples=10_000_000)
    began = time.monotonic()
    loop.train(recipe, output=tmp_path / "run", budget=1.0)
    assert time.monotonic() - began < 250
    from safetensors import safe_open

    with safe_open(tmp_path / "run" / "checkpoint.safetensors", "pt") as file:
        assert 1 <= int(file.metadata()["step"]) < 1000


def test_a_loss_that_is_not_a_number_leaves_the_network_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    genuine = loop.objective
    calls: list[int] = []

    def broken(*args: Any, **options: Any) -> Objective:
        found = genuine(*args, **options)
        calls.append(1)
        bad = len(calls) % 3 == 0
        return dataclasses.replace(found, loss=found.loss * math.nan) if bad else found

    monkeypatch.setattr(loop, "objective", broken)
    weights = loop.train(tiny_recipe(tmp_path / "nan", samples=1000), output=tmp_path / "run")
    assert len(calls) == 18  # 16 steps, and twice on what is held out
    for name, value in load_file(weights).items():
        assert torch.isfinite(value).all(), name


def test_an_unusable_recipe_is_a_model_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such file"):
        loop.train(tmp_path / "model.toml", output=tmp_path / "run")


def test_schedule_starts_without_the_kl_term_and_ends_with_all_of_it() -> None:
    spec = TrainingSpec(warm_up=0.1, ramp=0.2, importance=4, importance_from=0.5)
    table = [loop.schedule(spec, fraction) for fraction in np.linspace(0, 1, 201)]
    rates = np.array([rate for rate, _ in table])
    betas, draws = (np.array([getattr(pace, name) for _, pace in table]) for name in ("beta", "draws"))
    assert (betas[:20] == 0).all()
    assert (betas[61:] == 1).all()
    assert (np.diff(betas) >= 0).all()
    assert betas[40] == pytest.approx(0.5)
    assert set(draws[:100]) == {1}
    assert set(draws[100:]) == {4}
    assert rates.max() == pytest.approx(spec.rate, rel=0.01)
    assert rates[0] == 0
    assert rates[-1] == pytest.approx(0.01 * spec.rate)
    sudden = TrainingSpec(warm_up=0.1, ramp=0.0)
    assert [loop.schedule(sudden, f)[1].beta for f in (0.09, 0.11)] == [0, 1]


def test_a_run_shows_how_far_it_has_come(whole: Path) -> None:
    finished(whole)
    told = table(whole / "run" / "calibration.csv")
    assert told[:, 0].tolist() == [15, 30, 45]
    assert ((told[:, 2:] > 0) & (told[:, 2:] < 1)).all()
    assert (whole / "whole" / "calibration.csv").read_bytes() == (whole / "run" / "calibration.csv").read_bytes()
    picture = (whole / "run" / "loss.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert not list((whole / "run").glob(".*")), "what is half written is not left over"


def test_rows_of_steps_that_come_again_are_left_out(tmp_path: Path) -> None:
    for name, steps in (("loss.csv", (20, 40, 60)), ("held-out.csv", (15, 30, 45))):
        (tmp_path / name).write_text("".join(f"{step},{step * 64},1.0\n" for step in steps))
    with logged(tmp_path, 64, step=40, total=100):
        pass
    assert table(tmp_path / "loss.csv")[:, 0].tolist() == [20, 40]
    assert table(tmp_path / "held-out.csv")[:, 0].tolist() == [15, 30]
    assert len(table(tmp_path / "calibration.csv")) == 0
    with logged(tmp_path, 64, step=0, total=100):
        pass
    assert len(table(tmp_path / "loss.csv")) == 0


def test_the_early_look_tells_a_calibrated_network_from_one_too_narrow() -> None:
    rng = np.random.default_rng(4)
    chance = [glance.distances(rng.random((256, 5))).max() < glance.usual(256) for _ in range(400)]
    assert np.mean(chance) == pytest.approx(0.95, abs=0.035)
    held = dataclasses.replace(held_examples(), e=torch.from_numpy(rng.standard_normal((256, 5))).float())
    for spread, right in ((1.0, True), (0.5, False)):
        found = glance.distances(glance.ranks(_Normal(spread), held))  # type: ignore[arg-type]
        assert (found.max() < glance.usual(256)) == right


class _Normal:
    """A network whose word is always a normal distribution of one width, in all coordinates."""

    fixed = None

    def __init__(self, spread: float) -> None:
        self.spread = spread

    def propose(self, inputs: object, rng: np.random.Generator, latents: int) -> _Normal:
        return self

    def draw(self, rng: np.random.Generator, n: int) -> Any:
        return self.spread * rng.standard_normal((n, 5))


def test_fewer_samples_than_the_recipes(tmp_path: Path) -> None:
    loop.train(tiny_recipe(tmp_path / "short", samples=10_000_000), output=tmp_path / "run", samples=1000)
    assert '"samples": 1024' in (tmp_path / "run" / "training.json").read_text()


def test_what_noise_leaves_over_is_measured_and_kept(whole: Path) -> None:
    found = load_model(finished(whole).parent).leftover
    assert found != FIRST
    assert found.whole.mean == pytest.approx(FIRST.whole.mean, abs=0.05)


def test_a_budget_is_kept_from_the_first_step_on_and_goes_through_the_whole_schedule(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, fractions = [0.0], []
    genuine = loop._step

    def slow(spec: ModelSpec, data: Examples, run: loop.Run, fraction: float) -> Any:
        fractions.append(fraction)
        now[0] += 30.0 if not fractions[1:] else 4.0  # the first draws a family of detectors
        return genuine(spec, data, run, fraction)

    monkeypatch.setattr(loop, "_step", slow)
    monkeypatch.setattr(loop.time, "monotonic", lambda: now[0])
    loop.train(tiny_recipe(tmp_path / "long", samples=10_000_000), output=tmp_path / "run", budget=120.0)
    assert len(fractions) == 24  # 30 + 23 * 4 s
    np.testing.assert_allclose(fractions, [0, *(30 + 4 * k for k in range(23))] / np.array(120))


def test_a_recipe_is_written_that_trains_as_it_stands(tmp_path: Path) -> None:
    path = recipe.write(tmp_path / "My Model", recipe.Wish(rate=512, seconds=2.0, mass=(30.0, 80.0)))
    text = path.read_text(encoding="utf-8")
    spec = read_spec(path)
    assert (spec.name, spec.rate, spec.window, spec.prior.mass) == ("my-model", 512, 1024, (30.0, 80.0))
    assert spec.prior.time == (1.65, 1.85)
    assert spec.conditioning.taps == 1024
    assert spec.period == 8
    assert spec.bank.components == 80
    settings = [line for line in text.splitlines() if re.match(r"\w+ =", line)]
    named = [
        line for line in settings if line.startswith(("name", "description", "ratio_nodes", "seed", "depth", "batch"))
    ]
    assert all(" # " in line for line in settings if line not in named), "every setting is explained"
    with pytest.raises(ConfigError, match=r"model\.toml: is there already"):
        recipe.write(tmp_path / "My Model", recipe.Wish())
    default = read_spec(recipe.write(tmp_path / "default", recipe.Wish()))
    assert default.conditioning == ModelSpec(name="x").conditioning
    assert default.prior_ == ModelSpec(name="x").prior_
    assert default.bank == ModelSpec(name="x").bank


@pytest.mark.parametrize(
    ("wish", "said"),
    [
        (recipe.Wish(seconds=0.2), r"--window 0\.2: must be a multiple of 1/16 s, from 0\.5 s"),
        (recipe.Wish(mass=(50.0, 20.0)), "--mass 50 20: needs two masses above zero, the smaller first"),
        (recipe.Wish(mass=(2.0, 20.0)), r"templates would have to be .* raise prior\.mass from 2 Msun"),
    ],
)
def test_an_impossible_wish_is_refused_and_leaves_nothing(tmp_path: Path, wish: recipe.Wish, said: str) -> None:
    with pytest.raises((ConfigError, ModelError), match=said):
        recipe.write(tmp_path / "new", wish)
    assert not (tmp_path / "new").exists()
