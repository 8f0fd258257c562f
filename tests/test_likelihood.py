from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from scipy import stats
from scipy.special import logsumexp
from trained import inference, members, noise, shipped, signal, templates, window

from gwstream.inference.likelihood import Templates, log_ratio
from gwstream.records import Batch, Floats
from gwstream.waveforms import chirp_mass


def test_log_ratio_is_a_ratio_of_normal_likelihoods() -> None:
    x = shipped().spec.prior.draw(np.random.default_rng(1), 200)
    waveforms = templates().waveforms(x)
    samples = noise(1, 2)[0] + waveforms[7]
    signal_term = stats.norm.logpdf(samples[None], loc=waveforms.astype(np.float64)).sum(1)
    expected = signal_term - stats.norm.logpdf(samples).sum()
    np.testing.assert_allclose(log_ratio(samples, waveforms), expected, rtol=1e-5, atol=2e-3)


@pytest.mark.parametrize("count", [3, 6, 90])
def test_groups_have_the_bits_they_have_alone_whatever_stands_beside_them(count: int) -> None:
    x = shipped().spec.prior.draw(np.random.default_rng(7), count)
    x[:, 3] = np.round(x[:, 3], 3) if count == 90 else 0.75  # in one cell with their own group's and with others
    together = templates().waveforms(x, 3)
    for part, alone in zip(np.split(together, 3), np.split(x, 3), strict=True):
        np.testing.assert_array_equal(part, templates().waveforms(alone))
    assert templates().waveforms(x[:0]).shape == (0, 256)


def test_digits_survive_a_very_loud_signal() -> None:
    wave, x = signal(80.0, 70.0, 0.75, 0.3, 150.0)
    near = np.tile(x, (50, 1))
    near[:, 2] *= np.linspace(0.98, 1.02, 50)
    waveforms = templates().waveforms(near)
    samples = noise(1, 3)[0] + wave
    expected = samples @ waveforms.T.astype(np.float64) - 0.5 * (waveforms.astype(np.float64) ** 2).sum(1)
    np.testing.assert_allclose(log_ratio(samples, waveforms), expected, atol=0.02)


def test_the_truth_is_the_likelihoods_peak_without_noise() -> None:
    wave, x = signal(45.0, 35.0, 0.74, 1.1, 20.0)
    assert log_ratio(wave, templates().waveforms(x[None]))[0] == pytest.approx(200, rel=1e-3)
    rng = np.random.default_rng(4)
    near = x + rng.normal(0, 1, (500, 5)) * [1, 1, 0.05 * x[2], 1e-3, 0.1]
    near[:, :2] = np.sort(near[:, :2], axis=1)[:, ::-1]
    assert log_ratio(wave, templates().waveforms(near)).max() <= 200.001


@pytest.mark.parametrize("phase", [0.0, 0.9])
def test_phase_and_distance_act_as_said(phase: float) -> None:
    base = np.array([[40.0, 30.0, 1.0, 0.75, p] for p in (phase, phase + math.pi, phase + math.pi / 2)])
    one, turned, opposite = templates().waveforms(base).astype(np.float64)
    scale = np.abs(one).max()
    np.testing.assert_allclose(turned, one, atol=1e-5 * scale)
    np.testing.assert_allclose(opposite, -one, atol=1e-5 * scale)
    far = base[:1].copy()
    far[0, 2] = 4.0
    np.testing.assert_allclose(templates().waveforms(far)[0] * 4, one, atol=1e-5 * scale)


def test_bayes_factor_of_noise_averages_to_one() -> None:
    """E over noise of L(signal) / L(noise) is 1 for every signal, so for the evidence too: faint ones show it."""
    windows = noise(4000, 5)
    x = shipped().spec.prior.draw(np.random.default_rng(6), 40)
    waveforms = templates().waveforms(x)
    waveforms *= (1.2 / np.linalg.norm(waveforms, axis=1))[:, None].astype(np.float32)
    values = np.array([np.exp(logsumexp(log_ratio(one, waveforms)) - math.log(40)) for one in windows])
    assert abs(values.mean() - 1) < 4 * values.std() / math.sqrt(len(values))


def _largest(d0: Floats, d1: Floats, h00: Floats, h01: Floats, h11: Floats) -> Floats:
    """ln L at the best amplitude and phase: d H^-1 d / 2."""
    a, b, c = h00[:, 0], h01[:, 0], h11[:, 0]
    return np.asarray(0.5 * (c * d0**2 - 2 * b * d0 * d1 + a * d1**2) / (a * c - b**2))


def quadrature(deaf: Templates, window: Floats, draws: int, seed: int) -> tuple[float, float, Floats, Floats]:
    """ln evidence over noise, its error, posterior means of chirp mass, distance and time, and their errors.

    Masses and time by draws from the prior, distance and phase by sums: nothing of gate, network or weighting.
    """
    prior = shipped().spec.prior
    x = prior.draw(np.random.default_rng(seed), draws)
    x[:, 2] = 1.0
    parts = []
    for phase in (0.0, math.pi / 4):
        x[:, 4] = phase
        parts.append(np.concatenate([deaf.waveforms(chunk) for chunk in np.array_split(x, 10)]))
    d0, d1 = (part @ window for part in parts)
    h00, h01, h11 = (
        np.einsum("sn,sn->s", a, b).astype(np.float64)[:, None] for a, b in ((parts[0],) * 2, parts, (parts[1],) * 2)
    )
    turn = np.arange(32) * 2 * math.pi / 32
    snr = np.sqrt(2 * _largest(d0, d1, h00, h01, h11))
    near = snr**2 > (snr.max() ** 2 - 36)  # the others hold exp(-18) of the peak at most
    d0, d1, h00, h01, h11 = d0[near], d1[near], h00[near], h01[near], h11[near]
    overlap = np.outer(d0, np.cos(turn)) + np.outer(d1, np.sin(turn))
    power = h00 * np.cos(turn) ** 2 + 2 * h01 * np.cos(turn) * np.sin(turn) + h11 * np.sin(turn) ** 2
    nodes, shares = np.polynomial.legendre.leggauss(64)
    low, high = prior.distance
    total, moment = np.zeros(draws), np.zeros(draws)
    for distance, share in zip(low + (high - low) * (nodes + 1) / 2, shares / 2, strict=True):
        each = share * np.exp(overlap / distance - power / (2 * distance**2)).mean(1)
        total[near] += each
        moment[near] += each * distance
    error = total.std() / total.mean() / math.sqrt(draws)
    weights = total / total.sum()
    table = np.column_stack([chirp_mass(x[:, 0], x[:, 1]), moment / np.maximum(total, 1e-300), x[:, 3]])
    mean = weights @ table
    return float(np.log(total.mean())), float(error), mean, np.sqrt(weights**2 @ (table - mean) ** 2)


def test_served_posterior_equals_brute_force_over_the_prior() -> None:
    """A faint signal of large masses in a detector four times less sensitive, so that its distance is in the prior."""
    whitener = members()[1].whitener
    whitener = dataclasses.replace(whitener, id="deaf", taps=whitener.taps / 4)
    deaf = Templates(shipped().spec.conditioning, shipped().bank, whitener)
    truth = np.array([[60.0, 50.0, 1.0, 0.75, 0.8]])
    wave = deaf.waveforms(truth)[0].astype(np.float64)
    distance = np.linalg.norm(wave) / 6.0
    assert 0.5 < distance < 4
    samples = noise(1, 21)[0] + wave / distance
    ln_z, error, mean, mean_error = quadrature(deaf, samples, 30_000, 8)
    assert error < 0.15
    one = dataclasses.replace(window(samples, 3), whitener=whitener)
    posterior = inference().infer(inference().gate(Batch((one,), 1))[0])
    assert abs(posterior.log_bayes - ln_z) < 4 * math.hypot(error, 1 / math.sqrt(posterior.ess))
    x = posterior.samples
    table = np.column_stack([chirp_mass(x[:, 0], x[:, 1]), x[:, 2:4]])
    served = posterior.weights @ table
    spread = np.sqrt(posterior.weights**2 @ (table - served) ** 2)
    assert (np.abs(served - mean) < 4 * np.hypot(spread, mean_error)).all()
    noise_term = stats.norm.logpdf(samples).sum()
    assert posterior.log_evidence == pytest.approx(posterior.log_bayes + noise_term, abs=1e-6)
