"""The two densities of noise: normalised, consistent, the Student-t as wide as the chain's own whiteners make it."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from scipy import stats
from scipy.optimize import minimize_scalar
from trained import inference, noise, shipped, signal, window

from gwstream.config import InferenceConfig
from gwstream.inference import Inference
from gwstream.inference.noise import FREEDOM, Gaussian, Noise, StudentT, noise_model
from gwstream.records import Batch, Floats
from gwstream.training.dataset import estimated_whitener, random_psd


def basis(n: int) -> list[Floats]:
    """Orthonormal real Fourier vectors of n samples, (d, n) for each frequency."""
    t = np.arange(n)
    out = []
    for k in range(n // 2 + 1):
        angle = 2 * np.pi * k * t / n
        pair = np.stack([np.cos(angle), np.sin(angle)])
        kept = pair[(pair**2).sum(1) > 1e-9]
        out.append(kept / np.linalg.norm(kept, axis=1, keepdims=True))
    return out


@pytest.mark.parametrize("n", [8, 9])
def test_student_t_is_scipys_in_a_fourier_basis_of_unit_variance(n: int) -> None:
    freedom = 7.0
    one = np.random.default_rng(1).standard_normal(n)
    shape = (freedom - 2) / freedom
    expected = sum(
        stats.multivariate_t.logpdf(vectors @ one, np.zeros(len(vectors)), shape * np.eye(len(vectors)), freedom)
        for vectors in basis(n)
    )
    assert StudentT(freedom).log_density(one) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("model", [Gaussian(), StudentT(5.0), StudentT(60.0)], ids=str)
def test_the_ratio_is_that_of_the_densities(model: Noise) -> None:
    one = noise(1, 2)[0]
    waveforms = (np.random.default_rng(3).standard_normal((20, 256)) * np.linspace(0, 3, 20)[:, None]).astype(
        np.float32
    )
    expected = [model.log_density(one - wave) - model.log_density(one) for wave in waveforms]
    np.testing.assert_allclose(model.log_ratio(one, waveforms), expected, rtol=1e-5, atol=2e-3)


def test_many_segments_are_gaussian_and_few_are_not() -> None:
    one, wave = noise(1, 4)[0], np.ones((1, 256), np.float32)
    near, far = noise_model("student", 10**7), noise_model("student", 11)
    assert near.log_density(one) == pytest.approx(Gaussian().log_density(one), abs=1e-3)
    assert near.log_ratio(one, wave)[0] == pytest.approx(Gaussian().log_ratio(one, wave)[0], abs=1e-2)
    assert far.freedom == FREEDOM * 11
    assert abs(far.log_density(3 * one) - Gaussian().log_density(3 * one)) > 10
    assert noise_model("gaussian", 11) == Gaussian()
    with pytest.raises(ValueError, match="more than 2 degrees of freedom, got 2"):
        StudentT(2.0)


def variances(psd: Floats, taps: Floats) -> Floats:
    """Expected power of a whitened window's coefficients, 22 to 110 Hz, from the true spectrum at 0.25 Hz."""
    power = psd * 128 * np.abs(np.fft.rfft(taps, 1024)) ** 2
    lags = np.arange(256)
    tapered = np.fft.irfft(power)[:256] * (256 - lags) / 256
    f = np.arange(22, 111)
    return np.asarray(tapered[0] + 2 * np.cos(2 * np.pi * np.outer(f, lags[1:]) / 256) @ tapered[1:])


@pytest.mark.parametrize("seconds", [12, 24])
def test_degrees_of_freedom_are_those_of_the_chains_whiteners(seconds: int) -> None:
    """Fitted to noise of a family of detectors, whitened with what the chain makes of so many seconds."""
    spec = shipped().spec.conditioning
    rng = np.random.default_rng(seconds)
    found, averages = [], 0
    for _ in range(100):
        psd = random_psd(spec, rng)
        whitener = estimated_whitener(spec, psd, seconds, rng)
        averages = whitener.averages
        found.append(variances(psd, whitener.taps))
    power = rng.exponential(size=(20, 100, 89)) * 2 * np.array(found)

    def cost(freedom: float) -> float:
        return float(np.mean((freedom + 2) / 2 * np.log1p(power / (freedom - 2)) - np.log(freedom / (freedom - 2))))

    fitted = minimize_scalar(cost, bounds=(3, 1000), method="bounded").x
    assert fitted == pytest.approx(noise_model("student", averages).freedom, rel=0.2)
    assert cost(fitted) < cost(1e6) - 3e-4  # the Gaussian predicts such noise less well


def test_served_with_student_t_the_posterior_is_the_gaussian_one_weighted() -> None:
    wave, _ = signal(45.0, 35.0, 0.75, 0.4, 11.0)
    whitener = dataclasses.replace(window(wave).whitener, averages=11)
    one = dataclasses.replace(window(wave + noise(1, 5)[0]), whitener=whitener)
    student = Inference(shipped(), InferenceConfig(likelihood="student"))
    assert student.identity(one) != inference().identity(one)
    normal, heavy = (by.infer(by.gate(Batch((one,), 1))[0]) for by in (inference(), student))
    assert (normal.noise_freedom, heavy.noise_freedom) == (math.inf, FREEDOM * 11)
    used = normal.weights > 0
    waveforms = student.propose(one).templates.waveforms(normal.samples[used])
    model = noise_model("student", 11)
    ratio = model.log_ratio(one.samples, waveforms) - Gaussian().log_ratio(one.samples, waveforms)
    expected = normal.log_bayes + math.log(normal.weights[used] @ np.exp(ratio))
    error = math.hypot(normal.log_bayes_error, heavy.log_bayes_error)
    assert heavy.log_bayes == pytest.approx(expected, abs=6 * error)
    assert heavy.log_evidence - heavy.log_bayes == pytest.approx(model.log_density(one.samples))
    assert heavy.log_bayes < normal.log_bayes - 1
