"""The bank against lalsimulation waveforms that go through the strain's own path, in the time domain."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy.signal import welch
from trained import members, shipped, templates, tiny_bank

from gwstream import spectra, waveforms
from gwstream.conditioning.resample import Decimator
from gwstream.inference.bank import Bank
from gwstream.inference.likelihood import Templates
from gwstream.model import ModelSpec
from gwstream.records import Floats
from gwstream.training import bank as builder
from gwstream.training.bank import decimated_power

RATE, COALESCENCE = 4096, 7


def whitened(one: Templates, taps: Floats, x: Floats, rate: int = RATE) -> Floats:
    """The signal as noise-free strain through decimator and taps: (window,), the path real strain takes."""
    conditioning = shipped().spec.conditioning
    first = (COALESCENCE - 1) * one.rate  # coalescence lies x[3] after the first sample of the window
    at = x.copy()
    at[3] += first / one.rate
    strain = waveforms.time_domain(at, rate, duration=8.0, f_min=11.0)
    start, stream = Decimator(conditioning, rate).push(0, strain)
    out = np.convolve(stream, taps)[: len(stream)]
    return np.asarray(out[first - start : first - start + one.length])


def draws(n: int, seed: int) -> Floats:
    return shipped().spec.prior.draw(np.random.default_rng(seed), n)


def test_templates_equal_the_strains_own_path_over_the_prior() -> None:
    one, taps = templates(), members()[1].whitener.taps
    x = draws(60, 1)
    ours = one.waveforms(x).astype(np.float64)
    theirs = np.array([whitened(one, taps, row) for row in x])
    error = np.linalg.norm(ours - theirs, axis=1) / np.linalg.norm(theirs, axis=1)
    overlap = np.sum(ours * theirs, axis=1) / (np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1))
    assert error.max() < 0.02
    assert np.median(error) < 0.002
    assert abs(np.median(np.linalg.norm(ours, axis=1) / np.linalg.norm(theirs, axis=1)) - 1) < 5e-4
    assert (1 - overlap).max() < 2e-4


@pytest.mark.parametrize("rate", [1024, 16384])
def test_templates_do_not_depend_on_the_strains_rate(rate: int) -> None:
    one, taps = templates(), members()[1].whitener.taps
    for x in draws(4, 2):
        theirs = whitened(one, taps, x, rate)
        error = np.linalg.norm(one.waveforms(x[None])[0] - theirs) / np.linalg.norm(theirs)
        assert error < 0.02


def test_edges_of_the_prior_are_covered() -> None:
    one, taps = templates(), members()[1].whitener.taps
    masses = [(20.0, 20.0), (100.0, 100.0), (100.0, 25.0), (80.0, 20.0), (100.0, 99.9)]
    for (heavy, light), time in zip(masses, (0.65, 0.85, 0.65, 0.85, 0.7), strict=True):
        x = np.array([heavy, light, 1.0, time, 0.4])
        theirs = whitened(one, taps, x)
        assert np.linalg.norm(one.waveforms(x[None])[0] - theirs) < 0.03 * np.linalg.norm(theirs)


def test_waveforms_are_smooth_in_time_across_the_interpolations_nodes() -> None:
    one = templates()
    nodes = 0.75 + np.arange(33) / (8 * 256 * 16)  # sixteen steps a node, over two nodes
    x = np.tile([30.0, 25.0, 1.0, 0.0, 0.2], (33, 1))
    x[:, 3] = nodes
    series = one.waveforms(x).astype(np.float64)
    bend = np.linalg.norm(series[2:] - 2 * series[1:-1] + series[:-2], axis=1)
    assert bend.max() < 1.5 * np.median(bend)  # a jump at a node would stand out
    steps = np.linalg.norm(np.diff(series, axis=0), axis=1)
    assert np.ptp(steps) < 0.04 * steps.mean()


def test_a_whole_sample_of_time_is_a_shift_by_one() -> None:
    one = templates()
    x = np.array([[40.0, 30.0, 1.0, 0.70, 0.2], [40.0, 30.0, 1.0, 0.70 + 1 / 256, 0.2]])
    early, late = one.waveforms(x)
    assert np.abs(late[1:] - early[:-1]).max() < 1e-4 * np.abs(early).max()


def test_order_of_the_parameters_does_not_matter_to_the_last_digits() -> None:
    one = templates()
    x = draws(200, 3)
    mixed = np.random.default_rng(4).permutation(200)
    np.testing.assert_allclose(one.waveforms(x)[mixed], one.waveforms(x[mixed]), rtol=1e-4, atol=1e-4)


def test_pieces_and_stretches_agree() -> None:
    one = templates()
    stretch = one.stretch(3, 170, 190)
    for lag in (170, 177, 190):
        piece = one.pieces(8 * lag + 3)
        begin = 190 - lag
        np.testing.assert_array_equal(piece, stretch[:, begin : begin + one.length].astype(np.float32))


def test_coefficients_rebuild_the_spectrum() -> None:
    bank = shipped().bank
    for heavy, light in ((36.0, 29.0), (91.3, 24.7), (22.0, 21.0)):
        direct = waveforms.frequency_domain(heavy, light, delta_f=0.25, f_min=10.0, f_max=256.0)
        built = bank.coefficients(np.array([heavy]), np.array([light]))[0] @ bank.basis
        f = np.arange(len(direct)) * 0.25
        band = (f >= 20) & (f <= 108)
        inner = built[80 - bank.first_bin : 80 - bank.first_bin + band.sum()]
        assert np.linalg.norm(inner - direct[band]) < 0.015 * np.linalg.norm(direct[band])


def test_masses_beyond_the_grid_take_its_edge() -> None:
    bank = shipped().bank
    low, high = shipped().spec.prior.chirp_mass
    assert bank.chirp_range == pytest.approx((low / builder.BEYOND, high * builder.BEYOND))
    end = bank.chirp_range[1] * 2**0.2
    edge, beyond = (bank.coefficients(np.array([m]), np.array([m])) for m in (end, 1.1 * end))
    np.testing.assert_allclose(beyond, edge, rtol=1e-5)


def test_tensors_round_trip() -> None:
    bank = tiny_bank()
    again = Bank.from_tensors({name: np.asarray(value, np.float64) for name, value in bank.tensors().items()})
    for field in dataclasses.fields(Bank):
        np.testing.assert_array_equal(getattr(again, field.name), getattr(bank, field.name))
    tensors = dict(bank.tensors())
    del tensors["bank.grid"]
    with pytest.raises(KeyError, match=r"bank\.grid"):
        Bank.from_tensors(tensors)  # type: ignore[arg-type]


def test_the_gates_templates_cover_the_prior() -> None:
    """A signal of any masses keeps most of its SNR with the best gate template, by a search of its own."""
    bank, one = shipped().bank, templates()
    x = draws(40, 5)
    x[:, 3] = 0.75
    signals = one.waveforms(x).astype(np.float64)
    heavy, light = waveforms.component_masses(bank.gate[:, 0], bank.gate[:, 1])
    kept = np.zeros(len(x))
    for time in np.arange(0.73, 0.77, 1 / 1024):
        table = np.column_stack([heavy, light, np.ones(len(heavy)), np.full(len(heavy), time), np.zeros(len(heavy))])
        first = one.waveforms(table).astype(np.float64)
        table[:, 4] = np.pi / 4
        second = one.waveforms(table).astype(np.float64)
        first /= np.linalg.norm(first, axis=1, keepdims=True)
        second -= (first * second).sum(1, keepdims=True) * first
        second /= np.linalg.norm(second, axis=1, keepdims=True)
        kept = np.maximum(kept, np.hypot(signals @ first.T, signals @ second.T).max(1))
    fraction = kept / np.linalg.norm(signals, axis=1)
    assert fraction.max() <= 1.0001
    assert fraction.min() > 0.95


def test_building_is_deterministic_and_its_basis_is_orthonormal_in_the_reference_metric() -> None:
    bank = tiny_bank()
    spec = ModelSpec.model_validate(
        {"name": "tiny", "bank": {"components": 16, "chirp_nodes": 48, "ratio_nodes": 8, "gate": 4}}
    )
    again = builder.build(spec)
    np.testing.assert_array_equal(again.grid, bank.grid)
    np.testing.assert_array_equal(again.gate, bank.gate)
    f = (np.arange(bank.basis.shape[1]) + bank.first_bin) * 0.25
    weight = 1e-23 / spectra.asd("aLIGO_O4_high", f) * np.where(f < 18.0, (f / 18.0) ** 6, 1.0)
    product = (bank.basis * weight) @ np.conj(bank.basis * weight).T
    np.testing.assert_allclose(product, np.eye(16), atol=1e-9)
    chirp, ratio = bank.gate.T
    low, high = spec.prior.chirp_mass
    assert ((chirp >= low) & (chirp <= high) & (ratio >= 0.25) & (ratio <= 1)).all()


def test_decimated_power_is_that_of_decimated_noise() -> None:
    """White noise through the real decimator has the folded PSD, by Welch."""
    conditioning = shipped().spec.conditioning
    rng = np.random.default_rng(6)
    density = 2.5
    strain = rng.standard_normal(2048 * 400) * np.sqrt(density * 2048 / 2)
    _, stream = Decimator(conditioning, 2048).push(0, strain)
    f, power = welch(stream, 256, nperseg=512)
    folded = decimated_power(conditioning, np.full(2049, density))
    expected = np.interp(f, np.linspace(0, 128, len(folded)), folded)
    ratio = (power / expected)[2:-2]
    assert abs(ratio.mean() - 1) < 0.01
    assert np.abs(ratio - 1).max() < 0.25
