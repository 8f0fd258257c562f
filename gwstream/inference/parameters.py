"""The network's coordinates: residuals from the window's ridge, in its widths; unbounded, and near a standard normal.

In turn, each given those before it: the ratio q from its mean in its width; ln chirp mass from the ridge at q in its
width there; time from the ridge's line at q and chirp mass; 1 / D from the likeliest, times the SNR; the doubled phase
from the ridge's plane, on the circle. The first four end at the prior's edges, and `_opened` bends a bounded axis into
an unbounded one, whose tails it draws in. The order of the last axis is that of `gwstream.records.PARAMETERS`: e1 chirp
mass, e2 ratio, e3 distance, e4 time, e5 phase in (-pi, pi]. The map depends on window and whitener alone, so a density
in e is an exact density in the five parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from gwstream.inference.moments import FIELDS, Ridge
from gwstream.prior import Prior
from gwstream.records import Floats
from gwstream.waveforms import component_masses

TWO_PI = 2 * math.pi
CHIRP, WIDTH, TIME, TIME_WIDTH, SLANT, AMPLITUDE, GAIN, PHASE, TURN, TWIST, MASS, SKEW, TAIL = range(len(FIELDS))
CLOSEST = 1e-12  # to a bound, in widths
LINEAR = 3.0  # widths from the middle at which the tails begin
FARTHEST = 300.0  # coordinate
ROUNDING = 1e-11  # of a bound: nearer, the parameters' own rounding may be beyond it


@dataclass(frozen=True, slots=True)
class Anchor:
    """What the coordinates are counted from, for B windows.

    ``table`` (B, R, fields): the ridge's, with the logarithms of the widths and the phase unwrapped; ``ratios`` (R,);
    ``ratio``, ``spread``, ``snr`` (B,).
    """

    table: Floats
    ratios: Floats
    ratio: Floats
    spread: Floats
    snr: Floats
    prior: Prior

    @classmethod
    def of(cls, ridge: Ridge, prior: Prior) -> Anchor:
        """The anchor of windows with this ridge."""
        table = ridge.table.double().numpy().copy()
        table[..., [WIDTH, TIME_WIDTH]] = np.log(table[..., [WIDTH, TIME_WIDTH]])
        table[..., PHASE] = np.unwrap(table[..., PHASE], axis=1)
        ratios, ratio, spread, snr = (
            part.double().numpy() for part in (ridge.ratios, ridge.ratio, ridge.spread, ridge.snr)
        )
        return cls(table, ratios, ratio, spread, snr, prior)

    def repeated(self, times: int) -> Anchor:
        """Each window so many times in a row."""
        table, ratio, spread, snr = (
            np.repeat(part, times, axis=0) for part in (self.table, self.ratio, self.spread, self.snr)
        )
        return replace(self, table=table, ratio=ratio, spread=spread, snr=snr)

    def alone(self, k: int) -> Anchor:
        """The ``k``-th window's."""
        table, ratio, spread, snr = (part[k : k + 1] for part in (self.table, self.ratio, self.spread, self.snr))
        return replace(self, table=table, ratio=ratio, spread=spread, snr=snr)

    def at(self, ratio: Floats) -> Floats:
        """The fields before MASS at ratios (S,), by Catmull-Rom splines; row by row, or one window for all."""
        nodes = len(self.ratios)
        position = (ratio - self.ratios[0]) / (self.ratios[1] - self.ratios[0])
        cell = np.clip(position.astype(np.intp), 0, nodes - 2)
        u = np.clip(position - cell, 0.0, 1.0)
        weights = np.zeros((len(ratio), nodes + 2))  # of the nodes, the first and last of which stand there twice
        row = np.arange(len(ratio)) * (nodes + 2) + cell
        for k, weight in enumerate(_catmull_rom(u)):
            weights.reshape(-1)[row + k] = weight
        weights[:, 1] += weights[:, 0]
        weights[:, -2] += weights[:, -1]
        weights, table = weights[:, 1:-1], self.table[..., :MASS]
        return np.asarray(weights @ table[0] if len(table) == 1 else np.einsum("sr,srf->sf", weights, table))

    def encode(self, x: Floats) -> Floats:
        """Coordinates (S, 5) of parameters (S, 5) inside the prior: one a window, or any number for one window."""
        ratio = x[:, 1] / x[:, 0]
        log_chirp = np.log(x[:, 0] * x[:, 1]) * 0.6 - np.log(x[:, 0] + x[:, 1]) * 0.2
        line = _Line(self, ratio)
        e2 = _opened((ratio - self.ratio) / self.spread, *line.ratio_bounds)
        e1 = _opened((log_chirp - line.chirp) / line.width, *line.chirp_bounds)
        line.move(log_chirp)
        e4 = _opened((x[:, 3] - line.time) / line.time_width, *line.time_bounds)
        e3 = _opened((1 / (x[:, 2] * line.inverse) - 1) * self.snr, *line.distance_bounds)
        turn = 2 * x[:, 4] - line.phase - line.turn * (x[:, 3] - line.time)
        e5 = _widened(np.remainder(turn + math.pi, TWO_PI) - math.pi, self.sharpness)
        return np.stack([e1, e2, e3, e4, e5], axis=1)

    def decode(self, e: Floats) -> tuple[Floats, Floats]:
        """Parameters (S, 5) of coordinates (S, 5), and ln |de / dx| (S,)."""
        x, log_jacobian = self._decode(e)
        return x, log_jacobian()

    def parameters(self, e: Floats) -> Floats:
        """Parameters (S, 5) of coordinates (S, 5) alone."""
        return self._decode(e)[0]

    def _decode(self, e: Floats) -> tuple[Floats, Callable[[], Floats]]:
        """See `decode`; the second is reckoned if it is called."""
        slopes = []

        def closed(k: int, line: tuple[Floats, Floats]) -> Floats:
            value, log_slope = _closed(e[:, k], *line)
            slopes.append(log_slope)
            return value

        low, high = ((edge - self.ratio) / self.spread for edge in (self.prior.least_ratio, 1.0))
        ratio = self.ratio + self.spread * closed(1, (low, high))
        line = _Line(self, ratio)
        log_chirp = line.chirp + line.width * closed(0, line.chirp_bounds)
        line.move(log_chirp)
        time = line.time + line.time_width * closed(3, line.time_bounds)
        distance = 1 / (line.inverse * (1 + closed(2, line.distance_bounds) / self.snr))
        angle, slope = _narrowed(e[:, 4], self.sharpness)
        phase = np.mod(0.5 * (angle + line.phase + line.turn * (time - line.time)), math.pi)
        mass_1, mass_2 = component_masses(np.exp(log_chirp), ratio)

        def log_jacobian() -> Floats:
            """By dMc/Mc dq = dm1 dm2 / m1^2, d(1/D) = dD / D^2, d(2 phase) = 2 dphase."""
            found = -sum(log_slope() for log_slope in slopes) - np.log(slope())
            found += np.log(2 * self.snr / (line.inverse * self.spread))
            return np.asarray(found - np.log(line.width * line.time_width) - 2 * np.log(mass_1 * distance))

        return np.column_stack([mass_1, mass_2, distance, time, phase]), log_jacobian

    def edges(self) -> tuple[Floats, Floats, Floats]:
        """Where the prior ends, in the ridge's widths, (B, R) each: chirp mass from below and above, farthest 1 / D."""
        least, most = self.prior.log_chirp_limits(self.ratios)
        chirp, width = self.table[..., CHIRP], np.exp(self.table[..., WIDTH])
        farthest = (1 / (self.prior.distance[1] * np.exp(self.table[..., AMPLITUDE])) - 1) * self.snr[:, None]
        return (least - chirp) / width, (most - chirp) / width, farthest

    @property
    def time(self) -> float:
        """The ridge's time of ONE window at its likeliest ratio, s."""
        return float(self.table[0, np.argmax(self.table[0, :, MASS]), TIME])

    @property
    def sharpness(self) -> Floats:
        """By which the circle is stretched around the expected phase, (B,)."""
        return np.maximum(1.0, 0.8 * self.snr)


class _Line:
    """The ridge at ratios (S,), and after `move` at chirp masses too."""

    def __init__(self, anchor: Anchor, ratio: Floats) -> None:
        self._anchor, self._at = anchor, anchor.at(ratio)
        self._ratio = ratio
        self.chirp, self.width, self.time_width = (
            self._at[:, CHIRP],
            np.exp(self._at[:, WIDTH]),
            np.exp(self._at[:, TIME_WIDTH]),
        )
        self.turn = self._at[:, TURN]

    @property
    def ratio_bounds(self) -> tuple[Floats, Floats]:
        low, high = (
            (edge - self._anchor.ratio) / self._anchor.spread for edge in (self._anchor.prior.least_ratio, 1.0)
        )
        return low, high

    @property
    def chirp_bounds(self) -> tuple[Floats, Floats]:
        least, most = self._anchor.prior.log_chirp_limits(self._ratio)
        return (least - self.chirp) / self.width, (most - self.chirp) / self.width

    def move(self, log_chirp: Floats) -> None:
        """Go to ln chirp masses (S,)."""
        away = log_chirp - self.chirp
        self.time = self._at[:, TIME] + self._at[:, SLANT] * away
        self.inverse = np.exp(self._at[:, AMPLITUDE] + self._at[:, GAIN] * away)
        self.phase = self._at[:, PHASE] + self._at[:, TWIST] * away

    @property
    def time_bounds(self) -> tuple[Floats, Floats]:
        low, high = self._anchor.prior.time
        return (low - self.time) / self.time_width, (high - self.time) / self.time_width

    @property
    def distance_bounds(self) -> tuple[Floats, Floats]:
        near, far = self._anchor.prior.distance
        snr = self._anchor.snr
        return (1 / (far * self.inverse) - 1) * snr, (1 / (near * self.inverse) - 1) * snr


def _catmull_rom(u: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    """Weights (S,) of the nodes -1, 0, 1 and 2 of a Catmull-Rom spline at ``u`` in [0, 1]."""
    v = 1 - u
    return -0.5 * u * v**2, 1 + u**2 * (1.5 * u - 2.5), 1 + v**2 * (1.5 * v - 2.5), -0.5 * v * u**2


def _opened(v: Floats, low: Floats, high: Floats) -> Floats:
    """(low, high) to the real line; far from the bounds, and near 0, in units of v, the identity."""
    left, right = np.maximum(v - low, CLOSEST), np.maximum(high - v, CLOSEST)
    far = v + np.log(-np.expm1(-left)) - np.log(-np.expm1(-right))
    beyond = np.maximum(np.abs(far) - LINEAR, 0.0)
    return np.asarray(far - np.copysign(beyond - np.arcsinh(beyond), far))


def _closed(e: Floats, low: Floats, high: Floats) -> tuple[Floats, Callable[[], Floats]]:
    """The inverse of `_opened`, and the ln of its slope."""
    far = e
    tail = np.flatnonzero(np.abs(e) > LINEAR)
    beyond = np.minimum(np.abs(e[tail]) - LINEAR, FARTHEST)
    if len(tail):
        far = e.copy()
        far[tail] += np.copysign(np.sinh(beyond) - beyond, e[tail])
    above, below = far - low, high - far
    # logaddexp(far, low) - logaddexp(0, far - high) and its slope share these; each of them fast in long arrays
    from_low = np.log1p(np.exp(-np.abs(above)))
    from_high = np.log1p(np.exp(-np.abs(below)))
    value = np.maximum(far, low) + from_low - np.maximum(-below, 0.0) - from_high
    value = np.minimum(np.maximum(value, low + ROUNDING * np.abs(low)), high - ROUNDING * np.abs(high))

    def log_slope() -> Floats:
        found = np.minimum(above, 0.0) - from_low + np.minimum(below, 0.0) - from_high
        found += np.log(-np.expm1(-np.maximum(high - low, CLOSEST)))
        found[tail] += np.log(np.cosh(beyond))
        return np.asarray(found)

    return np.asarray(value), log_slope


def _widened(angle: Floats, by: Floats) -> Floats:
    """The circle onto itself, stretched ``by`` around 0 (a Moebius transformation)."""
    return np.asarray(2 * np.arctan(by * np.tan(0.5 * angle)))


def _narrowed(angle: Floats, by: Floats) -> tuple[Floats, Callable[[], Floats]]:
    """The inverse of `_widened`, and its slope."""
    half = 0.5 * angle
    sine, cosine = np.sin(half), by * np.cos(half)
    return 2 * np.arctan2(sine, cosine), lambda: np.asarray(by / (cosine**2 + sine**2))
