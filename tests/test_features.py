from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import softmax
from trained import members, noise, shipped, signal

from gwstream.inference.features import BIN, LEAST_LIKELY, PER_RATIO, WHEN, Seen, see, size
from gwstream.inference.moments import FIELDS, LEAST_SNR, RATIOS
from gwstream.model import CONTEXT
from gwstream.records import Floats

WHEN_END = CONTEXT + 2 * WHEN + 1  # from the end of the inputs


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


def test_the_inputs_weigh_ratios_by_their_likelihood() -> None:
    found = seen(signal(40.0, 30.0, 0.75, 0.3, 20.0)[0][None] + noise(3, 5))
    mass = found.anchor.table[..., FIELDS.index("mass")]
    columns = found.y[:, : PER_RATIO * RATIOS].reshape(3, RATIOS, PER_RATIO).double().numpy()
    np.testing.assert_allclose(columns[..., 11], np.arcsinh(mass), atol=1e-5)
    weights = softmax(mass, axis=1)
    chirp = found.anchor.table[..., FIELDS.index("chirp")]
    middle = found.y[:, PER_RATIO * RATIOS + 2].double().numpy() + 3.7  # the summed-up ridge's own ln chirp mass
    np.testing.assert_allclose(middle, (weights * chirp).sum(1), atol=1e-4)


def test_a_second_time_shows_in_the_likelihood_over_time() -> None:
    waves = [signal(40.0, 30.0, time, 0.3, snr)[0] for time, snr in ((0.70, 9.0), (0.78, 7.0))]
    one, both = seen(np.array([waves[0], waves[0] + waves[1]])).y[:, -WHEN_END:-CONTEXT].double().numpy()
    at = WHEN + round(0.08 / BIN)
    assert one.shape == (2 * WHEN + 1,)
    assert np.expm1(both[at - 1 : at + 2].min()) == pytest.approx(0.5 * (81 - 49), abs=6)
    assert np.expm1(one[at - 1 : at + 2].min()) > LEAST_LIKELY - 1
    assert np.expm1(one[WHEN]) < 1.5
    faint = seen(5 / 9 * waves[0][None]).y[0, -WHEN_END:-CONTEXT].double().numpy()
    end = WHEN + round((0.85 - 0.70) / BIN)  # the prior's
    assert np.expm1(faint[end - 2]) < 13
    np.testing.assert_allclose(np.expm1(faint[end + 2 :]), LEAST_LIKELY, rtol=1e-4)
