"""Reads strain from one file of any format of the field, lazily where the format allows it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gwstream.errors import SourceError
from gwstream.source import gwf, quality
from gwstream.source.channels import state_channel, strain_channel
from gwstream.source.quality import Bits, Stretch

LOG = logging.getLogger("source")
BLOCK = 64  # s read at a time from HDF5
HDF5 = b"\x89HDF\r\n\x1a\n"


class Wanted:
    """What to look for in a file: a detector, its channels ('' or None: the usual ones), and the state mask."""

    def __init__(self, detector: str, channel: str = "", state: str | None = None, mask: int = 0) -> None:
        self.detector = detector
        self.channel = channel
        self.state = state_channel(detector) if state is None else state
        self.mask = mask

    def stretch(self, start: float, rate: float, samples: NDArray[Any], state: Bits | None, path: Path) -> Stretch:
        """Checked pieces of a file as a `Stretch`; raises `SourceError`."""
        whole = round(rate)
        count = round(start * whole)
        if abs(whole - rate) > 1e-6 * whole or whole < quality.MIN_RATE:
            raise SourceError(f"{path}: {rate:g} Hz; whole numbers from {quality.MIN_RATE} Hz are read")
        if abs(start * whole - count) > 0.01:
            LOG.warning("%s: starts between two samples: moved by less than one", path)
        values = np.asarray(samples, np.float64)
        return Stretch(detector=self.detector, start=count, rate=whole, samples=values, state=state, mask=self.mask)


def stretches(path: Path, wanted: Wanted) -> Iterator[Stretch]:
    """The file's strain in order of time, in pieces fit for memory, none of them empty.

    GWF and the HDF5 layout of GWOSC (with its quality masks) are read directly, all else through gwpy. Raises
    `SourceError` where the file cannot be read or does not hold the channel, or any sample of it.
    """
    empty = True
    for stretch in _read(path, wanted):
        if len(stretch.samples):
            empty = False
            yield stretch
    if empty:
        raise SourceError(f"{path}: holds no strain")


def _read(path: Path, wanted: Wanted) -> Iterator[Stretch]:
    """The pieces as the file's format has them."""
    try:
        with path.open("rb") as file:
            magic = file.read(8)
    except OSError as problem:
        raise SourceError(f"{path}: cannot be read: {problem.strerror}") from problem
    if magic.startswith(gwf.MAGIC):
        yield _from_gwf(path, wanted)
    elif magic == HDF5 and _is_gwosc(path):
        yield from _from_gwosc(path, wanted)
    else:
        yield _from_gwpy(path, wanted, hdf5=magic == HDF5)


def _from_gwf(path: Path, wanted: Wanted) -> Stretch:
    try:
        content = path.read_bytes()
        frames = gwf.check(content, accept_unchecked=True)
        name = wanted.channel or strain_channel(wanted.detector)
        masks = _mask_names(name) if wanted.channel else ()
        found = gwf.read(content, frames, (name, wanted.state, *masks) if wanted.state else (name, *masks))
        if name not in found and not wanted.channel:
            name = _only_strain(gwf.channel_names(content), wanted.detector) or name
            found = gwf.read(content, frames, (name, wanted.state, *_mask_names(name)))
        if name not in found:
            raise SourceError(f"{path}: holds no {name}: it has {', '.join(gwf.channel_names(content))}")
    except OSError as problem:
        raise SourceError(f"{path}: cannot be read: {problem.strerror}") from problem
    except gwf.FrameError as problem:
        raise SourceError(f"{path}: {problem.reason}: {problem}") from problem
    strain = found[name]
    return wanted.stretch(strain.start, strain.rate, strain.samples, _gwf_state(found, name, wanted), path)


def _gwf_state(found: dict[str, gwf.Channel], strain: str, wanted: Wanted) -> Bits | None:
    if wanted.state in found:
        return quality.state_bits(found[wanted.state].samples)
    dq, injections = (found.get(name) for name in _mask_names(strain))
    if dq is None:
        return None
    return quality.gwosc_bits(dq.samples, None if injections is None else injections.samples)


def _mask_names(strain: str) -> tuple[str, str]:
    """GWOSC's masks beside ``H1:LOSC-STRAIN`` or ``H1:GWOSC-4KHZ_R1_STRAIN``."""
    stem = strain.removesuffix("STRAIN")
    return f"{stem}DQMASK", f"{stem}INJMASK"


def _only_strain(names: list[str], detector: str) -> str | None:
    """The one channel of the detector that looks like strain."""
    likely = [
        n for n in names if n.startswith(f"{detector}:") and ("STRAIN" in n or n.split(":")[1][:2] in ("h_", "Hr"))
    ]
    return likely[0] if len(likely) == 1 else None


def _is_gwosc(path: Path) -> bool:
    import h5py

    try:
        with h5py.File(path) as file:
            return "strain/Strain" in file and "Xspacing" in file["strain/Strain"].attrs
    except OSError as problem:
        raise SourceError(f"{path}: cannot be read: {problem}") from problem


def _from_gwosc(path: Path, wanted: Wanted) -> Iterator[Stretch]:
    import h5py

    with h5py.File(path) as file:
        if "meta/Detector" in file and file["meta/Detector"].asstr()[()] != wanted.detector:
            raise SourceError(f"{path}: holds strain of {file['meta/Detector'].asstr()[()]}, not of {wanted.detector}")
        strain = file["strain/Strain"]
        start, rate = float(strain.attrs["Xstart"]), 1 / float(strain.attrs["Xspacing"])
        state = _gwosc_state(file)
        size = BLOCK * round(rate)
        for low in range(0, len(strain), size):
            try:
                samples = strain[low : low + size]
            except OSError as problem:
                raise SourceError(f"{path}: damaged: {problem}") from problem
            second = low // round(rate)
            bits = None if state is None else state[second : second + -(-len(samples) // round(rate))]
            yield wanted.stretch(start + second, rate, samples, bits, path)


def _gwosc_state(file: Any) -> Bits | None:
    if "quality/simple/DQmask" not in file:
        return None
    injections = "quality/injections/Injmask"
    return quality.gwosc_bits(file["quality/simple/DQmask"][:], file[injections][:] if injections in file else None)


def _from_gwpy(path: Path, wanted: Wanted, *, hdf5: bool) -> Stretch:
    from astropy.io.registry import IORegistryError
    from gwpy.timeseries import TimeSeries

    arguments = (wanted.channel,) if hdf5 and wanted.channel else ()
    try:
        series = TimeSeries.read(str(path), *arguments, **({"format": "hdf5"} if hdf5 else {}))
    except (OSError, ValueError, TypeError, LookupError, RuntimeError, ImportError, IORegistryError) as problem:
        said = next(iter(str(problem).splitlines()), type(problem).__name__)  # it lists all its formats after that
        raise SourceError(f"{path}: gwpy cannot read it: {said}") from problem
    return wanted.stretch(float(series.t0.value), float(series.sample_rate.to("Hz").value), series.value, None, path)
