from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from trained import tiny_bank, tiny_recipe

from gwstream.model import read_spec
from gwstream.training.bank import Bank
from gwstream.training.batches import Fresh, batch, held_out
from gwstream.training.dataset import Simulator, family


def test_batches_have_their_size_and_skip_some_faint_windows(tmp_path: Path) -> None:
    spec = read_spec(tiny_recipe(tmp_path))
    bank: Bank = tiny_bank()
    members = family(spec, bank, 8, np.random.default_rng(1))
    simulator = Simulator(spec, bank)
    found = batch(spec, simulator, members, np.random.default_rng(2), 64)
    again = batch(spec, simulator, members, np.random.default_rng(2), 64)
    assert len(found.y) == len(found.e) == len(found.snr) == 64
    assert torch.equal(found.y, again.y)
    assert torch.isfinite(found.y).all()
    assert np.isfinite(spec.prior.log_density(found.x.numpy())).all()


def test_a_step_is_drawn_alike_whatever_came_before(tmp_path: Path) -> None:
    spec = read_spec(tiny_recipe(tmp_path))
    bank = tiny_bank()
    simulator = Simulator(spec, bank)
    source = Fresh(spec, bank, simulator)
    first = source.at(3, 0.3)
    other = source.at(7, 0.7)
    assert not torch.equal(first.x, other.x)
    assert torch.equal(source.at(3, 0.3).y, first.y)
    assert torch.equal(Fresh(spec, bank, simulator).at(7, 0.7).y, other.y)


def test_held_out_examples_do_not_depend_on_the_seed_of_training(tmp_path: Path) -> None:
    spec = read_spec(tiny_recipe(tmp_path))
    other = spec.model_copy(update={"training": spec.training.model_copy(update={"seed": 5})})
    one, two = (held_out(each, tiny_bank(), Simulator(each, tiny_bank()), 64) for each in (spec, other))
    assert torch.equal(one.y, two.y)
    assert torch.equal(one.x, two.x)
