"""A faint signal may be at several times: a proposal for each of them, and their mixture.

The coordinates follow the ridge at the best time. Another time that fits nearly as well is, in them, a needle far out
that no network learns to hit. So it gets a ridge of its own, from the matched filters near it alone, and the network
proposes there as it does for a window that holds nothing else. How much of the draws each gets follows from the
marginal likelihood of its ridge; the weights put right what that leaves.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.random import Generator, Philox
from torch import Tensor

from gwstream.inference.features import Seen
from gwstream.inference.importance import Proposal
from gwstream.inference.mixture import log_sum_exp
from gwstream.inference.parameters import Anchor
from gwstream.prior import Prior
from gwstream.records import Floats

NEARLY = 6.0  # nats below the best at which another time still counts
APART = 0.015  # s on either side of a time that belong to it
ALIKE = 0.004  # s between two ridges that are one
MOST = 5  # times
EVEN = 0.1  # of the draws are shared evenly, whatever the ridges say


def others(rho: Tensor, times: Tensor, prior: Prior) -> list[Tensor]:
    """For each further time, best first, the gate's SNRs (1, 2, N, lags) of ONE window with all but its own set to 0.

    ``times`` (lags,): of the lags, s.
    """
    power = (rho[:, 0].square() + rho[:, 1].square()).amax((0, 1))
    power = power.masked_fill((times < prior.time[0]) | (times > prior.time[1]), 0.0)
    least = power.max() - 2 * NEARLY
    found: list[Tensor] = []
    at = int(power.argmax())
    while len(found) < MOST - 1:
        power = power.masked_fill((times - times[at]).abs() <= APART, 0.0)
        at = int(power.argmax())
        if power[at] <= least.clamp(min=0.0):
            break
        found.append(rho * ((times - times[at]).abs() <= APART))
    return found


def distinct(looks: list[Seen]) -> list[Seen]:
    """Those of ONE window whose ridge is not that of one before: a ridge may end up at a neighbour's time."""
    kept: list[Seen] = []
    for look in looks:
        if all(abs(look.anchor.time - other.anchor.time) > ALIKE for other in kept):
            kept.append(look)
    return kept


@dataclass(frozen=True, slots=True)
class Several:
    """A mixture of proposals, each in coordinates of its own, spoken of in those of the first.

    ``shares`` (K,): of the draws, of sum 1.
    """

    proposals: tuple[Proposal, ...]
    anchors: tuple[Anchor, ...]
    shares: Floats

    @classmethod
    def weighed(cls, proposals: tuple[Proposal, ...], looks: list[Seen]) -> Several:
        """Proposals of ONE window as seen at several times, their draws shared by the ridges' levels."""
        shares = torch.softmax(torch.cat([look.level for look in looks]).double(), 0).numpy()
        return cls(proposals, tuple(look.anchor for look in looks), (1 - EVEN) * shares + EVEN / len(looks))

    @property
    def stratified(self) -> bool:
        """See `Proposal`."""
        return self.proposals[0].stratified

    def draw(self, rng: Generator, n: int) -> Floats:
        """(n, 5), one proposal after the other.

        The shares are met as evenly as whole draws allow, and each proposal has random numbers of its own and always as
        many: rounding that gives one of them a draw more leaves the others as they were.
        """
        ends = np.ceil(n * np.cumsum(self.shares) - rng.random()).astype(int).clip(0, n)
        ends[-1] = n
        parts = []
        keys = rng.integers(2**63, size=len(ends))
        counts = np.diff(ends, prepend=0)
        for proposal, anchor, count, key in zip(self.proposals, self.anchors, counts, keys, strict=True):
            e = proposal.draw(Generator(Philox(key=int(key))), n)[:count]
            parts.append(e if anchor is self.anchors[0] else self.anchors[0].encode(anchor.parameters(e)))
        return np.concatenate(parts)

    def log_density(self, e: Floats) -> Floats:
        """(n,) of (n, 5)."""
        x, log_jacobian = self.anchors[0].decode(e)
        columns = [self.proposals[0].log_density(e)]
        for proposal, anchor in zip(self.proposals[1:], self.anchors[1:], strict=True):
            own = anchor.encode(x)
            columns.append(proposal.log_density(own) + anchor.decode(own)[1] - log_jacobian)
        return log_sum_exp(np.stack(columns, axis=-1) + np.log(self.shares))
