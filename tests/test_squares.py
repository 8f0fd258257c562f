"""Squared norms of mixtures, against the waveforms themselves in double precision."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gwstream.inference.squares import Squares


@pytest.mark.parametrize("scale", [1.0, 1e-23])  # strain squared is beyond single precision
def test_norms_of_mixtures_are_those_of_the_waveforms(scale: float) -> None:
    rng = np.random.default_rng(1)
    size, count, sets, samples = 5, 7, 3, 40
    a, b = rng.standard_normal((2, count, size)) * scale
    components = rng.standard_normal((sets, 2 * size, samples)) * scale
    components[:, 1:3] *= 30.0  # none of the products is small beside the others for symmetry's sake
    mix = np.concatenate([np.hstack([a, b]), np.hstack([-b, a])])
    plus, cross = (mix @ components).reshape(sets, 2, count, samples).swapaxes(0, 1)
    expected = np.stack([(plus**2).sum(-1), (plus * cross).sum(-1), (cross**2).sum(-1)])
    found = Squares.of(torch.from_numpy(mix).float())(torch.from_numpy(components).float()).numpy()
    assert found.shape == (3, sets, count)
    size_of = np.sqrt(expected[0] * expected[2])
    assert np.abs(found - expected).max() < 1e-5 * size_of.max()
    assert np.all(np.abs(found - expected) < 1e-4 * size_of)
