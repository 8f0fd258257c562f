"""An early look at calibration: where held-out truths lie among draws of the network alone, in its own coordinates.

Each coordinate is counted from the window's ridge, which the truth has no part in, so its ranks are uniform where the
proposal is the posterior. Nothing is weighted here: what `gwstream validate` finds of the served posterior is better.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.stats import kstest

from gwstream.inference.networks import Network
from gwstream.inference.networks.base import Inputs
from gwstream.records import Floats
from gwstream.training.dataset import Examples

SEED = 20207
COUNT, LATENTS, DRAWS = 300, 200, 200
NAMES = ("chirp mass", "mass ratio", "distance", "time", "phase")


@torch.no_grad()
def ranks(net: Network, held: Examples, count: int = COUNT) -> Floats:
    """Ranks (n, 5) in [0, 1] of the truths of the first ``count`` examples among draws; about a second."""
    rng = np.random.default_rng(SEED)
    n = min(count, len(held.y))
    coordinates = held.e[:n].double().numpy()
    if net.fixed is not None:
        coordinates = net.fixed.encode(held.x[:n].double().numpy())
    found = np.empty((n, len(NAMES)))
    for k, truth in enumerate(coordinates):
        one = Inputs(held.y[k : k + 1], held.windows[k : k + 1])
        drawn = net.propose(one, rng, LATENTS).draw(rng, DRAWS)
        found[k] = ((drawn < truth).sum(0) + rng.random(len(NAMES))) / (DRAWS + 1)
    return found


def distances(found: Floats) -> Floats:
    """Kolmogorov-Smirnov distance (5,) of ranks (n, 5) from uniform ones."""
    return np.array([kstest(column, "uniform").statistic for column in found.T])


def usual(count: int) -> float:
    """Distance that the largest of five stays below nineteen times in twenty, where all ranks are uniform."""
    return math.sqrt(-0.5 * math.log(0.05 / len(NAMES) / 2) / count)
