"""The gate: matched filters over the trained range of coalescence times, and what the network reads off them.

Every template, at every lag, is two orthonormal vectors (phase 0 and, made orthogonal, a quarter period later), so
``|rho|^2`` is the largest 2 ln L over amplitude and phase, exactly, even where the window cuts the signal.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from gwstream.inference.bank import Bank, both_phases
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
    """The gate behind one whitener.

    A template at a later lag is the same series moved on, so all lags of all windows are one product of moved windows
    with a few long series; what the window's edges cut is put right by norms and by the part of the second phase along
    the first, lag by lag.
    """

    def __init__(self, templates: Templates, time_range: tuple[float, float]) -> None:
        nodes = lag_nodes(templates.rate, time_range)
        self.count, self.lags = len(templates.bank.gate), len(nodes)
        self.times = torch.from_numpy(nodes / (SHIFTS * templates.rate)).float()
        begin, end = int(nodes[0]) // SHIFTS, int(nodes[-1]) // SHIFTS  # whole samples
        parts = range(0, SHIFTS, STRIDE)
        mix = _mix(templates.bank)
        series = np.stack([mix @ templates.stretch(part, begin, end) for part in parts])  # (parts, 2 N, long)
        self._room = end - begin
        self._first = int(nodes[0] - SHIFTS * begin) // STRIDE  # nodes of the first whole sample before the first lag
        self._series = torch.from_numpy(series.reshape(-1, series.shape[-1]).T.astype(np.float32)).contiguous()
        norms = [_norms(one, self.count, templates.length) for one in series]
        lagged = np.stack(norms, axis=-1).reshape(3, self.count, -1)[:, :, self._first : self._first + self.lags]
        self._norm, self._slope, self._other = torch.from_numpy(lagged.astype(np.float32)).contiguous()

    def __call__(self, windows: Tensor) -> Tensor:
        """Complex SNRs as (B, 2, N, lags) of windows (B, window) float32."""
        room = self._room
        moved = functional.pad(windows, (room, room)).unfold(1, windows.shape[1] + room, 1)  # (B, whole, long)
        products = (moved.flatten(0, 1) @ self._series).reshape(len(windows), -1, 2, self.count)
        first, second = products[:, self._first : self._first + self.lags].permute(2, 0, 3, 1)
        out = torch.empty(len(windows), 2, self.count, self.lags)
        torch.mul(first, self._norm, out=out[:, 0])
        torch.mul(torch.addcmul(second, first, self._slope, value=-1), self._other, out=out[:, 1])
        return out


def lag_nodes(rate: int, time_range: tuple[float, float]) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
    """Coalescence times searched, in units of 1 / (8 rate) s."""
    unit = SHIFTS * rate // STRIDE
    low, high = (round((edge + sign * MARGIN) * unit) for edge, sign in zip(time_range, (-1, 1), strict=True))
    return np.arange(low, high + 1) * STRIDE


@lru_cache(maxsize=4)
def _mix(bank: Bank) -> Floats:
    """Real components' shares (2 N, 2 K) in either phase of the gate's templates: 0, then a quarter period later."""
    return both_phases(bank.coefficients(*component_masses(*bank.gate.T)))


def _norms(series: Floats, count: int, length: int) -> Floats:
    """Of the templates' two phases (2 N, long) at each lag, (3, N, lags): 1 / norm of the first, the share of the first
    to take from the second, and 1 / norm of what is left of that."""
    first, second = series[:count], series[count:]
    starts = np.arange(series.shape[1] - length, -1, -1)  # a later lag begins earlier in the series
    power, cross, other = (
        _window_sums(a * b, starts, length) for a, b in ((first, first), (first, second), (second, second))
    )
    slope = cross / power
    left = np.maximum(other - slope * cross, 1e-30)
    return np.stack([1 / np.sqrt(power), slope, 1 / np.sqrt(left)])


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
