"""What a waveform leaves over is noise where the window holds a signal, and is seen where it holds something else."""

from __future__ import annotations

import numpy as np
from scipy import stats
from trained import noise, shipped, signal, templates

from gwstream.inference.residual import p_values
from gwstream.records import Floats

SIGNALS = 300


def burst(time: float, snr: float) -> Floats:
    """Half a cycle at 50 Hz with a Gaussian envelope: a blip, as its norm."""
    t = np.arange(256) / 256 - time
    wave = np.exp(-((t / 0.008) ** 2)) * np.cos(2 * np.pi * 50 * t)
    return np.asarray(snr * wave / np.linalg.norm(wave))


def p_of_signals(shift: float) -> Floats:
    """p-values (SIGNALS, 2) at parameters ``shift`` of a typical standard deviation away from the truth."""
    rng = np.random.default_rng(5)
    truths = shipped().spec.prior.draw(rng, SIGNALS)
    found = []
    for x, w in zip(truths, noise(SIGNALS, 6), strict=True):
        wave, at = signal(x[0], x[1], x[3], x[4], 12.0)
        off = np.array([0.03 * at[0], 0.03 * at[1], 0.1 * at[2], 0.001, 0.1]) * shift
        found.append(p_values(w + wave, templates(), at + off * rng.choice([-1, 1], 5)))
    return np.array(found)


def test_p_values_of_signals_are_uniform_at_the_truth_and_beside_it() -> None:
    for shift in (0.0, 0.5):
        for column in p_of_signals(shift).T:
            assert stats.kstest(column, "uniform").pvalue > 1e-3


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
        p = p_values(data, templates(), x[best])
        whole.append(p[0])
        peak.append(p[1])
    assert np.mean(np.array(peak) < 0.01) > 0.7
    assert np.median(peak) < 0.1 * np.median(whole)


def test_the_fitted_signal_itself_leaves_nothing() -> None:
    wave, x = signal(45.0, 35.0, 0.8, 1.0, 50.0)
    assert min(p_values(wave, templates(), x)) > 0.999
