"""What is known of the calibration of one detector: the last scores, the alarm, and what both say."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from scipy.stats import kstest

from gwstream.calibration.alarm import QUANTITIES, Alarm
from gwstream.calibration.score import Score

LOUD = 8.0  # optimal SNR from which the recovered one is compared: noise alone lifts fainter ones


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Of the last ``injections`` of a detector; NaN where there are none.

    ``coverage_50``, ``coverage_90``: fraction of central 50 % intervals and of the messages' 90 % intervals that held
    the truth, all parameters together, with standard errors. ``p``: Kolmogorov-Smirnov p-value of the ranks by
    parameter and of all jointly. ``ess``: median effective fraction of the draws. ``snr_ratio``: median of recovered
    over optimal SNR, and ``found`` the fraction behind the gate, from optimal SNR 8 on. ``alarm``: the rule of
    `alarm` says that the ranks are not uniform, above all those of ``alarm_about``; ``evidence``: ln of its statistic
    over the threshold. ``total``: injections since the state began.
    """

    detector: str
    injections: int
    total: int
    coverage_50: float
    coverage_50_error: float
    coverage_90: float
    coverage_90_error: float
    p: Mapping[str, float]
    ess: float
    snr_ratio: float
    found: float
    alarm: bool
    alarm_about: str
    alarms: int
    evidence: float

    def part(self) -> dict[str, Any]:
        """Fit for JSON, with a sentence for people."""
        facts: dict[str, Any] = {
            name: _number(value) if isinstance(value, float) else value for name, value in asdict(self).items()
        }
        del facts["detector"]
        facts["p"] = {name: _number(value) for name, value in self.p.items()}
        return {"text": self.text(), **facts}

    def text(self) -> str:
        """As a sentence."""
        if not self.injections:
            return "no known signal judged yet"
        said = (
            f"90 % intervals covered {self.coverage_90:.2f} ± {self.coverage_90_error:.2f} of the last "
            f"{self.injections} known signals"
        )
        return f"{said}; alarm: {self.alarm_about} not calibrated" if self.alarm else said


@dataclass(slots=True)
class Ledger:
    """Scores of one detector, newest last and so many, and the state of the alarm."""

    detector: str
    alarm: Alarm
    scores: deque[Score] = field(default_factory=deque)
    total: int = 0

    @classmethod
    def new(cls, detector: str, last: int, threshold: float) -> Ledger:
        """An empty one: ``last`` scores are kept, ``threshold`` is that of the alarm."""
        return cls(detector, Alarm(threshold), deque(maxlen=last))

    def add(self, score: Score) -> bool:
        """Take a score; whether the alarm goes up with it."""
        self.scores.append(score)
        self.total += 1
        return self.alarm.add(score.ranks)

    def report(self) -> Report:
        """What the scores say now."""
        ranks = np.array([score.ranks for score in self.scores]).reshape(-1, len(QUANTITIES))
        covered = np.array([score.covered for score in self.scores], float).reshape(-1, len(QUANTITIES) - 1)
        middle = np.abs(ranks[:, :-1] - 0.5) < 0.25
        loud = [score for score in self.scores if score.optimal_snr >= LOUD]
        coverage_50, error_50 = _mean(middle.mean(axis=1))
        coverage_90, error_90 = _mean(covered.mean(axis=1))
        tests = [float(kstest(column, "uniform").pvalue) if len(column) else math.nan for column in ranks.T]
        return Report(
            detector=self.detector,
            injections=len(self.scores),
            total=self.total,
            coverage_50=coverage_50,
            coverage_50_error=error_50,
            coverage_90=coverage_90,
            coverage_90_error=error_90,
            p=dict(zip(QUANTITIES, tests, strict=True)),
            ess=_median([score.ess for score in self.scores]),
            snr_ratio=_median([score.snr / score.optimal_snr for score in loud]),
            found=float(np.mean([score.passed for score in loud])) if loud else math.nan,
            alarm=self.alarm.up,
            alarm_about=self.alarm.about if self.alarm.up else "",
            alarms=self.alarm.count,
            evidence=self.alarm.evidence,
        )


def _mean(values: np.ndarray[Any, Any]) -> tuple[float, float]:
    """Mean and its standard error. One row an injection: its five parameters are not five independent trials.

    Never below that of one trial an injection which missed half the time: so three hits are not proof.
    """
    n = len(values)
    if not n:
        return math.nan, math.nan
    return float(values.mean()), math.sqrt((float(values.var()) * n + 0.25) / (n * (n + 1)))


def _median(values: list[float]) -> float:
    return float(np.median(values)) if values else math.nan


def _number(value: float) -> float | None:
    """To four digits; None where it is not finite."""
    return float(f"{value:.4g}") if math.isfinite(value) else None
