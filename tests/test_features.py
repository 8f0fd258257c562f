from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from trained import members, noise, shipped, signal

from gwstream.inference.features import Seen, see, size
from gwstream.inference.ridge import LEAST_SNR
from gwstream.records import Floats


def seen(windows: Floats) -> Seen:
    one = members()[1]
    samples = torch.from_numpy(windows).float()
    context = one.context.expand(len(windows), -1)
    return see(one.live, samples, one.live.gate(samples), context, shipped().spec.prior)


def test_the_networks_input_has_the_size_it_says_and_is_finite() -> None:
    y = seen(noise(20, 1)).y
    assert y.shape == (20, size(shipped().bank, len(members()[1].context)))
    assert y.shape[1] == len(shipped().net.shift)
    assert y.dtype == torch.float32
    assert torch.isfinite(y).all()


@pytest.mark.parametrize("angle", [math.pi / 4, math.pi / 2, 2.0])
def test_a_signals_phase_moves_the_anchor_and_leaves_the_input_alone(angle: float) -> None:
    """The network sees everything turned to the phase of the best, so it need not learn the symmetry."""
    waves = [signal(40.0, 30.0, 0.7501, phase, 20.0)[0] for phase in (0.3, 0.3 + angle)]
    both = seen(np.array(waves))
    first, second = both.anchor.at(np.array([0.75, 0.75]))[:, 7]
    assert math.remainder(second - first - 2 * angle, 2 * math.pi) == pytest.approx(0, abs=0.1)
    assert (both.y[0] - both.y[1]).norm() < 0.1 * both.y[0].norm()
    plain = seen(np.array([waves[0], -waves[0]]))  # a change of sign is a half turn, exactly
    torch.testing.assert_close(plain.y[0], plain.y[1], atol=1e-3, rtol=1e-3)


def test_faint_windows_are_anchored_at_the_least_snr() -> None:
    found = seen(0.5 * noise(30, 2))
    assert found.anchor.snr.min() == LEAST_SNR
    assert torch.isfinite(found.y).all()


def test_each_window_stands_alone() -> None:
    windows = noise(9, 3)
    together = seen(windows).y
    for k in (0, 4, 8):
        torch.testing.assert_close(seen(windows[k : k + 1]).y[0], together[k], atol=5e-3, rtol=5e-3)


def test_what_no_template_fits_has_finite_features_and_an_anchor_inside_the_prior() -> None:
    """Loud sine-Gaussians put all the weight on one node of the grid."""
    rng, time = np.random.default_rng(2), np.arange(256) / 256
    windows = noise(300, 4)
    for window in windows:
        centre, frequency, quality = rng.uniform(0.55, 0.95), rng.uniform(10, 128), rng.uniform(2, 60)
        shape = np.exp(-(((time - centre) * 2 * np.pi * frequency / quality) ** 2))
        shape = shape * np.cos(2 * np.pi * frequency * (time - centre))
        window += shape / np.linalg.norm(shape) * rng.uniform(6, 200)
    found = seen(windows)
    assert torch.isfinite(found.y).all()
    assert np.isfinite(found.anchor.table).all()
