from __future__ import annotations

import numpy as np
import pytest
import torch
from trained import members, noise, shipped, signal

from gwstream.inference.gate import best
from gwstream.inference.likelihood import log_ratio
from gwstream.inference.parameters import Anchor
from gwstream.inference.ridge import ridge
from gwstream.inference.stencil import AXES, POINTS, SIZE, SOFT, look
from gwstream.records import Floats

PRIOR = shipped().spec.prior


def anchored(windows: Floats) -> Anchor:
    live = members()[1].live
    samples = torch.from_numpy(windows).float()
    return Anchor.of(ridge(live.projector, samples, best(live.gate(samples), live.gate.times).time), PRIOR)


def looked(windows: Floats) -> Floats:
    found = look(members()[1].live.templates, anchored(windows), torch.from_numpy(windows).float())
    assert found.shape == (len(windows), SIZE)
    return found.double().numpy()


def some() -> Floats:
    waves = [signal(heavy, light, 0.75, 0.4, snr)[0] for heavy, light, snr in ((36, 29, 12), (70, 40, 20), (25, 22, 9))]
    return np.array(waves) + noise(3, 5)


def test_differences_are_those_of_likelihood_times_prior_in_the_coordinates() -> None:
    windows = some()
    found = np.sinh(looked(windows)[:, 1 : len(POINTS)]) / SOFT
    for k, window in enumerate(windows):
        x, log_jacobian = anchored(window[None]).decode(POINTS)
        expected = log_ratio(window, members()[1].live.templates.waveforms(x)) - log_jacobian
        assert found[k] == pytest.approx(expected[1:] - expected[0], rel=2e-3, abs=0.02)
        assert np.isfinite(PRIOR.log_density(x)).all()


def test_the_newton_step_goes_uphill() -> None:
    """Differences over a width either way miss what is odd in the density: near the top, a little may be lost."""
    rng = np.random.default_rng(8)
    masses = [np.sort(rng.uniform(22, 90, 2))[::-1] for _ in range(40)]
    waves = [signal(a, b, 0.75, rng.uniform(0, 3), rng.uniform(8, 25))[0] for a, b in masses if b > 0.3 * a]
    windows = np.array(waves) + noise(len(waves), 5)
    newton = np.sinh(looked(windows)[:, -2 * AXES : -AXES]) / SOFT
    gains = []
    for window, step in zip(windows, newton, strict=True):
        anchor = anchored(window[None])
        length = min(1.0, 1.0 / float(np.linalg.norm(step)))
        x, log_jacobian = anchor.decode(np.stack([np.zeros(AXES), length * step]))
        here, there = log_ratio(window, members()[1].live.templates.waveforms(x)) - log_jacobian
        gains.append(there - here)
    assert np.median(gains) > 0.05
    assert min(gains) > -0.05


def test_each_window_is_looked_at_alone() -> None:
    windows = some()
    together = looked(windows)
    for k in range(len(windows)):
        assert looked(windows[k : k + 1])[0] == pytest.approx(together[k], abs=5e-3)


def test_noise_gives_finite_numbers() -> None:
    assert np.isfinite(looked(noise(30, 6))).all()
