"""Turn a GWOSC text file (one strain value a line) into the HDF5 file that ships with the package.

    python tools/make_recording.py TEXT.txt.gz OUT.hdf5

The text has 17 digits: each value names one float64, so float64 with shuffle and gzip is the compact form that loses
nothing. The layout is GWOSC's, with no quality masks, because the text has none.
"""

from __future__ import annotations

import gzip
import re
import sys
from pathlib import Path

import h5py
import numpy as np

ACKNOWLEDGEMENT = (
    "This file contains data obtained from the Gravitational Wave Open Science Center (gwosc.org), a service of the "
    "LIGO Scientific Collaboration, the Virgo Collaboration, and KAGRA."
)
LICENCE = "CC BY 4.0 (https://creativecommons.org/licenses/by/4.0/)"
UTC = {1126259447: "2015-09-14T09:50:30"}


def _found(pattern: str, line: str) -> tuple[str, ...]:
    match = re.search(pattern, line)
    if match is None:
        raise SystemExit(f"not a line of a GWOSC text file: {line!r}")
    return match.groups()


def convert(text: Path, out: Path) -> None:
    """Write ``out`` and check that it reads back equal to ``text``, bit for bit."""
    with gzip.open(text, "rt", encoding="ascii") as lines:
        content = lines.read()
    head = [line for line in content.splitlines() if line.startswith("#")]
    samples = np.array([float(line) for line in content.splitlines() if not line.startswith("#")])
    event, detector = _found(r"for (\w+)_R1 for (\w\d)", head[0])
    rate = int(_found(r"has (\d+) samples per second", head[1])[0])
    start, duration = (int(n) for n in _found(r"GPS (\d+) duration (\d+)", head[2]))
    if len(samples) != rate * duration:
        raise SystemExit(f"{text}: {len(samples)} values, {rate * duration} expected")
    with h5py.File(out, "w", libver=("earliest", "v108")) as file:
        file.attrs["Acknowledgement"] = ACKNOWLEDGEMENT
        file.attrs["License"] = LICENCE
        file.attrs["Source"] = f"{text.name.removesuffix('.gz')}: GWOSC release R1 of {event}, text; values unchanged"
        _strain(file, samples, start, rate)
        _meta(file, event, detector, start, duration)
    with h5py.File(out) as file:
        if not np.array_equal(file["strain/Strain"][:], samples):
            raise SystemExit(f"{out}: differs from the text")


def _strain(file: h5py.File, samples: np.ndarray, start: int, rate: int) -> None:
    strain = file.create_dataset(
        "strain/Strain", data=samples, chunks=samples.shape, shuffle=True, compression="gzip", compression_opts=9
    )
    strain.attrs.update(
        Npoints=len(samples),
        Xstart=start,
        Xspacing=1 / rate,
        Xlabel="GPS time",
        Xunits="second",
        Ylabel="Strain",
        Yunits="",
    )


def _meta(file: h5py.File, event: str, detector: str, start: int, duration: int) -> None:
    meta = {
        "Description": f"Strain data time series from LIGO: {event}",
        "DescriptionURL": "https://gwosc.org/",
        "Detector": detector,
        "Duration": duration,
        "GPSstart": start,
        "Observatory": detector[0],
        "Type": "StrainTimeSeries",
        "UTCstart": UTC[start],
    }
    for name, value in meta.items():
        file.create_dataset(f"meta/{name}", data=value)


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
