"""The gate: matched filters over the trained range of coalescence times, and what the network reads off them.

Every template, at every lag, is two orthonormal vectors (phase 0 and, made orthogonal, a quarter period later), so
``|rho|^2`` is the largest 2 ln L over amplitude and phase, exactly, even where the window cuts the signal.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gwstream.inference.likelihood import SHIFTS, Templates
from gwstream.records import Floats
from gwstream.waveforms import component_masses

MARGIN = 0.02  # s searched beyond the prior's coalescence times on either side
STRIDE = SHIFTS // 2  # lags are half a sample apart
SIDE = 2  # lags at either end that are nobody's best


@dataclass(frozen=True, slots=True)
class Best:
    """Per window, (B,): index of template and lag, SNR, time refined between lags (s), wave phase (rad)."""

    template: Tensor
    lag: Tensor
    snr: Tensor
    time: Tensor
    phase: Tensor


class MatchedFilter:
    """The gate behind one whitener: ``matrix`` (2 * N * lags, window) float32."""

    def __init__(self, templates: Templates, time_range: tuple[float, float]) -> None:
        gate = templates.bank.gate
        nodes = lag_nodes(templates.rate, time_range)
        self.count = len(gate)
        self.lags = len(nodes)
        self.times = torch.from_numpy(nodes / (SHIFTS * templates.rate)).float()
        self.matrix = torch.from_numpy(_vectors(templates, gate, nodes))

    def __call__(self, windows: Tensor) -> Tensor:
        """Complex SNRs as (B, 2, N, lags) of windows (B, window) float32."""
        return (windows @ self.matrix.T).reshape(-1, 2, self.count, self.lags)


def lag_nodes(rate: int, time_range: tuple[float, float]) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
    """Coalescence times searched, in units of 1 / (8 rate) s."""
    unit = SHIFTS * rate // STRIDE
    low, high = (round((edge + sign * MARGIN) * unit) for edge, sign in zip(time_range, (-1, 1), strict=True))
    return np.arange(low, high + 1) * STRIDE


def _vectors(
    templates: Templates, gate: Floats, nodes: np.ndarray[tuple[int], np.dtype[np.intp]]
) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """Orthonormal pairs (2 * N * lags, window)."""
    mass_1, mass_2 = component_masses(gate[:, 0], gate[:, 1])
    c = templates.bank.coefficients(mass_1, mass_2)
    # h(phase 0) takes c, a quarter period later i c: (2 N, 2 K) on the real components
    mix = np.concatenate([np.hstack([c.real, c.imag]), np.hstack([-c.imag, c.real])])
    count, length = len(gate), templates.length
    out = np.empty((2, count, len(nodes), length), np.float32)
    for part in np.unique(nodes % SHIFTS):
        chosen = np.flatnonzero(nodes % SHIFTS == part)
        whole = nodes[chosen] // SHIFTS
        begin, end = int(whole.min()), int(whole.max())
        series = mix @ templates.stretch(int(part), begin, end)
        first, second = series[:count], series[count:]
        starts = end - whole
        inner = [_window_sums(a * b, starts, length) for a, b in ((first, first), (first, second), (second, second))]
        norm = np.sqrt(inner[0])
        slope = inner[1] / inner[0]
        other = np.sqrt(np.maximum(inner[2] - slope * inner[1], 1e-30))
        singles = [series.astype(np.float32) for series in (first, second)]
        views = [np.lib.stride_tricks.sliding_window_view(single, length, axis=1)[:, starts] for single in singles]
        scales = [(1 / norm).astype(np.float32)[:, :, None], (1 / other).astype(np.float32)[:, :, None]]
        out[0, :, chosen] = (views[0] * scales[0]).swapaxes(0, 1)
        slant = slope.astype(np.float32)[:, :, None]
        out[1, :, chosen] = ((views[1] - slant * views[0]) * scales[1]).swapaxes(0, 1)
    return out.reshape(-1, length)


def _window_sums(series: Floats, starts: np.ndarray[tuple[int], np.dtype[np.intp]], length: int) -> Floats:
    total = np.concatenate([np.zeros((len(series), 1)), np.cumsum(series, axis=1)], axis=1)
    return np.asarray(total[:, starts + length] - total[:, starts])


def best(rho: Tensor, times: Tensor) -> Best:
    """The loudest template and lag of each window; two lags at either end serve as neighbours only."""
    power = rho[:, 0].square() + rho[:, 1].square()
    inner = power[:, :, SIDE:-SIDE]
    flat = inner.flatten(1).argmax(1)
    template, lag = flat // inner.shape[2], flat % inner.shape[2] + SIDE
    row = torch.arange(len(rho))
    left, peak, right = (power[row, template, lag + k] for k in (-1, 0, 1))
    bend = (left - 2 * peak + right).clamp(max=-1e-6)
    shift = (0.5 * (left - right) / bend).clamp(-0.5, 0.5)
    first, second = rho[row, 0, template, lag], rho[row, 1, template, lag]
    return Best(
        template=template,
        lag=lag,
        snr=peak.sqrt(),
        time=times[lag] + shift * (times[1] - times[0]),
        phase=torch.atan2(second, first),
    )
