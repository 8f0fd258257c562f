"""The figures that networks are compared by, and the file they are kept in beside the weights."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from gwstream.records import PARAMETERS, Floats
from gwstream.training.judge import Verdict
from gwstream.training.population import STATED
from gwstream.training.scores import Scores

FILE = "figures.json"
DISTANCE = PARAMETERS.index("effective_distance")


@dataclass(frozen=True, slots=True, kw_only=True)
class Efficiency:
    """Effective fraction of the network's own draws over ``injections``: median and 10th percentile."""

    injections: int
    median: float
    tenth: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Against:
    """Divergences from exact posteriors in mnat; "distance" apart, whose marginal is judged by a bar of its own.

    ``*_floor``: the median of what finite draws alone make of it. ``log_bayes``: largest distance of ln evidence.
    """

    signals: int
    raw_median: float
    raw_distance: float
    raw_max: float
    raw_floor: float
    weighted_median: float
    weighted_max: float
    weighted_floor: float
    log_bayes: float
    least_effective: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Of one network; ``weights``: hash of what was measured, ``plan`` how; ``divergence``: mean KL(p|q) and its error.

    ``milliseconds`` of a served posterior, median.
    """

    weights: str
    plan: str
    family: Efficiency
    fixed: Efficiency | None
    divergence: tuple[float, float]
    against: Against | None
    milliseconds: float


def efficiency(scores: Scores) -> Efficiency:
    """Over the stated population."""
    raw = scores.between(*STATED).column("raw_ess")
    if not len(raw):
        return Efficiency(injections=0, median=math.nan, tenth=math.nan)
    return Efficiency(injections=len(raw), median=float(np.median(raw)), tenth=float(np.quantile(raw, 0.1)))


def divergence(scores: Scores) -> tuple[float, float]:
    """Mean and standard error of ln p - ln q at the truth over the stated population: of KL(p|q), nats."""
    found = scores.between(*STATED).column("divergence")
    if len(found) < 2:
        return math.nan, math.nan
    return float(found.mean()), float(found.std(ddof=1) / math.sqrt(len(found)))


def against(verdicts: list[Verdict]) -> Against | None:
    """What the verdicts come to; None without any."""
    if not verdicts:
        return None
    raw, raw_floor, weighted, weighted_floor = (
        np.array([getattr(one, name) for one in verdicts])
        for name in ("network", "network_floor", "weighted", "weighted_floor")
    )
    return Against(
        signals=len(verdicts),
        raw_median=float(np.median(np.delete(raw, DISTANCE, axis=1))),
        raw_distance=float(np.median(raw[:, DISTANCE])),
        raw_max=float(raw.max()),
        raw_floor=float(np.median(raw_floor)),
        weighted_median=float(np.median(weighted)),
        weighted_max=float(weighted.max()),
        weighted_floor=float(np.median(weighted_floor)),
        log_bayes=max(abs(one.log_bayes_error) for one in verdicts),
        least_effective=min(one.effective for one in verdicts),
    )


def figures(weights: str, plan: str, scores: Scores, fixed: Scores | None, verdicts: list[Verdict]) -> Figures:
    """Of scores over the family and over a fixed spectrum, and of verdicts."""
    seconds: Floats = scores.between(*STATED).column("seconds")
    return Figures(
        weights=weights,
        plan=plan,
        family=efficiency(scores),
        fixed=None if fixed is None else efficiency(fixed),
        divergence=divergence(scores),
        against=against(verdicts),
        milliseconds=1e3 * float(np.median(seconds)) if len(seconds) else math.nan,
    )


def write(folder: Path, found: Figures) -> None:
    """Keep them in ``folder``."""
    (folder / FILE).write_text(json.dumps(asdict(found), indent=1) + "\n", encoding="utf-8")


def read(folder: Path) -> Figures | None:
    """Those kept in ``folder``; None where there are none."""
    path = folder / FILE
    if not path.exists():
        return None
    table = json.loads(path.read_text(encoding="utf-8"))
    parts = {"family": Efficiency, "fixed": Efficiency, "against": Against}
    made = {name: kind(**table[name]) if table[name] else None for name, kind in parts.items()}
    return Figures(**(table | made | {"divergence": tuple(table["divergence"])}))
