from __future__ import annotations

import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from trained import members, tiny_bank, tiny_recipe

from gwstream.errors import ModelError
from gwstream.inference import checkpoint, load_model
from gwstream.inference.aggregate import Aggregate
from gwstream.inference.features import size
from gwstream.inference.networks import build
from gwstream.model import read_spec


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model folder with weights that were never trained."""
    spec = read_spec(tiny_recipe(tmp_path / "tiny"))
    inputs = size(tiny_bank(), len(members()[0].context))
    torch.manual_seed(1)
    net = build(spec, inputs)
    net.shift.uniform_()
    checkpoint.save(tmp_path / "tiny" / checkpoint.WEIGHTS, spec, tiny_bank(), net)
    return tmp_path / "tiny"


def edit(folder: Path, old: str, new: str) -> None:
    path = folder / "model.toml"
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def test_what_is_saved_is_loaded(folder: Path) -> None:
    model = load_model(folder)
    torch.manual_seed(1)
    net = build(model.spec, model.net.features)
    net.shift.uniform_()
    for name, value in net.state_dict().items():
        assert name.startswith("e2") or torch.equal(model.net.state_dict()[name], value), name
    bank = tiny_bank()
    np.testing.assert_array_equal(model.bank.gate, bank.gate)
    np.testing.assert_array_equal(model.bank.limits, bank.limits)
    assert model.bank.first_bin == bank.first_bin
    np.testing.assert_allclose(model.bank.basis, bank.basis, rtol=1e-6, atol=1e-6 * np.abs(bank.basis).max())
    assert not any(p.requires_grad for p in model.net.parameters())
    assert not model.net.training


def test_the_aggregate_is_kept_beside_the_network_and_may_be_absent(folder: Path) -> None:
    model = load_model(folder)
    assert model.aggregate is None
    rng = np.random.default_rng(3)
    aggregate = Aggregate.fit(*rng.standard_normal((2, 300, model.net.features)))
    checkpoint.save(folder / checkpoint.WEIGHTS, model.spec, model.bank, model.net, aggregate)
    again = load_model(folder)
    assert again.aggregate is not None
    one = rng.standard_normal(model.net.features)
    assert again.aggregate.distance(one) == pytest.approx(aggregate.distance(one), rel=1e-5)
    assert again.hash != model.hash


def test_saving_leaves_no_part_behind_and_the_hash_names_the_bytes(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == ["model.toml", "weights.safetensors"]
    first = load_model(folder).hash
    assert load_model(folder).hash == first
    path = folder / checkpoint.WEIGHTS
    tensors = load_file(path)
    tensors["net.shift"][0] += 1
    save_file(
        tensors,
        path,
        checkpoint.section_hashes(read_spec(folder / "model.toml")) | {"inputs": str(len(tensors["net.shift"]))},
    )
    assert load_model(folder).hash != first


@pytest.mark.parametrize(
    ("section", "old", "new"),
    [
        ("conditioning", "[bank]", "[conditioning]\nfloor_hz = 19.0\n[bank]"),
        ("prior", "[bank]", "[prior]\nmass = [20.0, 90.0]\n[bank]"),
        ("bank", "gate = 4", "gate = 5"),
        ("network", "width = 32", "width = 40"),
    ],
)
def test_another_recipe_is_refused_by_file_and_section(folder: Path, section: str, old: str, new: str) -> None:
    edit(folder, old, new)
    with pytest.raises(ModelError) as caught:
        load_model(folder)
    text = str(caught.value)
    assert f"[{section}]" in text
    assert str(folder / "model.toml") in text
    assert str(folder / "weights.safetensors") in text
    assert "gwstream train" in text


def test_training_settings_may_change_without_new_weights(folder: Path) -> None:
    edit(folder, "batch = 64", "batch = 128")
    assert load_model(folder).name == "tiny"


@pytest.mark.parametrize("keep", [0, 4, 100, 5000])
def test_a_truncated_file_is_refused(folder: Path, keep: int) -> None:
    path = folder / checkpoint.WEIGHTS
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ModelError, match=r"weights\.safetensors: not a readable safetensors file"):
        load_model(folder)


def test_garbage_and_pickles_are_refused_and_never_run(folder: Path, tmp_path: Path) -> None:
    mark = tmp_path / "ran"

    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (mark,))  # type: ignore[return-value]

    for content in (pickle.dumps(Trap()), np.random.default_rng(1).bytes(20_000)):
        (folder / checkpoint.WEIGHTS).write_bytes(content)
        with pytest.raises(ModelError, match="not a readable safetensors file"):
            load_model(folder)
    torch.save({"trap": Trap()}, folder / checkpoint.WEIGHTS)
    with pytest.raises(ModelError):
        load_model(folder)
    assert not mark.exists()


@pytest.mark.parametrize("missing", ["bank.grid", "net.trunk.0.weight", "net.shift"])
def test_a_missing_tensor_is_refused(folder: Path, missing: str) -> None:
    path = folder / checkpoint.WEIGHTS
    tensors = load_file(path)
    inputs = {"inputs": str(len(tensors["net.shift"]))}
    del tensors[missing]
    save_file(tensors, path, checkpoint.section_hashes(read_spec(folder / "model.toml")) | inputs)
    with pytest.raises(ModelError, match="does not fit the network"):
        load_model(folder)


@pytest.mark.parametrize("inputs", [None, "many"])
def test_weights_that_do_not_say_how_many_inputs_they_read_are_refused(folder: Path, inputs: str | None) -> None:
    path = folder / checkpoint.WEIGHTS
    extra = {} if inputs is None else {"inputs": inputs}
    save_file(load_file(path), path, checkpoint.section_hashes(read_spec(folder / "model.toml")) | extra)
    with pytest.raises(ModelError, match="does not fit the network"):
        load_model(folder)


def test_weights_without_their_hashes_are_refused(folder: Path) -> None:
    path = folder / checkpoint.WEIGHTS
    save_file(load_file(path), path)
    with pytest.raises(ModelError, match=r"\[conditioning\]"):
        load_model(folder)


def test_missing_folder_recipe_and_weights_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such model folder"):
        load_model(tmp_path / "nowhere")
    with pytest.raises(ModelError, match=f"is a file; name the folder it lies in: {re.escape(str(folder))}$"):
        load_model(folder / "model.toml")
    (folder / checkpoint.WEIGHTS).unlink()
    with pytest.raises(ModelError, match=r"no weights; make them with: gwstream train .*model\.toml"):
        load_model(folder)
    shutil.rmtree(folder)
    folder.mkdir()
    with pytest.raises(ModelError, match=r"model\.toml: no such file"):
        load_model(folder)


def test_weights_that_read_another_number_of_inputs_are_refused(folder: Path) -> None:
    """Other code made the features they learnt from; the network would be told nonsense."""
    model = load_model(folder)
    net = build(model.spec, model.net.features - 3)
    checkpoint.save(folder / checkpoint.WEIGHTS, model.spec, model.bank, net)
    with pytest.raises(ModelError, match=rf"reads {model.net.features - 3} numbers .* makes {model.net.features}"):
        load_model(folder)


def test_weights_overwritten_in_place_do_not_end_who_has_loaded_them(folder: Path) -> None:
    script = (
        "import os, sys; from pathlib import Path; from gwstream.inference import load_model\n"
        "folder = Path(sys.argv[1]); model = load_model(folder)\n"
        "os.truncate(folder / 'weights.safetensors', 0)\n"
        "print(model.bank.limits.sum() != 0, model.bank.gate.sum() != 0)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done
    assert done.stdout == "True True\n"
