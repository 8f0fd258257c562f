from __future__ import annotations

import asyncio
import itertools
import time
from pathlib import Path

import numpy as np
import pytest
from frame_files import take
from scipy.signal import welch
from scipy.signal.windows import kaiser

from gwstream import injection, spectra
from gwstream.config import SourceConfig
from gwstream.errors import ConfigError
from gwstream.injection import Injection
from gwstream.prior import Prior
from gwstream.records import NANO, Floats, Gap, Strain
from gwstream.source import open_source
from gwstream.source.noise import BLOCK, Noise
from gwstream.source.simulated import Signals, drawn, injections

GPS = 1_400_000_000


def config(**settings: object) -> SourceConfig:
    table = {"kind": "simulated", "speed": 0, "rate": 1024, "detectors": {"H1": {}, "L1": {}}, **settings}
    return SourceConfig.model_validate(table)


async def strain(settings: SourceConfig, detector: str = "H1", prior: Prior | None = None) -> list[Strain | Gap]:
    async with open_source(settings, prior=prior) as source:
        assert source.simulated
        assert not source.live
        return await take(source, 10**9, detector, limit=60)


def joined(records: list[Strain | Gap]) -> Floats:
    return np.concatenate([r.samples for r in records if isinstance(r, Strain)])


@pytest.mark.parametrize(("asd", "rate"), [("aLIGO_O4_high", 4096), ("AdV", 2048), ("O3_L1", 1024)])
def test_spectrum_is_the_curve(asd: str, rate: int) -> None:
    noise = Noise(asd, rate, 3, "H1")
    x = noise.samples(GPS * rate, 512 * rate)
    frequencies, psd = welch(x, rate, window=("kaiser", 20.0), nperseg=8 * rate)
    ratio = psd / spectra.asd(asd, frequencies) ** 2
    # 127 half-overlapping segments: 1.5 % in a band of 25 Hz
    for low in np.arange(20, 0.47 * rate, 25):
        band = (frequencies >= low) & (frequencies < low + 25)
        assert abs(ratio[band].mean() - 1) < 0.06, low
    band = (frequencies > 20) & (frequencies < 0.49 * rate)
    assert abs(ratio[band].mean() - 1) < 0.01
    assert abs(ratio[(frequencies > 11) & (frequencies < 20)].mean() - 1) < 0.1


def whitened(x: Floats, rate: int, asd: str = "aLIGO_O4_high") -> Floats:
    """Above 20 Hz, of about unit variance; 8 s at either end are lost."""
    edge = 8 * rate
    ramp = kaiser(2 * edge, 20.0)[:edge]
    tapered = x.copy()
    tapered[:edge] *= ramp
    tapered[-edge:] *= ramp[::-1]
    frequencies = np.fft.rfftfreq(len(x), 1 / rate)
    spectrum = np.fft.rfft(tapered) / spectra.asd(asd, frequencies) * np.sqrt(2 / rate)
    spectrum[frequencies < 20] = 0
    white = np.fft.irfft(spectrum, len(x))[edge:-edge]
    return np.asarray(white)


def test_noise_is_gaussian_and_does_not_know_its_blocks() -> None:
    """Whitened, the samples beside the border of two blocks have the variance of all others."""
    rate, blocks = 512, 400
    x = Noise("aLIGO_O4_high", rate, 8, "H1").samples(GPS * rate, (blocks + 4) * BLOCK * rate)
    white = whitened(x, rate)
    assert len(white) == blocks * BLOCK * rate
    assert abs(white.var() / (1 - 20 / 256) - 1) < 0.01
    white /= white.std()
    by_place = (white.reshape(blocks, BLOCK * rate // 16, 16) ** 2).mean(axis=(0, 2))  # relative error 1.8 %
    assert np.abs(by_place - 1).max() < 0.08
    assert abs(by_place[[0, -1]].mean() - 1) < 0.04
    assert abs((white**4).mean() - 3) < 0.05
    assert abs((white**3).mean()) < 0.03


def test_noise_does_not_depend_on_how_it_is_cut() -> None:
    rate = 1024
    start = GPS * rate + 333
    whole = Noise("aLIGO_O4_high", rate, 1, "H1").samples(start, 30 * rate)
    noise = Noise("aLIGO_O4_high", rate, 1, "H1")
    rng = np.random.default_rng(0)
    at = 0
    while at < len(whole):
        n = int(min(rng.integers(1, 9 * rate), len(whole) - at))
        assert np.array_equal(noise.samples(start + at, n), whole[at : at + n])
        at += n
    assert np.array_equal(noise.samples(start + 5, 100), whole[5:105])  # and not on the order


def test_detectors_and_seeds_are_independent() -> None:
    rate = 1024
    streams = [
        Noise("aLIGO_O4_high", rate, seed, name).samples(GPS * rate, 64 * rate)
        for seed, name in ((1, "H1"), (1, "L1"), (2, "H1"))
    ]
    white = [whitened(x, rate) for x in streams]
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert abs((white[a] * white[b]).mean()) < 4 / np.sqrt(len(white[a]))


async def test_source_is_marked_contiguous_and_reproducible() -> None:
    settings = config(duration=20.5, injection_interval=8)
    found = await strain(settings)
    assert [r.start for r in found] == [(GPS + k) * 1024 for k in range(21)]
    assert found[-1].end == (GPS + 20) * 1024 + 512
    assert all(isinstance(r, Strain) and r.simulated and r.dq == 3 for r in found)
    assert np.array_equal(joined(found), joined(await strain(settings)))
    assert not np.array_equal(joined(found), joined(await strain(settings, "L1")))


async def test_source_is_noise_plus_the_listed_injections() -> None:
    settings = config(duration=60, injection_interval=7)
    listed = injections(settings)
    assert len(listed) >= 14
    assert {one.detector for one in listed} == {"H1", "L1"}
    noise = joined(await strain(config(duration=60)))
    signal = joined(await strain(settings)) - noise
    expected = np.zeros(len(signal))
    for one in listed:
        if one.detector == "H1":
            start, samples = one.strain(1024)
            low, high = max(start, GPS * 1024), min(start + len(samples), (GPS + 60) * 1024)
            expected[low - GPS * 1024 : high - GPS * 1024] += samples[low - start : high - start]
    assert np.abs(expected).max() > 1e-23
    assert np.abs(signal - expected).max() < 1e-12 * np.abs(noise).max()


async def test_signals_peak_at_their_time(tmp_path: Path) -> None:
    one = Injection(
        detector="L1", gps_ns=GPS * NANO + 12_345_678_901, mass_1=36, mass_2=30, effective_distance=0.4, phase=1
    )
    path = tmp_path / "injections.jsonl"
    injection.write(path, [one])
    settings = config(duration=20, injection_file=path)
    assert injections(settings) == (one,)
    signal = joined(await strain(settings, "L1")) - joined(await strain(config(duration=20), "L1"))
    peak = np.abs(signal).argmax() / 1024
    assert abs(peak - 12.345678901) < 0.01
    assert np.abs(signal[13 * 1024 :]).max() < 0.03 * np.abs(signal).max()
    assert np.array_equal(joined(await strain(settings)), joined(await strain(config(duration=20))))


def test_signals_do_not_depend_on_how_they_are_cut() -> None:
    settings = config(duration=40, injection_interval=3, rate=512)
    listed = [one for one in injections(settings) if one.detector == "H1"]
    whole = Signals(iter(listed), 512).samples(GPS * 512, 40 * 512)
    pieces = Signals(iter(listed), 512)
    rng = np.random.default_rng(1)
    at = 0
    while at < len(whole):
        n = int(min(rng.integers(1, 3000), len(whole) - at))
        assert np.allclose(pieces.samples(GPS * 512 + at, n), whole[at : at + n], rtol=0, atol=1e-35)
        at += n


def test_injections_are_drawn_from_the_given_prior() -> None:
    prior = Prior(mass=(30.0, 50.0), distance=(0.2, 0.3))
    settings = config(duration=4000, injection_interval=10)
    found = [one for one in injections(settings, prior) if one.detector == "L1"]
    assert len(found) == 400
    x = np.array([[one.mass_1, one.mass_2, one.effective_distance, 0.75, one.phase] for one in found])
    assert np.isfinite(prior.log_density(x)).all()
    assert abs(x[:, 2].mean() - 0.25) < 0.006
    times = np.array([one.gps_ns - GPS * NANO for one in found]) / NANO
    assert (np.floor(times / 10) == np.arange(400)).all()
    fraction = times % 1
    assert abs(fraction.mean() - 0.5) < 0.06
    assert fraction.std() > 0.25
    again = drawn(settings, "L1", prior)
    assert [next(again) for _ in range(5)] == found[:5]


async def test_speed_is_kept() -> None:
    began = time.monotonic()
    found = await strain(config(duration=8, speed=16))
    assert 0.4 < time.monotonic() - began < 2
    assert all(b.arrived > a.arrived for a, b in itertools.pairwise(found))


async def test_simulation_without_end_goes_on() -> None:
    async with open_source(config(duration=0)) as source, asyncio.timeout(10):
        assert len(await take(source, 30, "L1")) == 30
    with pytest.raises(ConfigError, match="without end"):
        injections(config(duration=0))


def test_wrong_settings_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean aLIGO_O4_high"):
        open_source(config(detectors={"H1": {"asd": "aLIGO_O4_hgih"}}))
    with pytest.raises(ConfigError, match="rate = 128"):
        open_source(config(rate=128))
    path = tmp_path / "one.jsonl"
    injection.write(path, [Injection(detector="K1", gps_ns=1, mass_1=30, mass_2=30, effective_distance=1, phase=0)])
    with pytest.raises(ConfigError, match="an injection is for K1"):
        open_source(config(injection_file=path))
