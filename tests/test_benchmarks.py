"""The benchmarks start, and what they share is right: noise has the spectrum it should, signals the SNR they should."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scipy.signal import welch

from gwstream.spectra import asd

FOLDER = Path(__file__).resolve().parent.parent / "benchmarks"
SCRIPTS = ("latency.py", "hour.py", "reference.py", "calibration.py", "coverage.py", "alarms.py", "background.py")


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
