from __future__ import annotations

import numpy as np
import pytest
import torch
from trained import shipped

from gwstream.inference.parameters import Anchor, centroid, chirp_and_ratio, decode, encode, limits
from gwstream.records import Floats
from gwstream.waveforms import chirp_mass

PRIOR = shipped().spec.prior


def anchor(seed: int) -> Anchor:
    rng = np.random.default_rng(seed)
    chirp = torch.tensor([rng.uniform(18, 85)], dtype=torch.float64)
    time = rng.uniform(0.64, 0.86)
    values = (time, time + rng.uniform(-1e-3, 1e-3), rng.uniform(-4, 4), rng.uniform(3, 30), rng.uniform(4, 60))
    rest = [torch.tensor([v], dtype=torch.float64) for v in values]
    return Anchor(chirp, rest[0], rest[1], rest[2], rest[3], rest[4], centroid(chirp))


def many(one: Anchor, n: int) -> Anchor:
    return Anchor(*(getattr(one, name).expand(n) for name in Anchor.__dataclass_fields__))


def coordinates(one: Anchor, x: Floats) -> Floats:
    return np.asarray(encode(many(one, len(x)), torch.from_numpy(x)).numpy())


@pytest.mark.parametrize("seed", range(6))
def test_decode_inverts_encode(seed: int) -> None:
    x = PRIOR.draw(np.random.default_rng([seed, 1]), 300)
    one = anchor(seed)
    e = coordinates(one, x)
    assert (np.abs(e[:, 4]) <= np.pi).all()
    again, _ = decode(one, e)
    np.testing.assert_allclose(again[:, :4], x[:, :4], rtol=1e-9)
    turn = np.exp(2j * (again[:, 4] - x[:, 4]))
    np.testing.assert_allclose(turn, 1, atol=1e-8)
    assert ((again[:, 4] >= 0) & (again[:, 4] < np.pi)).all()


@pytest.mark.parametrize("seed", range(6))
def test_jacobian_equals_numerical_differentiation(seed: int) -> None:
    one = anchor(seed)
    for x in PRIOR.draw(np.random.default_rng([seed, 2]), 8):
        matrix = np.empty((5, 5))
        for k, step in enumerate(x * 1e-6 + 1e-9):
            up, down = x.copy(), x.copy()
            up[k] += step
            down[k] -= step
            difference = coordinates(one, up[None])[0] - coordinates(one, down[None])[0]
            difference[4] = np.angle(np.exp(1j * difference[4]))
            matrix[:, k] = difference / (2 * step)
        _, log_jacobian = decode(one, coordinates(one, x[None]))
        assert log_jacobian[0] == pytest.approx(np.log(abs(np.linalg.det(matrix))), abs=1e-4)


@pytest.mark.parametrize("seed", range(4))
def test_limits_hold_the_prior_and_no_more(seed: int) -> None:
    one = anchor(seed)
    low, high = (edge.numpy()[0] for edge in limits(one, PRIOR))
    e = coordinates(one, PRIOR.draw(np.random.default_rng([seed, 3]), 20_000))[:, :4]
    assert (e >= low - 1e-9).all()
    assert (e <= high + 1e-9).all()
    corners = np.array([[20.0, 20.0, 5.0, 0.65, 0.0], [100.0, 100.0, 0.1, 0.85, 0.0], [100.0, 25.0, 5.0, 0.65, 0.0]])
    ends = coordinates(one, corners)
    np.testing.assert_allclose(ends[0, [0, 2, 3]], low[[0, 2, 3]], rtol=1e-9)
    np.testing.assert_allclose(ends[1, :4], high, rtol=1e-9)
    assert ends[2, 1] == pytest.approx(low[1])


def test_a_density_in_coordinates_is_a_density_in_parameters() -> None:
    """The prior's mass, counted with draws uniform in the coordinates, is one."""
    one = anchor(3)
    low, high = (edge.numpy()[0] for edge in limits(one, PRIOR))
    rng = np.random.default_rng(9)
    # distance is 1/e3: draw it with the weight it needs, uniform in distance
    n = 200_000
    e = np.column_stack([rng.uniform(low, high, (n, 4)), rng.uniform(-np.pi, np.pi, n)])
    reach = 1 / (float(one.amplitude[0]) * rng.uniform(*PRIOR.distance, n))
    e[:, 2] = (reach - 1) * float(one.snr[0]) / 2
    x, log_jacobian = decode(one, e)
    log_q = -np.log(np.prod((high - low)[[0, 1, 3]])) - np.log(2 * np.pi)
    # density of e3 when distance is uniform
    slope = float(one.snr[0]) / 2 / float(one.amplitude[0]) / x[:, 2] ** 2
    log_q = log_q - np.log(np.diff(PRIOR.distance)[0] * slope)
    weights = np.exp(PRIOR.log_density(x) - log_jacobian - log_q)
    assert weights.mean() == pytest.approx(1, abs=4 * weights.std() / np.sqrt(n))
    assert weights.std() / np.sqrt(n) < 0.01


def test_chirp_and_ratio() -> None:
    x = PRIOR.draw(np.random.default_rng(1), 10)
    chirp, ratio = chirp_and_ratio(x)
    np.testing.assert_allclose(chirp, chirp_mass(x[:, 0], x[:, 1]))
    np.testing.assert_allclose(ratio, x[:, 1] / x[:, 0])
