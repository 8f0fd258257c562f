"""The recording that ships with gwstream: GW150914, 32 s of H1 and L1 at 4096 Hz, from GWOSC."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gwstream.errors import SourceError
from gwstream.records import Strain

DETECTORS = ("H1", "L1")


def path(detector: str) -> Path:
    """The HDF5 file (GWOSC layout) of one of `DETECTORS`. Raises `SourceError` for another detector."""
    if detector not in DETECTORS:
        raise SourceError(f"no recording of {detector} ships with gwstream: it has {' and '.join(DETECTORS)}")
    return Path(__file__).parent.parent / "data" / f"GW150914-{detector}.hdf5"


def read(detector: str) -> Strain:
    """The whole recording as one record: 131072 samples at 4096 Hz from GPS 1126259447."""
    import h5py

    with h5py.File(path(detector)) as file:
        strain = file["strain/Strain"]
        samples = np.asarray(strain[:], np.float64)
        rate = round(1 / float(strain.attrs["Xspacing"]))
        start = int(strain.attrs["Xstart"]) * rate
    return Strain(detector=detector, start=start, rate=rate, samples=samples)
