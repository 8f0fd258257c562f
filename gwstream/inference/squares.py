"""Squared norms of many waveforms of both phases, from the products of the few components that they are mixtures of.

With h+ the real part and hx the imaginary part of sum_k c_k* (p_k + i q_k), what is asked for are h+.h+, h+.hx and
hx.hx. They are linear in the products of components, and those of c that they are linear in are known beforehand: so
they are two products of matrices. For A = p.p, B = p.q, D = q.q and c = a + i b,

    h+.h+ + hx.hx = a'(A + D) a + b'(A + D) b + 2 a'(B - B') b
    h+.h+ - hx.hx = a'(A - D) a - b'(A - D) b + 2 a'(B + B') b
    h+.hx         = (a'(B + B') a - b'(B + B') b) / 2 - a'(A - D) b

and of symmetric and antisymmetric matrices a triangle is all there is.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Squares:
    """Of N mixtures of K complex components. ``alike`` (N, K^2), ``apart`` (N, K^2 + K): the products of coefficients
    in the sum of both phases' squares, and in their difference; ``scale``: to be multiplied with, squared."""

    alike: Tensor
    apart: Tensor
    scale: float

    @classmethod
    def of(cls, mix: Tensor) -> Squares:
        """Of ``mix`` (2 N, 2 K) over p and q: rows a, b of the first phases, then -b, a of the second."""
        scale = float(mix.abs().max())  # strain squared is beyond single precision
        a, b = (mix.chunk(2)[0] / scale).chunk(2, dim=1)
        (row, column), (upper, right) = (torch.triu_indices(a.shape[1], a.shape[1], k) for k in (0, 1))
        twice = torch.where(row == column, 1.0, 2.0)

        def weighed(first: Tensor, second: Tensor) -> Tensor:
            return first[:, row] * second[:, column] * twice

        turned = 2 * (a[:, upper] * b[:, right] - b[:, upper] * a[:, right])
        return cls(
            torch.cat([weighed(a, a) + weighed(b, b), turned], 1),
            torch.cat([weighed(a, a) - weighed(b, b), weighed(a, b) + weighed(b, a)], 1),
            scale,
        )

    def __call__(self, components: Tensor) -> Tensor:
        """h+.h+, h+.hx, hx.hx (3, M, N), double, of M sets of real components (M, 2 K, n): p_k, then q_k."""
        size, scale = components.shape[1] // 2, float(components.abs().max())
        components = components / scale
        products = components @ components.mT
        a, b, d = products[:, :size, :size], products[:, :size, size:], products[:, size:, size:]
        (row, column), (upper, right) = (torch.triu_indices(size, size, k) for k in (0, 1))
        level, turned = (a + d)[:, row, column], (b - b.mT)[:, upper, right]
        bent, crossed = (a - d)[:, row, column], (b + b.mT)[:, row, column]
        both = self.alike @ torch.cat([level, turned], 1).T
        sets = torch.cat([torch.cat([bent, crossed], 1), torch.cat([crossed, -bent], 1)])
        difference, mixed = (self.apart @ sets.T).chunk(2, dim=1)
        found = torch.stack([both + difference, mixed, both - difference])
        return found.mT.double() * (0.5 * (self.scale * scale) ** 2)
