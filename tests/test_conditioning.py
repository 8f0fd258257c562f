from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from scipy.signal import get_window, welch

from gwstream import spectra, waveforms
from gwstream.conditioning import Conditioner
from gwstream.conditioning.psd import RunningPsd, median_bias
from gwstream.conditioning.resample import Decimator
from gwstream.conditioning.response import decimate, response
from gwstream.errors import SourceError
from gwstream.model import ModelSpec
from gwstream.records import Floats, Gap, Strain, Window

SPEC = ModelSpec(name="test")
CHAIN = SPEC.conditioning
GPS = 1_000_000_000


def coloured(rate: int, seconds: int, seed: int, name: str = "aLIGO_O4_high") -> Floats:
    rng = np.random.default_rng(seed)
    n = rate * seconds
    f = np.fft.rfftfreq(n, 1 / rate)
    level = spectra.asd(name, np.maximum(f, 5.0)) * np.sqrt(n * rate / 4)
    return np.fft.irfft(level * (rng.standard_normal(len(f)) + 1j * rng.standard_normal(len(f))), n)


def strain(samples: Floats, rate: int, start: int = 0, **more: object) -> Strain:
    return Strain(detector="H1", start=GPS * rate + start, rate=rate, samples=samples, **more)  # type: ignore[arg-type]


def push_in_pieces(records: list[Strain | Gap], length: float) -> list[Window]:
    conditioner = Conditioner(SPEC, "H1")
    windows = []
    for record in records:
        if isinstance(record, Gap):
            windows += conditioner.push(record)
            continue
        step = round(length * record.rate)
        for low in range(0, len(record.samples), step):
            piece = strain(record.samples[low : low + step], record.rate, record.start - GPS * record.rate + low)
            windows += conditioner.push(piece)
    return windows


@pytest.mark.parametrize("length", [1 / 16, 1.0, 4.0, 0.7301])
def test_windows_do_not_depend_on_how_the_strain_was_cut(length: float) -> None:
    rate = 1024
    noise = coloured(rate, 40, 1)
    cut = 25 * rate + 77
    gap = Gap(detector="H1", start=GPS * rate + cut, rate=rate, length=500, reason="missing")
    records = [strain(noise[:cut], rate), gap, strain(noise[cut + 500 :], rate, cut + 500)]
    whole = push_in_pieces(records, 1e6)
    pieces = push_in_pieces(records, length)
    assert len(whole) > 200
    assert [w.start for w in pieces] == [w.start for w in whole]
    for a, b in zip(pieces, whole, strict=True):
        assert np.array_equal(a.samples, b.samples)  # 1e-9 is asked for; every bit is had
        assert (a.whitener.id, a.gap, a.dq) == (b.whitener.id, b.gap, b.dq)


@pytest.mark.parametrize("rate", [1024, 4096, 16384])
def test_decimation_is_flat_in_the_band_and_deaf_above(rate: int) -> None:
    t = np.arange(4 * rate) / rate
    for frequency, gain in ((30.0, 1.0), (100.0, 1.0), (170.0, 0.0), (400.0, 0.0)):
        first, out = Decimator(CHAIN, rate).push(0, np.sin(2 * np.pi * frequency * t))
        at = (first + np.arange(len(out))) / 256
        assert out == pytest.approx(gain * np.sin(2 * np.pi * frequency * at), abs=3e-4)


def test_running_psd_is_scipys_median_welch() -> None:
    noise = np.random.default_rng(3).standard_normal(40 * 256)
    running = RunningPsd(CHAIN)
    for low in range(0, len(noise) - 511, 256):
        running.add(low, noise[low : low + 512])
    found = running.at(len(noise))
    assert found is not None
    psd, averages, history, _ = found
    window = get_window("hann", 512) ** 2
    _, reference = welch(noise, 256, window=window, noverlap=256, detrend=False, average="median")
    assert averages == 39
    assert history == pytest.approx(40)
    assert psd == pytest.approx(reference, rel=1e-9)  # scipy's bias is the same series, for odd counts


@pytest.mark.parametrize("n", [11, 12, 30, 63])
def test_median_bias_of_overlapped_segments(n: int) -> None:
    rng = np.random.default_rng(n)
    ratios = []
    for _ in range(60):
        running = RunningPsd(CHAIN)
        noise = rng.standard_normal((n + 1) * 256)
        for low in range(0, n * 256, 256):
            running.add(low, noise[low : low + 512])
        found = running.at((n + 1) * 256)
        assert found is not None
        ratios.append(found[0][2:-2].mean() * 128)
    assert np.mean(ratios) == pytest.approx(1.0, abs=4 * np.std(ratios) / np.sqrt(60) + 1e-3)
    assert median_bias(n) > 0.69


def test_a_seismic_wall_does_not_leak_into_the_band() -> None:
    rate, seconds = 256, 200
    n = rate * seconds
    f = np.fft.rfftfreq(n, 1 / rate)
    true = 1e-46 * (1 + (12.0 / np.maximum(f, 4.0)) ** 24)  # 1e11 in power from 100 Hz down to 4 Hz
    rng = np.random.default_rng(17)
    noise = np.fft.irfft(
        np.sqrt(true * n * rate / 4) * (rng.standard_normal(len(f)) + 1j * rng.standard_normal(len(f))), n
    )
    running = RunningPsd(CHAIN)
    for low in range(0, 64 * 256 - 511, 256):
        running.add(low, noise[low : low + 512])
    found = running.at(64 * 256)
    assert found is not None
    band = slice(40, 220)
    assert np.mean(found[0][band] / np.interp(np.arange(257) / 2, f, true)[band]) == pytest.approx(1.0, abs=0.05)


def in_band(series: Floats) -> Floats:
    f, power = welch(series.ravel(), 256, nperseg=256, noverlap=0, window="boxcar", detrend=False)
    return power[(f >= 20) & (f <= 110)] * 128


def matched_filter(windows: list[Window], masses: tuple[float, float] = (36.0, 29.0)) -> Floats:
    """Normalised output of two phases at one fixed time, per window: unit normal in white noise."""
    n = 2048
    f = np.arange(n + 1) / 8
    spectrum = waveforms.frequency_domain(*masses, delta_f=1 / 8, f_min=12, f_max=256)[: n + 1]
    spectrum = decimate(CHAIN, spectrum * np.exp(-2j * np.pi * f * 0.75))
    out = []
    for window in windows:
        for factor in (1.0, 1j):
            h = response(CHAIN, factor * spectrum, window.whitener.taps)[: SPEC.window]
            out.append(window.samples @ h / np.linalg.norm(h))
    return np.array(out)


def apart(windows: list[Window]) -> list[Window]:
    return windows[:: SPEC.rate // SPEC.hop]


@pytest.mark.parametrize("name", ["aLIGO_O4_high", "AdV"])
def test_simulated_noise_comes_out_white_with_unit_variance(name: str) -> None:
    windows = apart(push_in_pieces([strain(coloured(1024, 500, 5, name), 1024)], 4.0))
    full = [w for w in windows if w.whitener.state == "full"]
    series = np.array([w.samples for w in full])
    power = in_band(series)
    assert len(full) > 400
    assert power.mean() == pytest.approx(1.0, abs=0.04)
    assert power.std() < 2.5 / np.sqrt(len(full)) + 0.05
    assert series.var() == pytest.approx(0.86, abs=0.02)  # the stream is empty below 18 of 128 Hz
    assert np.mean(series[:, 1:] * series[:, :-1]) / series.var() == pytest.approx(-0.16, abs=0.03)
    output = matched_filter(full)
    assert output.std() == pytest.approx(1.0, abs=3.5 / np.sqrt(2 * len(output)))


@pytest.mark.parametrize("rate", [1024, 4096, 16384])
def test_a_sine_gaussian_comes_back_at_its_time(rate: int) -> None:
    when, frequency, width = 30.4321, 70.0, 0.02  # s after GPS, Hz, s
    t = np.arange(34 * rate) / rate - when
    burst = 2e-20 * np.exp(-(t**2) / (2 * width**2)) * np.cos(2 * np.pi * frequency * t)
    windows = push_in_pieces([strain(coloured(rate, 34, 7) + burst, rate)], 1.0)
    window = next(w for w in windows if abs(w.gps_ns / 1e9 + 0.5 - GPS - when) < 0.03)
    f = np.arange(2049) / 8
    pulse = np.exp(-2 * (np.pi * width * (f - frequency)) ** 2) * width * np.sqrt(2 * np.pi) / 2
    local = when - (window.start - GPS * 256) / 256
    shifts = np.arange(-100, 101) * 2e-5
    fits = []
    for shift in shifts:
        spectrum = decimate(CHAIN, pulse * np.exp(-2j * np.pi * f * (local + shift)))
        h = response(CHAIN, spectrum, window.whitener.taps)[: SPEC.window]
        fits.append(window.samples @ h / np.linalg.norm(h))
    assert max(fits) > 0.9 * np.linalg.norm(window.samples)
    assert abs(shifts[int(np.argmax(fits))]) < 1e-4


def test_no_window_touches_a_gap_or_is_rung_by_one() -> None:
    rate = 1024
    noise = coloured(rate, 60, 9)
    low, high = 30 * rate + 13, 31 * rate + 700
    gap = Gap(detector="H1", start=GPS * rate + low, rate=rate, length=high - low, reason="vetoed")
    loud = noise.copy()
    loud[low:high] += 1e-15  # what the gap hides must not matter
    for data in (noise, loud):
        windows = push_in_pieces([strain(data[:low], rate), gap, strain(data[high:], rate, high)], 1.0)
        reach = Decimator(CHAIN, rate).reach / rate
        for window in windows:
            begin = (window.start - GPS * 256 - CHAIN.taps + 1) / 256
            end = (window.start - GPS * 256 + SPEC.window) / 256
            assert end + reach <= low / rate + 1 / 256 or begin - reach >= high / rate - 1 / 256
            assert window.gap == (begin > low / rate)
        assert any(w.gap for w in windows)


def test_nothing_after_a_window_changes_it() -> None:
    rate = 1024
    noise = coloured(rate, 30, 11)
    early = push_in_pieces([strain(noise[: 20 * rate], rate)], 1.0)
    noise[20 * rate :] += 1e-18
    late = push_in_pieces([strain(noise, rate)], 1.0)
    assert len(late) > len(early) > 20
    assert all(np.array_equal(a.samples, b.samples) for a, b in zip(early, late, strict=False))


def test_states_and_waiting() -> None:
    windows = push_in_pieces([strain(coloured(1024, 90, 13), 1024)], 1.0)
    first, last = windows[0], windows[-1]
    assert first.start / 256 - GPS >= CHAIN.ready
    assert first.start / 256 - GPS < CHAIN.ready + 1.5
    assert first.whitener.state == "ready"
    assert last.whitener.state == "full"
    assert last.whitener.averages == 63
    assert np.diff([w.start for w in windows]).tolist() == [SPEC.hop] * (len(windows) - 1)
    assert all(w.whitener.end <= w.start < w.whitener.end + CHAIN.update for w in windows)
    assert 1000 < last.whitener.range_mpc < 5000


def test_strain_that_runs_backwards_or_at_a_foreign_rate_is_refused() -> None:
    conditioner = Conditioner(SPEC, "H1")
    with pytest.raises(SourceError, match="whole multiple"):
        conditioner.push(strain(np.zeros(1000), 1000))
    conditioner.push(strain(np.ones(1024), 1024))
    with pytest.raises(SourceError, match="overlaps"):
        conditioner.push(strain(np.ones(1024), 1024, 1023))


def test_digital_silence_makes_no_filter() -> None:
    conditioner = Conditioner(SPEC, "H1")
    assert conditioner.push(strain(np.zeros(30 * 1024), 1024)) == []
    assert conditioner.whitener is None


# real noise ------------------------------------------------------------------------------------------------------

LOUD = {  # MANIFEST.md: glitches within +-4 s, and what is excluded by its list
    "GW190514_065416/H": (1241852045.0, 1241852054.3),
    "GW190519_153544/H": (1242315336.7, 1242315345.0),
    "O3a_H1_500s/H": (1238205528.0, 1238205536.3),
}
EXCLUDED = ("GW190519_153544/V", "GW191204_171526", "GW200302_015811/V")  # the last is as unsteady as the first
BURST = ("GW190514_065416/L",)  # an 18-20 Hz transient in the first half minute


def read(path: Path) -> tuple[Floats, int, int]:
    with h5py.File(path) as file:
        samples = file["strain/Strain"][:].astype(np.float64)
        return samples, round(len(samples) / float(file["meta/Duration"][()])), int(file["meta/GPSstart"][()])


def quiet_windows(path: Path, candidates: dict[str, float]) -> list[Window]:
    samples, rate, start = read(path)
    conditioner = Conditioner(SPEC, "H1")
    windows = apart(conditioner.push(Strain(detector="H1", start=start * rate, rate=rate, samples=samples)))
    low, high = LOUD.get(f"{path.parent.name}/{path.name[0]}", (0.0, 0.0))
    event = candidates.get(path.parent.name, 0.0)
    middles = [w.gps_ns / 1e9 + 0.5 for w in windows]
    return [w for w, m in zip(windows, middles, strict=True) if abs(m - event) > 3 and not low < m < high]


def candidate_times(shared_data: Path) -> dict[str, float]:
    times = {}
    for line in (shared_data / "MANIFEST.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) > 7 and cells[1].startswith("noise/") and cells[7] not in ("-", ""):
            times[cells[1].split("/")[1]] = float(cells[7])
    return times


def test_real_noise_comes_out_white(shared_data: Path, record_property: pytest.RecordProperty) -> None:
    candidates = candidate_times(shared_data)
    assert len(candidates) >= 8
    by_history: dict[str, list[Floats]] = {"12-32": [], "32-47": [], "47-64": []}
    flatness = []
    for path in sorted((shared_data / "noise").glob("*/*.hdf5")):
        name = f"{path.parent.name}/{path.name[0]}"
        if name.startswith(EXCLUDED):
            continue
        windows = quiet_windows(path, candidates)
        if name not in BURST:
            flatness.append(float(in_band(np.array([w.samples for w in windows])).mean()))
        for key, chosen in by_history.items():
            low, high = map(int, key.split("-"))
            chosen.append(matched_filter([w for w in windows if low <= w.whitener.history <= high]))
    deviations = {key: float(np.concatenate(parts).std()) for key, parts in by_history.items()}
    record_property("flatness", json.dumps(flatness))
    record_property("matched_filter_sd", json.dumps(deviations))
    print("PSD over 20-110 Hz:", np.round(flatness, 3), "matched-filter sd by history:", deviations)
    assert 0.98 < np.mean(flatness) < 1.03
    assert all(0.9 < value < 1.1 for value in flatness)
    assert 0.97 < deviations["47-64"] < 1.05


def test_a_glitch_does_not_poison_the_psd(shared_data: Path) -> None:
    samples, rate, start = read(next((shared_data / "noise/GW190514_065416").glob("H-*.hdf5")))
    low, high = ((gps - start) * rate for gps in (1241852048, 1241852051))
    with_glitch, without = Conditioner(SPEC, "H1"), Conditioner(SPEC, "H1")

    def record(a: int, b: int) -> Strain:
        return Strain(detector="H1", start=start * rate + a, rate=rate, samples=samples[a:b])

    end = 60 * rate
    with_glitch.push(record(0, end))
    without.push(record(0, low))
    without.push(Gap(detector="H1", start=start * rate + low, rate=rate, length=high - low, reason="vetoed"))
    without.push(record(high, end))
    a, b = with_glitch.whitener, without.whitener
    assert a is not None
    assert b is not None
    assert np.abs(samples[low:high]).max() > 50 * samples.std() or a.averages > b.averages
    f = np.fft.rfftfreq(CHAIN.taps, 1 / CHAIN.rate)
    band = (f >= 20) & (f <= 110)
    assert abs(np.mean(a.psd[band] / b.psd[band]) - 1) < 0.10
