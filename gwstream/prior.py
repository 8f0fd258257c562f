"""The prior over the five parameters of a window, explicit and normalised.

m1 >= m2 uniform within limits and above a mass ratio, effective distance, coalescence time and phase uniform.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from gwstream.records import Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Prior:
    """Limits in the units of `gwstream.records.PARAMETERS`; times are seconds after a window's first sample."""

    mass: tuple[float, float] = (20.0, 100.0)
    min_ratio: float = 0.25
    distance: tuple[float, float] = (0.1, 5.0)
    time: tuple[float, float] = (0.65, 0.85)

    def __post_init__(self) -> None:
        for name, (low, high) in {"mass": self.mass, "distance": self.distance, "time": self.time}.items():
            if not 0 < low < high:
                raise ValueError(f"prior.{name}: need 0 < low < high, got {low} and {high}")
        if not 0 < self.min_ratio < 1:
            raise ValueError(f"prior.min_ratio: must lie between 0 and 1, got {self.min_ratio}")

    @property
    def middle(self) -> float:
        """Middle of the coalescence range, s: windows nearest to it are the best placed."""
        return 0.5 * (self.time[0] + self.time[1])

    @property
    def mass_area(self) -> float:
        """Area of the allowed (m1, m2) region, Msun^2."""
        low, high = self.mass
        area = 0.5 * (high - low) ** 2
        knee = low / self.min_ratio  # above it, m2 >= ratio * m1 cuts into m2 >= low
        if knee < high:
            area -= 0.5 * (high - knee) * (self.min_ratio * high - low)
        return area

    @property
    def chirp_mass(self) -> tuple[float, float]:
        """Least and largest chirp mass, Msun."""
        return self.mass[0] * 0.5**0.2, self.mass[1] * 0.5**0.2

    def log_density(self, x: Floats) -> Floats:
        """ln p(x), (n,), of ``x`` (n, 5); -inf outside. The phase may be any real number."""
        mass_1, mass_2, distance, time = x[:, 0], x[:, 1], x[:, 2], x[:, 3]
        inside = (
            (mass_1 <= self.mass[1])
            & (mass_2 >= self.mass[0])
            & (mass_2 <= mass_1)
            & (mass_2 >= self.min_ratio * mass_1)
            & (distance >= self.distance[0])
            & (distance <= self.distance[1])
            & (time >= self.time[0])
            & (time <= self.time[1])
        )
        volume = self.mass_area * (self.distance[1] - self.distance[0]) * (self.time[1] - self.time[0]) * math.pi
        return np.where(inside, -math.log(volume), -np.inf)

    def draw(self, rng: Generator, n: int) -> Floats:
        """``n`` independent draws, (n, 5)."""
        masses = self._draw_masses(rng, n)
        rest = rng.uniform(
            (self.distance[0], self.time[0], 0.0), (self.distance[1], self.time[1], math.pi), size=(n, 3)
        )
        return np.column_stack([masses, rest])

    def _draw_masses(self, rng: Generator, n: int) -> Floats:
        kept: list[Floats] = []
        missing = n
        while missing:
            pair = np.sort(rng.uniform(*self.mass, size=(2 * missing + 8, 2)), axis=1)[:, ::-1]
            pair = pair[pair[:, 1] >= self.min_ratio * pair[:, 0]][:missing]
            kept.append(pair)
            missing -= len(pair)
        return np.concatenate(kept)
