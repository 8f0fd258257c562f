"""How one known signal fared: where the truth lies in its posterior, and in the intervals a message would state."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.random import Generator

from gwstream.records import NANO, PARAMETERS, Floats, Posterior, Summary
from gwstream.summary.statistics import circular, deviation, ranks

PERIOD = math.pi
PHASE = PARAMETERS.index("phase")


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Of one injection. All of it is fit for JSON.

    ``ranks``: of the five parameters and of all together, (6,), in (0, 1). ``covered``: whether the 90 % interval of
    the message holds each parameter, (5,). ``ess``: effective fraction of the draws. ``snr``: as recovered.
    ``passed``: the gate would have let it through. ``good``: its verdict. ``seconds``: what it cost.
    """

    detector: str
    gps_ns: int
    ranks: tuple[float, ...]
    covered: tuple[bool, ...]
    ess: float
    optimal_snr: float
    snr: float
    passed: bool
    good: bool
    seconds: float = 0.0


def score(posterior: Posterior, summary: Summary, truth: Floats, optimal_snr: float, rng: Generator) -> Score:
    """Of the ``posterior`` of a window into which a signal ``truth`` (5,) was put, told by ``summary``."""
    told = json.loads(summary.posterior)
    window = posterior.window
    samples, weights = posterior.samples, posterior.weights
    places = [*ranks(samples, weights, truth, rng), joint(samples, weights, truth, rng)]
    return Score(
        detector=window.detector,
        gps_ns=window.gps_ns,
        ranks=tuple(float(place) for place in places),
        covered=_covered(told["parameters"], window.gps_ns, truth),
        ess=posterior.ess / len(samples),
        optimal_snr=optimal_snr,
        snr=posterior.snr,
        passed=posterior.trigger.passed,
        good=told["quality"]["verdict"] == "good",
    )


def joint(samples: Floats, weights: Floats, truth: Floats, rng: Generator) -> float:
    """Rank of the truth's distance from the mean, in the draws' own covariance (Mahalanobis), among draws (S, 5).

    Any function of data and parameters has uniform ranks when draws and truth come from one posterior; this one adds
    up what all parameters say of intervals too narrow or too wide. The truth counts as one draw more, so that draws and
    truth are treated alike.
    """
    n = 1.0 / np.sum(weights**2)
    x = np.vstack([samples, truth])
    shares = np.append(weights * n, 1.0) / (n + 1)
    x[:, PHASE] = deviation(x[:, PHASE], circular(x[:, PHASE], shares, PERIOD).mean, PERIOD)
    x = x - shares @ x
    x /= np.sqrt(shares @ x**2) + 1e-300
    covariance = (x * shares[:, None]).T @ x + 1e-9 * np.eye(x.shape[1])
    distance = np.einsum("si,si->s", x, np.linalg.solve(covariance, x.T).T)
    return float(ranks(distance[:-1, None], weights, distance[-1:], rng)[0])


def _covered(parameters: Mapping[str, Any], gps_ns: int, truth: Floats) -> tuple[bool, ...]:
    """Whether the intervals of a message hold the truth (5,); those without numbers do not."""
    out = []
    for name, value in zip(PARAMETERS, truth, strict=True):
        told = parameters[name]
        if name == "phase":
            low, high = told["arc"]["start"], told["arc"]["end"]
            value = None if low is None else low + (value - low) % PERIOD
        elif name == "coalescence_time":
            low, high = told["gps_ns"]["p5"], told["gps_ns"]["p95"]
            value = gps_ns + round(value * NANO)
        else:
            low, high = told["p5"], told["p95"]
        out.append(low is not None and high is not None and bool(low <= value <= high))
    return tuple(out)
