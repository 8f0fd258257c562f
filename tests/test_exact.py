"""The quadrature and the weighted draws share only likelihood and prior: where they agree, both are right."""

from __future__ import annotations

import numpy as np
import pytest
from trained import noise, shipped, signal, templates, window

from gwstream.config import InferenceConfig
from gwstream.inference import Inference
from gwstream.records import Batch, Floats
from gwstream.training import amplitudes
from gwstream.training import exact as exact_module
from gwstream.training.exact import Exact, exact
from gwstream.training.judge import divergences


@pytest.fixture(scope="module")
def data() -> Floats:
    wave, _ = signal(52.0, 38.0, 0.742, 1.1, 12.0)
    return wave + noise(1, 5)[0]


@pytest.fixture(scope="module")
def judged(data: Floats) -> Exact:
    return exact(data, templates(), shipped().spec.prior)


def test_evidence_and_marginals_equal_those_of_weighted_draws(data: Floats, judged: Exact) -> None:
    served = Inference(shipped(), InferenceConfig(draws=30_000))
    posterior = served.infer(served.gate(Batch((window(data),), 1))[0])
    assert posterior.ess > 5000
    assert posterior.log_bayes == pytest.approx(judged.log_bayes, abs=0.05)
    draws = judged.draw(np.random.default_rng(1), 30_000)
    assert np.all(divergences(posterior.samples, posterior.weights, draws) < 3.5)  # floor: about 1 mnat
    moved = posterior.samples + np.array([0.0, 0.0, 0.0, 5e-4, 0.0])
    assert divergences(moved, posterior.weights, draws)[3] > 10


def test_another_distance_prior_is_the_first_one_weighted(data: Floats, judged: Exact) -> None:
    """The exact posterior in volume, by quadrature, by weights on that in distance, and as it is served."""
    flat = shipped().spec.prior
    volume = exact(data, templates(), flat.served("volume"))
    rng = np.random.default_rng(4)
    draws = judged.draw(rng, 60_000)
    weights = np.exp(flat.served("volume").log_density(draws) - flat.log_density(draws))
    assert volume.log_bayes - judged.log_bayes == pytest.approx(np.log(weights.mean()), abs=0.02)
    far = volume.draw(rng, 60_000)
    assert np.all(divergences(draws, weights / weights.sum(), far) < 1.5)
    served = Inference(shipped(), InferenceConfig(draws=30_000, distance_prior="volume"))
    posterior = served.infer(served.gate(Batch((window(data),), 1))[0])
    assert posterior.log_bayes == pytest.approx(volume.log_bayes, abs=4 * posterior.log_bayes_error)
    assert np.all(divergences(posterior.samples, posterior.weights, far) < 3.5)
    assert divergences(draws, None, far)[2] > 5  # unweighted they differ


@pytest.mark.parametrize(("masses", "snr"), [((36.0, 29.0), 6.5), ((28.0, 22.0), 20.0), ((80.0, 40.0), 30.0)])
def test_a_finer_grid_changes_nothing(masses: tuple[float, float], snr: float) -> None:
    wave, _ = signal(*masses, 0.74, 0.9, snr)
    window = wave + noise(1, 4)[0]
    coarse, fine = (exact(window, templates(), shipped().spec.prior, resolution=scale) for scale in (1.0, 1.5))
    assert len(fine.nodes) > 2 * len(coarse.nodes)
    assert coarse.log_bayes == pytest.approx(fine.log_bayes, abs=0.005)
    one, other = (judged.draw(np.random.default_rng(4), 40_000) for judged in (coarse, fine))
    assert np.all(divergences(one, None, other) < 0.6)  # finite draws alone make 0.25


def test_the_integral_over_distance_and_phase_equals_brute_force() -> None:
    prior = shipped().spec.prior
    rows = np.array([[900.0, -500, 3000, 40, 2900], [60, 20, 900, 5, 950], [5, -3, 40_000, 0, 40_000]])
    distance, phase = np.linspace(*prior.distance, 20_001), np.arange(400) * np.pi / 400
    x = np.array([[40.0, 40.0, 1.0, prior.middle, 0.0]])
    for row, found in zip(rows, amplitudes.log_mass(rows, prior), strict=True):
        a, b, pp, ps, ss = row
        cosine, sine = np.cos(2 * phase), np.sin(2 * phase)
        linear, square = a * cosine + b * sine, pp * cosine**2 + 2 * ps * cosine * sine + ss * sine**2
        ratio = linear / distance[:, None] - 0.5 * square / distance[:, None] ** 2
        over_phase = np.exp(ratio - ratio.max()).sum(1) * np.pi / len(phase)
        wanted = np.log(np.trapezoid(over_phase, distance)) + ratio.max() + prior.log_density(x)[0]
        assert found == pytest.approx(wanted, abs=1e-3)
        drawn, _ = amplitudes.draw(np.tile(row, (20_000, 1)), prior, np.random.default_rng(5))
        mean, square = (float(np.average(distance**power, weights=over_phase)) for power in (1, 2))
        assert drawn.mean() == pytest.approx(mean, abs=0.08 * np.sqrt(square - mean**2))


def test_slopes_of_the_phase_at_the_edge_of_the_prior_are_those_inside() -> None:
    steps, slopes = np.array([0.1, 0.2, 0.3]), np.array([1.5, -0.7, 2.0])
    place = np.stack(np.meshgrid(*(np.arange(6) * step for step in steps), indexing="ij"), axis=-1)
    turn = 2 * (place @ slopes)
    products = np.stack([np.cos(turn), np.sin(turn), *np.ones((3, 6, 6, 6))], axis=-1)
    inside = np.add.outer(np.arange(6), np.arange(6)) < 8  # the prior's edge runs across the grid
    products[~inside] = 0
    assert exact_module._slopes(products, steps)[inside] == pytest.approx(np.broadcast_to(slopes, (30, 6, 3)))


def test_draws_lie_in_the_prior_and_follow_the_masses(judged: Exact) -> None:
    prior = shipped().spec.prior
    draws = judged.draw(np.random.default_rng(2), 5000)
    assert np.all(np.isfinite(prior.log_density(draws)))
    mass = np.exp(judged.log_mass - judged.log_mass.max())
    time = float(mass @ judged.nodes[:, 2] / mass.sum())
    assert draws[:, 3].mean() == pytest.approx(time, abs=1e-4)


def test_an_equal_distribution_is_near_and_another_far() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.standard_normal((2, 20_000, 5))
    assert np.all(divergences(a, None, b) < 1.2)
    assert np.all(divergences(1.1 * a, None, b) > 1.0)
