"""The distance from the training: uniform p-values for what is like it, small ones for what is not."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from gwstream.inference.aggregate import Aggregate
from gwstream.records import Floats

F = 30


def codes(n: int, seed: int) -> Floats:
    """Correlated, heavy-tailed, on very different scales, with a number that never varies."""
    rng = np.random.default_rng(seed)
    mix = np.random.default_rng(0).standard_normal((8, F))
    y = rng.standard_t(6, (n, 8)) @ mix + 0.1 * rng.standard_normal((n, F))
    y *= np.geomspace(1e-2, 1e2, F)
    y[:, 3] = 5.0
    return np.asarray(y)


@pytest.fixture(scope="module")
def fitted() -> Aggregate:
    return Aggregate.fit(codes(4000, 1), codes(4000, 2))


def p_values(fitted: Aggregate, many: Floats) -> Floats:
    return np.array([fitted.p_value(fitted.distance(one)) for one in many])


def test_p_values_are_uniform_for_what_is_like_the_training(fitted: Aggregate) -> None:
    p = p_values(fitted, codes(2000, 3))
    assert stats.kstest(p, "uniform").pvalue > 0.01
    assert (p < 0.01).mean() == pytest.approx(0.01, abs=0.008)


def test_what_breaks_the_correlations_is_far_though_no_number_is_unusual(fitted: Aggregate) -> None:
    many = codes(200, 4)
    rng = np.random.default_rng(5)
    shuffled = np.column_stack([rng.permutation(column) for column in many.T])
    assert np.median(p_values(fitted, shuffled)) < 1e-4


def test_beyond_the_farthest_the_p_value_goes_on_falling(fitted: Aggregate) -> None:
    far = np.sqrt(fitted.levels[-1]) * np.array([0.99, 1.01, 1.5, 3.0])
    p = [fitted.p_value(float(distance)) for distance in far]
    assert p == sorted(p, reverse=True)
    assert p[1] <= 1 / 4000
    assert fitted.p_value(0.0) == 1.0


def test_what_is_not_finite_is_infinitely_far(fitted: Aggregate) -> None:
    one = codes(1, 6)[0]
    assert fitted.distance(one) < 20
    one[5] = np.nan
    assert fitted.distance(one) == np.inf
    assert fitted.p_value(np.inf) == 0.0


def test_it_is_stored_and_found_again(fitted: Aggregate) -> None:
    tensors = fitted.tensors()
    assert set(tensors) == {"aggregate.centre", "aggregate.directions", "aggregate.levels", "aggregate.log_tails"}
    again = Aggregate.from_tensors({**tensors, "bank.gate": np.zeros(3)})
    assert again is not None
    one = codes(1, 7)[0]
    assert again.distance(one) == fitted.distance(one)
    assert Aggregate.from_tensors({"bank.gate": np.zeros(3)}) is None
    with pytest.raises(KeyError, match="levels"):
        Aggregate.from_tensors({name: value for name, value in tensors.items() if "levels" not in name})


def test_too_few_windows_are_refused() -> None:
    with pytest.raises(ValueError, match="got 4000 and 20"):
        Aggregate.fit(codes(4000, 1), codes(20, 2))
