"""Waveforms as few complex numbers: a basis from a singular value decomposition and its coefficients on a mass grid.

A waveform at 1 Gpc with t = 0 and phase = 0 is ``sum_k c_k(chirp mass, ratio) u_k(f)``. The u_k are spectra of
*strain*, so they pass through whatever filters a window had (`likelihood.Templates`); the c_k come from a bicubic
B-spline over (chirp mass^(-5/3), ratio), the first being nearly proportional to the inspiral's phase.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from gwstream.records import Floats
from gwstream.waveforms import chirp_mass

if TYPE_CHECKING:
    from collections.abc import Mapping

DELTA_F = 0.25
"""Hz between the basis' frequencies, where signals are short enough: templates are periodic over 4 s."""

Complexes = NDArray[np.complex128]


def grid_position(chirp: Floats) -> Floats:
    """The grid's first coordinate of chirp masses in Msun."""
    return np.asarray(chirp ** (-5.0 / 3.0))


def both_phases(c: Complexes) -> Floats:
    """Shares (2 N, 2 K) of the real components in waveforms of coefficients (N, K), then a quarter period later.

    A quarter period later a waveform takes i c.
    """
    return np.concatenate([np.hstack([c.real, c.imag]), np.hstack([-c.imag, c.real])])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)  # compared and hashed by identity: it holds arrays
class Bank:
    """``basis``: (K, bins) spectra in 1/Hz from ``first_bin`` on, ``delta_f`` Hz apart, orthonormal for the
    reference detector.

    ``grid``: (n + 2, m + 2, K) spline coefficients with one mirrored node around. ``limits``: ((low, high) of the first
    coordinate, (low, high) of the ratio). ``gate``: (N, 2) chirp mass (Msun) and ratio of the gate's templates.
    """

    basis: Complexes
    first_bin: int
    grid: NDArray[np.complex64]
    limits: Floats
    gate: Floats
    delta_f: float = DELTA_F
    table: Tensor = field(init=False, repr=False)
    """The grid's nodes as rows, (nodes, 2 K) float32: real parts, then imaginary parts."""

    def __post_init__(self) -> None:
        table = np.concatenate([self.grid.real, self.grid.imag], axis=-1, dtype=np.float32)
        object.__setattr__(self, "table", torch.from_numpy(table.reshape(-1, table.shape[-1])))

    @property
    def size(self) -> int:
        """Number K of complex components."""
        return len(self.basis)

    @property
    def chirp_range(self) -> tuple[float, float]:
        """Least and largest chirp mass of the grid, Msun."""
        low, high = self.limits[0] ** (-3.0 / 5.0)
        return float(high), float(low)

    def coefficients(self, mass_1: Floats, mass_2: Floats) -> Complexes:
        """(S, K) for masses (S,) in Msun; outside the grid, those of its edge."""
        real, imaginary = self.parts(mass_1, mass_2).double().numpy().reshape(-1, 2, self.size).swapaxes(0, 1)
        return np.asarray(real + 1j * imaginary)

    def parts(self, mass_1: Floats, mass_2: Floats) -> Tensor:
        """The same as (S, 2 K) float32: real parts, then imaginary parts."""
        chirp, ratio = chirp_mass(mass_1, mass_2), mass_2 / mass_1
        rows, row_weights = self._place(grid_position(chirp), 0)
        columns, column_weights = self._place(ratio, 1)
        index = rows[:, :, None] * self.grid.shape[1] + columns[:, None, :]
        weights = (row_weights[:, :, None] * column_weights[:, None, :]).astype(np.float32)
        return functional.embedding_bag(  # sums weighted rows as it reads them: no table of what was picked
            torch.from_numpy(index.reshape(-1, 16)),
            self.table,
            per_sample_weights=torch.from_numpy(weights.reshape(-1, 16)),
            mode="sum",
        )

    def _place(self, value: Floats, axis: int) -> tuple[NDArray[np.intp], Floats]:
        """Indices (S, 4) into the padded axis and cubic B-spline weights (S, 4)."""
        low, high = self.limits[axis]
        nodes = self.grid.shape[axis] - 2
        position = np.clip((value - low) / (high - low), 0.0, 1.0) * (nodes - 1)
        cell = np.minimum(position.astype(np.intp), nodes - 2)
        u = position - cell
        weights = np.stack([(1 - u) ** 3, 3 * u**3 - 6 * u**2 + 4, -3 * u**3 + 3 * u**2 + 3 * u + 1, u**3], axis=1)
        return cell[:, None] + np.arange(4), weights / 6.0

    def tensors(self) -> dict[str, Floats | NDArray[np.float32]]:
        """Arrays fit for safetensors."""
        found = {
            "bank.basis": np.stack([self.basis.real, self.basis.imag]),
            "bank.first_bin": np.array([float(self.first_bin)]),
            "bank.grid": np.stack([self.grid.real, self.grid.imag]),
            "bank.limits": self.limits,
            "bank.gate": self.gate,
        }
        # weights from before there was a choice have none
        return found if self.delta_f == DELTA_F else found | {"bank.delta_f": np.array([self.delta_f])}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, NDArray[np.float64]]) -> Bank:
        """The inverse of `tensors`; raises KeyError where one is missing."""
        basis, grid = tensors["bank.basis"], tensors["bank.grid"]
        return cls(
            basis=basis[0] + 1j * basis[1],
            first_bin=round(float(tensors["bank.first_bin"][0])),
            grid=(grid[0] + 1j * grid[1]).astype(np.complex64),
            limits=tensors["bank.limits"],
            gate=tensors["bank.gate"],
            delta_f=float(tensors.get("bank.delta_f", [DELTA_F])[0]),
        )
