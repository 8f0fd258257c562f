"""From a PSD to a causal, minimum-phase whitening filter, and what else a PSD says."""

from __future__ import annotations

import hashlib
import math
from functools import lru_cache

import numpy as np

from gwstream import waveforms
from gwstream.model import CONTEXT_BANDS, ConditioningSpec
from gwstream.records import Floats

OVERSAMPLE = 16
FLOOR_DB = 60.0
DRIFT_BANDS = 8


@lru_cache(maxsize=8)
def frequencies(spec: ConditioningSpec, finer: int = 1) -> Floats:
    """Of the PSD's bins, or of bins so many times finer, Hz, (finer * spec.taps / 2 + 1,). Not to be written to."""
    found = np.fft.rfftfreq(finer * spec.taps, 1 / spec.rate)
    found.flags.writeable = False
    return np.asarray(found)


def unit_variance(averages: int) -> float:
    """Mean of true over estimated power for a median of ``averages`` segments, to second order.

    A filter made from an estimate whitens too loudly: E[S / Ŝ] > 1. The relative variance of a median of n exponentials
    is 1 / (n ln^2 2) for large n; the inverse's mean exceeds 1 by that much.
    """
    return 1.0 + 1.0 / (averages * math.log(2.0) ** 2)


def minimum_phase(spec: ConditioningSpec, psd: Floats, averages: int) -> Floats:
    """Taps (spec.taps,) whose squared response is the inverse of ``psd`` above ``floor_hz``, and empty below.

    White noise of one-sided PSD S has variance S * rate / 2, hence the normalisation: whitened noise has unit density.
    The phase comes from the folded cepstrum (Oppenheim & Schafer, §13). The last quarter is faded out: a hard cut would
    fill the deep stop-band (seismic lines stand 100 dB above the noise at 100 Hz) with side lobes.
    """
    n = OVERSAMPLE * spec.taps
    target = np.log(psd * spec.rate / 2 * unit_variance(averages)) + _inflation(spec)
    fine = np.interp(frequencies(spec, OVERSAMPLE), frequencies(spec), target)
    cepstrum = np.fft.irfft(-0.5 * fine, n)
    cepstrum[1 : n // 2] *= 2.0
    cepstrum[n // 2 + 1 :] = 0.0
    taps = np.fft.irfft(np.exp(np.fft.rfft(cepstrum)), n)[: spec.taps].copy()  # not with the rest behind it
    fade = spec.taps // 4
    taps[-fade:] *= np.cos(0.5 * np.pi * np.arange(fade) / fade) ** 2
    return np.asarray(taps)


def _inflation(spec: ConditioningSpec) -> Floats:
    """ln of the factor by which the PSD is raised below ``floor_hz``: smooth, 60 dB from two thirds of it down."""
    depth = np.clip((spec.floor_hz - frequencies(spec)) / (spec.floor_hz / 3), 0.0, 1.0)
    return np.asarray(FLOOR_DB / 10 * np.log(10.0) * np.sin(0.5 * np.pi * depth) ** 2)


@lru_cache(maxsize=8)
def bands(spec: ConditioningSpec, count: int) -> Floats:
    """(count, bins) averaging weights over bands equal in ln f across ``spec.band_hz``, each row of sum 1."""
    f = frequencies(spec)
    edges = np.geomspace(*spec.band_hz, count + 1)
    step = f[1]
    width = np.clip(np.minimum(f + step / 2, edges[1:, None]) - np.maximum(f - step / 2, edges[:-1, None]), 0.0, None)
    return np.asarray(width / width.sum(axis=1, keepdims=True))


def context(spec: ConditioningSpec, psd: Floats, averages: int) -> Floats:
    """Compressed PSD, (CONTEXT,): ln in bands, mean removed; that mean over 1e-46 / Hz; 1 / averages."""
    levels = bands(spec, CONTEXT_BANDS) @ np.log(psd)
    mean = levels.mean()
    return np.concatenate([levels - mean, [mean - np.log(1e-46), 1.0 / averages]])


def drift(spec: ConditioningSpec, psd: Floats, recent: Floats) -> float:
    """Largest absolute ln ratio, over eight bands, of the ``recent`` mean periodogram to ``psd``."""
    return float(np.max(np.abs(np.log(bands(spec, DRIFT_BANDS) @ (recent / psd)))))


def identity(detector: str, end: int, taps: Floats) -> str:
    """Name of a whitener: detector, sample count of its PSD, and a digest of its taps."""
    return f"{detector}-{end}-{hashlib.sha256(taps.tobytes()).hexdigest()[:12]}"


@lru_cache(maxsize=8)
def _reference_power(spec: ConditioningSpec) -> Floats:
    """4 |h|^2 df of a face-on 30+30 Msun binary at 1 Mpc, per PSD bin; zero outside the unaliased band."""
    f = frequencies(spec)
    h = waveforms.frequency_domain(30.0, 30.0, delta_f=float(f[1]), f_min=10.0, f_max=float(f[-1])) * 1000.0
    return np.where((f >= spec.floor_hz) & (f <= spec.pass_hz), 4 * f[1] * np.abs(h) ** 2, 0.0)


def range_mpc(spec: ConditioningSpec, psd: Floats) -> float:
    """Effective distance, Mpc, at which a 30+30 Msun binary has SNR 8 in the model's band."""
    return math.sqrt(float(np.sum(_reference_power(spec) / psd))) / 8.0
