"""Coverage in real noise: how often the 90 % intervals of the served posterior hold the truth.

Signals drawn from the served prior are added to real noise, one a window, coalescences 0.25 s or more apart, and every
one is scored, whether or not gate and quality would pass it. By the seconds of history of the spectrum, by detector and
by SNR, with the efficiency of the draws. Left out of the noise are the manifest's glitches with 4 s on either side,
GW190519 V1 and GW191204_171526, and, for it is no noise, the signal each folder is named after with 2 s on either side.

    python benchmarks/coverage.py

Ends with status 1 where a parameter's 90 % coverage, over all detectors, leaves 0.86 to 0.94 at 32 or 64 s of history.
What is scored is kept in runs/, and not scored again.
"""

from __future__ import annotations

import json
import sys
import zlib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import common
import drawings
import intervals
import numpy as np
import sections
import strain as real
from rich.progress import track

from gwstream.config import InferenceConfig, SummaryConfig
from gwstream.inference import Inference, load_model
from gwstream.model import ModelSpec
from gwstream.records import NANO, PARAMETERS, Batch, Floats, Window
from gwstream.summary.message import reasons
from gwstream.summary.statistics import ranks

TITLE = "Coverage in real noise"
HISTORIES = (16, 32, 64)
JUDGED = (32, 64)
BAR = (0.86, 0.94)
APART = 0.25  # s between coalescences, at least
BLOCK = 16  # s that share noise and most of their spectrum
SNRS = (0, 6, 8, 12, 20, 30, np.inf)

Row = dict


def chosen(spec: ModelSpec, stretch: real.Stretch, history: int, apart: float) -> Iterator[tuple[Window, float]]:
    """Windows with all of the history, and where in each the signal coalesces."""
    last = -np.inf
    for window in real.windows(real.with_history(spec, history), stretch.strain):
        if window.whitener.state == "full" and real.quiet(stretch, spec, window):
            begin = window.gps_ns / NANO
            rng = np.random.default_rng([window.start, zlib.crc32(stretch.name.encode()), history])
            time = float(rng.uniform(*spec.prior.time))
            if begin + time >= last + apart:
                last = begin + time
                yield window, time


def score(inference: Inference, window: Window, time: float, seed: int) -> Row:
    """One injection into a window."""
    spec = inference.model.spec
    rng = np.random.default_rng([seed, window.start, zlib.crc32(window.detector.encode())])
    truth = spec.prior.draw(rng, 1)
    truth[0, 3] = time
    wave = real.signal(spec.conditioning, truth[0], window.whitener.taps)
    posterior = inference.infer(inference.gate(Batch((real.added(window, wave),), 1))[0])
    return {
        "snr": float(np.linalg.norm(wave)),
        "ranks": ranks(posterior.samples, posterior.weights, truth, rng).tolist(),
        "ess": posterior.ess / len(posterior.weights),
        "reasons": reasons(posterior, SummaryConfig()),
        "passed": posterior.trigger.passed,
    }


def scored(inference: Inference, data: Path, seed: int, apart: float) -> list[Row]:
    """All rows, those of an earlier run from its file."""
    spec = inference.model.spec
    tag = f"{inference.model.hash[:8]}-{seed}-{apart:g}"
    kept = Path("runs") / f"coverage-{tag}.jsonl"
    kept.parent.mkdir(exist_ok=True)
    rows = [json.loads(line) for line in kept.read_text().splitlines()] if kept.exists() else []
    done = {(row["stretch"], row["history"], row["start"]) for row in rows}
    with kept.open("a", encoding="utf-8") as file:
        for stretch in real.stretches(data):
            for history in HISTORIES:
                places = list(chosen(spec, stretch, history, apart))
                for window, time in track(places, description=f"{stretch.name} {history} s", disable=not places):
                    key = {"stretch": stretch.name, "history": history, "start": window.start}
                    if tuple(key.values()) not in done:
                        rows.append(key | score(inference, window, time, seed))
                        file.write(json.dumps(rows[-1]) + "\n")
    return rows


def held(rows: list[Row], width: float) -> Floats:
    """(n, 5) of 0 and 1: whether the central interval of this probability holds the truth."""
    return np.array([np.abs(np.array(row["ranks"]) - 0.5) < width / 2 for row in rows], np.float64)


def errors(rows: list[Row], values: Floats) -> Floats:
    """Block-bootstrap standard errors (k,) of the means of ``values`` (n, k)."""
    blocks = [zlib.crc32(f"{row['stretch']} {row['start'] // (BLOCK * 256)}".encode()) for row in rows]
    return intervals.block_bootstrap(values, np.array(blocks), np.random.default_rng(1))


def line(label: str, rows: list[Row]) -> list[str]:
    """A line of the table: number, 90 % coverage of each parameter and of all, of 50 % of all, efficiency."""
    inside = held(rows, 0.9)
    each = np.column_stack([inside, inside.mean(1), held(rows, 0.5).mean(1)])
    ess = [row["ess"] for row in rows]
    cells = [f"{mean:.3f} ± {se:.3f}" for mean, se in zip(each.mean(0), errors(rows, each), strict=True)]
    return [label, str(len(rows)), *cells, f"{np.median(ess):.2f}", f"{np.quantile(ess, 0.1):.2f}"]


def tables(rows: list[Row]) -> str:
    head = (
        "history, detector",
        "signals",
        *(f"{name.replace('_', ' ')}, 90 %" for name in PARAMETERS),
        "all, 90 %",
        "all, 50 %",
        "ESS / draws, median",
        "10th percentile",
    )
    by_history, by_snr = [], []
    for history in HISTORIES:
        these = [row for row in rows if row["history"] == history]
        by_history.append(line(f"**{history} s, all**", these))
        by_history += [
            line(f"{history} s, {detector}", [row for row in these if row["stretch"].endswith(detector)])
            for detector in sorted({row["stretch"][-2:] for row in these})
        ]
    for low, high in pairwise(SNRS):
        these = [row for row in rows if row["history"] in JUDGED and low <= row["snr"] < high]
        if these:
            by_snr.append(line(f"{low:g} to {high:g}" if np.isfinite(high) else f"over {low:g}", these))
    first = common.table(head, by_history)
    second = common.table((f"optimal SNR, {' and '.join(map(str, JUDGED))} s", *head[1:]), by_snr)
    return f"{first}\n\n{second}"


def within(rows: list[Row]) -> bool:
    """The bar."""
    means = [held([row for row in rows if row["history"] == history], 0.9).mean(0) for history in JUDGED]
    return bool(np.all((np.array(means) >= BAR[0]) & (np.array(means) <= BAR[1])))


def picture(rows: list[Row], path: Path) -> None:
    """Coverage against history, a colour a parameter, the bar shaded."""
    with drawings.panels(path, 1, (7.0, 4.0)) as (axis,):
        axis.axhspan(*BAR, color="black", alpha=0.08, lw=0)
        axis.axhline(0.9, color="black", lw=0.8)
        for place, history in enumerate(HISTORIES):
            these = [row for row in rows if row["history"] == history]
            inside = held(these, 0.9)
            se = errors(these, inside)
            for k, name in enumerate(PARAMETERS):
                label = name.replace("_", " ") if place == 0 else None
                style = {"fmt": "o", "ms": 4, "color": drawings.COLOURS[k], "label": label}
                axis.errorbar(place + 0.1 * (k - 2), inside[:, k].mean(), 2 * se[k], **style)
        axis.set(xticks=range(len(HISTORIES)), xticklabels=[f"{h} s" for h in HISTORIES], ylim=(0.8, 1.0))
        axis.set(xlabel="history of the spectrum", ylabel="truths in the 90 % interval (± 2 standard errors)")
        axis.legend(frameon=False, fontsize=8, ncols=2)


def main() -> None:
    parser = real.arguments(__doc__)
    parser.add_argument("--apart", type=float, default=0.5, help="s between coalescences (default: %(default)s)")
    args = parser.parse_args()
    if args.apart < APART:
        parser.error(f"--apart {args.apart}: signals less than {APART} s apart share too much noise")
    real.needed(args.data)
    inference = Inference(load_model(args.model), InferenceConfig(model=args.model))
    run = sections.Run("coverage.py", inference.model.hash)
    rows = scored(inference, args.data, args.seed, args.apart)
    passed = within(rows)
    folder = args.output or args.model
    picture(rows, folder / "coverage.png")
    judged = sum(row["history"] in JUDGED for row in rows)
    body = "\n\n".join(
        [
            f"{run}",
            f"**{'Passed' if passed else 'Failed'}**: every parameter's 90 % interval, at 32 s and at 64 s of history, "
            f"is to hold {BAR[0]:.0%} to {BAR[1]:.0%} of the truths; {judged} signals at 32 s and more. Standard "
            f"errors are those of a bootstrap of {BLOCK}-s blocks.",
            tables(rows),
            "![Coverage in real noise](coverage.png)",
        ]
    )
    sections.put(folder / "real.md", TITLE, body)
    print(body)
    sys.exit(not passed)


if __name__ == "__main__":
    main()
