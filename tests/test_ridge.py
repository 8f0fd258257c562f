from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from trained import members, noise, shipped, signal, templates

from gwstream.inference.likelihood import log_ratio
from gwstream.inference.moments import CHIRPS, FIELDS, RATIOS, Ridge, log_share
from gwstream.inference.ridge import COMPONENTS, FAR, PARTS, Projector, grid, ridge
from gwstream.records import Floats
from gwstream.waveforms import component_masses

PRIOR = shipped().spec.prior


def projector() -> Projector:
    return members()[1].live.projector


def find(windows: Floats, time: float) -> Ridge:
    return ridge(projector(), torch.from_numpy(windows).float(), torch.full((len(windows),), time))


def largest(window: Floats, chirp: float, ratio: float, time: float) -> float:
    """ln likelihood ratio, maximised over amplitude and phase, of the likelihood's own templates."""
    heavy, light = component_masses(chirp, ratio)
    pair = templates().waveforms(np.array([[heavy, light, 1, time, 0], [heavy, light, 1, time, np.pi / 4]]))
    h = pair.astype(np.float64)
    d = h @ window
    return 0.5 * float(d @ np.linalg.solve(h @ h.T, d))


def test_products_and_norms_give_the_likelihoods_own_maximum() -> None:
    window = noise(1, 1)[0] + signal(50.0, 30.0, 0.744, 0.3, 15.0)[0]
    nodes, one = grid(shipped().bank, PRIOR), projector()
    whole = 190
    products = one.project(torch.from_numpy(window).float()[None], torch.tensor([whole]))
    rng = np.random.default_rng(2)
    for lag in (3, 13, 16, 18, 29):
        time = (whole * PARTS + lag - FAR * PARTS) / (PARTS * 256)
        forms = one.forms(torch.tensor([time]), torch.tensor([[lag % PARTS]]))[:, 0, 0]
        a, b = (products[0, lag] @ nodes.mix.T).chunk(2)
        found = a * (forms[0] * a + forms[1] * b) + forms[2] * b.square()
        for node in rng.choice(np.flatnonzero(nodes.inside.numpy()), 6):
            chirp = float(torch.exp(nodes.log_chirp[node % CHIRPS]))
            expected = largest(window, chirp, float(nodes.ratios[node // CHIRPS]), time)
            assert float(found[node]) == pytest.approx(expected, rel=0.02, abs=0.5)


@pytest.mark.parametrize(("heavy", "light", "snr"), [(36.0, 29.0, 12.0), (80.0, 50.0, 20.0), (30.0, 24.0, 25.0)])
def test_the_ridge_of_a_signal_without_noise_passes_through_it(heavy: float, light: float, snr: float) -> None:
    wave, x = signal(heavy, light, 0.7432, 0.4, snr)
    found = find(wave[None], 0.7432)
    row = int(np.abs(found.ratios.numpy() - light / heavy).argmin())
    at = dict(zip(FIELDS, found.table[0, row].tolist(), strict=True))
    chirp = (heavy * light) ** 0.6 / (heavy + light) ** 0.2
    assert abs(at["chirp"] - np.log(chirp)) < 2 * at["width"]
    assert abs(at["time"] + at["slant"] * (np.log(chirp) - at["chirp"]) - x[3]) < 3e-4 + 2 * at["time_width"]
    inverse = at["amplitude"] + at["gain"] * (np.log(chirp) - at["chirp"])
    assert inverse == pytest.approx(-np.log(x[2]), abs=0.3)
    assert float(found.snr[0]) == pytest.approx(snr, rel=0.02)


def test_conditional_means_and_widths_are_those_of_the_likelihood() -> None:
    """Against a fine scan of chirp mass and time with the likelihood's own templates, at one ratio."""
    window = noise(1, 9)[0] + signal(45.0, 36.0, 0.751, 0.3, 11.0)[0]
    found = find(window[None], 0.751)
    row = RATIOS - 2
    ratio = float(found.ratios[row])
    at = dict(zip(FIELDS, found.table[0, row].tolist(), strict=True))
    chirps = np.exp(np.linspace(at["chirp"] - 5 * at["width"], at["chirp"] + 5 * at["width"], 61))
    times = np.linspace(at["time"] - 4e-3, at["time"] + 4e-3, 41)
    table = np.empty((len(chirps), len(times)))
    heavy, light = component_masses(chirps, np.full(len(chirps), ratio))
    for k, time in enumerate(times):
        pairs = []
        for phase in (0.0, np.pi / 4):
            x = np.column_stack([heavy, light, np.ones(61), np.full(61, time), np.full(61, phase)])
            pairs.append(templates().waveforms(x).astype(np.float64))
        p, s = pairs
        pp, ps, ss = (p * p).sum(1), (p * s).sum(1), (s * s).sum(1)
        a, b = p @ window, s @ window
        log_l = 0.5 * (a * a * ss - 2 * a * b * ps + b * b * pp) / (pp * ss - ps**2)
        table[:, k] = log_l + 0.5 * np.log(pp) - np.log(2 * log_l) + 2 * np.log(heavy)
    weights = np.exp(table - table.max())
    weights /= weights.sum()
    m = np.log(chirps)
    mean = float(weights.sum(1) @ m)
    width = float(np.sqrt(weights.sum(1) @ (m - mean) ** 2))
    assert at["chirp"] == pytest.approx(mean, abs=0.2 * width)
    assert at["width"] == pytest.approx(width, rel=0.2)
    assert at["time"] == pytest.approx(float(weights.sum(0) @ times), abs=3e-4)
    assert log_ratio(window, templates().waveforms(np.array([[45.0, 36.0, 1.0, 0.751, 0.3]]))).shape == (1,)


def test_noise_alone_has_a_ridge_of_finite_numbers() -> None:
    found = find(noise(40, 3), 0.7)
    assert torch.isfinite(found.table).all()
    assert (found.spread > 0).all()
    assert ((found.ratio > PRIOR.least_ratio) & (found.ratio < 1)).all()
    assert (found.profile <= 1e-3).all()


def test_a_ridge_that_the_prior_cuts_keeps_its_shape_and_is_weighed_by_what_lies_inside() -> None:
    """20.5 + 20.2 Msun lie on the prior's edge: for unequal masses of this chirp mass nothing is allowed."""
    found = find(signal(20.5, 20.2, 0.75, 0.3, 25.0)[0][None], 0.75)
    chirp = np.log((20.5 * 20.2) ** 0.6 / 40.7**0.2)
    table = dict(zip(FIELDS, found.table[0].T.double().numpy(), strict=True))
    assert (np.abs(table["chirp"] - chirp) < 0.1).all()  # the ridge of the likelihood, inside or not
    assert (np.abs(table["chirp"][-3:] - chirp) < 0.01).all()
    low, _ = PRIOR.log_chirp_limits(found.ratios.double().numpy())
    outside = table["chirp"] < low - 4 * table["width"]
    assert outside[0]
    assert not outside[-1]
    assert (table["mass"][outside] < table["mass"][-1] - 5).all()
    assert float(found.ratio[0]) > 0.75


def test_log_share_is_the_normal_mass_within_limits_even_far_out() -> None:
    rng = np.random.default_rng(5)
    low, width = rng.normal(0, 1, 7), rng.uniform(0.5, 4, 7)
    limits = np.stack([low, low + width], axis=1)
    mean, sigma = rng.normal(0, 6, (40, 7)), rng.uniform(0.1, 2, (40, 7))
    found = log_share(*(torch.from_numpy(part) for part in (limits, mean, sigma))).double().numpy()
    a, b = (limits[:, 0] - mean) / sigma, (limits[:, 1] - mean) / sigma
    a, b = np.where(a > 0, -b, a), np.where(a > 0, -a, b)
    expected = stats.norm.logcdf(b) + np.log1p(-np.exp(stats.norm.logcdf(a) - stats.norm.logcdf(b)))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert found.min() < -50


@pytest.mark.parametrize("lag", range(24, 57, 5))
def test_products_between_half_samples_are_those_of_the_shifted_templates(lag: int) -> None:
    window = noise(1, 8)[0]
    whole = 192
    found = projector().project(torch.from_numpy(window).float()[None], torch.tensor([whole]))[0, lag].numpy()
    node = whole * PARTS + lag - FAR * PARTS
    pieces = templates().pieces(node).astype(np.float64) @ window
    half, size = COMPONENTS, templates().bank.size
    expected = pieces[np.r_[:half, size : size + half]]
    assert np.abs(found - expected).max() < 0.001 * np.abs(expected).max()
