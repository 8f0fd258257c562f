from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gwstream import injection, waveforms
from gwstream.errors import ConfigError
from gwstream.injection import Injection
from gwstream.records import NANO

GPS = 1_400_000_000


def example(gps_ns: int) -> Injection:
    return Injection(detector="H1", gps_ns=gps_ns, mass_1=36.0, mass_2=29.0, effective_distance=0.5, phase=0.7)


@pytest.mark.parametrize("rate", [1024, 4096, 16384])
@pytest.mark.parametrize("offset_ns", [0, 1, 123_456_789, 999_999_999])
def test_strain_lands_at_its_gps_time(rate: int, offset_ns: int) -> None:
    """Time of arrival from the phase slope against lalsimulation's own spectrum, whose t = 0 is coalescence."""
    start, strain = example(GPS * NANO + offset_ns).strain(rate)
    f = np.fft.rfftfreq(len(strain), 1 / rate)
    reference = waveforms.frequency_domain(36.0, 29.0, delta_f=rate / len(strain), f_min=14.0, f_max=rate / 2)
    chosen = (f >= 30) & (f <= 200)
    cross = np.fft.rfft(strain)[chosen] * np.conj(reference[chosen])
    expected = (GPS * NANO + offset_ns) * rate / NANO - start  # in samples after the first
    expected_s = ((GPS * NANO + offset_ns) * rate - start * NANO) / (NANO * rate)
    assert expected == pytest.approx(expected_s * rate, abs=1.0)
    trial = expected_s + np.linspace(-5e-4, 5e-4, 2001)
    power = np.abs(np.exp(2j * np.pi * np.outer(trial, f[chosen])) @ cross)
    assert abs(trial[np.argmax(power)] - expected_s) < 2e-6


def test_the_same_signal_at_every_rate() -> None:
    """Strain at 1024 and 4096 Hz, compared where both have samples and after the same band limit."""
    moment = GPS * NANO + 250_000_000
    (slow_start, slow), (fast_start, fast) = (example(moment).strain(rate) for rate in (1024, 4096))
    assert slow_start * 4 == fast_start
    spectrum = np.fft.rfft(fast)[: len(slow) // 2 + 1] / 4
    spectrum[-1] = 0
    limited = np.fft.irfft(spectrum, len(slow))
    assert np.abs(limited - slow)[512:].max() < 2e-3 * np.abs(slow).max()


@given(gps_ns=st.integers(10**18, 2 * 10**18), rate=st.sampled_from([1024, 4096, 16384]))
def test_coalescence_lies_a_second_before_the_end(gps_ns: int, rate: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(waveforms, "time_domain", lambda *_, **__: np.empty(0))  # the waveform costs, the start does not
        start, _ = example(gps_ns).strain(rate)
    assert 7 * NANO * rate <= gps_ns * rate - start * NANO < (7 * rate + 1) * NANO


def test_written_injections_are_read_back_exactly(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    many = tuple(
        Injection(
            detector="L1",
            gps_ns=int(rng.integers(10**18, 2 * 10**18)),
            mass_1=float(rng.uniform(50, 100)),
            mass_2=float(rng.uniform(20, 50)),
            effective_distance=float(rng.uniform(0.1, 5)),
            phase=float(rng.uniform(0, 3)),
        )
        for _ in range(20)
    )
    path = tmp_path / "injections.jsonl"
    injection.write(path, many)
    assert injection.read(path) == many


def test_blank_lines_are_allowed(tmp_path: Path) -> None:
    path = tmp_path / "injections.jsonl"
    injection.write(path, [example(GPS * NANO)])
    path.write_text("\n" + path.read_text(encoding="utf-8") + "\n\n", encoding="utf-8")
    assert injection.read(path) == (example(GPS * NANO),)


@pytest.mark.parametrize("bad", ["{", "{}", "[1, 2]", '{"detector": "H1", "mass": 3}', "3"])
def test_a_bad_line_is_named(tmp_path: Path, bad: str) -> None:
    path = tmp_path / "injections.jsonl"
    injection.write(path, [example(GPS * NANO)])
    path.write_text(path.read_text(encoding="utf-8") + bad + "\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"injections\.jsonl:2: not an injection"):
        injection.read(path)


def test_a_wrong_field_is_told_with_what_is_meant(tmp_path: Path) -> None:
    path = tmp_path / "injections.jsonl"
    injection.write(path, [example(GPS * NANO)])
    good = path.read_text(encoding="utf-8")
    for bad, said in (
        (good.replace("mass_1", "mas_1"), "exactly the fields detector, gps_ns, mass_1"),
        (good.replace("36.0", '"heavy"'), "mass_1 = 'heavy' is of the wrong kind"),
    ):
        path.write_text(bad, encoding="utf-8")
        with pytest.raises(ConfigError, match=said):
            injection.read(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.jsonl: cannot be read"):
        injection.read(tmp_path / "nowhere.jsonl")
