"""Non-spinning IMRPhenomD from lalsimulation, in the one-detector convention of gwstream.

For one detector, an aligned (2, +-2) signal is ``h(f) = exp(2 i phase - 2 pi i f t) h0(f; m1, m2) / D`` with D the
effective distance in Gpc, t the time of IMRPhenomD's t = 0 and h0 the face-on waveform at 1 Gpc whose phase at 70 Hz
is zero. So ``phase`` is half the gravitational-wave phase of the 70-Hz component at coalescence, with period pi.

lalsimulation is imported at the first call: only training, injections and the building of a bank need it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gwstream.records import Floats

REFERENCE_HZ = 70.0
GPC_M = 3.0856775814913674e25
SUN_KG = 1.988409870698051e30  # lal.MSUN_SI
SUN_S = 4.925490947641267e-6  # lal.MTSUN_SI


def frequency_domain(
    mass_1: float, mass_2: float, *, delta_f: float, f_min: float, f_max: float
) -> NDArray[np.complex128]:
    """h0 at 0, delta_f, … f_max: (f_max / delta_f + 1,) in 1/Hz, zero below ``f_min``
    and in the last bin.

    Masses in Msun, frequencies in Hz.
    """
    lalsimulation = _lalsimulation()
    series = lalsimulation.SimIMRPhenomDGenerateFD(
        0.0,
        REFERENCE_HZ,
        delta_f,
        mass_1 * SUN_KG,
        mass_2 * SUN_KG,
        0.0,
        0.0,
        f_min,
        f_max,
        GPC_M,
        None,
        lalsimulation.NoNRT_V,
    )
    out = np.zeros(round(f_max / delta_f) + 1, np.complex128)
    data = series.data.data[: len(out)]
    out[: len(data)] = data
    return out


def time_domain(parameters: Floats, rate: int, *, duration: float = 8.0, f_min: float = 14.0) -> Floats:
    """Strain of one signal: (duration * rate,) with ``parameters[3]`` (s) counted from the first sample.

    ``parameters``: (5,) in the order of `gwstream.records.PARAMETERS`. The first half second and the last quarter are
    tapered; coalescence should lie 0.5 s or more before the end, and late enough for the inspiral from ``f_min`` (Hz).
    """
    mass_1, mass_2, distance, time, phase = (float(value) for value in parameters)
    n = round(duration * rate)
    spectrum = frequency_domain(mass_1, mass_2, delta_f=rate / n, f_min=f_min, f_max=rate / 2)
    spectrum *= np.exp(2j * (phase - math.pi * time * np.fft.rfftfreq(n, 1 / rate))) / distance
    spectrum[-1] = 0.0
    signal = np.fft.irfft(spectrum, n) * rate
    edge = rate // 2
    fade = np.sin(0.5 * np.pi * np.arange(edge) / edge) ** 2
    signal[:edge] *= fade
    signal[-edge // 2 :] *= fade[::-2]
    return signal


def inspiral(mass_1: float, mass_2: float, frequency: float) -> float:
    """s from ``frequency`` (Hz) to coalescence, of masses in Msun, by the quadrupole formula (Peters 1964)."""
    chirp = (mass_1 * mass_2) ** 0.6 / (mass_1 + mass_2) ** 0.2 * SUN_S
    return float(5 / 256 * chirp * (math.pi * frequency * chirp) ** (-8 / 3))


def chirp_mass(mass_1: Floats, mass_2: Floats) -> Floats:
    """(m1 m2)^(3/5) / (m1 + m2)^(1/5), in the unit of the masses."""
    return np.asarray((mass_1 * mass_2) ** 0.6 / (mass_1 + mass_2) ** 0.2)


def component_masses(chirp: Floats, ratio: Floats) -> tuple[Floats, Floats]:
    """Masses (m1 >= m2) from chirp mass and ``ratio`` = m2 / m1."""
    mass_1 = chirp * (1 + ratio) ** 0.2 / ratio**0.6
    return mass_1, mass_1 * ratio


def _lalsimulation() -> Any:
    import lalsimulation

    return lalsimulation
