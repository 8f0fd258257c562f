from __future__ import annotations

import json
import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from trained import tiny_bank, tiny_recipe

from gwstream.errors import ModelError
from gwstream.model import ModelSpec, read_spec
from gwstream.training import batches, store
from gwstream.training import train as loop
from gwstream.training.dataset import Simulator
from gwstream.training.store import Store

SHARD = 256


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setattr(store, "SHARD", SHARD)
    monkeypatch.setattr(store, "PIECE", 96)


@pytest.fixture
def spec(tmp_path: Path) -> ModelSpec:
    return read_spec(tiny_recipe(tmp_path / "tiny"))


def opened(folder: Path, spec: ModelSpec, count: int = 2 * SHARD) -> Store:
    return Store(folder, spec, tiny_bank(), Simulator(spec, tiny_bank()), count)


def everything(data: Store, first: int, steps: int) -> torch.Tensor:
    return torch.cat([data.at(step, step / 100).x for step in range(first, first + steps)])


def test_an_epoch_sees_every_example_once_and_each_in_another_order(tmp_path: Path, spec: ModelSpec) -> None:
    data = opened(tmp_path / "data", spec)
    data.fill()
    assert data.stored == 2 * SHARD
    steps = 2 * SHARD // spec.training.batch
    one, two = everything(data, 0, steps), everything(data, steps, steps)
    assert len(np.unique(one.numpy(), axis=0)) == 2 * SHARD
    assert not torch.equal(one, two)
    np.testing.assert_array_equal(np.unique(one.numpy(), axis=0), np.unique(two.numpy(), axis=0))


def test_stored_examples_are_those_drawn_on_the_fly(tmp_path: Path, spec: ModelSpec) -> None:
    data = opened(tmp_path / "data", spec, SHARD)
    data.fill()
    rng = np.random.default_rng([store.SEED, 0])
    simulator = Simulator(spec, tiny_bank())
    members = store.family(spec, tiny_bank(), spec.training.whiteners, rng)
    expected = batches.batch(spec, simulator, members, rng, 96)
    found = data._load(0)
    for name, value in batches.columns(expected).items():
        torch.testing.assert_close(getattr(found, name)[: len(value)], value.float(), rtol=1e-3, atol=1e-3)


def test_an_interrupted_making_goes_on_with_the_same_data(
    tmp_path: Path, spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = opened(tmp_path / "whole", spec)
    whole.fill()
    genuine = store.batch
    calls: list[int] = []

    def stopped(*args: Any) -> Any:
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return genuine(*args)

    with monkeypatch.context() as patch:
        patch.setattr(store, "batch", stopped)
        with pytest.raises(KeyboardInterrupt):
            opened(tmp_path / "cut", spec).fill()
    assert [path.name for path in (tmp_path / "cut").glob("shard-*[0-9]")] == ["shard-0000"]
    cut = opened(tmp_path / "cut", spec)
    cut.fill()
    assert torch.equal(everything(whole, 0, 8), everything(cut, 0, 8))
    assert not list((tmp_path / "cut").glob("*.part"))


def test_shards_that_are_there_are_not_made_again_and_more_can_be_added(
    tmp_path: Path, spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened(tmp_path / "data", spec).fill()
    before = (tmp_path / "data" / "shard-0001" / "y.npy").stat().st_mtime_ns
    opened(tmp_path / "data", spec, 3 * SHARD).fill()
    assert (tmp_path / "data" / "shard-0001" / "y.npy").stat().st_mtime_ns == before
    assert (tmp_path / "data" / "shard-0002").is_dir()


def _child(folder: Path, recipe: Path) -> None:
    torch.set_num_threads(1)
    store.SHARD, store.PIECE = SHARD, 96
    opened(folder, read_spec(recipe), 6 * SHARD).fill()


def test_processes_side_by_side_share_the_work(tmp_path: Path, spec: ModelSpec) -> None:
    opened(tmp_path / "data", spec)
    context = multiprocessing.get_context("fork")
    recipe = tmp_path / "tiny" / "model.toml"
    children = [context.Process(target=_child, args=(tmp_path / "data", recipe)) for _ in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
    assert [child.exitcode for child in children] == [0, 0]
    assert len(list((tmp_path / "data").glob("shard-*"))) == 6
    assert len(everything(opened(tmp_path / "data", spec, 6 * SHARD), 0, 24).unique(dim=0)) == 6 * SHARD


@pytest.mark.parametrize(
    ("change", "section"),
    [({"prior": {"distance": [0.1, 3.0]}}, "prior"), ({"training": {"whiteners": 4}}, "whiteners")],
)
def test_examples_for_another_model_are_refused(
    tmp_path: Path, spec: ModelSpec, change: dict[str, Any], section: str
) -> None:
    opened(tmp_path / "data", spec)
    table = spec.model_dump(by_alias=True)
    for key, values in change.items():
        table[key] |= values
    with pytest.raises(ModelError, match=rf"data: holds examples for another \[{section}\]"):
        opened(tmp_path / "data", ModelSpec.model_validate(table))


def test_another_network_or_seed_may_use_them(tmp_path: Path, spec: ModelSpec) -> None:
    opened(tmp_path / "data", spec)
    table = spec.model_dump(by_alias=True)
    table["network"] |= {"width": 48}
    table["training"] |= {"seed": 9}
    opened(tmp_path / "data", ModelSpec.model_validate(table))


def test_examples_made_by_other_code_are_refused(
    tmp_path: Path, spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened(tmp_path / "data", spec)
    genuine = store.batch
    monkeypatch.setattr(store, "batch", lambda *args: batches.each(lambda value: 1.1 * value, genuine(*args)))
    with pytest.raises(ModelError, match="made by other code"):
        opened(tmp_path / "data", spec)


def test_training_on_stored_examples_leaves_a_model_and_says_how_often_it_saw_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop.bank_builder, "build", lambda spec: tiny_bank())
    recipe = tiny_recipe(tmp_path / "tiny", samples=1280)
    data = loop.Data(tmp_path / "data", 2 * SHARD)
    assert loop.prepare(recipe, data) == 2 * SHARD
    weights = loop.train(recipe, output=tmp_path / "run", data=data)
    assert load_file(weights)
    told = json.loads((tmp_path / "run" / "training.json").read_text())
    assert told["samples"] == 1280
    assert told["stored"] == 2 * SHARD
    assert told["epochs"] == 2.5
