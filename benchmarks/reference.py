"""Real events against their exact posteriors.

Each target of ``../shared/data/reference.json`` is written as 1-s frames and put through the daemon's stages by
``gwstream replay``. Medians beside the reference's, shifts in the reference's posterior standard deviations.

    python benchmarks/reference.py
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import common
import h5py
import numpy as np

from gwstream.records import Strain
from gwstream.source import writer

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
NAMES = {"Mc": "chirp_mass", "m1": "mass_1", "m2": "mass_2", "q": "mass_ratio", "D": "effective_distance"}
NANO = 1_000_000_000
MATCH = 0.1  # s between an event's coalescence and the reference's peak

Json = dict


def frames(path: Path, detector: str, folder: Path) -> list[Path]:
    """The strain of a file in GWOSC's HDF5 layout as 1-s frames."""
    with h5py.File(path) as file:
        strain = file["strain/Strain"]
        samples = np.asarray(strain[:], np.float64)
        rate = round(1 / float(strain.attrs["Xspacing"]))
        start = int(file["meta/GPSstart"][()]) * rate
    record = Strain(detector=detector, start=start, rate=rate, samples=samples)
    return [writer.write_frame(folder, detector, gps, piece, rate) for gps, piece in writer.split(record)]


def replay(paths: list[Path], detector: str, gate: float) -> Iterator[Json]:
    """Messages of the daemon's stages over these frames."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "gwstream", "replay", "--json", "--detector", detector),
            *("--gate-snr", str(gate), *map(str, paths)),
        ],
        stdout=subprocess.PIPE,
        check=True,
    )
    for line in done.stdout.splitlines():
        yield json.loads(line)


def event(messages: Iterator[Json], peak: float) -> Json | None:
    """The last word on the event at ``peak`` (GPS s)."""
    found = None
    for message in messages:
        if message["schema"].startswith("gwstream.event/"):
            part = message["posterior"]
            if abs(part["coalescence"]["gps"] - peak) < MATCH:
                found = part
    return found


def row(target: Json, part: Json | None) -> tuple[object, ...]:
    label = f"{target['event']} {target['det']}" + ("" if target["noise_ok"] else " *")
    if part is None:
        return (label, f"not found ({target['snr']['c']:.1f})", *[""] * 8)
    shifts = []
    for short, name in NAMES.items():
        said = target["c"][short]
        shifts.append((part["parameters"][name]["median"] - said["median"]) / said["sd"])
    time = target["c"]["tc"]
    shifts.append((part["coalescence"]["gps_ns"] - round(time["median"] * NANO)) / NANO / time["sd"])
    return (
        label,
        f"{part['snr']:.1f} ({target['snr']['c']:.1f})",
        f"{part['log_bayes']:.0f} ({target['lnB']['c']:.0f})",
        f"{part['parameters']['chirp_mass']['median']:.1f} ({target['c']['Mc']['median']:.1f})",
        *(f"{shift:+.2f}" for shift in shifts),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="events whose name contains this")
    parser.add_argument("--gate-snr", type=float, default=6.5, help="(default: %(default)s)")
    args = parser.parse_args()
    if not (DATA / "reference.json").exists():
        raise SystemExit(f"{DATA / 'reference.json'} is not here: these data are not part of the project")
    targets = json.loads((DATA / "reference.json").read_text(encoding="utf-8"))["targets"]
    rows = []
    for target in targets:
        if args.only in target["event"]:
            with tempfile.TemporaryDirectory(prefix="gwstream-reference-") as folder:
                paths = frames(DATA / target["file"], target["det"], Path(folder))
                rows.append(row(target, event(replay(paths, target["det"], args.gate_snr), target["tpeak"])))
    print(common.machine())
    print("\nIn brackets the reference; shifts of the median in the reference's standard deviations. *: noise unruly\n")
    names = (f"{short} shift" for short in (*NAMES, "tc"))
    print(common.table(("target", "SNR", "ln B", "chirp mass", *names), rows))


if __name__ == "__main__":
    main()
