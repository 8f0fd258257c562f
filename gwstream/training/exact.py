"""The exact posterior of a window, by quadrature: the judge of every network.

A grid over (chirp mass^(-5/3), mass ratio, coalescence time), shrunk to where the likelihood maximised over amplitude
and phase comes near its best and refined until it resolves that; at each node distance and phase are integrated
numerically. At one time every template is a mixture of the same 2 K components, so a node costs a quadratic form in
their Gram matrix, not a waveform. Nothing is shared with the network or its weights but likelihood and prior.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from gwstream.inference.likelihood import Templates
from gwstream.prior import Prior
from gwstream.records import Floats
from gwstream.training import amplitudes
from gwstream.waveforms import component_masses

DEPTH = 18.0  # nodes whose maximised ln likelihood ratio lies this far below the best carry nothing
MISMATCH = 0.06  # of the best: what a node of a grid too coarse for a peak may miss of it
LEVEL, ACROSS = 4.5, 9  # nodes wanted where the peak is 4.5 below its best: six standard deviations of a Gaussian
COARSE = np.array([160, 8, 103])
WIDEST = np.array([1e-4, 0.04, 1.2e-3])  # steps at most, whatever the peak: chirp mass^(-5/3), ratio, s
MOST = np.array([200, 80, 300])  # nodes an axis at most
PARTS = 8  # of a cell's edge, where the prior may cut it

Booleans = NDArray[np.bool_]
Indices = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Exact:
    """Nodes of the posterior, their mass, and how to draw from them.

    ``nodes`` (n, 3): chirp mass^(-5/3), ratio, time; ``steps`` (3,): the cell; ``log_mass`` (n,): ln posterior mass;
    ``products`` (n, 5): d.P, d.S, P.P, P.S, S.S of the templates of phase 0 and a quarter period later at 1 Gpc;
    ``slopes`` (n, 3): of the likeliest phase (rad) along the axes; ``parts`` (m, PARTS^2): the prior within a cell of
    the masses, of which node i has number ``cells[i]``.
    """

    nodes: Floats
    steps: Floats
    log_mass: Floats
    products: Floats
    slopes: Floats
    parts: Floats
    cells: Indices
    log_bayes: float
    prior: Prior

    def draw(self, rng: Generator, n: int) -> Floats:
        """(n, 5) draws in the order of `gwstream.records.PARAMETERS`; within a cell as the prior."""
        mass = np.exp(self.log_mass - self.log_mass.max())
        positions = (np.arange(n) + rng.random(n)) / n
        chosen = np.searchsorted(np.cumsum(mass) / mass.sum(), positions).clip(max=len(mass) - 1)
        offsets = self._offsets(chosen, rng)
        place = self.nodes[chosen] + offsets
        mass_1, mass_2 = component_masses(place[:, 0] ** -0.6, place[:, 1])
        distance, phase = amplitudes.draw(self.products[chosen], self.prior, rng)
        phase = np.mod(phase + (offsets * self.slopes[chosen]).sum(1), math.pi)
        x = np.column_stack([mass_1, mass_2, distance, place[:, 2], phase])
        return np.asarray(x[rng.permutation(n)])

    def _offsets(self, chosen: Indices, rng: Generator) -> Floats:
        """Where in their cells (n, 3): the masses in proportion to the prior, the time anywhere."""
        total = np.cumsum(self.parts, axis=1)[self.cells[chosen]]
        part = (total < rng.random((len(chosen), 1)) * total[:, -1:]).sum(axis=1)
        middle = (np.stack(np.divmod(part, PARTS), axis=1) + 0.5) / PARTS - 0.5
        place = middle + (rng.random((len(chosen), 2)) - 0.5) / PARTS
        moved = self.nodes[chosen, :2] + place * self.steps[:2]
        outside = _density(moved, self.prior) == 0  # by a piece of a part: back to its middle
        place[outside] = middle[outside]
        return np.asarray(np.column_stack([place, rng.random(len(chosen)) - 0.5]) * self.steps)


def exact(window: Floats, templates: Templates, prior: Prior, *, resolution: float = 1.0) -> Exact:
    """Posterior over the prior of one window (n,) with the templates of its whitener; about a second.

    ``resolution``: nodes per length along every axis, relative to the default.
    """
    low_chirp, high_chirp = prior.chirp_mass
    least_ratio = max(prior.min_ratio, prior.mass[0] / prior.mass[1])
    box = np.array([[high_chirp ** (-5 / 3), low_chirp ** (-5 / 3)], [least_ratio, 1.0], list(prior.time)])
    counts = COARSE
    while True:
        axes = [_middles(edge, int(count)) for edge, count in zip(box, counts, strict=True)]
        scan = _scan(window, templates, axes, prior)
        across = _across(scan.profile)
        steps = (box[:, 1] - box[:, 0]) / counts
        wanted = np.minimum(steps * np.clip(across / (ACROSS * resolution), 0.1, 1.0), WIDEST / resolution)
        slack = MISMATCH * scan.profile.max() if across.min() < ACROSS / 2 else 0.0
        smaller = _shrunk(box, axes, scan.profile > scan.profile.max() - DEPTH - slack)
        sides = smaller[:, 1] - smaller[:, 0]
        # what is wanted is judged from few nodes: a little more, so that the next look is content
        finer = np.ceil(sides / np.where(steps > wanted, wanted / 1.15, steps)).astype(np.intp)
        finer = np.minimum(np.maximum(finer, 6), (MOST * resolution).astype(np.intp))
        if np.all((steps <= 1.01 * wanted) | (sides / finer > 0.95 * steps)):
            return _integrate(axes, scan, prior)
        box, counts = smaller, finer


def _middles(edge: Floats, count: int) -> Floats:
    """Middles of ``count`` equal cells."""
    return np.asarray(edge[0] + (edge[1] - edge[0]) * (np.arange(count) + 0.5) / count)


@dataclass(frozen=True, slots=True)
class _Scan:
    """On a grid (a, b, c): ln likelihood ratio maximised, -inf outside the prior; products (a, b, c, 5).

    ``parts`` (a, b, PARTS^2): density of the prior within the cells.
    """

    profile: Floats
    products: Floats
    parts: Floats


def _scan(window: Floats, templates: Templates, axes: list[Floats], prior: Prior) -> _Scan:
    nodes = np.stack(np.meshgrid(axes[0], axes[1], indexing="ij"), axis=-1).reshape(-1, 2)
    parts = _parts(nodes, np.array([axis[1] - axis[0] for axis in axes[:2]]), prior)
    inside = np.flatnonzero(parts.any(axis=1))
    c = templates.bank.coefficients(*component_masses(nodes[inside, 0] ** -0.6, nodes[inside, 1]))
    scale = np.abs(templates.at(float(axes[2][0]))).max()  # components are of the order 1e22, coefficients 1e-22
    mix = [np.hstack([part.real, part.imag]).astype(np.float32) for part in (c * scale, 1j * c * scale)]
    products = np.zeros((len(nodes), len(axes[2]), 5))
    for k, time in enumerate(axes[2]):
        pieces = templates.at(float(time)) / scale
        gram = pieces @ pieces.T
        first, second = mix[0] @ gram, mix[1] @ gram
        data = pieces.astype(np.float64) @ window
        rows = ((first, mix[0]), (first, mix[1]), (second, mix[1]))
        inner = [np.einsum("sk,sk->s", left, right) for left, right in rows]
        products[inside, k] = np.stack([mix[0] @ data, mix[1] @ data, *inner], axis=1)
    profile = np.full(products.shape[:2], -np.inf)
    profile[inside] = amplitudes.profile(products[inside])
    shape = tuple(len(axis) for axis in axes)
    return _Scan(profile.reshape(shape), products.reshape(*shape, 5), parts.reshape(*shape[:2], -1))


def _across(profile: Floats) -> Floats:
    """Nodes across the peak (3,), at `LEVEL` below it along each axis; infinite where the peak spans the whole axis."""
    best = np.unravel_index(int(np.argmax(profile)), profile.shape)
    out = np.empty(3)
    for axis in range(3):
        line = profile[tuple(slice(None) if k == axis else int(best[k]) for k in range(3))]
        beyond = np.flatnonzero((line <= line.max() - LEVEL) & np.isfinite(line)) - int(best[axis])
        sides = [int(np.abs(side).min()) for side in (beyond[beyond < 0], beyond[beyond > 0]) if len(side)]
        out[axis] = 2 * max(sides) - 1 if sides else math.inf
    return out


def _shrunk(box: Floats, axes: list[Floats], near: Booleans) -> Floats:
    """The box around the nodes that matter, one cell wider on each side, within the old one."""
    out = box.copy()
    for axis in range(3):
        others = tuple(k for k in range(3) if k != axis)
        hit = axes[axis][near.any(axis=others)]
        step = axes[axis][1] - axes[axis][0]
        out[axis] = max(box[axis, 0], hit.min() - 1.5 * step), min(box[axis, 1], hit.max() + 1.5 * step)
    return out


def _integrate(axes: list[Floats], scan: _Scan, prior: Prior) -> Exact:
    """Masses of the nodes that matter: distance and phase integrated, prior and Jacobian of the masses applied."""
    index = np.argwhere(scan.profile > scan.profile.max() - DEPTH)
    chosen = tuple(index.T)
    steps = np.array([axis[1] - axis[0] for axis in axes])
    masses, cells = np.unique(index[:, 0] * len(axes[1]) + index[:, 1], return_inverse=True)
    parts = scan.parts.reshape(-1, PARTS**2)[masses]
    log_mass = amplitudes.log_mass(scan.products[chosen], prior) + np.log(parts.mean(axis=1))[cells]
    log_mass += np.log(steps).sum()
    return Exact(
        nodes=np.column_stack([axes[k][index[:, k]] for k in range(3)]),
        steps=steps,
        log_mass=log_mass,
        products=scan.products[chosen],
        slopes=_slopes(scan.products, steps)[chosen],
        parts=parts,
        cells=cells,
        log_bayes=float(np.log(np.exp(log_mass - log_mass.max()).sum()) + log_mass.max()),
        prior=prior,
    )


def _slopes(products: Floats, steps: Floats) -> Floats:
    """Slopes (a, b, c, 3) of the likeliest phase on the axes, from its steps to neighbours inside the prior."""
    z = products[..., 0] + 1j * products[..., 1]
    out = np.zeros((*z.shape, 3))
    for axis in range(3):
        values, slope = np.moveaxis(z, axis, 0), np.moveaxis(out[..., axis], axis, 0)
        known = (values[1:] != 0) & (values[:-1] != 0)
        step = np.where(known, np.angle(values[1:] * np.conj(values[:-1])) / (2 * steps[axis]), 0.0)
        count = np.zeros(values.shape)
        for side in (slice(1, None), slice(None, -1)):
            slope[side] += step
            count[side] += known
        slope /= np.maximum(count, 1)
    return out


def _parts(nodes: Floats, steps: Floats, prior: Prior) -> Floats:
    """Density of the prior in parts of the cells (n, PARTS^2) around nodes (n, 2)."""
    place = (np.arange(PARTS) + 0.5) / PARTS - 0.5
    offsets = np.stack(np.meshgrid(place, place, indexing="ij"), axis=-1).reshape(-1, 2) * steps
    return _density((nodes[:, None] + offsets).reshape(-1, 2), prior).reshape(len(nodes), -1)


def _density(nodes: Floats, prior: Prior) -> Floats:
    """Of masses uniform where they are allowed, as (n,) in (chirp mass^(-5/3), ratio): dm1 dm2 = m1^2 dlnMc dq."""
    mass_1, mass_2 = component_masses(nodes[:, 0] ** -0.6, nodes[:, 1])
    inside = (mass_1 <= prior.mass[1]) & (mass_2 >= prior.mass[0])
    inside &= (nodes[:, 1] <= 1) & (nodes[:, 1] >= prior.min_ratio)
    return np.where(inside, 0.6 * mass_1**2 / nodes[:, 0], 0.0)
