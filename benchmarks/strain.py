"""Real strain for the benchmarks: where it lies, what is left out, its windows, and signals and glitches to add.

The data are not part of the project: the folder is named by ``--data`` or ``GWSTREAM_DATA``, else it is
``../shared/data``. Signals are added to whitened windows, through the window's own filters; strain and windows are
linear in one another, but for the spectrum, which a signal would hardly move.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import h5py
import numpy as np

from gwstream import waveforms
from gwstream.conditioning import Conditioner
from gwstream.conditioning.response import decimate, response
from gwstream.model import ConditioningSpec, ModelSpec
from gwstream.records import NANO, Floats, Strain, Window

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
FOLDERS = ("noise", "events_long", "events")
GLITCHES = (  # detector, GPS s from and to: the loud ones of the data's manifest
    ("H1", 1241852049.00, 1241852050.25),
    ("H1", 1242315340.75, 1242315341.00),
    ("H1", 1259514932.50, 1259514936.75),
    ("H1", 1238205532.00, 1238205532.25),
)
UNRULY = (("GW190519_153544", "V1"), ("GW191204_171526", "H1"), ("GW191204_171526", "L1"))
MARGIN = 4.0  # s left out on either side of a glitch
CUT = 2.0  # s left out on either side of a catalogued candidate
GOOD = 3  # state vector of strain that may be used
PERIOD = 16  # s over which the spectrum of a signal is periodic
LEAD = 12  # s of it before the window


@dataclass(frozen=True, slots=True)
class Stretch:
    """Strain of one detector; ``candidate``: GPS s of the catalogued event in it, or None."""

    folder: str
    strain: Strain
    candidate: float | None

    @property
    def detector(self) -> str:
        return self.strain.detector

    @property
    def name(self) -> str:
        return f"{self.folder} {self.detector}"

    @property
    def seconds(self) -> float:
        return len(self.strain.samples) / self.strain.rate

    @property
    def unruly(self) -> bool:
        """On the list of what cannot be used as noise."""
        return (self.folder, self.detector) in UNRULY


def arguments(description: str | None) -> argparse.ArgumentParser:
    """A parser with what every benchmark on real strain takes."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(os.environ.get("GWSTREAM_DATA", DATA))
    parser.add_argument("--data", type=Path, default=default, help="folder of real strain (default: %(default)s)")
    parser.add_argument("--model", type=Path, default=Path(__file__).resolve().parent.parent / "models" / "bbh-1det")
    parser.add_argument("--output", type=Path, help="folder of real.md and its pictures (default: the model's)")
    parser.add_argument("--seed", type=int, default=1, help="(default: %(default)s)")
    return parser


def needed(data: Path) -> None:
    """Leave, and say why, where there are no data: that is no failure."""
    if not (data / "MANIFEST.md").exists():
        print(f"skipped: no real strain at {data}; it is not part of the project (--data or GWSTREAM_DATA says where)")
        sys.exit(0)


def stretches(data: Path) -> list[Stretch]:
    """Every stretch once, the longest of a detector's where it is there twice, in order of GPS."""
    events = json.loads((data / "catalogue.json").read_text(encoding="utf-8"))["events"]
    found: dict[tuple[str, str], Stretch] = {}
    for path in (path for folder in FOLDERS for path in sorted((data / folder).glob("*/*.hdf5"))):
        candidate = next((e["gps"] for name, e in events.items() if path.parent.name.startswith(name)), None)
        one = Stretch(path.parent.name, read(path), None if candidate is None else float(candidate))
        key = one.folder, one.detector
        if key not in found or one.seconds > found[key].seconds:
            found[key] = one
    return sorted(found.values(), key=lambda one: one.strain.gps_ns)


def read(path: Path) -> Strain:
    """A file in GWOSC's HDF5 layout."""
    with h5py.File(path) as file:
        strain = file["strain/Strain"]
        rate = round(1 / float(strain.attrs["Xspacing"]))
        return Strain(
            detector=file["meta/Detector"].asstr()[()],
            start=int(file["meta/GPSstart"][()]) * rate,
            rate=rate,
            samples=np.asarray(strain[:], np.float64),
            dq=GOOD,
        )


def with_history(spec: ModelSpec, seconds: float) -> ModelSpec:
    """The same conditioning with a running spectrum of at most so many seconds: what a daemon has that long after its
    start."""
    conditioning = spec.conditioning.model_copy(
        update={"full": seconds, "ready": min(seconds, spec.conditioning.ready)}
    )
    return spec.model_copy(update={"conditioning": conditioning})


def seconds(strain: Strain) -> Iterator[Strain]:
    """As the daemon gets it: records of one second."""
    for low in range(0, len(strain.samples), strain.rate):
        yield replace(strain, start=strain.start + low, samples=strain.samples[low : low + strain.rate])


def windows(spec: ModelSpec, strain: Strain) -> Iterator[Window]:
    """The windows of a stretch, second by second."""
    conditioner = Conditioner(spec, strain.detector)
    for second in seconds(strain):
        yield from conditioner.push(second)


def quiet(stretch: Stretch, spec: ModelSpec, window: Window) -> bool:
    """Whether nothing that the list leaves out lies in the window or under the filter that made it."""
    if stretch.unruly:
        return False
    begin, end = window.gps_ns / NANO, window.gps_ns / NANO + spec.window / spec.rate
    if stretch.candidate is not None and begin < stretch.candidate + CUT and end > stretch.candidate - CUT:
        return False
    return not any(
        detector == stretch.detector and begin < high + MARGIN and end > low - MARGIN
        for detector, low, high in GLITCHES
    )


def signal(spec: ConditioningSpec, x: Floats, taps: Floats) -> Floats:
    """A signal as a window with these taps sees it, (window,), by lalsimulation and not by the model's bank.

    ``x``: (5,) in the order of `gwstream.records.PARAMETERS`.
    """
    spectrum = waveforms.frequency_domain(
        float(x[0]), float(x[1]), delta_f=1 / PERIOD, f_min=10.0, f_max=float(spec.rate)
    )
    f = np.arange(len(spectrum)) / PERIOD
    spectrum = spectrum * np.exp(2j * (x[4] - np.pi * f * (LEAD + x[3]))) / x[2]
    series = response(spec, decimate(spec, spectrum), taps)
    return np.asarray(series[LEAD * spec.rate : LEAD * spec.rate + spec.window])


def added(window: Window, extra: Floats) -> Window:
    """The window with something (window,) more in it."""
    return replace(window, samples=window.samples + extra)
