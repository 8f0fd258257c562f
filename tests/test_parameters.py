from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from scipy import stats
from trained import members, noise, shipped, signal

from gwstream.inference.parameters import Anchor
from gwstream.inference.ridge import ridge

PRIOR = shipped().spec.prior


@cache
def anchor(snr: float) -> Anchor:
    """Of a signal of this SNR in noise; of noise alone where it is 0."""
    wave = signal(44.0, 31.0, 0.74, 0.4, max(snr, 1.0))[0] * (snr > 0) + noise(1, 5)[0]
    windows = torch.from_numpy(wave).float()[None]
    return Anchor.of(ridge(members()[1].live.projector, windows, torch.tensor([0.74])), PRIOR)


@pytest.mark.parametrize("snr", [0.0, 7.0, 15.0, 50.0])
def test_decode_inverts_encode_and_stays_inside_the_prior(snr: float) -> None:
    rng = np.random.default_rng(1)
    one = anchor(snr)
    e = np.column_stack([rng.normal(0, 3, (3000, 4)), rng.uniform(-np.pi, np.pi, 3000)])
    x, _ = one.decode(e)
    assert np.isfinite(PRIOR.log_density(x)).mean() > 0.999
    again, _ = one.decode(one.encode(x))
    np.testing.assert_allclose(again[:, :4], x[:, :4], rtol=1e-6)
    np.testing.assert_allclose(np.exp(2j * (again[:, 4] - x[:, 4])), 1, atol=1e-5)
    assert ((x[:, 4] >= 0) & (x[:, 4] < np.pi)).all()
    assert (np.abs(one.encode(x)[:, 4]) <= np.pi).all()


@pytest.mark.parametrize("snr", [0.0, 15.0, 50.0])
def test_jacobian_equals_numerical_differentiation(snr: float) -> None:
    one = anchor(snr)
    rng = np.random.default_rng(2)
    for e in np.column_stack([rng.normal(0, 1, (8, 4)), rng.uniform(-3, 3, 8)]):
        _, log_jacobian = one.decode(e[None])
        matrix = np.empty((5, 5))
        for k in range(5):
            step = np.zeros(5)
            step[k] = 1e-5
            difference = one.decode((e + step)[None])[0][0] - one.decode((e - step)[None])[0][0]
            difference[4] = 0.5 * np.angle(np.exp(2j * difference[4]))
            matrix[:, k] = difference / 2e-5
        assert log_jacobian[0] == pytest.approx(-np.log(abs(np.linalg.det(matrix))), abs=1e-3)


@pytest.mark.parametrize("snr", [0.0, 7.0])
def test_a_density_in_coordinates_is_a_density_in_parameters(snr: float) -> None:
    """The prior's mass, counted with wide draws in the coordinates, is one."""
    one = anchor(snr)
    rng, n = np.random.default_rng(3), 400_000
    draws = stats.t(3, scale=4).rvs((n, 4), random_state=rng)
    e = np.column_stack([draws, rng.uniform(-np.pi, np.pi, n)])
    x, log_jacobian = one.decode(e)
    log_q = stats.t(3, scale=4).logpdf(draws).sum(1) - np.log(2 * np.pi)
    weights = np.exp(PRIOR.log_density(x) - log_jacobian - log_q)
    near = 5 * weights.std() / np.sqrt(n)
    assert near < 0.5
    assert weights.mean() == pytest.approx(1, abs=near + 0.03)


def test_truths_are_near_standard_normal_in_the_coordinates_of_a_clear_signal() -> None:
    rng = np.random.default_rng(4)
    found = []
    for background in noise(150, 6):
        x = PRIOR.draw(rng, 1)[0]
        wave, truth = signal(x[0], x[1], x[3], x[4], 14.0)
        if PRIOR.distance[0] < truth[2] < PRIOR.distance[1]:
            windows = torch.from_numpy(wave + background).float()[None]
            gate = members()[1].live.gate
            from gwstream.inference.gate import best

            time = best(gate(windows), gate.times).time
            found.append(Anchor.of(ridge(members()[1].live.projector, windows, time), PRIOR).encode(truth[None])[0])
    e = np.array(found)
    assert len(e) > 100
    assert (np.abs(np.median(e, axis=0)) < 0.6).all()
    width = 0.5 * (np.quantile(e, 0.84, axis=0) - np.quantile(e, 0.16, axis=0))
    assert ((width > 0.6) & (width < 2.4)).all()


@pytest.mark.parametrize("snr", [0.0, 15.0, 50.0])
def test_no_parameters_inside_the_prior_are_far_out(snr: float) -> None:
    e = anchor(snr).encode(PRIOR.draw(np.random.default_rng(7), 20_000))
    assert np.isfinite(e).all()
    assert np.abs(e).max() < 12
    x, log_jacobian = anchor(snr).decode(np.array([[-400.0, 400.0, -400.0, 400.0, 1.0]]))
    assert np.isfinite(x).all()
    assert log_jacobian[0] > 500  # nothing of the density is there
