"""Training windows on the fly: signals through `conditioning.response`, noise with the chain's own correlation.

A family of detectors is drawn first: a shipped spectrum, scaled, tilted, with lines, and from it the very whitener that
the chain would have made of so many seconds of that noise. Each batch takes a few members. Everything happens at the
model's rate in the frequency domain: decimated signal plus decimated noise, times the whitener, one inverse FFT.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor

from gwstream import spectra
from gwstream.conditioning import whitening
from gwstream.conditioning.psd import RunningPsd
from gwstream.conditioning.response import gain
from gwstream.inference.bank import DELTA_F, Bank
from gwstream.inference.features import Live, see
from gwstream.inference.likelihood import Templates
from gwstream.inference.ridge import grid
from gwstream.model import ConditioningSpec, ModelSpec
from gwstream.records import Floats, Whitener, Window
from gwstream.training.bank import decimated_power

FAINT_SNR, FAINT_KEPT = 5.5, 0.5  # windows with nothing above the noise teach little: half of them are skipped


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One detector of the family: its true decimated PSD, the whitener it got, and the gate behind that."""

    psd: Floats
    whitener: Whitener
    context: Tensor
    live: Live
    amplitude: Tensor
    """(bins,) ASD of decimated noise per DFT bin, real."""
    transfer: Tensor
    """(bins,) complex response of the whitening taps."""


@dataclass(frozen=True, slots=True)
class Examples:
    """Features (B, F), coordinates (B, 5), parameters (B, 5), gate SNR and time (B,), windows (B, n)."""

    y: Tensor
    e: Tensor
    x: Tensor
    snr: Tensor
    time: Tensor
    windows: Tensor


def bins(spec: ConditioningSpec, delta_f: float = DELTA_F) -> int:
    """Bins of spectra up to the model's Nyquist frequency."""
    return round(spec.rate / 2 / delta_f) + 1


def random_psd(spec: ConditioningSpec, rng: Generator, delta_f: float = DELTA_F) -> Floats:
    """PSD of decimated noise at `bins`: a shipped shape with random scale, tilt, ripple and lines."""
    names = spectra.names()
    f = np.arange(2 * bins(spec, delta_f) - 1) * delta_f
    power = spectra.asd(names[rng.integers(len(names))], np.maximum(f, 5.0)) ** 2
    log_f = np.log(np.maximum(f, 5.0) / 60.0)
    shape = rng.normal(0, 0.25) * log_f
    for _ in range(3):
        shape = shape + rng.normal(0, 0.12) * np.cos(rng.uniform(1, 5) * log_f + rng.uniform(0, 2 * np.pi))
    power = power * np.exp(shape + rng.normal(0, 0.4))
    for _ in range(rng.integers(0, 8)):
        centre, width = rng.uniform(spec.floor_hz - 2, spec.stop_hz - 8), rng.uniform(DELTA_F, 0.6)
        power = power * (1 + 10 ** rng.uniform(0.3, 3) / (1 + ((f - centre) / width) ** 2))
    return decimated_power(spec, power)


def estimated_whitener(spec: ConditioningSpec, psd: Floats, seconds: int, rng: Generator) -> Whitener:
    """What the chain makes of ``seconds`` of Gaussian noise of this decimated PSD, whose bins may be any."""
    n = (seconds + 8) * spec.rate
    f = np.fft.rfftfreq(n, 1 / spec.rate)
    level = np.sqrt(np.interp(f, np.arange(len(psd)) * spec.rate / (2 * (len(psd) - 1)), psd) * n * spec.rate / 4)
    noise = np.fft.irfft(level * (rng.standard_normal(len(f)) + 1j * rng.standard_normal(len(f))), n)
    running = RunningPsd(spec)
    end = seconds * spec.rate
    for start in range(0, end - spec.taps + 1, spec.update):
        running.add(start, noise[start : start + spec.taps])
    found = running.at(end)
    if found is None:
        raise ValueError(f"{seconds} s of noise are fewer than the {spec.ready} s the model needs")
    estimate, averages, history, _ = found
    taps = whitening.minimum_phase(spec, estimate, averages)
    identity = whitening.identity("T1", end, taps)
    return Whitener(
        id=identity,
        detector="T1",
        rate=spec.rate,
        taps=taps,
        psd=estimate,
        averages=averages,
        history=history,
        end=end,
        state="ready",
    )


def member(spec: ModelSpec, bank: Bank, psd: Floats, seconds: int, rng: Generator) -> Member:
    """A detector with this true decimated PSD, seen for ``seconds``."""
    conditioning = spec.conditioning
    whitener = estimated_whitener(conditioning, psd, seconds, rng)
    nodes = grid(bank, spec.prior)
    context = whitening.context(conditioning, whitener.psd, whitener.averages)
    n = 2 * (len(psd) - 1)
    # E|X_k|^2 of n samples of noise with one-sided PSD S is S n rate / 2; real and imaginary part share it
    amplitude = np.sqrt(psd * n * conditioning.rate / 4)
    return Member(
        psd=psd,
        whitener=whitener,
        context=torch.from_numpy(context).float(),
        live=Live.of(Templates(conditioning, bank, whitener), nodes, spec.prior),
        amplitude=torch.from_numpy(amplitude),
        transfer=torch.from_numpy(np.fft.rfft(whitener.taps, n)),
    )


def family(spec: ModelSpec, bank: Bank, count: int, rng: Generator) -> list[Member]:
    """``count`` detectors; half of them with a full history, the others with less."""
    conditioning = spec.conditioning
    most = math.floor(conditioning.full)
    least = min(math.ceil(conditioning.ready), most)
    members = []
    for index in range(count):
        seconds = most if index % 2 else int(rng.integers(least, most + 1))
        members.append(member(spec, bank, random_psd(conditioning, rng, bank.delta_f), seconds, rng))
    return members


class Simulator:
    """Windows and their true parameters for members of the family."""

    def __init__(self, spec: ModelSpec, bank: Bank) -> None:
        self._spec = spec
        self._bank = bank
        self.prior = spec.prior
        conditioning = spec.conditioning
        full = round(conditioning.rate / bank.delta_f) + 1
        self._slice = slice(bank.first_bin, bank.first_bin + bank.basis.shape[1])
        self._basis = torch.from_numpy(bank.basis).to(torch.complex64)
        self._frequencies = torch.arange(full)[self._slice].double() * bank.delta_f
        self._full = full
        self._gain = torch.from_numpy(gain(conditioning, full)).to(torch.complex64)

    def signals(self, x: Floats) -> Tensor:
        """Decimated spectra (B, bins) complex64, scaled by 1e23, of parameters (B, 5)."""
        amplitude = self._bank.coefficients(x[:, 0], x[:, 1]) * (np.exp(2j * x[:, 4]) / x[:, 2])[:, None] * 1e23
        spectrum = torch.from_numpy(amplitude).to(torch.complex64) @ self._basis
        turns = torch.from_numpy(x[:, 3:4]) * self._frequencies
        angle = (-2 * np.pi * (turns - torch.floor(turns))).float()
        shaped = torch.zeros(len(x), self._full, dtype=torch.complex64)
        shaped[:, self._slice] = spectrum * torch.polar(torch.ones_like(angle), angle) * self._gain[self._slice]
        middle = self._full // 2
        out = shaped[:, : middle + 1].clone()
        out[:, 1:] += torch.conj(shaped[:, middle : self._full - 1].flip(1))
        out[:, middle] = out[:, middle].real.to(torch.complex64)
        return out

    def windows(self, one: Member, x: Floats | None, count: int, generator: torch.Generator) -> Tensor:
        """Whitened windows (count, window) float32: noise of a member, plus signals unless ``x`` is None."""
        rate = self._spec.rate
        n = 2 * (len(one.amplitude) - 1)
        normals = torch.randn(count, len(one.amplitude), 2, generator=generator)
        spectrum = torch.view_as_complex(normals) * (one.amplitude * 1e23).float()
        if x is not None:
            spectrum = spectrum + self.signals(x) * rate
        series = torch.fft.irfft(spectrum * (one.transfer * 1e-23).to(torch.complex64), n)
        cut: Tensor = series[:, : self._spec.window]
        return cut

    def window(self, one: Member, samples: Floats, index: int) -> Window:
        """A record of a simulated window (window,), at a GPS time of its own, so of its own id and draws."""
        rate = self._spec.rate
        return Window(
            detector=one.whitener.detector,
            start=(10**9 + index) * rate,
            rate=rate,
            samples=samples,
            whitener=one.whitener,
            context=one.context.numpy(),
            simulated=True,
        )

    def examples(self, one: Member, x: Floats, windows: Tensor, luck: Tensor | None = None) -> Examples:
        """Windows of one member with true parameters ``x`` as the network sees them.

        ``luck`` (B,), uniform: leaves out those of the windows with nothing above the noise where it is high.
        """
        rho = one.live.gate(windows)
        if luck is not None:
            loudest = (rho[:, 0].square() + rho[:, 1].square()).amax((1, 2)).sqrt()
            chosen = (loudest > FAINT_SNR) | (luck < FAINT_KEPT)
            chosen[0] |= not chosen.any()  # no window at all is a shape nobody expects
            kept = torch.nonzero(chosen)[:, 0]
            x, windows, rho = x[kept.numpy()], windows[kept], rho[kept]
        seen = see(one.live, windows, rho, one.context.expand(len(windows), -1), self.prior)
        e = torch.from_numpy(seen.anchor.encode(x)).float()
        return Examples(seen.y, e, torch.from_numpy(x), seen.best.snr, seen.best.time, windows)
