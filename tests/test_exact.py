"""The quadrature and the weighted draws share only likelihood and prior: where they agree, both are right."""

from __future__ import annotations

import numpy as np
import pytest
from trained import noise, shipped, signal, templates, window

from gwstream.config import InferenceConfig
from gwstream.inference import Inference
from gwstream.records import Batch, Floats
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
    draws = draws[np.isfinite(flat.log_density(draws))]
    weights = np.exp(flat.served("volume").log_density(draws) - flat.log_density(draws))
    assert volume.log_bayes - judged.log_bayes == pytest.approx(np.log(weights.mean()), abs=0.02)
    far = volume.draw(rng, 60_000)
    assert np.all(divergences(draws, weights / weights.sum(), far) < 1.5)
    served = Inference(shipped(), InferenceConfig(draws=30_000, distance_prior="volume"))
    posterior = served.infer(served.gate(Batch((window(data),), 1))[0])
    assert posterior.log_bayes == pytest.approx(volume.log_bayes, abs=4 * posterior.log_bayes_error)
    assert np.all(divergences(posterior.samples, posterior.weights, far) < 3.5)
    assert divergences(draws, None, far)[2] > 5  # unweighted they differ


def test_draws_lie_in_the_prior_and_follow_the_masses(judged: Exact) -> None:
    prior = shipped().spec.prior
    draws = judged.draw(np.random.default_rng(2), 5000)
    assert np.mean(np.isfinite(prior.log_density(draws))) > 0.98  # the outermost cells reach beyond by part of a cell
    mass = np.exp(judged.log_mass - judged.log_mass.max())
    time = float(mass @ judged.nodes[:, 2] / mass.sum())
    assert draws[:, 3].mean() == pytest.approx(time, abs=1e-4)


def test_an_equal_distribution_is_near_and_another_far() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.standard_normal((2, 20_000, 5))
    assert np.all(divergences(a, None, b) < 1.2)
    assert np.all(divergences(1.1 * a, None, b) > 1.5)
