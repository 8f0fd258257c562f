"""Building a `Bank`: lalsimulation's waveforms once, their singular vectors, splines, and a gate that covers."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.ndimage import spline_filter

from gwstream import spectra, waveforms
from gwstream.conditioning import whitening
from gwstream.conditioning.response import decimate, gain, response
from gwstream.inference.bank import Bank, Complexes, grid_position
from gwstream.model import ConditioningSpec, ModelSpec
from gwstream.records import Floats

REFERENCE = "aLIGO_O4_high"
LOWEST = 2.0 / 3.0  # of the floor frequency: where the templates begin (the filters are 60 dB down there)
BEYOND = 1.06  # of the prior's chirp masses, either way: the ridge looks over the edge
SUBSET = 3  # every third node makes the decomposition
SAMPLED, MOST_MISSED = 100, 0.03  # signals that a bank is tried on, and what it may miss of one


def build(spec: ModelSpec) -> Bank:
    """Bank for a model's prior, band and rate; about 10 s. Deterministic."""
    conditioning = spec.conditioning
    low, high = spec.prior.chirp_mass
    ends = grid_position(np.array([high * BEYOND, low / BEYOND]))
    positions = np.linspace(ends[0], ends[1], spec.bank.chirp_nodes)
    ratios = np.linspace(spec.prior.min_ratio, 1.0, spec.bank.ratio_nodes)
    delta_f = 1 / spec.period
    first = round(conditioning.floor_hz * LOWEST / delta_f)
    bins = np.arange(first, round(conditioning.stop_hz / delta_f) + 9, dtype=np.float64) * delta_f
    table = np.stack([_row(position ** (-0.6), ratios, bins) for position in positions])
    metric = _metric(conditioning, bins)
    basis = _basis(table[::SUBSET, ::SUBSET] * metric, spec.bank.components)
    coefficients = np.einsum("nmf,kf->nmk", table * metric, np.conj(basis))
    grid = _spline(coefficients)
    limits = np.array([[positions[0], positions[-1]], [ratios[0], ratios[-1]]])
    none = np.empty((0, 2))
    bank = Bank(basis=basis / metric, first_bin=first, grid=grid, limits=limits, gate=none, delta_f=delta_f)
    return replace(bank, gate=_cover(spec, bank))


@dataclass(frozen=True, slots=True)
class Shortfall:
    """Relative error, at worst, of a bank's signals in the reference noise: in all, and for want of components."""

    spec: ModelSpec
    whole: float
    components: float

    @property
    def advice(self) -> str | None:
        """What to change in the recipe; None where there is no need."""
        if self.whole <= MOST_MISSED:
            return None
        bank = self.spec.bank
        which = f"bank.chirp_nodes from {bank.chirp_nodes} or bank.ratio_nodes from {bank.ratio_nodes}"
        if self.components > 0.5 * self.whole:
            which = f"bank.components from {bank.components}"
        return f"the templates miss up to {self.whole:.1%} of a signal of this prior: raise {which}".replace("%", " %")


def shortfall(spec: ModelSpec, bank: Bank) -> Shortfall:
    """How well a bank makes lalsimulation's waveforms over its prior."""
    masses = spec.prior.draw(np.random.default_rng(spec.training.seed), SAMPLED)[:, :2]
    f = (bank.first_bin + np.arange(bank.basis.shape[1], dtype=np.float64)) * bank.delta_f
    metric = _metric(spec.conditioning, f)
    true = _spectra(masses[:, 0], masses[:, 1], f) * metric
    basis = bank.basis * metric
    errors = [
        np.linalg.norm(found @ basis - true, axis=1) / np.linalg.norm(true, axis=1)
        for found in (bank.coefficients(masses[:, 0], masses[:, 1]), true @ np.conj(basis).T)
    ]
    return Shortfall(spec, *(float(one.max()) for one in errors))


def _row(chirp: float, ratios: Floats, f: Floats) -> Complexes:
    """Spectra (ratios, bins) at one chirp mass and the bins' frequencies, Hz."""
    return _spectra(*waveforms.component_masses(np.full(len(ratios), chirp), ratios), f)


def _spectra(mass_1: Floats, mass_2: Floats, f: Floats) -> Complexes:
    """lalsimulation's (n, bins) at frequencies that are multiples of their distance, Hz."""
    delta_f = float(f[1] - f[0])
    first, f_min, f_max = round(f[0] / delta_f), float(f[0] + 0.5 * delta_f), float(f[-1])
    return np.stack(
        [
            waveforms.frequency_domain(a, b, delta_f=delta_f, f_min=f_min, f_max=f_max)[first:]
            for a, b in zip(mass_1, mass_2, strict=True)
        ]
    )


def reference_psd(spec: ConditioningSpec, name: str = REFERENCE) -> Floats:
    """One-sided PSD of the decimated stream, at the bins of `whitening.frequencies`, of a shipped spectrum."""
    n = 2 * spec.taps
    f = np.linspace(0, spec.rate, n + 1)
    power = decimated_power(spec, spectra.asd(name, np.maximum(f, 5.0)) ** 2)
    return np.asarray(power[:: (len(power) - 1) // (spec.taps // 2)])


def decimated_power(spec: ConditioningSpec, psd: Floats) -> Floats:
    """PSD (2 m + 1,) on 0 … rate Hz as PSD (m + 1,) of the decimated stream: shaped by the filter, then folded."""
    shaped = psd * gain(spec, len(psd)) ** 2
    middle = len(psd) // 2
    out = shaped[: middle + 1].copy()
    out[1:] += shaped[-2 : middle - 1 : -1]
    return np.asarray(out)


def _metric(spec: ConditioningSpec, f: Floats) -> Floats:
    """Weights (bins,) that make the reference noise white, with the filters' inflation at the low end."""
    return 1e-23 / spectra.asd(REFERENCE, f) * np.where(f < spec.floor_hz, (f / spec.floor_hz) ** 6, 1.0)


def _basis(weighted: Complexes, components: int) -> Complexes:
    """The leading right singular vectors, (K, bins)."""
    rows = weighted.reshape(-1, weighted.shape[-1])
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    _, _, right = np.linalg.svd(rows, full_matrices=False)
    return np.asarray(right[:components])


def _spline(values: Complexes) -> np.ndarray[tuple[int, ...], np.dtype[np.complex64]]:
    """Cubic B-spline coefficients (n + 2, m + 2, K) of values (n, m, K), mirrored at the edges."""

    def filtered(part: Floats) -> Floats:
        planes = [spline_filter(part[..., k], order=3, mode="mirror") for k in range(part.shape[-1])]
        return np.stack(planes, axis=-1)

    inner = filtered(values.real) + 1j * filtered(values.imag)
    return np.pad(inner, ((1, 1), (1, 1), (0, 0)), mode="reflect").astype(np.complex64)


def _cover(spec: ModelSpec, bank: Bank) -> Floats:
    """Chirp mass and ratio (N, 2) of gate templates, each the one worst covered by those before it."""
    rng = np.random.default_rng(spec.training.seed)
    masses = spec.prior.draw(rng, 4000)[:, :2]
    whitened, conjugate = _standard(spec.conditioning, bank, masses)
    chosen = [int(np.argmax(masses.sum(axis=1)))]
    best = np.zeros(len(masses))
    for _ in range(spec.bank.gate):
        best = np.maximum(best, _match(whitened, conjugate, chosen[-1]))
        chosen.append(int(np.argmin(best)))
    picked = masses[chosen[:-1]]
    return np.column_stack([waveforms.chirp_mass(picked[:, 0], picked[:, 1]), picked[:, 1] / picked[:, 0]])


def _standard(spec: ConditioningSpec, bank: Bank, masses: Floats) -> tuple[Complexes, Complexes]:
    """Analytic whitened waveforms of unit norm as spectra, and their conjugates, in the reference noise."""
    coefficients = bank.coefficients(masses[:, 0], masses[:, 1])
    full = np.zeros((bank.size, round(spec.rate / bank.delta_f) + 1), np.complex128)
    full[:, bank.first_bin : bank.first_bin + bank.basis.shape[1]] = bank.basis
    taps = whitening.minimum_phase(spec, reference_psd(spec), averages=10_000)
    series = response(spec, decimate(spec, full), taps)
    spectrum = coefficients @ np.fft.rfft(series)
    spectrum /= np.linalg.norm(spectrum, axis=1, keepdims=True)
    return spectrum, np.conj(spectrum)


def _match(spectrum: Complexes, conjugate: Complexes, index: int) -> Floats:
    """Overlap (S,) with waveform ``index``, maximised over time and phase."""
    n = 4 * (spectrum.shape[1] - 1)
    product = np.zeros((len(spectrum), n), np.complex128)
    product[:, : spectrum.shape[1]] = spectrum * conjugate[index]
    return np.asarray(np.abs(np.fft.ifft(product)).max(axis=1) * n)
