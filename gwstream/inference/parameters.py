"""The network's coordinates: residuals from the gate's best template, in units of the expected posterior width.

From the gate come chirp mass m0, time t0, phase psi0, amplitude a0 = SNR / (SNR at 1 Gpc) and SNR rho. Then

    e1 = ln(Mc / m0) rho            e3 = (1 / (D a0) - 1) rho / 2        e5 = 2 phase - psi0 - 2 pi f0 (t - t0'), cyclic
    e2 = (q - 0.625) / 0.22         e4 = (t - t0) rho / 0.03 s

with t0' the lag psi0 was read at and f0 a frequency near the template's centroid, which takes the correlation of time
and phase away. e1 … e4 are bounded by the prior's limits. The map is deterministic in the window, so a density in e is
an exact density in the five parameters.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gwstream.prior import Prior
from gwstream.records import Floats
from gwstream.waveforms import chirp_mass, component_masses

RATIO_CENTRE, RATIO_SCALE = 0.625, 0.22
TIME_SCALE = 0.03
LEAST_SNR = 4.0
TWO_PI = 2 * math.pi


@dataclass(frozen=True, slots=True)
class Anchor:
    """What the coordinates are counted from; every field (B,) float64."""

    chirp: Tensor
    time: Tensor
    lag_time: Tensor
    phase: Tensor
    amplitude: Tensor
    snr: Tensor
    frequency: Tensor


def centroid(chirp: Tensor) -> Tensor:
    """Frequency (Hz) at which phase and time decorrelate, by chirp mass (Msun): measured on O3-like noise, smooth."""
    return 30.0 + 45.0 * torch.exp(-((chirp / 45.0) ** 1.2))


def encode(anchor: Anchor, x: Tensor) -> Tensor:
    """Coordinates (B, 5) of parameters ``x`` (B, 5) in the order of `gwstream.records.PARAMETERS`, float64."""
    chirp = (x[:, 0] * x[:, 1]) ** 0.6 / (x[:, 0] + x[:, 1]) ** 0.2
    turn = 2 * x[:, 4] - anchor.phase - TWO_PI * anchor.frequency * (x[:, 3] - anchor.lag_time)
    return torch.stack(
        [
            torch.log(chirp / anchor.chirp) * anchor.snr,
            (x[:, 1] / x[:, 0] - RATIO_CENTRE) / RATIO_SCALE,
            (1 / (x[:, 2] * anchor.amplitude) - 1) * anchor.snr / 2,
            (x[:, 3] - anchor.time) * anchor.snr / TIME_SCALE,
            torch.remainder(turn + math.pi, TWO_PI) - math.pi,
        ],
        dim=1,
    )


def limits(anchor: Anchor, prior: Prior) -> tuple[Tensor, Tensor]:
    """Lower and upper bounds (B, 4) of e1 … e4 by the prior."""
    low_chirp, high_chirp = prior.chirp_mass
    ones = torch.ones_like(anchor.snr)
    columns = []
    for chirp, ratio, distance, time in (
        (low_chirp, prior.min_ratio, prior.distance[1], prior.time[0]),
        (high_chirp, 1.0, prior.distance[0], prior.time[1]),
    ):
        columns.append(
            torch.stack(
                [
                    torch.log(chirp / anchor.chirp) * anchor.snr,
                    (ratio - RATIO_CENTRE) / RATIO_SCALE * ones,
                    (1 / (distance * anchor.amplitude) - 1) * anchor.snr / 2,
                    (time - anchor.time) * anchor.snr / TIME_SCALE,
                ],
                dim=1,
            )
        )
    return columns[0], columns[1]


def decode(anchor: Anchor, e: Floats) -> tuple[Floats, Floats]:
    """Parameters (S, 5) of coordinates ``e`` (S, 5) of ONE window, and ln |de / dx| (S,)."""
    chirp0, time0, lag_time, phase0, amplitude0, snr, frequency = (
        float(value[0])
        for value in (
            anchor.chirp,
            anchor.time,
            anchor.lag_time,
            anchor.phase,
            anchor.amplitude,
            anchor.snr,
            anchor.frequency,
        )
    )
    ratio = RATIO_CENTRE + RATIO_SCALE * e[:, 1]
    mass_1, mass_2 = component_masses(chirp0 * np.exp(e[:, 0] / snr), ratio)
    distance = 1 / (amplitude0 * (1 + 2 * e[:, 2] / snr))
    time = time0 + e[:, 3] * TIME_SCALE / snr
    phase = np.mod(0.5 * (e[:, 4] + phase0 + TWO_PI * frequency * (time - lag_time)), math.pi)
    # dMc/Mc dq = dm1 dm2 / m1^2, d(1/D) = dD / D^2, d(2 phase) = 2 dphase
    log_jacobian = (
        math.log(snr / RATIO_SCALE * snr / 2 / amplitude0 * snr / TIME_SCALE * 2)
        - 2 * np.log(mass_1)
        - 2 * np.log(distance)
    )
    return np.column_stack([mass_1, mass_2, distance, time, phase]), log_jacobian


def chirp_and_ratio(x: Floats) -> tuple[Floats, Floats]:
    """Chirp mass (Msun) and mass ratio of parameters (S, 5)."""
    return chirp_mass(x[:, 0], x[:, 1]), x[:, 1] / x[:, 0]
