"""The exact posterior of a window, by quadrature: the judge of every network.

A grid over (ln chirp mass, mass ratio, coalescence time), pruned to where the likelihood maximised over amplitude and
phase comes near its best and refined until it resolves that; at each node distance and phase are integrated
numerically. Nothing is shared with the network or its weights but likelihood and prior.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.random import Generator

from gwstream.inference.likelihood import Templates
from gwstream.prior import Prior
from gwstream.records import Floats
from gwstream.waveforms import component_masses

DEPTH = 18.0  # nodes whose maximised ln likelihood ratio lies this far below the best carry nothing
PHASES = 96
DISTANCES = 48
BLOCK = 4096
COARSE, FINE = (160, 8, 103), (112, 56, 40)
FINEST_TIME = 4e-4  # s: a sixth of the shortest period in the band
CENTRE_HZ = 60.0  # within a cell the phase follows the time at about this frequency


@dataclass(frozen=True, slots=True)
class Exact:
    """``nodes`` (n, 3): ln chirp mass, ratio, time; ``steps`` (3,): the cell; ``log_mass`` (n,): ln posterior mass.

    ``products`` (n, 5): d.P, d.S, P.P, P.S, S.S of the templates of phase 0 and a quarter period later at 1 Gpc.
    """

    nodes: Floats
    steps: Floats
    log_mass: Floats
    products: Floats
    log_bayes: float
    prior: Prior

    def draw(self, rng: Generator, n: int) -> Floats:
        """(n, 5) draws in the order of `gwstream.records.PARAMETERS`; uniform within a cell."""
        mass = np.exp(self.log_mass - self.log_mass.max())
        chosen = np.searchsorted(np.cumsum(mass) / mass.sum(), rng.random(n)).clip(max=len(mass) - 1)
        place = self.nodes[chosen] + (rng.random((n, 3)) - 0.5) * self.steps
        ratio = np.clip(place[:, 1], self.prior.min_ratio, 1.0)
        mass_1, mass_2 = component_masses(np.exp(place[:, 0]), ratio)
        distance, phase = self._draw_amplitudes(chosen, rng)
        phase = np.mod(phase + math.pi * CENTRE_HZ * (place[:, 2] - self.nodes[chosen, 2]), math.pi)
        return np.column_stack([mass_1, mass_2, distance, np.clip(place[:, 2], *self.prior.time), phase])

    def _draw_amplitudes(
        self, chosen: np.ndarray[tuple[int], np.dtype[np.intp]], rng: Generator
    ) -> tuple[Floats, Floats]:
        distance, phase = np.empty(len(chosen)), np.empty(len(chosen))
        for low in range(0, len(chosen), BLOCK // 8):
            rows = chosen[low : low + BLOCK // 8]
            log_density, inverse, angle, width = _amplitude_table(self.products[rows], self.prior)
            flat = np.exp(log_density - log_density.max(axis=(1, 2), keepdims=True)).reshape(len(rows), -1)
            total = np.cumsum(flat, axis=1)
            cell = (total < rng.random((len(rows), 1)) * total[:, -1:]).sum(axis=1)
            at, turn = np.divmod(cell, PHASES)
            row = np.arange(len(rows))
            u = inverse[row, at] + (rng.random(len(rows)) - 0.5) * width[row]
            distance[low : low + len(rows)] = np.clip(1 / np.maximum(u, 1e-9), *self.prior.distance)
            phase[low : low + len(rows)] = np.mod(
                angle[turn] + (rng.random(len(rows)) - 0.5) * math.pi / PHASES, math.pi
            )
        return distance, phase


def exact(window: Floats, templates: Templates, prior: Prior) -> Exact:
    """Posterior over the prior of one window (n,) with the templates of its whitener; 1 to 10 s."""
    low_chirp, high_chirp = prior.chirp_mass
    box = np.array([[math.log(low_chirp), math.log(high_chirp)], [prior.min_ratio, 1.0], list(prior.time)])
    counts, refined = COARSE, False
    while True:
        axes = [_middles(edge, count) for edge, count in zip(box, counts, strict=True)]
        profile, products = _scan(window, templates, axes)
        near = profile > profile.max() - DEPTH
        smaller = _shrunk(box, axes, near)
        resolved = np.all((box[:, 1] - box[:, 0]) < 1.3 * (smaller[:, 1] - smaller[:, 0]))
        if resolved and refined:
            break
        times = math.ceil((smaller[2, 1] - smaller[2, 0]) / FINEST_TIME)
        box, counts, refined = smaller, (*FINE[:2], max(FINE[2], times)), True
    return _integrate(axes, near, products, prior)


def _middles(edge: Floats, count: int) -> Floats:
    """Middles of ``count`` equal cells."""
    return np.asarray(edge[0] + (edge[1] - edge[0]) * (np.arange(count) + 0.5) / count)


def _scan(window: Floats, templates: Templates, axes: list[Floats]) -> tuple[Floats, Floats]:
    """Maximised ln likelihood ratio (a, b, c) and the five products (a, b, c, 5) on a grid."""
    chirp, ratio = np.meshgrid(np.exp(axes[0]), axes[1], indexing="ij")
    mass_1, mass_2 = component_masses(chirp.ravel(), ratio.ravel())
    products = np.empty((len(axes[2]), mass_1.size, 5))
    x = np.column_stack([mass_1, mass_2, np.ones_like(mass_1), np.zeros_like(mass_1), np.zeros_like(mass_1)])
    quarter = x.copy()
    quarter[:, 4] = math.pi / 4
    for k, time in enumerate(axes[2]):
        x[:, 3] = quarter[:, 3] = time
        p, s = (templates.waveforms(values).astype(np.float64) for values in (x, quarter))
        products[k, :, 0], products[k, :, 1] = p @ window, s @ window
        products[k, :, 2], products[k, :, 4] = np.einsum("sn,sn->s", p, p), np.einsum("sn,sn->s", s, s)
        products[k, :, 3] = np.einsum("sn,sn->s", p, s)
    a, b, pp, ps, ss = np.moveaxis(products, -1, 0)
    profile = 0.5 * (a**2 * ss - 2 * a * b * ps + b**2 * pp) / (pp * ss - ps**2)
    shape = (len(axes[2]), len(axes[0]), len(axes[1]))
    grid = np.moveaxis(products.reshape(*shape, 5), 0, 2)
    return np.moveaxis(profile.reshape(shape), 0, 2), grid


def _shrunk(box: Floats, axes: list[Floats], near: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> Floats:
    """The box around the nodes that matter, one cell wider on each side, within the old one."""
    out = box.copy()
    for axis in range(3):
        others = tuple(k for k in range(3) if k != axis)
        hit = axes[axis][near.any(axis=others)]
        step = axes[axis][1] - axes[axis][0]
        out[axis] = max(box[axis, 0], hit.min() - 1.5 * step), min(box[axis, 1], hit.max() + 1.5 * step)
    return out


def _integrate(
    axes: list[Floats], near: np.ndarray[tuple[int, ...], np.dtype[np.bool_]], products: Floats, prior: Prior
) -> Exact:
    """Masses of the nodes that matter: distance and phase integrated, prior and Jacobian of the masses applied."""
    index = np.argwhere(near)
    nodes = np.column_stack([axes[k][index[:, k]] for k in range(3)])
    steps = np.array([axis[1] - axis[0] for axis in axes])
    kept = products[near]
    log_mass = np.empty(len(kept))
    for low in range(0, len(kept), BLOCK):
        table, *_ = _amplitude_table(kept[low : low + BLOCK], prior)
        top = table.max(axis=(1, 2))
        total = np.exp(table - top[:, None, None]).sum(axis=(1, 2))
        log_mass[low : low + BLOCK] = top + np.log(total / PHASES)
    mass_1, mass_2 = component_masses(np.exp(nodes[:, 0]), nodes[:, 1])
    flat = replace(prior, distance_density="uniform")
    x = np.column_stack([mass_1, mass_2, np.full(len(nodes), prior.distance[1]), nodes[:, 2], np.zeros(len(nodes))])
    # dm1 dm2 = m1^2 dlnMc dq; distance and phase have been integrated, so their densities are taken out
    log_mass += flat.log_density(x) + math.log(math.pi * (prior.distance[1] - prior.distance[0]))
    log_mass += 2 * np.log(mass_1) + np.log(steps).sum()
    inside = np.isfinite(log_mass)
    log_mass = log_mass[inside]
    log_bayes = float(np.log(np.exp(log_mass - log_mass.max()).sum()) + log_mass.max())
    return Exact(nodes[inside], steps, log_mass, kept[inside], log_bayes, prior)


def _amplitude_table(products: Floats, prior: Prior) -> tuple[Floats, Floats, Floats, Floats]:
    """ln of likelihood ratio times the prior's share of a cell on nodes of 1/D and phase, (n, DISTANCES, PHASES).

    With it the nodes 1/D (n, DISTANCES), the phases (PHASES,) and the spacing of 1/D (n,).
    """
    a, b, pp, ps, ss = (products[:, k, None] for k in range(5))
    angle = (np.arange(PHASES) + 0.5) * math.pi / PHASES
    cosine, sine = np.cos(2 * angle), np.sin(2 * angle)
    linear = a * cosine + b * sine
    square = pp * cosine**2 + 2 * ps * cosine * sine + ss * sine**2
    best = np.max(linear / np.sqrt(square), axis=1)
    scale = 1 / np.sqrt(np.mean(square, axis=1))
    low, high = 1 / prior.distance[1], 1 / prior.distance[0]
    begin = np.clip((best - 6.5) * scale * 0.9, low, high)
    end = np.clip((best + 6.5) * scale * 1.1, low, high)
    begin, end = np.where(end - begin < 1e-6, np.maximum(low, end - 1e-3), begin), np.maximum(end, begin + 1e-6)
    width = (end - begin) / DISTANCES
    inverse = begin[:, None] + width[:, None] * (np.arange(DISTANCES) + 0.5)
    u = inverse[:, :, None]
    inner, outer = inverse + 0.5 * width[:, None], np.maximum(inverse - 0.5 * width[:, None], 1e-9)
    share = prior.distance_below(1 / outer) - prior.distance_below(1 / inner)
    table = u * linear[:, None] - 0.5 * u**2 * square[:, None] + np.log(np.maximum(share, 1e-300))[:, :, None]
    return table, inverse, angle, width
