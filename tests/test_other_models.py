"""Rate, window and prior are the recipe's alone: what holds for the shipped model holds for models of others."""

from __future__ import annotations

import json
import math
import re
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.signal import welch
from trained import shipped, simulator

from gwstream import cli, spectra, waveforms
from gwstream.conditioning import Conditioner, whitening
from gwstream.conditioning.resample import Decimator
from gwstream.inference import checkpoint
from gwstream.inference.bank import Bank
from gwstream.inference.gate import best
from gwstream.inference.likelihood import Templates, log_ratio
from gwstream.inference.moments import FIELDS, RATIOS
from gwstream.inference.networks import build
from gwstream.inference.residual import FIRST, Leftover, p_values
from gwstream.inference.ridge import Projector, grid, ridge
from gwstream.injection import Injection
from gwstream.model import ModelSpec, read_spec
from gwstream.records import NANO, Floats, Strain
from gwstream.training import bank as builder
from gwstream.training import batches, leftover
from gwstream.training.dataset import Member, Simulator, family, member, random_psd

NARROW = {"mass": (30.0, 80.0), "min_ratio": 0.5}
HIGH = {"rate": 512, "window": 512, "hop": 32, "pass_hz": 236.0, "stop_hz": 276.0, "taps": 1024, "update": 512}
RECIPES: dict[str, dict[str, Any]] = {
    "512 Hz": {"conditioning": HIGH, "prior": NARROW},
    "1024 Hz": {
        "conditioning": {
            "rate": 1024, "window": 1024, "hop": 64, "pass_hz": 492.0, "stop_hz": 532.0, "taps": 2048, "update": 1024,
        },
        "prior": NARROW,
    },
    "2 s": {"conditioning": {**HIGH, "window": 1024}, "prior": {**NARROW, "time": (1.6, 1.9)}},
    "light": {"prior": {"mass": (12.0, 30.0), "min_ratio": 0.5}, "bank": {"components": 80}},
}  # fmt: skip
EVERY = pytest.mark.parametrize("name", RECIPES)


@cache
def spec(name: str) -> ModelSpec:
    resolution = {"chirp_nodes": 192, "ratio_nodes": 24, "gate": 8, **RECIPES[name].get("bank", {})}
    return ModelSpec.model_validate({"name": "other", **RECIPES[name], "bank": resolution})


@cache
def bank(name: str) -> Bank:
    return builder.build(spec(name))


@cache
def one(name: str) -> Member:
    return family(spec(name), bank(name), 2, np.random.default_rng(3))[1]


def draws(name: str, n: int, seed: int) -> Floats:
    return spec(name).prior.draw(np.random.default_rng(seed), n)


def strains_own_path(name: str, x: Floats, rate: int = 4096) -> Floats:
    """The signal as noise-free strain through decimator and taps: (window,)."""
    conditioning, templates = spec(name).conditioning, one(name).live.templates
    at = x.copy()
    at[3] += 14
    first, stream = Decimator(conditioning, rate).push(0, waveforms.time_domain(at, rate, duration=17.0, f_min=11.5))
    out = np.convolve(stream, one(name).whitener.taps)
    return np.asarray(out[14 * templates.rate - first :][: templates.length])


def test_the_default_model_is_as_it_was() -> None:
    default = ModelSpec(name="x")
    assert default.conditioning.band_hz == (20.0, 110.0)
    assert default.period == 4
    assert shipped().bank.delta_f == 0.25
    assert "bank.delta_f" not in shipped().bank.tensors()
    assert shipped().leftover == FIRST


def test_templates_are_as_long_as_the_signals_need() -> None:
    assert {name: spec(name).period for name in RECIPES} == {"512 Hz": 4, "1024 Hz": 4, "2 s": 8, "light": 8}
    assert bank("light").delta_f == 0.125
    arrays = bank("light").tensors()
    assert Bank.from_tensors(arrays).delta_f == 0.125  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"templates would have to be 32 s long, and 16 s is the most: raise prior\.m"):
        ModelSpec.model_validate({"name": "x", "prior": {"mass": (5.0, 20.0)}})


@EVERY
def test_whitened_noise_is_white_with_unit_variance_over_the_models_band(name: str) -> None:
    conditioning = spec(name).conditioning
    rate, seconds = 4096, 224
    rng, n = np.random.default_rng(5), 4096 * 224
    f = np.fft.rfftfreq(n, 1 / rate)
    level = spectra.asd("aLIGO_O4_high", np.maximum(f, 5.0)) * np.sqrt(n * rate / 4)
    noise = np.fft.irfft(level * (rng.standard_normal(len(f)) + 1j * rng.standard_normal(len(f))), n)
    conditioner, windows = Conditioner(spec(name), "H1"), []
    for second in range(seconds):
        piece = noise[second * rate : (second + 1) * rate]
        windows += conditioner.push(Strain(detector="H1", start=(10**9 + second) * rate, rate=rate, samples=piece))
    settled = [w for w in windows if w.whitener.history > 60 and w.start % conditioning.window == 0]
    samples = np.concatenate([w.samples for w in settled])
    assert len(samples) > 100 * conditioning.rate
    frequency, density = welch(samples, conditioning.rate, nperseg=conditioning.window)
    low, high = conditioning.band_hz
    level = density[(frequency >= low) & (frequency <= high)] * conditioning.rate / 2
    assert level.mean() == pytest.approx(1.0, abs=0.03)
    assert np.quantile(level, [0.02, 0.98]) == pytest.approx(1.0, abs=0.4)
    assert {w.context.shape for w in settled} == {(26,)}
    assert np.isfinite(settled[0].context).all()


@pytest.mark.parametrize("name", ["512 Hz", "1024 Hz"])
def test_the_spectrum_and_the_residual_are_looked_at_up_to_the_models_own_band(name: str) -> None:
    conditioning, templates = spec(name).conditioning, one(name).live.templates
    f = whitening.frequencies(conditioning)
    quiet = np.ones(len(f))
    for frequency in (1.2 * conditioning.floor_hz, 0.85 * conditioning.pass_hz):
        loud = np.where(np.abs(f - frequency) < 0.06 * frequency, 30.0, 1.0)
        assert whitening.drift(conditioning, quiet, loud) > 1.0
        assert np.abs(whitening.context(conditioning, loud, 50) - whitening.context(conditioning, quiet, 50)).max() > 1
        t = np.arange(templates.length) / templates.rate
        hum = 0.6 * np.sin(2 * np.pi * frequency * t)
        x = draws(name, 1, 5)
        window = templates.waveforms(x)[0] + np.random.default_rng(6).standard_normal(len(t))
        assert p_values(window, templates, x[0], 60)[0] > 0.01
        assert p_values(window + hum, templates, x[0], 60)[0] < 1e-3


@EVERY
def test_templates_equal_lalsimulations_waveforms_on_the_strains_own_path(name: str) -> None:
    x = draws(name, 30, 1)
    ours = one(name).live.templates.waveforms(x).astype(np.float64)
    theirs = np.array([strains_own_path(name, row) for row in x])
    error = np.linalg.norm(ours - theirs, axis=1) / np.linalg.norm(theirs, axis=1)
    overlap = np.sum(ours * theirs, axis=1) / (np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1))
    assert np.median(error) < 0.004
    assert error.max() < 0.03
    assert (1 - overlap).max() < 5e-4


@EVERY
def test_the_likelihood_is_the_direct_one(name: str) -> None:
    """Of noise and a signal, with waveforms in the time domain that know nothing of a bank."""
    x = draws(name, 12, 2)
    templates = one(name).live.templates
    direct = np.array([strains_own_path(name, row) for row in x])
    scale = np.minimum(1.0, 25 / np.linalg.norm(direct, axis=1))  # nobody is louder than SNR 25
    x[:, 2] /= scale
    direct *= scale[:, None]
    window = np.random.default_rng(3).standard_normal(templates.length) + direct[0]
    expected = direct @ window - 0.5 * (direct**2).sum(1)
    np.testing.assert_allclose(log_ratio(window, templates.waveforms(x)), expected, rtol=0.01, atol=0.3)


@EVERY
def test_the_training_makes_the_windows_that_the_likelihood_looks_for(name: str) -> None:
    made, member_ = Simulator(spec(name), bank(name)), one(name)
    x = draws(name, 200, 4)
    windows = made.windows(member_, x, len(x), torch.Generator().manual_seed(1)).double().numpy()
    alone = made.windows(member_, None, len(x), torch.Generator().manual_seed(1)).double().numpy()
    waves = member_.live.templates.waveforms(x)
    np.testing.assert_allclose(windows - alone, waves, atol=4e-3 * max(1.0, float(np.abs(waves).max())))
    conditioning = spec(name).conditioning
    assert alone.var() == pytest.approx(1 - conditioning.floor_hz / (conditioning.rate / 2), abs=0.04)


def test_a_bank_too_coarse_for_its_prior_is_told() -> None:
    fine = builder.shortfall(spec("512 Hz"), bank("512 Hz"))
    assert fine.whole < 0.02
    assert fine.advice is None
    light = spec("light")
    few = light.model_copy(update={"bank": light.bank.model_copy(update={"components": 24, "gate": 1})})
    found = builder.shortfall(few, builder.build(few))
    assert 0.1 < found.components <= found.whole
    assert re.search(r"miss up to \d\d\.\d % of a signal.*raise bank\.components from 24", str(found.advice))
    coarse = light.model_copy(update={"bank": light.bank.model_copy(update={"chirp_nodes": 96, "gate": 1})})
    found = builder.shortfall(coarse, builder.build(coarse))
    assert found.components < 0.02 < found.whole
    assert "raise bank.chirp_nodes from 96 or bank.ratio_nodes from 24" in str(found.advice)


@pytest.mark.parametrize("name", ["512 Hz", "light"])
def test_p_values_of_the_residual_are_uniform_by_what_was_measured(name: str) -> None:
    usual = leftover.measure(spec(name), bank(name), Simulator(spec(name), bank(name)), 240)
    rng, generator = np.random.default_rng(15), torch.Generator().manual_seed(15)
    found = []
    for index in range(100):
        seconds = 64 if index % 2 else int(rng.integers(12, 65))
        psd = random_psd(spec(name).conditioning, rng, bank(name).delta_f)
        other = member(spec(name), bank(name), psd, seconds, rng)
        truths = spec(name).prior.draw(rng, 20)
        windows = Simulator(spec(name), bank(name)).windows(other, truths, 20, generator).double().numpy()
        averages = other.whitener.averages
        found += [p_values(w, other.live.templates, x, averages, usual) for w, x in zip(windows, truths, strict=True)]
    for column in np.array(found).T:
        assert stats.kstest(column, "uniform").pvalue > 0.01
        assert np.mean(column < 0.01) < 0.02


def test_what_is_measured_for_the_shipped_model_is_what_it_has() -> None:
    found = leftover.measure(shipped().spec, shipped().bank, simulator(), 240)
    for averages in (15, 31, 63):
        for ours, known in ((found.whole, FIRST.whole), (found.peak, FIRST.peak)):
            assert ours.mean == pytest.approx(known.mean, abs=0.015)
            variance, expected = (one.variance + one.by_averages / averages for one in (ours, known))
            assert variance == pytest.approx(expected, rel=0.12)
    assert Leftover.from_tensors(found.tensors()) == found
    assert Leftover.from_tensors({}) == FIRST


def scanned(templates: Templates, window: Floats, chirp: float, ratio: float, around: float) -> tuple[float, float]:
    """Mean and width of the time at these masses, by the likelihood itself."""
    times = around + np.linspace(-0.03, 0.03, 241)
    heavy, light = waveforms.component_masses(np.full(241, chirp), np.full(241, ratio))
    p, s = (
        templates.waveforms(np.column_stack([heavy, light, np.ones(241), times, np.full(241, phase)])).astype(float)
        for phase in (0.0, np.pi / 4)
    )
    pp, ps, ss, a, b = (p * p).sum(1), (p * s).sum(1), (s * s).sum(1), p @ window, s @ window
    log_l = 0.5 * (a * a * ss - 2 * a * b * ps + b * b * pp) / (pp * ss - ps**2)
    weights = np.exp(log_l - log_l.max())
    weights /= weights.sum()
    mean = float(weights @ times)
    return mean, float(np.sqrt(weights @ (times - mean) ** 2))


@pytest.mark.parametrize("name", ["512 Hz", "1024 Hz"])
def test_the_ridge_sees_as_far_as_the_time_of_a_faint_signal_is_uncertain(name: str) -> None:
    templates, prior = one(name).live.templates, spec(name).prior
    x = draws(name, 1, 8)
    x[0] = [0.97 * prior.mass[1], 0.9 * prior.mass[1], 1.0, prior.middle + 1e-4, 0.4]
    x[0, 2] = np.linalg.norm(templates.waveforms(x)[0]) / 5.0
    windows = templates.waveforms(x)[0] + np.random.default_rng(1).standard_normal((24, templates.length))
    projector = Projector(grid(bank(name), prior), templates, prior.time)
    seen = torch.from_numpy(windows).float()
    rho = one(name).live.gate(seen)
    found = ridge(projector, seen, best(rho, one(name).live.gate.times).time)
    ratio, off, widths = float(found.ratios[RATIOS - 2]), [], []
    for window, row in zip(windows, found.table[:, RATIOS - 2].tolist(), strict=True):
        at = dict(zip(FIELDS, row, strict=True))
        mean, width = scanned(templates, window, math.exp(at["chirp"]), ratio, at["time"])
        off.append((at["time"] - mean) / width)
        widths.append(at["time_width"] / width)
    assert np.median(np.abs(off)) < 0.3
    assert np.median(widths) == pytest.approx(1.0, abs=0.15)


@pytest.mark.parametrize(("mass", "duration"), [(20.0, 8.0), (12.0, 16.0), (7.0, 32.0), (1.4, 64.0)])
def test_an_injection_has_room_for_its_inspiral(mass: float, duration: float) -> None:
    made = Injection(detector="H1", gps_ns=10**9 * NANO, mass_1=mass, mass_2=mass, effective_distance=1.0, phase=0.3)
    start, strain = made.strain(1024)
    assert len(strain) == duration * 1024
    assert start == (10**9 - round(duration) + 1) * 1024
    after = strain[-round(0.5 * 1024) :]  # a signal that is longer than its room comes back at the end
    assert np.abs(after).max() < 0.02 * np.abs(strain).max()


def toml(value: object) -> str:
    return f"[{', '.join(map(toml, value))}]" if isinstance(value, tuple) else str(value)


def untrained(name: str, folder: Path) -> Path:
    """A model folder with its recipe, bank, and a network that knows nothing yet."""
    one = spec(name)
    sections = {"bank": one.bank.model_dump(), "network": {"width": 32, "depth": 1}, **RECIPES[name]}
    sections["bank"] = {key: value for key, value in sections["bank"].items() if value is not None}
    lines = [f"[{part}]\n" + "".join(f"{k} = {toml(v)}\n" for k, v in keys.items()) for part, keys in sections.items()]
    (folder / "model.toml").write_text('name = "other"\n' + "\n".join(lines), encoding="utf-8")
    found = read_spec(folder / "model.toml")
    y = batches.held_out(found, bank(name), Simulator(found, bank(name)), 64).y
    net = build(found, y.shape[1])
    net.fit_scale(y)
    checkpoint.save(folder / checkpoint.WEIGHTS, found, bank(name), net)
    return folder


@pytest.mark.parametrize(("name", "snr"), [("1024 Hz", 18.6), ("2 s", 18.5)])
def test_gw150914_is_found_by_a_model_of_another_rate_and_window(
    name: str, snr: float, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    """By what its recipe says alone: the network is untrained, and the weights make up for that."""
    strain = Path(cli.__file__).parents[1] / "data" / "GW150914-H1.hdf5"
    model = untrained(name, tmp_path)
    assert cli.main(["replay", str(strain), "--detector", "H1", "--model", str(model)]) == 0
    told = [json.loads(line) for line in capfdbinary.readouterr().out.splitlines()]
    event = [one for one in told if one["schema"] == "gwstream.event/1"][-1]["posterior"]
    assert event["window"]["rate"] == spec(name).rate
    assert event["window"]["samples"] == spec(name).window
    assert abs(event["coalescence"]["gps"] - 1126259462.427) < 0.01
    assert event["snr"] == pytest.approx(snr, abs=0.3)
    chirp = event["parameters"]["chirp_mass"]
    assert chirp["p5"] < 31.6 < chirp["p95"]
    assert event["sampling"]["ess"] > 100
