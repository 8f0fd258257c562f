from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from gwstream.prior import Prior
from gwstream.waveforms import component_masses

PRIORS = [
    Prior(),
    Prior(mass=(20.0, 50.0), min_ratio=0.6),
    Prior(mass=(5.0, 30.0), min_ratio=0.1),
    Prior(distance_density="volume"),
]


@pytest.mark.parametrize("prior", PRIORS, ids=["default", "knee inside", "knee outside", "volume"])
def test_density_integrates_to_one_over_a_larger_box(prior: Prior) -> None:
    rng = np.random.default_rng(1)
    n = 400_000
    low = np.array([prior.mass[0] - 2, prior.mass[0] - 2, 0.01, prior.time[0] - 0.02, 0.0])
    high = np.array([prior.mass[1] + 2, prior.mass[1] + 2, prior.distance[1] + 0.1, prior.time[1] + 0.02, math.pi])
    values = np.exp(prior.log_density(rng.uniform(low, high, (n, 5)))) * np.prod(high - low)
    assert abs(values.mean() - 1) < 4 * values.std() / math.sqrt(n)
    assert values.std() / math.sqrt(n) < 0.01


@pytest.mark.parametrize("prior", PRIORS)
def test_area_is_that_of_the_polygon_of_allowed_masses(prior: Prior) -> None:
    (low, high), ratio = prior.mass, prior.min_ratio
    mass_1 = np.linspace(low, high, 200_001)
    height = mass_1 - np.maximum(low, ratio * mass_1)
    assert prior.mass_area == pytest.approx(np.trapezoid(height, mass_1), rel=1e-8)


@pytest.mark.parametrize("prior", PRIORS)
def test_draws_follow_the_density(prior: Prior) -> None:
    x = prior.draw(np.random.default_rng(2), 20_000)
    assert x.shape == (20_000, 5)
    assert np.isfinite(prior.log_density(x)).all()
    (low, high), ratio = prior.mass, prior.min_ratio
    grid = np.linspace(low, high, 20_001)
    cumulative = np.concatenate([[0], np.cumsum(np.diff(grid) * (grid - np.maximum(low, ratio * grid))[1:])])
    heavier = np.interp(x[:, 0], grid, cumulative / cumulative[-1])
    floor = np.maximum(low, ratio * x[:, 0])
    uniform = [heavier, (x[:, 1] - floor) / (x[:, 0] - floor)]
    power = 3 if prior.distance_density == "volume" else 1
    near, far = prior.distance[0] ** power, prior.distance[1] ** power
    uniform.append((x[:, 2] ** power - near) / (far - near))
    for column, (start, stop) in zip(x.T[3:], (prior.time, (0.0, math.pi)), strict=True):
        uniform.append((column - start) / (stop - start))
    assert min(stats.kstest(u, "uniform").pvalue for u in uniform) > 1e-3


def test_in_volume_the_density_goes_with_the_square_of_the_distance() -> None:
    served = Prior().served("volume")
    x = np.tile([40.0, 30.0, 1.0, 0.75, 0.5], (3, 1))
    x[:, 2] = 0.5, 1.0, 3.0
    np.testing.assert_allclose(np.diff(served.log_density(x)), 2 * np.log([2.0, 3.0]))
    np.testing.assert_allclose(served.distance_below(np.array([0.1, 5.0, 9.0])), [0, 1, 1])
    draws = served.draw(np.random.default_rng(4), 20_000)[:, 2]
    assert served.distance_below(np.median(draws)) == pytest.approx(0.5, abs=0.02)
    assert Prior().served("model") == Prior() == served.served("uniform")


def test_chirp_mass_limits_hold_for_every_draw_and_are_reached() -> None:
    x = Prior().draw(np.random.default_rng(3), 50_000)
    chirp = (x[:, 0] * x[:, 1]) ** 0.6 / (x[:, 0] + x[:, 1]) ** 0.2
    low, high = Prior().chirp_mass
    assert low <= chirp.min() < 1.03 * low
    assert 0.97 * high < chirp.max() <= high


@given(turns=st.integers(-5, 5), phase=st.floats(0, math.pi))
def test_density_is_the_same_at_every_phase(turns: int, phase: float) -> None:
    x = np.array([[40.0, 30.0, 1.0, 0.75, phase], [40.0, 30.0, 1.0, 0.75, phase + turns * math.pi]])
    assert np.ptp(Prior().log_density(x)) == 0
    outside = np.array([[40.0, 41.0, 1.0, 0.75, phase], [90.0, 21.0, 1.0, 0.75, phase], [40.0, 30.0, 1.0, 0.86, phase]])
    assert np.isneginf(Prior().log_density(outside)).all()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"mass": (100.0, 20.0)}, "mass"),
        ({"mass": (0.0, 20.0)}, "mass"),
        ({"distance": (1.0, 1.0)}, "distance"),
        ({"time": (-0.1, 0.5)}, "time"),
        ({"min_ratio": 0.0}, "min_ratio"),
        ({"min_ratio": 1.0}, "min_ratio"),
        ({"mass": (math.nan, 20.0)}, "mass"),
    ],
)
def test_impossible_limits_are_refused_by_name(changes: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=f"prior.{named}"):
        Prior(**changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("prior", PRIORS)
def test_limits_of_the_chirp_mass_are_where_a_mass_reaches_its_own(prior: Prior) -> None:
    ratio = np.linspace(prior.least_ratio, 1.0, 9)
    least, most = (np.exp(edge) for edge in prior.log_chirp_limits(ratio))
    np.testing.assert_allclose(component_masses(least, ratio)[1], prior.mass[0], rtol=1e-9)
    np.testing.assert_allclose(component_masses(most, ratio)[0], prior.mass[1], rtol=1e-9)
