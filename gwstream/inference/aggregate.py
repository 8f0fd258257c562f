"""How far a window lies from all that the network was trained on.

The code of a window is what every network is told of it, the vector of `features`. Its distance is Mahalanobis's over
the leading principal components of the training windows behind the gate: a signal, a PSD or a glitch unlike any of
them lies far out. What that means is read off windows kept aside: the p-value is the fraction of those farther away.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from gwstream.records import Floats

COMPONENTS = 80
LEAST_SCALE = 1e-3  # of a number that hardly varies in training
LEVELS = 64
LEAST = 100  # windows to fit to, and to calibrate with
NAMES = ("centre", "directions", "levels", "log_tails")


@dataclass(frozen=True, slots=True)
class Aggregate:
    """``centre`` (F,) and ``directions`` (F, K), whose products with a code have unit variance in training.

    ``levels`` (L,): rising squared distances; ``log_tails`` (L,): ln of the fraction of the windows kept aside beyond.
    """

    centre: Floats
    directions: Floats
    levels: Floats
    log_tails: Floats

    @classmethod
    def fit(cls, codes: Floats, aside: Floats) -> Aggregate:
        """From codes (N, F) of training windows and (M, F) of windows of other detectors; raises ValueError for few."""
        if min(len(codes), len(aside)) < LEAST:
            raise ValueError(
                f"need {LEAST} windows each to fit to and to keep aside, got {len(codes)} and {len(aside)}"
            )
        centre = codes.mean(0)
        scale = np.maximum(codes.std(0), LEAST_SCALE)
        _, s, rows = np.linalg.svd((codes - centre) / scale, full_matrices=False)
        kept = min(COMPONENTS, len(codes) // 10, int(np.sum(s > LEAST_SCALE * s[0])))
        directions = rows[:kept].T / s[:kept] * math.sqrt(len(codes)) / scale[:, None]
        squares = np.sort((((aside - centre) @ directions) ** 2).sum(1))
        m = len(squares)
        shares = np.concatenate([np.geomspace(m, 1, LEVELS), np.linspace(m, 1, LEVELS)])
        beyond = np.unique(shares.astype(int))[::-1]  # of m windows, those at least as far
        return cls(centre, directions, squares[m - beyond], np.log(beyond / m))

    def distance(self, code: Floats) -> float:
        """Of a code (F,), in standard deviations of the training's; infinite for what is not finite."""
        squared = float(np.sum(((code - self.centre) @ self.directions) ** 2))
        return math.sqrt(squared) if math.isfinite(squared) else math.inf

    def p_value(self, distance: float) -> float:
        """Chance that a window like those of the training lies as far; beyond the farthest the tail is extrapolated."""
        square = distance**2
        if square <= self.levels[-1]:
            return float(np.exp(np.interp(square, self.levels, self.log_tails)))
        decade = int(np.argmax(self.log_tails < self.log_tails[-1] + math.log(10)))
        run = float(self.levels[-1] - self.levels[decade])
        fall = float(self.log_tails[decade] - self.log_tails[-1])
        return math.exp(self.log_tails[-1] - (square - self.levels[-1]) * fall / max(run, 1e-9))

    def tensors(self) -> dict[str, Floats]:
        """By the names they have in ``weights.safetensors``."""
        return {f"aggregate.{name}": getattr(self, name) for name in NAMES}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Floats]) -> Aggregate | None:
        """From tensors by those names; None where there are none. Raises KeyError where some are missing."""
        if not any(name.startswith("aggregate.") for name in tensors):
            return None
        return cls(*(tensors[f"aggregate.{name}"] for name in NAMES))
