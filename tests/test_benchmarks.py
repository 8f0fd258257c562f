"""The benchmarks start, and what they share is right: noise has the spectrum it should, signals the SNR they should."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from scipy.signal import get_window, welch

from gwstream.model import ConditioningSpec
from gwstream.spectra import asd

FOLDER = Path(__file__).resolve().parent.parent / "benchmarks"
SCRIPTS = (
    "latency.py",
    "hour.py",
    "network.py",
    "reference.py",
    "calibration.py",
    "averages.py",
    "coverage.py",
    "alarms.py",
    "background.py",
    "outage.py",
    "restart.py",
    "engines.py",
    "conditioning.py",
    "peers_inference.py",
    "scaling.py",
    "replay.py",
    "capacity.py",
    "overload.py",
    "soak.py",
)


@pytest.fixture
def common(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("common")


@pytest.mark.parametrize("script", SCRIPTS)
def test_help(script: str) -> None:
    done = subprocess.run(
        [sys.executable, str(FOLDER / script), "--help"], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert f"python benchmarks/{script}" in done.stdout


def test_what_an_outage_must_not_do_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    outage = importlib.import_module("outage")
    made = [(name, k, "posterior", digest) for name, k, digest in zip("HLHH", (0, 0, 1, 2), "abcd", strict=True)]

    def seen(*came: tuple[float, tuple[str, int, str, str]], length: float = 2) -> Any:
        return outage.Outage(length=length, back=100.0, due=made[1:3], stored=made, came=came)

    good = seen(*zip((40.0, 103.0, 104.0, 120.0), made, strict=True))
    assert (good.held, good.times) == (True, [3.0, 4.0])
    assert not seen(*good.came, length=2.1).held  # fewer posteriors than one a second
    late = seen(*zip((40.0, 103.0, 111.0, 120.0), made, strict=True))
    assert (late.held, late.wrong) == (False, good.wrong)
    turned = seen((40.0, made[0]), (101.0, made[1]), (102.0, made[3]), (103.0, made[2]), (104.0, made[0]))
    assert (turned.held, turned.wrong["out of order"]) == (False, 1)
    other = seen((40.0, made[0]), (101.0, made[1]), (102.0, made[2]), (103.0, ("H", 2, "posterior", "e")))
    assert (other.held, other.wrong["lost"], other.wrong["with other bytes"]) == (False, 1, 1)


def test_an_endless_history_gives_the_mean_periodogram(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line and a slope, smoothed by the segments' window, as segments of simulated noise have it."""
    monkeypatch.syspath_prepend(str(FOLDER))
    averages = importlib.import_module("averages")
    spec = ConditioningSpec()
    f = np.fft.rfftfreq(1024, 1 / 256)
    psd = 1e-46 * (1 + (60 / (f + 10)) ** 2 + 300 * np.exp(-(((f - 60) / 0.5) ** 2)))
    n = 1024 * 256
    level = np.sqrt(np.interp(np.fft.rfftfreq(n, 1 / 256), f, psd) * n * 256 / 4)
    draws = np.random.default_rng(3).standard_normal((2, len(level)))
    noise = np.fft.irfft(level * (draws[0] + 1j * draws[1]), n)
    _, found = welch(noise, 256, get_window("hann", spec.taps) ** 2, noverlap=256, detrend=False)
    ratio = found[20:240] / averages.expected_periodogram(spec, psd)[20:240]
    assert abs(ratio.mean() - 1) < 0.01
    assert ratio.std() < 0.06


def test_noise_has_the_spectrum_of_its_name(common: ModuleType) -> None:
    rate = 1024
    noise = common.noise(np.random.default_rng(1), "aLIGO_O4_high", rate, 256)
    f, psd = welch(noise, rate, nperseg=4 * rate, detrend=False)
    band = (f > 30) & (f < 300)
    ratio = np.sqrt(psd[band]) / asd("aLIGO_O4_high", f[band])
    assert abs(ratio.mean() - 1) < 0.01


def test_signals_have_the_snr_they_are_given(common: ModuleType) -> None:
    """Against a sum over the time-domain waveform, made another way."""
    rate = 1024
    rng = np.random.default_rng(2)
    for _ in range(3):
        injection, snr = common.draw(rng, "H1", 1_400_000_000_000_000_000, (8, 30), "aLIGO_O4_high")
        assert 8 <= snr <= 30
        _, wave = injection.strain(rate)
        f = np.fft.rfftfreq(len(wave), 1 / rate)
        band = (f >= 18) & (f <= 128)
        spectrum = np.fft.rfft(wave)[band] / rate
        power = 4 * rate / len(wave) * np.sum(np.abs(spectrum) ** 2 / asd("aLIGO_O4_high", f[band]) ** 2)
        assert np.sqrt(power) == pytest.approx(snr, rel=0.02)
