"""Thresholds of the quality, chosen leaving one event out: what each does to the event it was not chosen on.

From what ``glitches.py`` and ``background.py`` have kept in runs/: real glitches in noise, events in real noise, and
signals added to it. A group is a folder of real strain, or a glitch with all its placements. For each group in turn the
thresholds are chosen on all others, and the group is judged by them: of all combinations of a grid that keep the
wanted part of the signals, the one that passes the fewest events that are none, and of equals the one that keeps most.

    python benchmarks/thresholds.py

Ends with status 1 where what was left out shows a false good event in real noise, keeps fewer than 95 % of the signals,
or passes over a tenth of the glitches other than Blip and Tomte.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import common
import intervals
import numpy as np
import sections
import strain as real

from gwstream.config import SummaryConfig

TITLE = "Thresholds, leaving one event out"
GRID = {
    "low_log_bayes": (0.0, 5.0, 8.0, 10.0, 12.0),
    "low_residual_p": (1e-4, 1e-3, 3e-3, 1e-2),
    "low_peak_residual_p": (1e-3, 3e-3, 1e-2, 2e-2, 3e-2),
    "low_ess": (50.0, 100.0, 200.0),
    "high_drift": (0.7, 1.0, 1.3),
}
FACTS = {
    "low_log_bayes": "log_bayes",
    "low_residual_p": "residual_p",
    "low_peak_residual_p": "peak_residual_p",
    "low_ess": "ess",
    "high_drift": "drift",
}
UPPER = np.array([-1.0 if name.startswith("high") else 1.0 for name in GRID])  # limits from above change sign
KEPT = 0.96  # of the signals on which thresholds are chosen, so that those left out keep 0.95
WANTED = 0.95
BAR = 0.10
RESEMBLING = ("Blip", "Tomte")


@dataclass(frozen=True, slots=True)
class Case:
    """One event: the facts of its posteriors, one row each in the order of `GRID`; ``other``: doubts beside these."""

    group: str
    kind: str
    label: str
    facts: np.ndarray
    other: np.ndarray

    def good(self, thresholds: Sequence[float]) -> bool:
        """Whether any of its posteriors would be good."""
        return bool(np.any(np.all(self.facts * UPPER >= np.array(thresholds) * UPPER, axis=1) & ~self.other))


def cases(folder: Path) -> list[Case]:
    """All that was kept."""
    found = []
    for path in sorted(folder.glob("quality-*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            one = json.loads(line)
            facts = np.array([[row[FACTS[name]] for name in GRID] for row in one["posteriors"]]).reshape(-1, len(GRID))
            other = np.array([bool(row["other"]) for row in one["posteriors"]], bool)
            found.append(Case(one["group"], one["kind"], one["label"], facts, other))
    return found


def choose(table: Mapping[tuple[float, ...], Counter[str]], total: Counter[str]) -> tuple[float, ...]:
    """The combination that passes fewest false ones of those that keep `KEPT` of the signals, or most where none does.

    ``table``: how many of each kind each combination passes; ``total``: how many there are.
    """

    def worth(thresholds: tuple[float, ...]) -> tuple[float, ...]:
        passed = table[thresholds]
        kept = passed["signal"] / max(total["signal"], 1)
        false = passed["noise"] + passed["loud glitch"]
        return (min(kept, KEPT), -false, -passed["glitch"], kept)

    return max(table, key=worth)


def left_out(found: list[Case]) -> tuple[list[tuple[Case, bool]], Counter[tuple[float, ...]]]:
    """Every case with its verdict by thresholds chosen without its group, and how often each combination was chosen."""
    combinations = list(itertools.product(*GRID.values()))
    verdicts = {thresholds: [case.good(thresholds) for case in found] for thresholds in combinations}
    groups = sorted({case.group for case in found})
    judged: list[tuple[Case, bool]] = []
    chosen: Counter[tuple[float, ...]] = Counter()
    for group in groups:
        inner = [index for index, case in enumerate(found) if case.group != group]
        total = Counter(found[index].kind for index in inner)
        table = {t: Counter(found[index].kind for index in inner if verdicts[t][index]) for t in combinations}
        thresholds = choose(table, total)
        chosen[thresholds] += 1
        judged += [(case, verdicts[thresholds][index]) for index, case in enumerate(found) if case.group == group]
    return judged, chosen


def rows(judged: list[tuple[Case, bool]], served: tuple[float, ...]) -> list[list[str]]:
    """A line for each kind and class: number, good when left out, good by the served thresholds."""
    keys = sorted({(case.kind, case.label if case.kind == "glitch" else "") for case, _ in judged})
    lines = []
    for kind, label in keys:
        these = [(c, good) for c, good in judged if c.kind == kind and label in (c.label, "")]
        out, default = sum(good for _, good in these), sum(case.good(served) for case, _ in these)
        low, high = intervals.fraction(out, len(these))
        share = f"{out / len(these):.1%} ({low:.1%} to {high:.1%})"
        lines.append([f"{kind} {label}".strip(), str(len(these)), str(out), share, str(default)])
    return lines


def passed(judged: list[tuple[Case, bool]]) -> bool:
    def share(kinds: tuple[str, ...], labels: tuple[str, ...] = ()) -> float:
        these = [good for case, good in judged if case.kind in kinds and case.label not in labels]
        return sum(these) / max(len(these), 1)

    return (
        share(("noise", "loud glitch")) == 0 and share(("signal",)) >= WANTED and share(("glitch",), RESEMBLING) <= BAR
    )


def main() -> None:
    parser = real.arguments(__doc__)
    parser.add_argument("--kept", type=Path, default=Path("runs"), help="where the others keep what they saw")
    args = parser.parse_args()
    found = cases(args.kept)
    if not found:
        print(f"skipped: {args.kept} holds nothing to choose on; run glitches.py and background.py first")
        return
    run = sections.Run("thresholds.py")
    config = SummaryConfig()
    served = tuple(float(getattr(config, name)) for name in GRID)
    judged, chosen = left_out(found)
    fine = passed(judged)
    head = ("events", "number", "good, left out", "90 % interval", "good, as served")
    picks = [(*(f"{value:g}" for value in thresholds), count) for thresholds, count in chosen.most_common()]
    body = "\n\n".join(
        [
            f"{run}",
            f"**{'Passed' if fine else 'Failed'}**: {len({case.group for case in found})} groups, each judged by "
            f"thresholds chosen on the others so that {KEPT:.0%} of the signals of SNR 9 and more are kept.",
            common.table(head, rows(judged, served)),
            "Thresholds chosen, and for how many groups; as served: "
            + ", ".join(f"{name} = {value:g}" for name, value in zip(GRID, served, strict=True))
            + ".",
            common.table((*GRID, "groups"), picks),
        ]
    )
    sections.put((args.output or args.model) / "real.md", TITLE, body)
    print(body)
    sys.exit(not fine)


if __name__ == "__main__":
    main()
