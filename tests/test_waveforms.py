from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.signal import get_window

from gwstream import waveforms
from gwstream.records import Floats

RATE, SECONDS = 4096, 8
TIME = 7.1
EDGE = RATE // 2


def generic(mass_1: float, mass_2: float, distance: float, time: float) -> Floats:
    """Plus polarisation by lalsimulation's general interface and an inverse transform of our own."""
    import lal
    import lalsimulation

    plus, _ = lalsimulation.SimInspiralChooseFDWaveform(
        mass_1 * lal.MSUN_SI, mass_2 * lal.MSUN_SI, 0, 0, 0, 0, 0, 0,
        distance * 1e9 * lal.PC_SI, 0.0, 0.0, 0, 0, 0,
        1 / SECONDS, 14.0, RATE / 2, waveforms.REFERENCE_HZ, None, lalsimulation.IMRPhenomD,
    )  # fmt: skip
    n = RATE * SECONDS
    frequencies = np.arange(n // 2 + 1) / SECONDS
    data = plus.data.data[: len(frequencies)] * np.exp(-2j * np.pi * frequencies * time)
    epoch = float(plus.epoch.gpsSeconds) + 1e-9 * plus.epoch.gpsNanoSeconds
    assert epoch == -SECONDS
    cosines = np.fft.irfft(np.where(frequencies < RATE / 2, data, 0), n)
    return np.asarray(cosines * RATE)


@pytest.mark.parametrize(("mass_1", "mass_2"), [(36.0, 29.0), (20.0, 20.0), (100.0, 25.0), (90.0, 88.0)])
def test_equals_the_general_interface_of_lalsimulation(mass_1: float, mass_2: float) -> None:
    ours = waveforms.time_domain(np.array([mass_1, mass_2, 0.7, TIME, 0.0]), RATE)
    theirs = generic(mass_1, mass_2, 0.7, TIME)
    assert np.abs(ours - theirs)[EDGE : -EDGE // 2].max() < 1e-4 * np.abs(theirs).max()


def test_distance_divides() -> None:
    near, far = (waveforms.time_domain(np.array([40.0, 30.0, d, TIME, 0.3]), RATE) for d in (0.5, 2.0))
    np.testing.assert_allclose(near, 4 * far, rtol=1e-9, atol=1e-27)


def test_phase_has_period_pi_and_half_of_it_turns_the_sign() -> None:
    zero, quarter, half, turn = (
        waveforms.time_domain(np.array([40.0, 30.0, 1.0, TIME, p]), RATE)
        for p in (0.0, math.pi / 4, math.pi / 2, math.pi)
    )
    scale = np.abs(zero).max()
    np.testing.assert_allclose(turn, zero, atol=1e-9 * scale)
    np.testing.assert_allclose(half, -zero, atol=1e-9 * scale)
    # a quarter is a Hilbert transform: same envelope energy, no overlap
    assert abs(np.dot(quarter, zero)) < 1e-3 * np.dot(zero, zero)


@pytest.mark.parametrize("phase", [0.0, 0.4, 1.3, 3.0])
def test_phase_is_that_of_70_hz_at_coalescence(phase: float) -> None:
    spectrum = waveforms.frequency_domain(36.0, 29.0, delta_f=0.25, f_min=12.0, f_max=512.0)
    assert abs(np.angle(spectrum[280])) < 1e-6
    signal = waveforms.time_domain(np.array([36.0, 29.0, 1.0, TIME, phase]), RATE)
    t = np.arange(len(signal)) / RATE - TIME
    component = np.sum(signal * np.exp(-2j * np.pi * waveforms.REFERENCE_HZ * t))
    difference = np.angle(component * np.exp(-2j * phase))
    assert abs(difference) < 0.01


@pytest.mark.parametrize("shift", [1 / RATE, 0.37 / RATE, 0.0123])
def test_time_delays_the_signal_even_between_samples(shift: float) -> None:
    early, late = (waveforms.time_domain(np.array([50.0, 30.0, 1.0, t, 0.3]), RATE) for t in (TIME, TIME + shift))
    taper = get_window("hann", len(early))
    a, b = (np.fft.rfft(series * taper) for series in (early, late))
    f = np.fft.rfftfreq(len(early), 1 / RATE)
    cross = np.conj(a) * b
    lags = np.linspace(shift - 5e-4, shift + 5e-4, 4001)
    chosen = slice(20 * SECONDS, 300 * SECONDS)
    peak = lags[np.argmax((np.exp(2j * np.pi * np.outer(lags, f[chosen])) @ cross[chosen]).real)]
    assert abs(peak - shift) < 5e-6


def test_the_envelope_peaks_at_coalescence_and_the_start_is_silent() -> None:
    from scipy.signal import hilbert

    signal = waveforms.time_domain(np.array([36.0, 29.0, 1.0, TIME, 0.0]), RATE)
    peak = np.argmax(np.abs(hilbert(signal))) / RATE
    assert TIME - 0.010 < peak < TIME + 0.002  # PhenomD's t = 0 lies a few ms after the envelope's peak
    assert abs(signal[0]) == 0
    assert np.abs(signal[: EDGE // 50]).max() < 1e-3 * np.abs(signal).max()
    assert np.abs(signal[-EDGE // 50 :]).max() < 1e-3 * np.abs(signal).max()


def test_spectrum_is_empty_below_its_start_and_has_the_size_asked_for() -> None:
    spectrum = waveforms.frequency_domain(30.0, 30.0, delta_f=0.25, f_min=20.0, f_max=128.0)
    assert spectrum.shape == (513,)
    assert not spectrum[:80].any()
    assert np.abs(spectrum[81:-1]).min() > 0


def test_inspiral_amplitude_is_newtonian_at_low_frequency() -> None:
    mass = 20.0
    f = np.arange(2049) * 0.0625
    spectrum = waveforms.frequency_domain(mass, mass, delta_f=0.0625, f_min=8.0, f_max=128.0)
    chirp = mass * 0.5**0.2 * 4.925490947e-6
    meters = 299792458.0
    at = 160
    newton = math.sqrt(5 / 24) * math.pi ** (-2 / 3) * chirp ** (5 / 6) * f[at] ** (-7 / 6)
    newton *= meters / waveforms.GPC_M
    assert abs(spectrum[at]) == pytest.approx(newton, rel=0.05)


def test_masses_and_chirp_mass_are_inverse() -> None:
    rng = np.random.default_rng(1)
    heavy = rng.uniform(20, 100, 500)
    light = heavy * rng.uniform(0.25, 1, 500)
    again = waveforms.component_masses(waveforms.chirp_mass(heavy, light), light / heavy)
    np.testing.assert_allclose(again, (heavy, light), rtol=1e-12)
    equal = waveforms.chirp_mass(np.array(30.0), np.array(30.0))
    assert equal == pytest.approx(30 / 2**0.2)
