"""Smoothed amplitude spectral densities that ship with gwstream, for simulation and training."""

from __future__ import annotations

import difflib
from functools import cache
from pathlib import Path

import numpy as np

from gwstream.errors import ConfigError
from gwstream.records import Floats

FILE = Path(__file__).parent / "data" / "asd.hdf5"


def names() -> tuple[str, ...]:
    """Every curve, sorted: design curves by their usual name, measured ones as ``<run or event>_<detector>``."""
    return tuple(sorted(_load()[1]))


def asd(name: str, frequencies: Floats) -> Floats:
    """Amplitude spectral density (1/sqrt(Hz)) of curve ``name`` at ``frequencies`` (Hz), any shape.

    Interpolated in log-log between 5 and 2048 Hz, constant outside; the curve rises steeply towards 5 Hz, so the
    constant below is a floor of seismic size and not a quiet band. Raises `ConfigError` for an unknown name.
    """
    grid, curves = _load()
    if name not in curves:
        near = difflib.get_close_matches(name, curves, 1, cutoff=0.4)
        hint = f"; did you mean {near[0]}?" if near else "."
        raise ConfigError(f"no amplitude spectral density is called {name!r}{hint} Known: {', '.join(names())}")
    at = np.log(np.clip(np.asarray(frequencies, np.float64), np.exp(grid[0]), np.exp(grid[-1])))
    return np.asarray(10 ** np.interp(at, grid, curves[name]))


@cache
def _load() -> tuple[Floats, dict[str, Floats]]:
    """ln frequencies, (n,), and log10 ASD of each curve, (n,)."""
    import h5py

    with h5py.File(FILE) as file:
        curves = {str(name): np.asarray(values[:], np.float64) for name, values in file["asd"].items()}
        return np.log(np.asarray(file["frequencies"][:], np.float64)), curves
