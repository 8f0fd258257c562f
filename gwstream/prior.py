"""The prior over the five parameters of a window, explicit and normalised.

m1 >= m2 uniform within limits and above a mass ratio, coalescence time and phase uniform, and the effective distance
either uniform too or as sources spread evenly in space have it, p(D) proportional to D^2. (For one detector the
effective distance is the true one times a factor of the angles alone, so it inherits the square.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.random import Generator

from gwstream.records import Floats

DistanceDensity = Literal["uniform", "volume"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prior:
    """Limits in the units of `gwstream.records.PARAMETERS`; times are seconds after a window's first sample."""

    mass: tuple[float, float] = (20.0, 100.0)
    min_ratio: float = 0.25
    distance: tuple[float, float] = (0.1, 5.0)
    time: tuple[float, float] = (0.65, 0.85)
    distance_density: DistanceDensity = "uniform"

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
    def least_ratio(self) -> float:
        """Least mass ratio that the limits allow."""
        return max(self.min_ratio, self.mass[0] / self.mass[1])

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

    def log_chirp_limits(self, ratio: Floats) -> tuple[Floats, Floats]:
        """ln chirp mass (Msun) where mass 2 is the least and where mass 1 is the largest, at mass ratios."""
        low, high = self.mass
        common = 0.2 * np.log1p(ratio)
        return math.log(low) - 0.4 * np.log(ratio) - common, math.log(high) + 0.6 * np.log(ratio) - common

    def served(self, distance: Literal["model"] | DistanceDensity) -> Prior:
        """The prior to serve with: this one, or this one with another density of the distance."""
        return self if distance == "model" else replace(self, distance_density=distance)

    @property
    def _power(self) -> int:
        """k where p(D) is proportional to D^k."""
        return 2 if self.distance_density == "volume" else 0

    @property
    def _distance_edges(self) -> tuple[float, float]:
        """Limits of D^(k + 1), in which the prior is uniform."""
        return self.distance[0] ** (self._power + 1), self.distance[1] ** (self._power + 1)

    def distance_below(self, distance: Floats) -> Floats:
        """Probability of a smaller effective distance than ``distance`` (Gpc, any shape)."""
        low, high = self._distance_edges
        return np.asarray((np.clip(distance, *self.distance) ** (self._power + 1) - low) / (high - low))

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
        low, high = self._distance_edges
        volume = self.mass_area * (high - low) / (self._power + 1) * (self.time[1] - self.time[0]) * math.pi
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(inside, self._power * np.log(distance) - math.log(volume), -np.inf)

    def draw(self, rng: Generator, n: int) -> Floats:
        """``n`` independent draws, (n, 5)."""
        masses = self._draw_masses(rng, n)
        near, far = self._distance_edges
        rest = rng.uniform((near, self.time[0], 0.0), (far, self.time[1], math.pi), size=(n, 3))
        rest[:, 0] **= 1 / (self._power + 1)
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
