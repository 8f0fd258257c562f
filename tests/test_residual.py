"""What a waveform leaves over is noise where the window holds a signal, and is seen where it holds something else."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from trained import noise, shipped, signal, simulator, templates

from gwstream.inference.residual import p_values
from gwstream.records import Floats
from gwstream.training.dataset import Member, member, random_psd

MANY = 63  # averages of a full history


def burst(time: float, snr: float) -> Floats:
    """Half a cycle at 50 Hz with a Gaussian envelope: a blip, as its norm."""
    t = np.arange(256) / 256 - time
    wave = np.exp(-((t / 0.008) ** 2)) * np.cos(2 * np.pi * 50 * t)
    return np.asarray(snr * wave / np.linalg.norm(wave))


@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_p_values_of_signals_are_uniform_at_the_truth_and_beside_it(shift: float) -> None:
    """2000 signals of the prior behind filters of 12 to 64 s of noise; ``shift`` in typical standard deviations."""
    spec, rng = shipped().spec, np.random.default_rng(15)
    generator = torch.Generator().manual_seed(15)
    found = []
    for index in range(100):
        seconds = 64 if index % 2 else int(rng.integers(12, 65))
        one = member(spec, shipped().bank, random_psd(spec.conditioning, rng), seconds, rng)
        truths = spec.prior.draw(rng, 20)
        windows = simulator().windows(one, truths, 20, generator).double().numpy()
        found += [_p(one, w, x, shift * rng.choice([-1, 1], 5)) for w, x in zip(windows, truths, strict=True)]
    for column in np.array(found).T:
        assert stats.kstest(column, "uniform").pvalue > 0.01
        assert np.mean(column < 0.01) < 0.02


def _p(one: Member, window: Floats, truth: Floats, shift: Floats) -> tuple[float, float]:
    """p-values at parameters so many typical standard deviations, of a signal of this SNR, off the truth."""
    templates = one.live.templates
    snr = max(float(np.linalg.norm(templates.waveforms(truth[None]))), 6.0)
    typical = np.array([0.03 * truth[0], 0.03 * truth[1], 0.1 * truth[2], 0.001, 0.1]) * 12 / snr
    return p_values(window, templates, truth + shift * typical, one.whitener.averages)


def test_a_blip_fitted_by_a_merger_is_seen_at_the_peak_and_hardly_in_the_window() -> None:
    whole, peak = [], []
    for w in noise(20, 8):
        data = w + burst(0.75, 14.0)
        rng = np.random.default_rng(1)
        x = shipped().spec.prior.draw(rng, 4000)
        x[:, 3] = rng.uniform(0.73, 0.78, 4000)
        waves = templates().waveforms(x)
        unit = waves / np.linalg.norm(waves, axis=1, keepdims=True)
        best = int(np.argmax(unit @ data))
        x[best, 2] *= np.linalg.norm(waves[best]) / (unit[best] @ data)
        p = p_values(data, templates(), x[best], MANY)
        whole.append(p[0])
        peak.append(p[1])
    assert np.mean(np.array(peak) < 0.01) > 0.7
    assert np.median(peak) < 0.1 * np.median(whole)


def test_the_fitted_signal_itself_leaves_nothing() -> None:
    wave, x = signal(45.0, 35.0, 0.8, 1.0, 50.0)
    assert min(p_values(wave, templates(), x, MANY)) > 0.999
