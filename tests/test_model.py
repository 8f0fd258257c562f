from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from trained import FOLDER

from gwstream.errors import ModelError
from gwstream.model import ConditioningSpec, ModelSpec, read_spec


def changed(**changes: Any) -> ConditioningSpec:
    return ConditioningSpec(**changes)


def test_the_shipped_recipe_is_read() -> None:
    spec = read_spec(FOLDER / "model.toml")
    assert spec.name == FOLDER.name
    assert spec.rate == spec.conditioning.rate
    assert spec.prior.time[1] < spec.window / spec.rate


def test_hash_changes_with_every_setting_of_the_conditioning() -> None:
    base = ConditioningSpec()
    other = [
        changed(rate=320, pass_hz=120, stop_hz=200), changed(window=512), changed(hop=32), changed(pass_hz=107.0),
        changed(stop_hz=149.0), changed(floor_hz=19.0), changed(taps=256), changed(update=128), changed(ready=13.0),
        changed(full=60.0),
    ]  # fmt: skip
    assert len(ConditioningSpec.model_fields) == len(other), "a new setting needs a line here"
    hashes = {one.hash() for one in (base, *other)}
    assert len(hashes) == len(other) + 1
    assert ConditioningSpec().hash() == base.hash()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"stop_hz": 120.0}, "stop_hz"),
        ({"pass_hz": 130.0}, "pass_hz"),
        ({"stop_hz": 256.0}, "stop_hz"),
        ({"floor_hz": 110.0}, "floor_hz"),
        ({"hop": 24}, "hop"),
        ({"ready": 65.0}, "ready"),
    ],
)
def test_impossible_conditioning_is_refused(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        changed(**changes)


def test_a_prior_beyond_the_window_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"prior\.time ends at 1\.1 s"):
        ModelSpec.model_validate({"name": "x", "prior": {"time": (0.65, 1.1)}})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name = 'x'\n[conditioning]\nrat = 256\n", "unknown key 'conditioning.rat'; did you mean 'rate'"),
        ("version = '1'\n", "'name' is missing"),
        ("name = 'x'\n[network]\nwidth = 'wide'\n", "network.width"),
        ("name = [", "not valid TOML"),
        ("name = 'X Y'\n", "name"),
        ("name = 'x'\n[network]\nkind = 'flow'\n", "'network.kind': must be one of 'cvae', 'gaussian'"),
        ("name = 'x'\n[network]\nkind = 'nsf'\nlatent = 8\n", "unknown key 'network.latent'; known keys: bins"),
        ("name = 'x'\n[network]\nkind = 'maf'\nhiden = 8\n", "'network.hiden'; did you mean 'hidden'"),
    ],
)
def test_mistakes_in_a_recipe_are_named_with_their_file(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "model.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ModelError) as caught:
        read_spec(path)
    assert str(path) in str(caught.value)
    assert said in str(caught.value)


@pytest.mark.parametrize("prior", ["mass = [100.0, 20.0]", "min_ratio = 2.0", "distance = [0.0, 5.0]"])
def test_an_impossible_prior_in_a_recipe_is_a_model_error(tmp_path: Path, prior: str) -> None:
    path = tmp_path / "model.toml"
    path.write_text(f"name = 'x'\n[prior]\n{prior}\n", encoding="utf-8")
    with pytest.raises(ModelError, match="prior"):
        read_spec(path)


def test_a_missing_recipe_is_a_model_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such file"):
        read_spec(tmp_path / "model.toml")
