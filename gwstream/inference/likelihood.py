"""The exact likelihood of a whitened window, with templates through the very filters the window had.

After whitening the noise is white with unit variance, so ``ln L(signal) - ln L(noise) = d.h - h.h / 2`` over the
window's samples. Templates are linear in the bank's components; a component is filtered once per whitener, at eight
sub-sample shifts, and a template at any time is a cubic Lagrange interpolation between neighbours 1/2048 s apart.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gwstream.conditioning.response import decimate, transfer
from gwstream.inference.bank import Bank
from gwstream.model import ConditioningSpec
from gwstream.records import Floats, Whitener

Singles = NDArray[np.float32]

SHIFTS = 8  # sub-sample shifts of the templates
LEAD = 0.5  # of its period lies before the coalescence of a template
STENCIL = 4  # points of the interpolation in time
BLOCK = 128  # waveforms at a time in double precision: they stay in the cache


@lru_cache(maxsize=4)
def _shifted(spec: ConditioningSpec, bank: Bank) -> Tensor:
    """Decimated spectra (SHIFTS, 2 K, bins) of every component, and of i times it, at every sub-sample shift.

    In single precision, as the waveforms will be: to filter them, every second, takes half the time.
    """
    full = np.zeros((2 * bank.size, round(spec.rate / bank.delta_f) + 1), np.complex128)
    stop = bank.first_bin + bank.basis.shape[1]
    full[: bank.size, bank.first_bin : stop] = bank.basis
    full[bank.size :, bank.first_bin : stop] = 1j * bank.basis
    f = np.arange(full.shape[1]) * bank.delta_f
    times = LEAD / bank.delta_f + np.arange(SHIFTS) / (SHIFTS * spec.rate)
    shifted = np.stack([decimate(spec, full * np.exp(-2j * np.pi * f * time)) for time in times])
    return torch.from_numpy(shifted.astype(np.complex64))


class Templates:
    """The bank behind one whitener: whitened waveforms of windows of ``length`` samples."""

    def __init__(self, spec: ConditioningSpec, bank: Bank, whitener: Whitener) -> None:
        self.bank = bank
        self.rate, self.band, self.floor = spec.rate, spec.band_hz, spec.floor_hz
        self.length = spec.window
        shifted = _shifted(spec, bank)
        filtered = shifted * torch.from_numpy(transfer(spec, whitener.taps, shifted.shape[-1])).to(shifted.dtype)
        count, rows, bins = shifted.shape
        # behind the last shift, the first ones a sample later: neighbours in time always lie one below the other
        self._longer = torch.empty(count + STENCIL - 1, rows, 2 * (bins - 1))
        torch.fft.irfft(filtered, out=self._longer[:count])
        self._longer[count:] = self._longer[: STENCIL - 1].roll(1, dims=-1)
        self.components: Singles = self._longer[:count].numpy()
        self.origin = round(LEAD / bank.delta_f * spec.rate)

    def pieces(self, node: int) -> Singles:
        """Real components (2 K, window) for coalescence ``node / (8 rate)`` s into the window."""
        whole, part = divmod(node, SHIFTS)
        begin = self.origin - whole
        return self.components[part, :, begin : begin + self.length]

    def at(self, time: float) -> Singles:
        """Real components (2 K, window) for any coalescence ``time``, s: what `waveforms` mixes."""
        cell, part = divmod(time * SHIFTS * self.rate, 1.0)
        weights = _lagrange(np.array([part]))[0].astype(np.float32)
        nodes = [self.pieces(int(cell) - 1 + k) for k in range(STENCIL)]
        return np.asarray(sum(weight * node for weight, node in zip(weights, nodes, strict=True)), np.float32)

    def stretch(self, part: int, first: int, last: int) -> Floats:
        """Real components (2 K, last - first + window): windows for whole-sample lags ``last`` down to ``first``."""
        piece = self.components[part, :, self.origin - last : self.origin - first + self.length]
        return piece.astype(np.float64)

    def waveforms(self, x: Floats, groups: int = 1) -> Singles:
        """Whitened waveforms (S, window) float32 of parameters (S, 5) in the order of `gwstream.records.PARAMETERS`.

        ``groups``: so many equal parts of ``x`` have products of their own: a part's rounding is then its own as well.
        """
        position = x[:, 3] * (SHIFTS * self.rate)
        cell = np.floor(position).astype(np.intp)
        each = max(len(x) // groups, 1)
        order = np.lexsort((cell, np.arange(len(x)) // each))
        mixed = self._mixed(x[order], (position - cell)[order])
        begins = np.diff(cell[order], prepend=-1) != 0
        begins[::each] = True
        edges = np.append(np.flatnonzero(begins), len(x))
        out = torch.empty(len(x), self.length)
        for low, high in pairwise(edges.tolist()):
            torch.mm(mixed[low:high], self._neighbours(int(cell[order[low]]) - 1), out=out[low:high])
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        return np.asarray(out[torch.from_numpy(back)].numpy())

    def _mixed(self, x: Floats, part: Floats) -> Tensor:
        """Amplitudes of the real components at the nodes of the stencil, (S, STENCIL 2 K), ``part`` of the way on."""
        turned = np.stack([np.cos(2 * x[:, 4]), np.sin(2 * x[:, 4])]) / x[:, 2]
        cosine, sine = torch.from_numpy(turned.astype(np.float32))[..., None]
        parts = self.bank.parts(x[:, 0], x[:, 1])
        real, imaginary = parts[:, : self.bank.size], parts[:, self.bank.size :]
        amplitudes = torch.cat([real * cosine - imaginary * sine, real * sine + imaginary * cosine], 1)
        return (torch.from_numpy(_lagrange(part).astype(np.float32))[:, :, None] * amplitudes[:, None]).flatten(1)

    def _neighbours(self, node: int) -> Tensor:
        """`pieces` of the nodes of a stencil that begins at ``node``, (STENCIL 2 K, window)."""
        whole, part = divmod(node, SHIFTS)
        begin = self.origin - whole
        return self._longer[part : part + STENCIL].flatten(0, 1)[:, begin : begin + self.length]


def _lagrange(u: Floats) -> Floats:
    """Cubic Lagrange weights (S, 4) on nodes -1, 0, 1, 2 at positions ``u`` in [0, 1)."""
    return np.stack(
        [
            -u * (u - 1) * (u - 2) / 6,
            (u + 1) * (u - 1) * (u - 2) / 2,
            -(u + 1) * u * (u - 2) / 2,
            (u + 1) * u * (u - 1) / 6,
        ],
        axis=1,
    )


def log_ratio(window: Floats, waveforms: Singles) -> Floats:
    """ln of likelihood of signal over noise, (S,), of a window (n,) for whitened waveforms (S, n).

    Summed in double precision: of a loud signal two large sums all but cancel.
    """
    samples = window.astype(np.float64)
    out = np.empty(len(waveforms))
    for low in range(0, len(waveforms), BLOCK):
        rows = waveforms[low : low + BLOCK].astype(np.float64)
        out[low : low + BLOCK] = rows @ samples - 0.5 * np.einsum("sn,sn->s", rows, rows)
    return out
