"""Training windows against the chain itself: the two routes must give the same signals and the same noise."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from trained import members, shipped, simulator, templates

from gwstream import spectra
from gwstream.conditioning import Conditioner
from gwstream.records import Floats, Strain
from gwstream.training.bank import decimated_power
from gwstream.training.dataset import bins, estimated_whitener, family, member, random_psd

CURVE, RATE = "aLIGO_O4_high", 1024
SECONDS, HISTORY = 700, 64


@cache
def by_the_chain() -> Floats:
    """Windows (n, 256), a second apart, of coloured strain through the real conditioning, after a full history."""
    rng = np.random.default_rng(1)
    n = SECONDS * RATE
    f = np.fft.rfftfreq(n, 1 / RATE)
    level = spectra.asd(CURVE, np.maximum(f, 5.0)) * np.sqrt(n * RATE / 4)
    strain = np.fft.irfft(level * (rng.standard_normal(len(f)) + 1j * rng.standard_normal(len(f))), n)
    chain = Conditioner(shipped().spec, "H1")
    found = []
    for k in range(0, n, 10 * RATE):
        found += chain.push(Strain(detector="H1", start=k, rate=RATE, samples=strain[k : k + 10 * RATE]))
    return np.array([w.samples for w in found if w.start >= (HISTORY + 2) * 256 and w.start % 256 == 0])


@cache
def by_the_simulator() -> Floats:
    """As many windows, of as many estimates of the same PSD as can be afforded."""
    spec = shipped().spec.conditioning
    f = np.arange(2 * bins(spec) - 1) * 0.25
    psd = decimated_power(spec, spectra.asd(CURVE, np.maximum(f, 5.0)) ** 2)
    rng, generator = np.random.default_rng(2), torch.Generator().manual_seed(2)
    parts = []
    for _ in range(24):
        one = member(shipped().spec, shipped().bank, psd, HISTORY, rng)
        parts.append(simulator().windows(one, None, 60, generator).numpy())
    return np.concatenate(parts).astype(np.float64)


def correlation(windows: Floats, lag: int) -> tuple[float, float]:
    """Mean product of samples ``lag`` apart, and its standard error over windows."""
    each = (windows[:, lag:] * windows[:, : windows.shape[1] - lag]).mean(1)
    return float(each.mean()), float(each.std() / np.sqrt(len(each)))


@pytest.mark.parametrize("lag", range(6))
def test_noise_has_the_variance_and_correlation_of_the_chain(lag: int) -> None:
    chain, chain_error = correlation(by_the_chain(), lag)
    simulated, error = correlation(by_the_simulator(), lag)
    # 24 estimates of the PSD: their scatter adds a little to the windows' own
    assert abs(chain - simulated) < 4 * np.hypot(chain_error, error) + 0.01
    assert chain_error < 0.01


def test_noise_has_the_spectrum_of_the_chain() -> None:
    taper = np.hanning(256)
    powers = [
        (np.abs(np.fft.rfft(windows * taper)) ** 2).mean(0) / np.sum(taper**2)
        for windows in (by_the_chain(), by_the_simulator())
    ]
    bands = np.array_split(np.arange(20, 121), 10)
    ratios = np.array([powers[0][band].mean() / powers[1][band].mean() for band in bands])
    assert np.abs(ratios - 1).max() < 0.12  # some ten independent PSDs are in the chain's 640 s
    assert ratios.mean() == pytest.approx(1, abs=0.03)
    assert powers[0][20:110].mean() == pytest.approx(1, abs=0.03)
    assert powers[0][2:10].mean() < 0.2 * powers[0][20:110].mean()
    assert powers[1][2:10].mean() < 0.2 * powers[1][20:110].mean()


def test_noise_is_gaussian_and_zero_on_average() -> None:
    for windows in (by_the_chain(), by_the_simulator()):
        assert abs(windows.mean()) < 0.01
        assert (windows**4).mean() / (windows**2).mean() ** 2 == pytest.approx(3, abs=0.12)


def test_signals_are_the_likelihoods_own_templates() -> None:
    """One random stream with and without signals: the difference is the template of the likelihood."""
    x = shipped().spec.prior.draw(np.random.default_rng(3), 50)
    pair = [
        simulator().windows(members()[1], what, 50, torch.Generator().manual_seed(4)).double().numpy()
        for what in (x, None)
    ]
    expected = templates().waveforms(x)
    error = np.linalg.norm(pair[0] - pair[1] - expected, axis=1) / np.linalg.norm(expected, axis=1)
    assert np.median(error) < 1e-3
    assert error.max() < 5e-3


def test_family_reaches_from_short_to_full_histories() -> None:
    many = family(shipped().spec, shipped().bank, 8, np.random.default_rng(5))
    averages = [one.whitener.averages for one in many]
    assert averages[1::2] == [max(averages)] * 4
    assert min(averages) < max(averages)
    for one in many:
        assert (one.psd > 0).all()
        assert torch.isfinite(one.context).all()
        assert one.context[-1] == pytest.approx(1 / one.whitener.averages)


def test_too_short_a_history_is_refused() -> None:
    spec = shipped().spec.conditioning
    with pytest.raises(ValueError, match="fewer than the 12"):
        estimated_whitener(spec, random_psd(spec, np.random.default_rng(1)), 8, np.random.default_rng(1))


def test_examples_carry_their_truth_in_coordinates() -> None:
    one, rng = members()[0], np.random.default_rng(6)
    x = shipped().spec.prior.draw(rng, 200)
    windows = simulator().windows(one, x, 200, torch.Generator().manual_seed(6))
    examples = simulator().examples(one, x, windows)
    assert torch.isfinite(examples.y).all()
    assert torch.isfinite(examples.e).all()
    assert (examples.e[:, 4].abs() <= torch.pi + 1e-6).all()
    loud = examples.snr > 12
    assert loud.sum() > 20
    assert examples.e[loud, 3].abs().median() < 5  # residuals, in units of the expected width
    assert examples.e[loud, 0].abs().median() < 10


def test_the_same_seeds_give_the_same_windows() -> None:
    one, two = (simulator().windows(members()[0], None, 5, torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(one, two)
