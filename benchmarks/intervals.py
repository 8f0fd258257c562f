"""How sure a measured fraction or rate is."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.stats import beta, chi2

from gwstream.records import Floats


def fraction(k: int, n: int, probability: float = 0.9) -> tuple[float, float]:
    """Jeffreys interval of a fraction of which ``k`` of ``n`` were seen; it reaches 0 and 1 where all or none were."""
    tail = (1 - probability) / 2
    low = 0.0 if k == 0 else float(beta.ppf(tail, k + 0.5, n - k + 0.5))
    high = 1.0 if k == n else float(beta.ppf(1 - tail, k + 0.5, n - k + 0.5))
    return low, high


def rate_limit(k: int, time: float, probability: float = 0.95) -> float:
    """Upper limit of a Poisson rate of which ``k`` events were seen in ``time``, per unit of it."""
    return float(chi2.ppf(probability, 2 * (k + 1))) / 2 / time


def block_bootstrap(values: Floats, blocks: NDArray[np.intp], rng: Generator, draws: int = 2000) -> Floats:
    """Standard error (k,) of the mean over rows of ``values`` (n, k), whole blocks drawn with replacement.

    ``blocks``: (n,) number of each row's block; rows of one block share noise and spectrum, and are not independent.
    """
    _, index = np.unique(blocks, return_inverse=True)
    count = int(index.max()) + 1
    sums = np.zeros((count, values.shape[1]))
    np.add.at(sums, index, values)
    sizes = np.bincount(index, minlength=count)
    picked = rng.integers(count, size=(draws, count))
    means = sums[picked].sum(axis=1) / sizes[picked].sum(axis=1)[:, None]
    return np.asarray(means.std(axis=0))
