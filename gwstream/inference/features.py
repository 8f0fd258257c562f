"""The network's input: the ridge in its own units, the exact density at a few points, the gate, and the PSD context.

The SNRs of all templates are linear in the window and span the signals; the ridge sums up what they say of the
likelihood around its best point, so the network need not learn what is known in closed form. (Gabbard et al. feed the
window itself, which takes one network a PSD.) Training and serving see through this one function.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from gwstream.inference.bank import Bank
from gwstream.inference.gate import Best, MatchedFilter, best
from gwstream.inference.likelihood import Templates
from gwstream.inference.moments import CHIRPS, RATIOS, Grid, Ridge
from gwstream.inference.parameters import MASS, SKEW, TAIL, Anchor
from gwstream.inference.ridge import Projector, ridge
from gwstream.inference.stencil import SIZE, look
from gwstream.prior import Prior

PER_RATIO, WHOLE = 17, 12
WHEN, BIN = 40, 0.005  # bins on either side of the best time, s
LEAST_LIKELY = 30.0  # nats below the best at which a time is as good as excluded
TIME = 4  # among the WHOLE
POOL = 4  # chirp masses of the profile taken together


@dataclass(frozen=True)
class Live:
    """What one whitener makes of a bank. ``nodes``: the grid of the ridge; ``times``: of coalescence, s."""

    templates: Templates
    gate: MatchedFilter
    nodes: Grid
    times: tuple[float, float]

    @classmethod
    def of(cls, templates: Templates, nodes: Grid, prior: Prior) -> Live:
        """The gate behind the templates' whitener; with the templates some 4 ms."""
        return cls(templates, MatchedFilter(templates, prior.time), nodes, prior.time)

    @cached_property
    def projector(self) -> Projector:
        """For windows behind the gate; some 5 ms when it is first asked for."""
        return Projector(self.nodes, self.templates, self.times)


@dataclass(frozen=True, slots=True)
class Seen:
    """Windows as the network sees them: input (B, F) float32, anchor of the coordinates, the gate's best.

    ``level`` (B,): ln marginal likelihood of the ridge, but for a constant.
    """

    y: Tensor
    anchor: Anchor
    best: Best
    level: Tensor


def size(bank: Bank, context: int) -> int:
    """Length F of the network's input."""
    return PER_RATIO * RATIOS + WHOLE + CHIRPS // POOL + SIZE + 2 * len(bank.gate) + 2 * WHEN + 1 + context


def see(live: Live, windows: Tensor, rho: Tensor, context: Tensor, prior: Prior) -> Seen:
    """Windows (B, n) float32 behind one whitener, with the gate's SNRs and the PSD context (B, k)."""
    found = best(rho, live.gate.times)
    seen = ridge(live.projector, windows, found.time)
    anchor = Anchor.of(seen, prior)
    power, lag = (rho[:, 0].square() + rho[:, 1].square()).max(-1)
    deficit = torch.log1p((found.snr[:, None].square() - power).clamp(min=0.0))
    offset = torch.tanh((live.gate.times[lag] - found.time[:, None]) / 0.02)
    profile = torch.log1p((-seen.profile).clamp(min=0.0).reshape(len(windows), -1, POOL).amin(-1))
    shape, level, inverse_averages = context[:, :-2], context[:, -2:-1], context[:, -1:]
    exact = look(live.templates, anchor, windows)
    when = _when(live.gate.times, rho, found, prior)
    parts = [_summary(seen, anchor, prior), profile, exact, deficit, offset, when]
    parts += [shape, level / 5, inverse_averages * 20]
    return Seen(torch.cat(parts, 1).float(), anchor, found, seen.level)


def coalescence(y: Tensor, prior: Prior) -> Tensor:
    """The ridge's mean time of coalescence (B,), s into the window, read back from the network's input (B, F)."""
    low, high = prior.time
    return 0.5 * (low + high) + (high - low) * y[:, PER_RATIO * RATIOS + TIME]


def _when(times: Tensor, rho: Tensor, found: Best, prior: Prior) -> Tensor:
    """How far below the best any template is, nats, in bins of time around the best, (B, 2 WHEN + 1).

    A faint signal may be at several times; the ridge follows one.
    """
    deficit = 0.5 * (found.snr[:, None].square() - (rho[:, 0].square() + rho[:, 1].square()).amax(1))
    within = (times >= prior.time[0]) & (times <= prior.time[1])
    deficit = deficit.clamp(0.0, LEAST_LIKELY).masked_fill(~within, LEAST_LIKELY)
    bins = torch.round((times - found.time[:, None]) / BIN).long().clamp(-WHEN, WHEN) + WHEN
    empty = torch.full((len(rho), 2 * WHEN + 1), LEAST_LIKELY)
    return torch.log1p(empty.scatter_reduce(1, bins, deficit, "amin"))


def _summary(seen: Ridge, anchor: Anchor, prior: Prior) -> Tensor:
    """The ridge relative to its own mean, in its own widths, and where it lies, (B, PER_RATIO * RATIOS + WHOLE)."""
    table = torch.from_numpy(anchor.table).float()
    mass = table[..., MASS]
    share = torch.softmax(mass, 1)[..., None]
    middle = (share * table).sum(1, keepdim=True)
    chirp, width, time, time_width, slant, amplitude, gain, phase, turn, twist, _, _, _ = (table - middle).unbind(-1)
    sigma, sigma_time = torch.exp(middle[..., 1]), torch.exp(middle[..., 3])
    snr = seen.snr[:, None]
    edges = [torch.from_numpy(edge).float() for edge in anchor.edges()]
    by_ratio = [
        torch.asinh(chirp / sigma),
        width,
        torch.asinh(time / sigma_time),
        time_width,
        torch.asinh(slant * sigma / sigma_time),
        torch.asinh(amplitude * snr / 3),
        gain,
        torch.cos(phase),
        torch.sin(phase),
        turn * sigma_time,
        torch.asinh(twist * sigma),
        torch.asinh(mass),
        torch.asinh(table[..., SKEW]),
        torch.asinh(table[..., TAIL]),
        *(torch.asinh(edge) for edge in edges[:2]),
        torch.asinh(edges[2]),
    ]
    low, high = prior.time
    at = middle[:, 0]
    whole = torch.stack(
        [
            torch.log(seen.snr) - 2.3,
            10 / seen.snr,
            at[:, 0] - 3.7,
            at[:, 1] + 2.5,
            (at[:, 2] - 0.5 * (low + high)) / (high - low),
            at[:, 3] + 7,
            at[:, 4] * 100,
            at[:, 5],
            at[:, 6],
            (at[:, 8] - 500) / 50,
            (seen.ratio - 0.625) * 4,
            torch.log(seen.spread) + 1.5,
        ],
        1,
    )
    return torch.cat([torch.stack(by_ratio, -1).flatten(1), whole], 1)
