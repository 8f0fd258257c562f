"""Smooth published and measured amplitude spectral densities into gwstream/data/asd.hdf5.

    python tools/make_spectra.py FOLDER gwstream/data/asd.hdf5

FOLDER holds the curves by the names in `CURVES`. Each becomes log10 ASD at `POINTS` frequencies, 5 to 2048 Hz, evenly
spaced in log f: a running median over 16 % of the frequency takes the lines away, a short Gaussian the steps of the
median. Outside its valid range a curve is continued: below by a power law, above by its last value.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

POINTS = 512
GRID = np.geomspace(5.0, 2048.0, POINTS)
HALF_WIDTH = 0.08
SHORT = 2.0  # grid points: standard deviation of the Gaussian
SLOPE = (-8.0, -2.0)  # of the continuation below the valid range

BILBY = ("public design curve, from bilby (gw/detector/noise_curves)", "MIT (bilby)")
JIM = ("Welch spectrum over 4096 s of GWOSC data, from GW-JAX-Team/jim", "MIT (jim); data CC BY 4.0 (GWOSC)")
OGC = ("spectrum around the event by 3-OGC (A. Nitz et al., gwastro/3-ogc)", "CC BY-SA 3.0 US (3-OGC)")
COGWHEEL = ("spectrum of O3 by cogwheel (example_asds)", "GPL-3.0 (cogwheel); data CC BY 4.0 (GWOSC)")


@dataclass(frozen=True)
class Curve:
    """Where a curve is, whether the file holds a PSD, the range (Hz) in which it is believed, source and licence."""

    path: str
    low: float
    high: float
    origin: tuple[str, str]
    psd: bool = False


CURVES = {
    **{
        name: Curve(f"design/{file}_asd.txt", low, 2048, BILBY)
        for name, file, low in (
            ("aLIGO_O4_high", "aLIGO_O4_high", 10.3),
            ("aLIGO_ZERO_DET_high_P", "aLIGO_ZERO_DET_high_P", 9.1),
            ("aLIGO_early", "aLIGO_early", 9.1),
            ("aLIGO_mid", "aLIGO_mid", 9.1),
            ("aLIGO_late", "aLIGO_late", 9.1),
            ("Aplus", "Aplus", 5.0),
            ("AdV", "AdV", 10.0),
            ("KAGRA", "KAGRA_design", 5.0),
        )
    },
    **{f"GW150914_{d}": Curve(f"GW150914/psd_4096s_{d}.npz", 10, 1600, JIM, psd=True) for d in ("H1", "L1")},
    **{
        f"{event[:8]}_{d}": Curve(f"{event}/{stem}-PYCBC-{d}-PSD.txt.gz", 22, 980, OGC, psd=True)
        for event, stem in (("GW170809", "GW170809_082821"), ("GW190503_185404", "GW190503_185404"))
        for d in ("H1", "L1", "V1")
    },
    **{f"O3_{d}": Curve(f"O3/asd_{d}_O3.npy", 15.5, 1580, COGWHEEL) for d in ("H1", "L1", "V1")},
}


def load(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Frequencies and values as the file has them."""
    if path.suffix == ".npy":
        frequencies, values = np.load(path)
    elif path.suffix == ".npz":
        with np.load(path) as file:
            frequencies, values = file["frequencies"], file["values"]
    else:
        frequencies, values = np.loadtxt(path, unpack=True)
    return frequencies, values


def smooth(frequencies: np.ndarray, asd: np.ndarray, low: float, high: float) -> np.ndarray:
    """log10 ASD on `GRID`."""
    good = np.isfinite(asd) & (asd > 0) & (frequencies >= low) & (frequencies <= high)
    x, y = np.log(frequencies[good]), np.log10(asd[good])
    at = np.log(GRID)
    inside = (at >= np.log(low) - 1e-9) & (at <= np.log(high) + 1e-9)
    out = np.empty(POINTS)
    for i in np.flatnonzero(inside):
        # the window shrinks towards the ends of the range, so that a slope does not bias the median there
        half = min(HALF_WIDTH, max(at[i] - x[0], 0.01), max(x[-1] - at[i], 0.01))
        near = y[np.abs(x - at[i]) <= half]
        out[i] = np.median(near) if len(near) > 2 else np.interp(at[i], x, y)
    out[inside] = _gaussian(out[inside])
    first, last = np.flatnonzero(inside)[[0, -1]]
    span = (at >= at[first]) & (at <= at[first] + 0.25)
    slope = float(np.clip(np.polyfit(at[span], out[span] * np.log(10), 1)[0], *SLOPE))
    out[:first] = out[first] + slope * (at[:first] - at[first]) / np.log(10)
    out[last + 1 :] = out[last]
    return out


def _gaussian(y: np.ndarray) -> np.ndarray:
    reach = round(4 * SHORT)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / SHORT) ** 2)
    padded = np.pad(y, reach, mode="reflect", reflect_type="odd")
    return np.convolve(padded, kernel / kernel.sum(), mode="valid")


def main(folder: Path, out: Path) -> None:
    """Write every curve with its origin and licence."""
    with h5py.File(out, "w", libver=("earliest", "v108")) as file:
        file.attrs["Description"] = "log10 of smoothed amplitude spectral densities (strain per root Hz); see README.md"
        file.attrs["Acknowledgement"] = (
            "The measured curves derive from data obtained from the Gravitational Wave Open Science Center "
            "(gwosc.org), a service of the LIGO Scientific Collaboration, the Virgo Collaboration, and KAGRA."
        )
        file.create_dataset("frequencies", data=GRID)
        for name, curve in CURVES.items():
            frequencies, values = load(folder / curve.path)
            asd = np.sqrt(values) if curve.psd else values
            logs = smooth(frequencies, asd, curve.low, curve.high).astype(np.float32)
            dataset = file.create_dataset(f"asd/{name}", data=logs)
            dataset.attrs.update(Source=curve.origin[0], License=curve.origin[1], Low=curve.low, High=curve.high)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
