"""When are the ranks of known signals not those of a calibrated posterior? A sequential rule with a stated error.

Each injection gives ranks u in (0, 1), uniform when all is well, and so normal scores z of mean 0 and deviation 1. What
is still well, for a real spectrum is never known exactly: a mean within +-`MEAN` and a deviation between 1 / `SPREAD`
and `SPREAD`; 90 % intervals then cover 88 % and more. Against that stand `ALTERNATIVES`, each a density of z. The ratio
L of an alternative to the worst case that is still well has E[L] <= 1 while all is well, so with Shiryaev and Roberts

    M <- (M + 1) L        M - (number of injections) is a supermartingale, and so is that of the mean M of all of them

and by optional stopping the mean number of injections until M first reaches A is at least A (Shin, Ramdas & Rinaldo,
arXiv:2203.03532). With A = the injections of a month, a month at least passes between false alarms. It needs each
injection to be well given those before: they lie in noise of their own, and what a spectrum that serves many of them
does to all alike is what `MEAN` and `SPREAD` allow for.

The alarm ends when M has fallen to A / 100; from there a false one takes 0.99 A at least. M is kept to A at most, so
that an alarm that was long does not take long to end.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from scipy.special import ndtri

from gwstream.records import PARAMETERS, Floats

MEAN = 0.1
SPREAD = 1.05
END = 0.01  # of the threshold, where an alarm ends
QUANTITIES = (*PARAMETERS, "joint")
"""What an injection gives a rank of: each parameter, and all together (how far the truth lies from the mean)."""


class Ratio(NamedTuple):
    """ln L = constant + linear * z + square * z^2."""

    constant: float
    linear: float
    square: float


def shifted(mean: float) -> Ratio:
    """A mean of ``mean``: E[L] is largest where the mean is `MEAN` towards it and the deviation `SPREAD`, and 1."""
    near = math.copysign(MEAN, mean)
    return Ratio(-0.5 * (mean**2 - near**2) / SPREAD**2, (mean - near) / SPREAD**2, 0.0)


def widened(deviation: float) -> Ratio:
    """A deviation above `SPREAD`: posteriors too narrow."""
    square = 0.5 * (SPREAD**-2 - deviation**-2)
    rest = 1 - 2 * square * SPREAD**2  # E[exp(a z^2)] = r^-1/2 exp(a m^2 / r), r = 1 - 2 a s^2, for z of mean m
    return Ratio(0.5 * math.log(rest) - square * MEAN**2 / rest, 0.0, square)


def narrowed(deviation: float) -> Ratio:
    """A deviation below 1 / `SPREAD`: posteriors too wide."""
    square = 0.5 * (SPREAD**2 - deviation**-2)
    return Ratio(0.5 * math.log(1 - 2 * square / SPREAD**2), 0.0, square)


ALTERNATIVES = (
    *(shifted(sign * mean) for mean in (0.3, 0.8) for sign in (1, -1)),
    *(widened(deviation) for deviation in (1.25, 1.8)),
    *(narrowed(deviation) for deviation in (0.8, 0.5)),
)
_TABLE = np.array(ALTERNATIVES).T[:, None, :]


@dataclass(slots=True)
class Alarm:
    """State of the rule for one detector. ``threshold``: A, in injections.

    ``log_m``: ln M by quantity and alternative, (6, 8). ``up``: the alarm stands. ``count``: alarms so far.
    """

    threshold: float
    log_m: Floats = field(default_factory=lambda: np.full((len(QUANTITIES), len(ALTERNATIVES)), -np.inf))
    up: bool = False
    count: int = 0

    @property
    def evidence(self) -> float:
        """ln of M over the threshold: 0 is the alarm, -inf the start."""
        top = float(self.log_m.max())
        if top == -math.inf:
            return top
        mean = top + math.log(float(np.mean(np.exp(self.log_m - top))))
        return mean - math.log(self.threshold)

    @property
    def about(self) -> str:
        """The quantity that speaks loudest."""
        return QUANTITIES[int(np.argmax(self.log_m.max(axis=1)))]

    def add(self, ranks: Sequence[float]) -> bool:
        """Take the ranks of one injection, (6,); whether the alarm goes up with it."""
        z = ndtri(np.clip(ranks, 1e-12, 1 - 1e-12))[:, None]
        constant, linear, square = _TABLE
        self.log_m = np.logaddexp(self.log_m, 0.0) + constant + linear * z + square * z**2
        over = self.evidence
        if over > 0:
            self.log_m -= over
        raised = over >= 0 and not self.up
        self.up = over >= (math.log(END) if self.up else 0.0)
        self.count += raised
        return raised
