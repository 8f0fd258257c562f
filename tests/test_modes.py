"""Windows in which a signal may be at several times."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from trained import inference, members, noise, shipped, signal, templates, window

from gwstream.inference import Proposed
from gwstream.inference.importance import effective, normalised, sample
from gwstream.inference.modes import APART, MOST, NEARLY, Several, distinct, others
from gwstream.records import Floats
from gwstream.training.exact import exact

PRIOR = shipped().spec.prior
FIRST, SECOND = 0.70, 0.79


def double(seed: int = 3) -> Floats:
    """Two signals as faint as each other, of which a posterior for one signal can only take one."""
    waves = [signal(45.0, 35.0, time, 0.4, 6.0)[0] for time in (FIRST, SECOND)]
    return np.asarray(waves[0] + waves[1] + 0.3 * noise(1, seed)[0])


def gated(samples: Floats) -> torch.Tensor:
    found: torch.Tensor = members()[1].live.gate(torch.from_numpy(samples).float()[None])
    return found


def proposed(samples: Floats) -> tuple[Proposed, Several]:
    found = inference().propose(window(samples))
    assert isinstance(found.proposal, Several)
    return found, found.proposal


def test_a_clear_signal_is_at_one_time() -> None:
    samples = signal(45.0, 35.0, FIRST, 0.4, 15.0)[0] + noise(1, 2)[0]
    assert others(gated(samples), members()[1].live.gate.times, PRIOR) == []
    assert not isinstance(inference().propose(window(samples)).proposal, Several)


def test_further_times_are_found_with_their_own_matched_filters_alone() -> None:
    times, rho = members()[1].live.gate.times, gated(double())
    power = (rho[:, 0].square() + rho[:, 1].square()).amax((0, 1))
    best = float(power.amax())
    found = others(rho, times, PRIOR)
    assert 1 <= len(found) < MOST
    for one in found:
        kept = (one[0, 0] != 0).any(0)
        assert float(times[kept].max() - times[kept].min()) <= 2 * APART + 1e-6
        inside = kept & (times >= PRIOR.time[0]) & (times <= PRIOR.time[1])
        assert best - float(power[inside].max()) < 2 * NEARLY
        assert torch.equal(one[..., kept], rho[..., kept])
    at = [float(times[one.square().sum((0, 1)).amax(0).argmax()]) for one in found]
    assert min(abs(t - FIRST) for t in at) < 0.01 or min(abs(t - SECOND) for t in at) < 0.01


def test_noise_has_a_bounded_number_of_times() -> None:
    times = members()[1].live.gate.times
    assert max(len(others(gated(one), times, PRIOR)) for one in noise(30, 4)) == MOST - 1


def test_the_mixture_is_a_density_of_all_its_parts() -> None:
    """Drawn from it, the mean of one part's density over its own is that part's integral: one."""
    found, mixture = proposed(double())
    rng, n = np.random.default_rng(5), 20_000
    e = mixture.draw(rng, n)
    assert e.shape == (n, 5)
    log_q = mixture.log_density(e)
    x, log_jacobian = found.anchor.decode(e)
    for proposal, anchor in zip(mixture.proposals, mixture.anchors, strict=True):
        own = anchor.encode(x)
        log_part = proposal.log_density(own) + anchor.decode(own)[1] - log_jacobian
        ratio = np.exp(log_part - log_q)
        assert ratio.mean() == pytest.approx(1, abs=5 * ratio.std() / np.sqrt(n) + 1e-3)
    assert mixture.shares.sum() == pytest.approx(1)


def test_both_times_are_proposed_and_weighed_as_the_exact_posterior_has_them() -> None:
    samples = double()
    found, mixture = proposed(samples)
    at = [anchor.time for anchor in mixture.anchors]
    assert min(abs(t - FIRST) for t in at) < 0.006
    assert min(abs(t - SECOND) for t in at) < 0.006
    drawn = sample(found.proposal, found.log_target, 20_000, np.random.default_rng(1))
    assert drawn.rounds == 1
    assert effective(drawn.weights) > 0.2 * 20_000
    reference = exact(samples, templates(), PRIOR)
    late = reference.draw(np.random.default_rng(2), 20_000)[:, 3] > 0.5 * (FIRST + SECOND)
    assert 0.05 < late.mean() < 0.95
    found_late = found.parameters(drawn.e)[:, 3] > 0.5 * (FIRST + SECOND)
    assert float(drawn.weights[found_late].sum()) == pytest.approx(late.mean(), abs=0.05)
    assert drawn.log_evidence == pytest.approx(reference.log_bayes, abs=0.05)


def test_the_first_proposal_alone_would_miss_a_time_and_not_know_it() -> None:
    samples = double()
    found, mixture = proposed(samples)
    one, rng = mixture.proposals[0], np.random.default_rng(1)
    e = one.draw(rng, 20_000)
    log_weights = found.log_target(e) - one.log_density(e)
    assert effective(normalised(log_weights)) > 0.2 * 20_000
    log_bayes = np.log(np.mean(np.exp(log_weights - log_weights.max()))) + log_weights.max()
    assert log_bayes < exact(samples, templates(), PRIOR).log_bayes - 0.1


def test_a_ridge_met_before_is_left_out() -> None:
    """The gate's best of two neighbouring times may lead to the same ridge."""
    live = members()[1].live
    rho = gated(double())
    samples = torch.from_numpy(double()).float()[None]
    context = members()[1].context[None]
    from gwstream.inference.features import see

    seen = see(live, samples, rho, context, PRIOR)
    apart = [see(live, samples, one, context, PRIOR) for one in others(rho, live.gate.times, PRIOR)]
    kept = distinct([seen, seen, *apart])
    assert len(kept) <= 1 + len(apart)
    assert kept[0] is seen


def test_shares_are_met_evenly_and_rounding_of_them_moves_no_draw() -> None:
    """One draw more of the first proposal and one less of the second leaves all others as they were."""
    _, mixture = proposed(double())
    drawn = []
    for share in (0.3, 0.301):
        one = Several(mixture.proposals[:2], mixture.anchors[:2], np.array([share, 1 - share]))
        drawn.append(one.draw(np.random.default_rng(3), 1000))
    assert drawn[0].shape == (1000, 5)
    np.testing.assert_array_equal(drawn[0][:300], drawn[1][:300])
    np.testing.assert_array_equal(drawn[0][300:-1], drawn[1][301:])
    assert not np.array_equal(drawn[0][300], drawn[1][300])
