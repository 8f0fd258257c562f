"""Distance and phase of templates of known shape: integrated over their prior, and drawn.

With u = 1 / D and psi twice the phase, the ln likelihood ratio of a node is ``u l(psi) - u^2 s(psi) / 2``, where l is
linear and s quadratic in cosine and sine of psi. Gauss-Legendre nodes in u, which end where the prior does, and equal
steps in psi, over the whole circle or, for a loud signal, over a few deviations, converge exponentially.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from gwstream.prior import Prior
from gwstream.records import Floats

ANGLES, DISTANCES = 24, 16  # nodes of the integral
FINER_ANGLES, FINER_DISTANCES = 128, 64  # and of a draw
LOUD = 5.0  # SNR below which psi runs over the whole circle
REACH = 8.0  # and deviations it runs over above
SPREAD = 6.5  # deviations of u on either side of its best
BLOCK = 1024


def profile(products: Floats) -> Floats:
    """ln likelihood ratio maximised over amplitude and phase, of products (..., 5) as in `exact.Exact`."""
    a, b, pp, ps, ss = np.moveaxis(products, -1, 0)
    return np.asarray(0.5 * (a**2 * ss - 2 * a * b * ps + b**2 * pp) / (pp * ss - ps**2))


def log_mass(products: Floats, prior: Prior) -> Floats:
    """ln of the integral (n,) over distance and phase of likelihood ratio times the prior's density in all five."""
    node, weight = np.polynomial.legendre.leggauss(DISTANCES)
    out = np.empty(len(products))
    for low in range(0, len(products), BLOCK):
        rows = products[low : low + BLOCK]
        begin, end = _limits(rows, prior)
        u = begin[:, None] + (end - begin)[:, None] * 0.5 * (node + 1)
        psi, step = _angles(rows, prior, ANGLES)
        table, top = _exponent(rows, u, psi)
        total = (np.exp(table, out=table).sum(axis=2) * _measure(u, prior)) @ weight
        out[low : low + BLOCK] = top + np.log(total * (end - begin) / 2 * step / 2)
    return out


def draw(products: Floats, prior: Prior, rng: Generator) -> tuple[Floats, Floats]:
    """A distance (n,) and a phase (n,) for every row."""
    blocks = [_draw(products[low : low + BLOCK], prior, rng) for low in range(0, len(products), BLOCK)]
    distance, phase = np.concatenate(blocks, axis=1)
    return distance, phase


def _draw(rows: Floats, prior: Prior, rng: Generator) -> Floats:
    """Distance by its marginal distribution, then phase at that distance: (2, n)."""
    begin, end = _limits(rows, prior)
    cell = (end - begin)[:, None] / FINER_DISTANCES
    u = begin[:, None] + cell * (np.arange(FINER_DISTANCES) + 0.5)
    psi, _ = _angles(rows, prior, ANGLES)
    table, _ = _exponent(rows, u, psi)
    marginal = np.exp(table, out=table).sum(axis=2) * _measure(u, prior)
    chosen = begin[:, None] + cell * _place(marginal, rng)[:, None]
    psi, step = _angles(rows, prior, FINER_ANGLES)
    table, _ = _exponent(rows, chosen, psi)
    angle = psi[:, 0] + step * (_place(np.exp(table[:, 0]).astype(np.float64), rng) - 0.5)
    return np.stack([1 / chosen[:, 0], np.mod(angle / 2, math.pi)])


def _place(mass: Floats, rng: Generator) -> Floats:
    """Position (n,) in units of cells, drawn by the masses (n, cells) and evenly within a cell."""
    total = np.cumsum(mass, axis=1)
    cell = (total < rng.random((len(mass), 1)) * total[:, -1:]).sum(axis=1)
    return np.asarray(cell + rng.random(len(mass)))


def _limits(rows: Floats, prior: Prior) -> tuple[Floats, Floats]:
    """Where u carries mass, (n,) twice: around its best, or, where the prior excludes that, from the prior's edge."""
    best = np.sqrt(2 * profile(rows))
    norm = np.sqrt(0.5 * (rows[:, 2] + rows[:, 4]))
    low, high = norm / prior.distance[1], norm / prior.distance[0]

    def reach(past: Floats) -> Floats:
        """Deviations beyond an edge that lies ``past`` the best, until as little is left as elsewhere."""
        return np.where(past > 0, np.sqrt(past**2 + SPREAD**2) - past, SPREAD - past)

    end = np.minimum(low + reach(low - best), high)
    begin = np.maximum(high - reach(best - high), low)
    return begin / norm, end / norm


def _angles(rows: Floats, prior: Prior, count: int) -> tuple[Floats, Floats]:
    """Nodes psi (n, count) around the likeliest, and their spacing (n,)."""
    a, b, pp, ps, ss = rows.T
    best = np.sqrt(2 * profile(rows))
    nearest = np.sqrt(0.5 * (pp + ss)) / prior.distance[0]
    loudness = np.sqrt(best * np.minimum(best, nearest))
    half = np.where(loudness < LOUD, math.pi, REACH / np.maximum(loudness, LOUD))
    middle = np.arctan2(b * pp - a * ps, a * ss - b * ps)
    step = 2 * half / count
    return middle[:, None] - half[:, None] + step[:, None] * (np.arange(count) + 0.5), step


def _exponent(rows: Floats, u: Floats, psi: Floats) -> tuple[NDArray[np.float32], Floats]:
    """ln likelihood ratio (n, nodes, angles) at u (n, nodes) and psi (n, angles), less its largest (n,)."""
    a, b, pp, ps, ss = (rows[:, k, None] for k in range(5))
    cosine, sine = np.cos(psi), np.sin(psi)
    root = np.sqrt(pp * cosine**2 + 2 * ps * cosine * sine + ss * sine**2)
    best = (a * cosine + b * sine) / root
    # u l - u^2 s / 2 as a difference of squares, the large one in double precision
    peak = profile(rows)
    past = u.astype(np.float32)[:, :, None] * root.astype(np.float32)[:, None] - best.astype(np.float32)[:, None]
    table = (0.5 * best**2 - peak[:, None]).astype(np.float32)[:, None] - np.float32(0.5) * past * past
    top = table.max(axis=(1, 2))
    table -= top[:, None, None]
    return table, peak + top


def _measure(u: Floats, prior: Prior) -> Floats:
    """The prior's density in all five parameters at the distance 1 / u, times dD / du."""
    middle = math.sqrt(prior.mass[0] * prior.mass[1])
    x = np.empty((u.size, 5))
    x[:, :2], x[:, 2], x[:, 3], x[:, 4] = middle, np.clip(1 / u.ravel(), *prior.distance), prior.middle, 0.0
    return np.asarray(np.exp(prior.log_density(x)).reshape(u.shape) / u**2)
