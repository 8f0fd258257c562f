from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from scipy.special import logsumexp

from gwstream.inference.mixture import Kernels, Mixture, log_sum_exp, von_mises
from gwstream.records import Floats

WIDEST = 12.0


def mixture(components: int = 12, seed: int = 1) -> Mixture:
    rng = np.random.default_rng(seed)
    return Mixture(
        mean=rng.normal(0, 1.5, (components, 4)),
        sigma=rng.uniform(0.2, 2.0, (components, 4)),
        angle=rng.uniform(-np.pi, np.pi, components),
        kappa=rng.uniform(0.1, 30, components),
    )


def reference(one: Mixture, e: Floats) -> Floats:
    """ln density by scipy's own distributions."""
    straight = stats.norm.logpdf(e[:, None, :4], one.mean, one.sigma).sum(-1)
    cyclic = stats.vonmises.logpdf(e[:, None, 4], one.kappa, loc=one.angle)
    return np.asarray(logsumexp(straight + cyclic, axis=1) - math.log(len(one.mean)))


def anywhere(rng: np.random.Generator, n: int) -> Floats:
    return np.column_stack([rng.uniform(-WIDEST, WIDEST, (n, 4)), rng.uniform(-np.pi, np.pi, n)])


def test_density_equals_scipy() -> None:
    e = anywhere(np.random.default_rng(2), 400)
    np.testing.assert_allclose(mixture().log_density(e), reference(mixture(), e), atol=1e-6)


def test_density_of_narrow_components_far_from_zero_keeps_its_digits() -> None:
    one = Mixture(
        mean=np.array([[900.0, 1.6, -2.0, 3000.0], [900.1, 1.5, -2.1, 3000.1]]),
        sigma=np.full((2, 4), 3e-3),
        angle=np.array([3.1, -3.1]),
        kappa=np.array([1.6e5, 1.0]),
    )
    e = one.draw(np.random.default_rng(1), 200)
    np.testing.assert_allclose(one.log_density(e), reference(one, e), atol=1e-4)


def test_density_integrates_to_one() -> None:
    rng, n = np.random.default_rng(3), 400_000
    wide = stats.norm(0, 3)
    e = np.column_stack([wide.rvs((n, 4), random_state=rng), rng.uniform(-np.pi, np.pi, n)])
    values = np.exp(mixture().log_density(e) - wide.logpdf(e[:, :4]).sum(1)) * 2 * np.pi
    error = values.std() / math.sqrt(n)
    assert error < 0.03
    assert abs(values.mean() - 1) < 4 * error


def test_draws_follow_the_density_in_every_coordinate() -> None:
    one = mixture()
    e = one.draw(np.random.default_rng(4), 24_000)
    for k in range(4):

        def cdf(x: Floats, k: int = k) -> Floats:
            return np.asarray(stats.norm.cdf(x[:, None], one.mean[:, k], one.sigma[:, k]).mean(1))

        assert stats.kstest(e[:, k], cdf).pvalue > 1e-3
    grid = np.linspace(-np.pi, np.pi, 4001)
    density = stats.vonmises.pdf(grid[:, None], one.kappa, loc=one.angle).mean(1)
    cumulative = np.concatenate([[0], np.cumsum(0.5 * (density[1:] + density[:-1]) * np.diff(grid))])
    wrapped = np.angle(np.exp(1j * e[:, 4]))
    assert stats.kstest(wrapped, lambda x: np.interp(x, grid, cumulative)).pvalue > 1e-3


def test_components_share_the_draws_equally() -> None:
    one = Mixture(np.array([[-3.0, 0, 0, 0], [3.0, 0, 0, 0]]), np.full((2, 4), 0.1), np.zeros(2), np.ones(2))
    e = one.draw(np.random.default_rng(6), 1000)
    assert (e[:, 0] > 0).sum() == 500


def test_density_is_periodic_in_the_last_coordinate() -> None:
    e = anywhere(np.random.default_rng(7), 50)
    turned = e + np.array([0, 0, 0, 0, 2 * np.pi])
    np.testing.assert_allclose(mixture().log_density(turned), mixture().log_density(e), atol=1e-9)


def kernels(width: float) -> Kernels:
    rng = np.random.default_rng(8)
    mix = rng.normal(0, 0.2, (5, 5)) + np.diag([1.0, 0.8, 0.5, 1.2, width])
    centres = rng.normal(0, 1, (40, 5))
    centres[:, 4] = rng.uniform(2.0, 2 * np.pi + 2.0, 40)  # around the seam
    return Kernels(centres, np.linalg.cholesky(mix @ mix.T * 0.3))


@pytest.mark.parametrize("width", [0.3, 1.0])
def test_kernels_equal_a_wrapped_mixture_of_scipys_gaussians(width: float) -> None:
    one = kernels(width)
    e = one.draw(np.random.default_rng(9), 300)
    covariance = one.factor @ one.factor.T
    total = np.zeros(len(e))
    for turn in range(-4, 5):
        at = e + np.array([0, 0, 0, 0, 2 * np.pi * turn])
        total += np.mean([stats.multivariate_normal.pdf(at, c, covariance) for c in one.centres], axis=0)
    np.testing.assert_allclose(one.log_density(e), np.log(total), atol=1e-4)


def test_kernels_draws_have_their_moments() -> None:
    one = kernels(0.5)
    e = one.draw(np.random.default_rng(10), 40_000)
    covariance = one.factor @ one.factor.T + np.cov(one.centres.T, bias=True)
    np.testing.assert_allclose(e.mean(0), one.centres.mean(0), atol=4 * np.sqrt(np.diag(covariance).max() / 40_000))
    assert np.abs(np.cov(e.T) - covariance).max() < 0.04 * np.diag(covariance).max()


def test_log_sum_exp_equals_scipy_where_values_differ_by_hundreds() -> None:
    table = np.random.default_rng(11).normal(0, 300, (50, 70)) + 5000
    np.testing.assert_allclose(log_sum_exp(table), logsumexp(table, axis=1), atol=1e-6)
    table[:, ::2] = -np.inf
    np.testing.assert_allclose(log_sum_exp(table), logsumexp(table, axis=1), atol=1e-6)


@pytest.mark.parametrize("kappa", [0.01, 0.7, 8.0, 8000.0])
def test_angles_follow_von_mises(kappa: float) -> None:
    drawn = von_mises(np.random.default_rng(8), np.full(20_000, 2.9), np.full(20_000, kappa))
    assert (np.abs(drawn) <= math.pi).all()
    away = np.angle(np.exp(1j * (drawn - 2.9)))
    assert stats.kstest(away, stats.vonmises(kappa).cdf).pvalue > 1e-3
    assert abs(np.corrcoef(away[1:], away[:-1])[0, 1]) < 0.03


def test_rounding_of_one_angles_spread_moves_no_other() -> None:
    """Where numpy's draws are accepted or not one after the other, all that follow move."""
    kappa = np.random.default_rng(1).uniform(0.1, 30, 4000)
    nearly = kappa * 1.01
    one, two = (von_mises(np.random.default_rng(8), np.zeros(4000), k) for k in (kappa, nearly))
    moved = np.abs(one - two) > 0.1
    assert 0 < moved.sum() < 40
