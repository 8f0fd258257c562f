"""Real events against their exact posteriors: the package's own of the same window, and the data's reference.

Each target of the data's ``reference.json`` is written as 1-s frames and put through the daemon's stages by ``gwstream
replay``. The window its event message is of is then found again in the strain, and its posterior drawn again by id with
many more draws: marginals against the exact posterior of that window, as Jensen-Shannon divergences. Medians, widths,
SNR and ln Bayes factor against the reference, in its standard deviations and within the tolerances it states.

    python benchmarks/reference.py

Ends with status 1 where a target with ``noise_ok`` is not found, lies over 3 mnat from its exact posterior or outside
the tolerances, or where shifts over all of them exceed those stated.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import common
import drawings
import numpy as np
import sections
import strain as real

from gwstream.config import InferenceConfig
from gwstream.inference import Inference, load_model
from gwstream.records import NANO, PARAMETERS, Batch, Floats, Strain
from gwstream.source import writer
from gwstream.training.exact import exact
from gwstream.training.judge import divergences

TITLE = "Real events"
NAMES = {"Mc": "chirp_mass", "m1": "mass_1", "m2": "mass_2", "q": "mass_ratio", "D": "effective_distance"}
SHIFTS = {"Mc": 0.75, "m1": 0.5, "m2": 0.5, "q": 0.5, "D": 1.0, "tc": 0.75}  # reference standard deviations
WIDTHS = (0.7, 1.4)  # ratio of 90 % intervals
SNR_OFF, BAYES_OFF = 0.10, 0.35  # relative
RMS, MEAN, AIM = 0.35, 0.2, 0.25  # of the shifts in chirp mass and time over all targets
FAINT = 8.0  # SNR below which the reference allows half as much again
FARTHEST = 3.0  # mnat
MATCH = 0.1  # s between an event's coalescence and the reference's peak
DRAWS = 60_000
LEAST_DRAWS = 10_000  # effective

Json = dict


@dataclass(frozen=True, slots=True)
class Result:
    """One target and the daemon's last word on it, None where it was not found.

    ``off``: shifts of medians by short name; ``misses``: what lies outside the tolerances; ``distances`` (5,) mnat from
    the exact posterior and their ``floor`` from finite draws, with ``ess`` effective draws.
    """

    target: Json
    part: Json | None
    off: dict[str, float]
    misses: tuple[str, ...]
    distances: Floats
    floor: Floats
    ess: float

    @property
    def passed(self) -> bool:
        """Whether it is as it should be."""
        if self.part is None or self.misses:
            return False
        return bool(self.distances.max() <= FARTHEST and self.ess >= LEAST_DRAWS)


def frames(strain: Strain, folder: Path) -> list[Path]:
    """The strain as 1-s frames."""
    return [writer.write_frame(folder, strain.detector, gps, piece, strain.rate) for gps, piece in writer.split(strain)]


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


def beside_reference(target: Json, part: Json) -> tuple[dict[str, float], tuple[str, ...]]:
    """Shifts of the medians in the reference's standard deviations, and what its tolerances do not allow."""
    said = target["c"]
    off, misses = {}, []
    for short, name in NAMES.items():
        one = part["parameters"][name]
        off[short] = (one["median"] - said[short]["median"]) / said[short]["sd"]
        width = (one["p95"] - one["p5"]) / (said[short]["hi"] - said[short]["lo"])
        if not WIDTHS[0] <= width <= WIDTHS[1]:
            misses.append(f"width of {short} {width:.2f}")
    at = round(said["tc"]["median"] * NANO)
    off["tc"] = (part["coalescence"]["gps_ns"] - at) / NANO / said["tc"]["sd"]
    more = 1.5 if target["snr"]["c"] < FAINT else 1.0
    misses += [f"{short} {off[short]:+.2f} sd" for short, most in SHIFTS.items() if abs(off[short]) > most * more]
    for name, value, wanted, most in (
        ("SNR", part["snr"], target["snr"]["c"], SNR_OFF),
        ("ln B", part["log_bayes"], target["lnB"]["c"], BAYES_OFF),
    ):
        if abs(value / wanted - 1) > most:
            misses.append(f"{name} {value / wanted:.2f} times the reference's")
    return off, tuple(misses)


def beside_exact(inference: Inference, strain: Strain, part: Json) -> tuple[Floats, Floats, float]:
    """Divergences (5,) in mnat of the posterior, drawn again by id, from the exact one; their floor; ESS."""
    windows = real.windows(inference.model.spec, strain)
    window = next(one for one in windows if one.gps_ns == part["window"]["gps_ns"])
    posterior = inference.infer(inference.gate(Batch((window,), 1))[0])
    if posterior.id != part["id"]:
        raise SystemExit(f"{part['id']} came out as {posterior.id}")
    rng = np.random.default_rng(1)
    truth = exact(window.samples, inference.propose(window).templates, inference.prior)
    draws, other = truth.draw(rng, 4 * DRAWS), truth.draw(rng, round(posterior.ess))
    floor = divergences(other, None, draws)
    return divergences(posterior.samples, posterior.weights, draws), floor, posterior.ess


def result(inference: Inference, target: Json, data: Path, gate: float) -> Result:
    """One target, as the daemon has it and against both judges."""
    strain = real.read(data / target["file"])
    with tempfile.TemporaryDirectory(prefix="gwstream-reference-") as folder:
        part = event(replay(frames(strain, Path(folder)), target["det"], gate), target["tpeak"])
    if part is None:
        return Result(target, None, {}, ("not found",), np.full(5, np.nan), np.full(5, np.nan), 0.0)
    off, misses = beside_reference(target, part)
    return Result(target, part, off, misses, *beside_exact(inference, strain, part))


def table(results: list[Result]) -> str:
    head = ("target", "SNR", "ln B", "chirp mass", *(f"{short} shift" for short in SHIFTS), "verdict", "outside")
    rows = []
    for one in results:
        target, part = one.target, one.part
        label = f"{target['event']} {target['det']}" + ("" if target["noise_ok"] else " *")
        if part is None:
            rows.append((label, f"not found ({target['snr']['c']:.1f})", *[""] * 10))
            continue
        rows.append(
            (
                label,
                f"{part['snr']:.1f} ({target['snr']['c']:.1f})",
                f"{part['log_bayes']:.0f} ({target['lnB']['c']:.0f})",
                f"{part['parameters']['chirp_mass']['median']:.1f} ({target['c']['Mc']['median']:.1f})",
                *(f"{one.off[short]:+.2f}" for short in SHIFTS),
                ", ".join(part["quality"]["reasons"]) or "good",
                ", ".join(one.misses),
            )
        )
    return common.table(head, rows)


def exact_table(results: list[Result]) -> str:
    head = ("target", *(f"{name.replace('_', ' ')}" for name in PARAMETERS), "largest floor", "effective draws")
    rows = [
        (
            f"{one.target['event']} {one.target['det']}",
            *(f"{value:.1f}" for value in one.distances),
            f"{one.floor.max():.1f}",
            f"{one.ess:.0f}",
        )
        for one in results
    ]
    return common.table(head, rows)


def over_all(results: list[Result]) -> tuple[str, bool]:
    """Root mean square and mean shifts in chirp mass and time over the targets, in words, and whether allowed."""
    words, fine = [], True
    for short in ("Mc", "tc"):
        shifts = np.array([one.off[short] for one in results if one.off])
        rms, mean = float(np.sqrt(np.mean(shifts**2))), float(shifts.mean())
        words.append(f"{short}: rms {rms:.2f}, mean {mean:+.2f}")
        fine = fine and rms <= RMS and abs(mean) <= MEAN
    return "; ".join(words), fine


def picture(results: list[Result], path: Path) -> None:
    """Shifts from the reference with its tolerances, and distances from the exact posterior."""
    names = [f"{one.target['event']} {one.target['det']}" for one in results if one.part]
    with drawings.panels(path, 2, (11.0, 4.0)) as (left, right):
        for colour, (short, most) in zip(drawings.COLOURS, SHIFTS.items(), strict=True):
            label = f"{short} (allowed {most:g})"
            left.plot([one.off[short] for one in results if one.part], names, "o", color=colour, label=label)
        left.set(xlabel="shift of the median from the reference / its standard deviation", xlim=(-1, 1))
        left.legend(frameon=False, fontsize=8)
        for k, name in enumerate(PARAMETERS):
            values = [one.distances[k] for one in results if one.part]
            right.plot(values, names, "o", color=drawings.COLOURS[k], label=name.replace("_", " "))
        right.axvline(FARTHEST, color="black", lw=0.8)
        right.set(xlabel="distance from the exact posterior (mnat)", xlim=(0, 1.3 * FARTHEST), yticks=[])
        right.legend(frameon=False, fontsize=8)


def main() -> None:
    parser = real.arguments(__doc__)
    parser.add_argument("--only", default="", help="events whose name contains this")
    parser.add_argument("--gate-snr", type=float, default=6.5, help="(default: %(default)s)")
    args = parser.parse_args()
    real.needed(args.data)
    config = InferenceConfig(model=args.model, draws=DRAWS)
    inference = Inference(load_model(args.model), config)
    run = sections.Run("reference.py", inference.model.hash)
    targets = json.loads((args.data / "reference.json").read_text(encoding="utf-8"))["targets"]
    results = [
        result(inference, target, args.data, args.gate_snr) for target in targets if args.only in target["event"]
    ]
    judged = [one for one in results if one.target["noise_ok"]]
    words, fine = over_all(judged)
    passed = fine and all(one.passed for one in judged)
    farthest = max((float(one.distances.max()) for one in judged if one.part), default=float("nan"))
    body = "\n\n".join(
        [
            f"{run}",
            f"**{'Passed' if passed else 'Failed'}**: weighted posteriors lie {farthest:.1f} mnat at most from the "
            f"exact ones of the same windows, allowed {FARTHEST:g}; shifts from the reference over all targets, in its "
            f"standard deviations: {words} (allowed {RMS} and {MEAN}, aimed at {AIM} rms).",
            "Beside the reference, in brackets (*: noise unruly):",
            table(results),
            "Jensen-Shannon divergence from the exact posterior of the same window, mnat:",
            exact_table(results),
            "![Real events](reference.png)",
        ]
    )
    folder = args.output or args.model
    picture(results, folder / "reference.png")
    sections.put(folder / "real.md", TITLE, body)
    print(body)
    sys.exit(not passed)


if __name__ == "__main__":
    main()
