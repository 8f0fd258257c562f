from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from trained import members, noise, shipped, signal

from gwstream.inference.features import assemble, size
from gwstream.inference.gate import best, neighbours
from gwstream.inference.parameters import LEAST_SNR, Anchor, centroid
from gwstream.records import Floats


def features(windows: Floats) -> tuple[Tensor, Anchor, Tensor]:
    gate = members()[1].gate
    rho = gate(torch.from_numpy(windows).float())
    found = best(rho, gate.times)
    chirps = torch.from_numpy(shipped().bank.gate[:, 0]).float()
    context = members()[1].context.expand(len(windows), -1)
    norms = gate.norms[:, found.lag].T
    y, anchor = assemble(neighbours(rho, found.lag), found, norms, chirps, gate.times, context)
    return y, anchor, found.snr


def test_the_networks_input_has_the_size_it_says_and_is_finite() -> None:
    y, _, _ = features(noise(20, 1))
    assert y.shape == (20, size(len(shipped().bank.gate), len(members()[1].context)))
    assert y.shape[1] == len(shipped().net.shift)
    assert y.dtype == torch.float32
    assert torch.isfinite(y).all()


@pytest.mark.parametrize("angle", [math.pi / 4, math.pi / 2, 2.0])
def test_a_signals_phase_moves_the_anchor_and_leaves_the_input_alone(angle: float) -> None:
    """The network sees SNRs turned to the phase of the best, so it need not learn the symmetry."""
    waves = [signal(40.0, 30.0, 0.7501, phase, 20.0)[0] for phase in (0.3, 0.3 + angle)]
    y, anchor, _ = features(np.array(waves))
    turned = float(anchor.phase[1] - anchor.phase[0]) - 2 * angle
    assert math.remainder(turned, 2 * math.pi) == pytest.approx(0, abs=0.1)
    count = 6 * len(shipped().bank.gate)
    difference = (y[0, :count] - y[1, :count]).norm() / y[0, :count].norm()
    assert difference < 0.1
    plain = np.array([waves[0], -waves[0]])  # a change of sign is a half turn, exactly
    y, anchor, _ = features(plain)
    assert abs(float(anchor.phase[1] - anchor.phase[0])) == pytest.approx(math.pi, abs=1e-4)
    torch.testing.assert_close(y[0], y[1], atol=1e-3, rtol=1e-3)


def test_amplitude_anchors_the_distance() -> None:
    """The reciprocal of the anchor's amplitude is the distance, up to the mismatch of gate and signal."""
    for snr in (10.0, 40.0):
        wave, x = signal(40.0, 32.0, 0.75, 0.3, snr)
        _, anchor, _ = features(wave[None])
        assert 1 / float(anchor.amplitude[0]) == pytest.approx(x[2], rel=0.25)
        assert float(anchor.snr[0]) == pytest.approx(snr, rel=0.05)


def test_faint_windows_are_anchored_at_the_least_snr() -> None:
    y, anchor, snr = features(0.5 * noise(30, 2))
    assert (snr < LEAST_SNR).any()
    assert float(anchor.snr.min()) == LEAST_SNR
    assert torch.isfinite(y).all()


def test_each_window_stands_alone() -> None:
    windows = noise(9, 3)
    together, _, _ = features(windows)
    for k in (0, 4, 8):
        alone, _, _ = features(windows[k : k + 1])
        torch.testing.assert_close(alone[0], together[k], atol=1e-3, rtol=1e-3)


def test_the_phase_coordinate_is_free_of_the_time() -> None:
    """Around the truth, phase and time of a signal decorrelate at the centroid: the overlap's phase stays put."""
    from trained import templates

    for heavy, light in ((30.0, 25.0), (60.0, 50.0)):
        chirp = (heavy * light) ** 0.6 / (heavy + light) ** 0.2
        frequency = float(centroid(torch.tensor([chirp]))[0])
        x = np.tile([heavy, light, 1.0, 0.75, 0.0], (2, 1))
        x[1, 4] = math.pi / 4
        first, second = templates().waveforms(x)
        shift = 5e-4
        late = templates().waveforms(np.array([[heavy, light, 1.0, 0.75 + shift, 0.0]]))[0]
        turned = math.atan2(float(late @ second), float(late @ first))
        # a delay by dt turns h by -2 pi f dt: f must be near the signal's own
        assert -turned / (2 * math.pi * shift) == pytest.approx(frequency, rel=0.6)
