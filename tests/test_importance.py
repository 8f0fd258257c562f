from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from scipy.special import i0e, i1e

from gwstream.inference.importance import ENOUGH, ROUNDS, Weighted, effective, log_mean_error, normalised, sample
from gwstream.inference.mixture import Mixture
from gwstream.records import Floats

LOG_Z = 7.5
MEAN = np.array([0.5, -0.3, 0.2, 1.0])
COVARIANCE = np.array([[1.0, 0.6, 0, 0], [0.6, 0.8, 0.2, 0], [0, 0.2, 0.5, -0.3], [0, 0, -0.3, 0.7]])
KAPPA, ANGLE = 6.0, 3.0


def target(e: Floats) -> Floats:
    """A correlated Gaussian times a von Mises across the seam, of evidence exp(LOG_Z)."""
    bounded = stats.multivariate_normal.logpdf(e[:, :4], MEAN, COVARIANCE)
    return np.asarray(LOG_Z + bounded + stats.vonmises.logpdf(e[:, 4], KAPPA, loc=ANGLE))


def proposal(shift: float = 0.0, width: float = 1.4, kappa: float = 2.0) -> Mixture:
    return Mixture(
        mean=np.tile(MEAN + shift, (3, 1)),
        sigma=np.full((3, 4), width),
        angle=np.full(3, ANGLE - 0.3),
        kappa=np.full(3, kappa),
    )


GOOD, WIDE, NARROW, MISPLACED = (
    proposal(width=1.0, kappa=5.0),
    proposal(width=6.0, kappa=0.5),
    proposal(width=0.45, kappa=20.0),
    proposal(shift=1.5, width=0.9, kappa=4.0),
)


@pytest.mark.parametrize("one", [GOOD, WIDE, MISPLACED, NARROW], ids=["good", "wide", "misplaced", "narrow"])
def test_evidence_and_moments_of_a_known_target_are_recovered(one: Mixture) -> None:
    found = [sample(one, target, 2000, np.random.default_rng([seed, 1])) for seed in range(10)]
    ratios = np.exp([f.log_evidence - LOG_Z for f in found])
    error = ratios.std(ddof=1) / math.sqrt(len(ratios))
    assert error < 0.03
    # rounds end when weights look even, which costs 2 to 3 % of the evidence after a poor start
    assert abs(ratios.mean() - 1) < max(4 * error, 0.05)
    means = np.array([f.weights @ f.e[:, :4] for f in found])
    second = np.array([np.cov(f.e[:, :4].T, aweights=f.weights, bias=True) for f in found])
    turns = np.array([np.sum(f.weights * np.exp(1j * f.e[:, 4])) for f in found])
    assert (np.abs(means.mean(0) - MEAN) < 0.1 * np.sqrt(np.diag(COVARIANCE))).all()
    assert np.abs(second.mean(0) - COVARIANCE).max() < 0.2
    assert np.angle(turns.mean() * np.exp(-1j * ANGLE)) == pytest.approx(0, abs=0.03)
    assert abs(turns.mean()) == pytest.approx(i1e(KAPPA) / i0e(KAPPA), abs=0.02)


@pytest.mark.parametrize("one", [GOOD, proposal(width=2.0, kappa=1.0)], ids=["good", "wider"])
def test_the_stated_error_of_the_evidence_is_its_scatter(one: Mixture) -> None:
    """Over 200 seeds; strata may make the scatter a little smaller than what the weights alone say."""
    found = [sample(one, target, 1000, np.random.default_rng([seed, 9])) for seed in range(200)]
    pulls = np.array([(f.log_evidence - LOG_Z) / f.log_evidence_error for f in found])
    assert 0.8 < pulls.std() < 1.15
    assert abs(pulls.mean()) < 0.3


def test_the_error_of_independent_weights_is_that_of_their_mean() -> None:
    rng = np.random.default_rng(10)
    many = rng.exponential(size=(20_000, 100))
    stated = np.array([log_mean_error(row / row.sum()) for row in many])
    assert math.sqrt((stated**2).mean()) == pytest.approx(np.log(many.mean(1)).std(), rel=0.05)
    assert log_mean_error(np.full(100, 0.01)) == 0
    few = np.r_[np.full(8, 1 / 8), np.zeros(992)]
    assert log_mean_error(few) == math.inf


def test_draws_know_whether_they_are_stratified() -> None:
    class Loose(Mixture):
        stratified = False

    bare = Loose(*(getattr(GOOD, name) for name in ("mean", "sigma", "angle", "kappa")))
    first = sample(bare, target, 500, np.random.default_rng(11))
    assert (first.rounds, first.stratified) == (1, False)
    assert sample(GOOD, target, 500, np.random.default_rng(11)).stratified
    assert sample(MISPLACED, target, 500, np.random.default_rng(8)).stratified


@pytest.mark.parametrize("one", [WIDE, MISPLACED], ids=["wide", "misplaced"])
def test_more_rounds_rescue_a_poor_proposal(one: Mixture) -> None:
    rng = np.random.default_rng(3)
    e = one.draw(rng, 2000)
    before = effective(normalised(target(e) - one.log_density(e)))
    assert before < 0.15 * 2000
    found = sample(one, target, 2000, rng)
    assert 1 < found.rounds <= ROUNDS
    assert effective(found.weights) > max(ENOUGH * 2000, 3 * before)


def test_a_good_proposal_is_left_alone() -> None:
    found = sample(GOOD, target, 2000, np.random.default_rng(4))
    assert found.rounds == 1
    assert effective(found.weights) >= ENOUGH * 2000


def test_effective_sample_size() -> None:
    assert effective(np.full(50, 1 / 50)) == pytest.approx(50)
    assert effective(np.array([1.0, 0, 0, 0])) == 1
    weights = np.random.default_rng(5).exponential(size=1000)
    share = weights / weights.sum()
    assert effective(share) == pytest.approx(weights.sum() ** 2 / (weights**2).sum())


def test_weights_are_normalised_however_large_their_logarithms() -> None:
    weights = normalised(np.array([-5000.0, -5000.0 + math.log(3), -np.inf]))
    np.testing.assert_allclose(weights, [0.25, 0.75, 0.0])
    np.testing.assert_allclose(normalised(np.array([9000.0, 9000.0])), [0.5, 0.5])


def test_log_evidence_is_the_log_of_the_mean_weight() -> None:
    found = Weighted(np.zeros((4, 5)), np.log([1.0, 2.0, 3.0, 6.0]) + 2000, np.zeros(4), 1)
    assert found.log_evidence == pytest.approx(2000 + math.log(3))


def test_draws_outside_the_prior_have_no_weight_and_keep_the_evidence_right() -> None:
    def half(e: Floats) -> Floats:
        return np.where(e[:, 0] > MEAN[0], target(e), -np.inf)

    ratios = []
    for seed in range(16):
        found = sample(proposal(), half, 2000, np.random.default_rng([seed, 6]))
        assert not found.weights[found.e[:, 0] <= MEAN[0]].any()
        ratios.append(math.exp(found.log_evidence - LOG_Z))
    assert np.mean(ratios) == pytest.approx(0.5, abs=max(4 * np.std(ratios) / 4, 0.01))


def test_a_target_that_no_draw_meets_has_no_evidence() -> None:
    found = sample(GOOD, lambda e: np.full(len(e), -np.inf), 200, np.random.default_rng(7))
    np.testing.assert_allclose(found.weights, 1 / 200)
    assert found.log_evidence == -math.inf


def test_the_same_seed_gives_the_same_bits() -> None:
    one, two = (sample(MISPLACED, target, 500, np.random.default_rng(8)) for _ in range(2))
    assert one.e.tobytes() == two.e.tobytes()
    assert one.log_weights.tobytes() == two.log_weights.tobytes()
    assert one.rounds > 1
