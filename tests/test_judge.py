from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from trained import FOLDER, inference, shipped

from gwstream.config import InferenceConfig
from gwstream.records import Batch
from gwstream.training import exact, judge
from gwstream.training.population import PER_DETECTOR, Population


def test_a_case_depends_on_seed_and_number_alone() -> None:
    one, other = (Population(shipped(), shipped().spec.prior, 5) for _ in range(2))
    first = [one.case(number) for number in (3, PER_DETECTOR, 4)]
    again = other.case(3)
    assert np.array_equal(first[0].window.samples, again.window.samples)
    assert np.array_equal(first[0].truth, again.truth)
    assert first[0].window.whitener.id == first[2].window.whitener.id != first[1].window.whitener.id
    assert not np.array_equal(first[0].truth, first[2].truth)
    fixed = Population(shipped(), shipped().spec.prior, 5, "aLIGO_O4_high").case(3)
    assert np.array_equal(fixed.truth, again.truth)
    assert fixed.window.whitener.history == pytest.approx(64, abs=2)


def test_signals_lie_one_in_each_interval() -> None:
    limits = judge.edges(3)
    assert limits[[0, -1]] == pytest.approx(judge.SNR)
    _, cases = judge._bench(InferenceConfig(model=FOLDER), 3, 1)
    for low, case, high in zip(limits[:-1], cases, limits[1:], strict=True):
        assert low <= case.optimal_snr < high


def test_exact_posteriors_are_kept_by_window_and_prior(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    class Known:
        log_bayes = 7.5

        def draw(self, rng: np.random.Generator, n: int) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
            return rng.random((n, 5))

    def count(*_: object) -> Known:
        calls.append(1)
        return Known()

    monkeypatch.setattr(judge, "exact", count)
    prior = shipped().spec.prior
    case, other = (Population(shipped(), prior, 5).case(number) for number in (0, 1))
    templates = inference().propose(case.window).templates
    first = judge.kept(case.window, templates, prior, tmp_path)
    again = judge.kept(case.window, templates, prior, tmp_path)
    assert len(calls) == 1
    assert np.array_equal(first.draws, again.draws)
    assert first.log_bayes == again.log_bayes == 7.5
    judge.kept(other.window, templates, prior, tmp_path)
    judge.kept(case.window, templates, prior.served("volume"), tmp_path)
    assert len(calls) == 3
    assert exact.exact is not count


def test_what_is_drawn_again_is_what_was_served(monkeypatch: pytest.MonkeyPatch) -> None:
    """Enough draws in one block: the very posterior of the daemon, asked for as many."""
    case = judge._bench(InferenceConfig(model=FOLDER), 3, 1)[1][1]
    monkeypatch.setattr(judge, "BLOCK", 2000)
    monkeypatch.setattr(judge, "ENOUGH", 1)
    samples, weights, draws, log_bayes = judge._redrawn(inference(), case.window)
    served = inference().infer(inference().gate(Batch((case.window,), 1))[0])
    assert draws == 2000
    assert log_bayes == served.log_bayes
    assert np.array_equal(samples, served.samples)
    assert np.allclose(weights, served.weights)
    monkeypatch.setattr(judge, "ENOUGH", 3 * served.ess)
    _, weights, draws, again = judge._redrawn(inference(), case.window)
    assert draws > 4000
    assert again == log_bayes
    assert 1 / np.sum(weights**2) >= 3 * served.ess


def test_the_floor_is_what_equal_distributions_come_to() -> None:
    rng = np.random.default_rng(2)
    exact_draws = rng.standard_normal((100_000, 5)) * 0.3
    for draws in (2000, 20_000):
        found = np.mean(
            [judge.divergences(rng.standard_normal((draws, 5)) * 0.3, None, exact_draws) for _ in range(12)]
        )
        assert judge.floors(draws, exact_draws, rng).mean() == pytest.approx(found, rel=0.15)


def test_a_phase_at_the_edge_of_its_period_is_no_worse_than_in_the_middle() -> None:
    rng = np.random.default_rng(3)
    a, b = 0.05 * rng.standard_normal((2, 50_000, 5))
    wider = a * 1.3
    middle, edge = ([np.mod(x[:, 4] + at, np.pi) for x in (a, b, wider)] for at in (1.5, 0.0))
    found = []
    for phases in (middle, edge):
        sets = [np.column_stack([x[:, :4], phase]) for x, phase in zip((a, b, wider), phases, strict=True)]
        found.append((judge.divergences(sets[1], None, sets[0])[4], judge.divergences(sets[2], None, sets[0])[4]))
    assert found[0] == pytest.approx(found[1], rel=1e-6)
    assert found[0][0] < 0.5 < 5 < found[0][1]
