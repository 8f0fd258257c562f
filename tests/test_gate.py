from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.optimize import minimize
from trained import members, noise, shipped, signal, templates

from gwstream.inference.gate import MARGIN, SHIFTS, MatchedFilter, best, lag_nodes
from gwstream.records import Floats
from gwstream.waveforms import component_masses


def filters() -> MatchedFilter:
    return members()[1].live.gate


def snr(windows: Floats) -> torch.Tensor:
    return filters()(torch.from_numpy(windows).float())


def gate_waveform(index: int, time: float, phase: float, distance: float) -> Floats:
    chirp, ratio = shipped().bank.gate[index]
    heavy, light = component_masses(chirp, ratio)
    return templates().waveforms(np.array([[heavy, light, distance, time, phase]]))[0].astype(np.float64)


@pytest.mark.parametrize(("index", "lag"), [(0, 5), (7, 40), (20, 80), (31, 100)])
def test_snr_squared_is_twice_the_largest_log_likelihood_over_amplitude_and_phase(index: int, lag: int) -> None:
    window = noise(1, index)[0] * 1.0 + gate_waveform(index, 0.75, 0.3, 1.0) * 0.1
    time = float(filters().times[lag])
    first, second = (gate_waveform(index, time, p, 1.0) for p in (0.0, np.pi / 4))
    scale = np.linalg.norm(first)

    def loss(a: Floats) -> float:
        h = (a[0] * first + a[1] * second) / scale
        return float(0.5 * h @ h - window @ h)

    found = minimize(loss, np.zeros(2), tol=1e-12)
    rho = snr(window[None])[0, :, index, lag]
    assert float(rho.square().sum()) == pytest.approx(-2 * found.fun, rel=1e-3, abs=1e-3)


def test_snr_is_complex_normal_in_noise_at_a_fixed_template_and_lag() -> None:
    rho = snr(noise(3000, 3)).numpy()
    for index, lag in ((2, 10), (15, 50), (30, 90)):
        pair = rho[:, :, index, lag]
        assert stats.kstest(pair[:, 0], "norm").pvalue > 1e-3
        assert stats.kstest(pair[:, 1], "norm").pvalue > 1e-3
        assert stats.kstest(np.hypot(*pair.T), stats.chi(2).cdf).pvalue > 1e-3
        assert abs(np.corrcoef(pair.T)[0, 1]) < 0.07


def test_vectors_of_a_template_are_orthonormal_everywhere() -> None:
    matrix = filters()(torch.eye(256)).flatten(2).permute(1, 2, 0)  # what each sample does to each SNR
    torch.testing.assert_close(matrix.square().sum(-1), torch.ones(matrix.shape[:2]), atol=2e-4, rtol=0)
    assert (matrix[0] * matrix[1]).sum(-1).abs().max() < 2e-4


def test_lags_cover_the_prior_and_its_margin_at_half_a_sample() -> None:
    low, high = shipped().spec.prior.time
    times = lag_nodes(256, (low, high)) / (SHIFTS * 256)
    np.testing.assert_allclose(np.diff(times), 1 / 512)
    assert abs(times[0] - (low - MARGIN)) < 1 / 512
    assert abs(times[-1] - (high + MARGIN)) < 1 / 512
    np.testing.assert_allclose(filters().times.numpy(), times, atol=1e-6)


@pytest.mark.parametrize("time", [0.66, 0.7513, 0.8402])
@pytest.mark.parametrize("masses", [(30.0, 25.0), (60.0, 40.0)])
def test_an_injection_of_snr_20_is_found_near_its_time(time: float, masses: tuple[float, float]) -> None:
    wave, _ = signal(*masses, time, 0.9, 20.0)
    windows = noise(40, 5) + wave
    found = best(snr(windows), filters().times)
    error = found.time.numpy() - time
    # masses differ from the template's, which moves the time: the spread is noise, the rest the bank
    assert np.std(error) < 2e-3
    assert abs(np.median(error)) < 5e-3
    assert abs(float(found.snr.mean()) - 20) < 1.0


@pytest.mark.parametrize("index", [3, 14, 25])
def test_time_and_phase_of_a_gate_template_are_read_back(index: int) -> None:
    """For a signal equal to a template, without noise: within a tenth of a millisecond, phase as at the lag."""
    for time in (0.7001, 0.7504, 0.8011):
        wave = gate_waveform(index, time, 0.0, 1.0)
        rho = snr(wave[None] * (20 / np.linalg.norm(wave)))
        found = best(rho, filters().times)
        assert int(found.template[0]) == index
        assert float(found.time[0]) == pytest.approx(time, abs=1e-4)
        assert float(found.snr[0]) == pytest.approx(20, rel=0.02)  # half a sample between lags


@pytest.mark.parametrize("phase", [0.2, 1.0, 2.9])
def test_phase_is_twice_the_parameter_at_the_lags_own_time(phase: float) -> None:
    lag = 50
    time = float(filters().times[lag])
    found = best(snr(gate_waveform(9, time, phase, 1.0)[None] * 0.5), filters().times)
    assert int(found.lag[0]) == lag
    assert np.angle(np.exp(1j * (float(found.phase[0]) - 2 * phase))) == pytest.approx(0, abs=0.05)


def test_best_is_the_loudest_inside_the_edges() -> None:
    rho = torch.randn(50, 2, 5, 40, generator=torch.Generator().manual_seed(2))
    found = best(rho, torch.arange(40) / 512)
    power = rho.square().sum(1)[:, :, 2:-2]
    torch.testing.assert_close(found.snr.square(), power.flatten(1).amax(1))
    assert ((found.lag >= 2) & (found.lag < 38)).all()
    assert ((found.time - found.lag / 512).abs() <= 0.5 / 512 + 1e-6).all()
