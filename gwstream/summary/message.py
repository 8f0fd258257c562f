"""The part of a message that depends on the strain, the model and the draws alone, and its canonical bytes."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np

from gwstream.config import SummaryConfig
from gwstream.prior import DistanceDensity, Prior
from gwstream.records import NANO, PARAMETERS, Floats, Posterior, Unweighted, Window
from gwstream.summary.statistics import Circular, circular, correlation, deviation, mean_sd, quantiles

UNITS = {
    "mass_1": "Msun",
    "mass_2": "Msun",
    "effective_distance": "Gpc",
    "coalescence_time": "s",
    "phase": "rad",
    "chirp_mass": "Msun",
    "mass_ratio": "1",
    "total_mass": "Msun",
}
PERIOD = math.pi
DISTANCE_DENSITIES: dict[DistanceDensity, str] = {
    "uniform": "uniform",
    "volume": "uniform in volume: proportional to effective_distance^2",
}
ASSUMPTIONS = (
    "one detector: effective_distance and phase stand for distance, sky position, inclination and polarisation; "
    "effective_distance is never below the luminosity distance",
    "masses are those measured at the detector, (1 + z) times those at the source",
    "non-spinning black holes on circular orbits (IMRPhenomD): neglected spin moves the chirp mass of strongly spinning"
    " systems by 10 to 25 %",
)
NOISES = {
    "Gaussian": "Gaussian noise with the spectrum named under psd",
    "Student-t": "noise that is Student-t, for the spectrum named under psd was made from so few averages",
}

# The weakest reason to doubt comes first: it is always there at start.
SHORT_HISTORY = "short PSD history"
WEAK = "weak evidence"
LOW_ESS = "low effective sample size"
POOR_RESIDUAL = "poor residual"
POOR_PEAK = "poor residual at the peak"
UNFAMILIAR = "unlike the training data"
DRIFT = "PSD drift"
UNKNOWN_QUALITY = "data quality unknown"
UNWEIGHTED = "unweighted"
UNWEIGHTED_ASSUMPTION = (
    "what the network alone says: no likelihood has weighted its draws, and most windows hold no signal"
)
REASONS = (SHORT_HISTORY, WEAK, LOW_ESS, POOR_RESIDUAL, POOR_PEAK, UNFAMILIAR, DRIFT, UNKNOWN_QUALITY)


def canonical(part: object) -> bytes:
    """JSON with sorted keys and no spaces, in ASCII; raises ValueError on NaN and infinity."""
    return json.dumps(part, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def reasons(posterior: Posterior, config: SummaryConfig) -> tuple[str, ...]:
    """Why the posterior is suspect; empty: it is good. What is not a number is never good.

    A gap inside the PSD's history is no reason of its own: the PSD leaves it out, and where too little is left the
    history is short. The message says it all the same.
    """
    whitener = posterior.window.whitener
    fine = {
        SHORT_HISTORY: whitener.history >= config.short_history,
        WEAK: posterior.log_bayes >= config.low_log_bayes,
        LOW_ESS: posterior.ess >= config.low_ess and math.isfinite(posterior.log_bayes),
        POOR_RESIDUAL: posterior.residual_p >= config.low_residual_p,
        POOR_PEAK: posterior.peak_residual_p >= config.low_peak_residual_p,
        UNFAMILIAR: posterior.latent_p is None or posterior.latent_p >= config.low_latent_p,
        DRIFT: whitener.drift <= config.high_drift,
        UNKNOWN_QUALITY: posterior.window.dq is not None,
    }
    return tuple(reason for reason in REASONS if not fine[reason])


def part(posterior: Posterior, prior: Prior, config: SummaryConfig) -> dict[str, Any]:
    """The ``posterior`` part of the message, fit for JSON: what is not finite is null."""
    likelihood = _likelihood(posterior.noise_freedom)
    return shared(posterior, usable_weights(posterior), reasons(posterior, config), prior) | {
        "snr": number(posterior.snr),
        "log_bayes": number(posterior.log_bayes),
        "log_evidence": number(posterior.log_evidence),
        "likelihood": likelihood,
        "residual_p": number(posterior.residual_p),
        "peak_residual_p": number(posterior.peak_residual_p),
        "sampling": {
            "weighted": True,
            "draws": len(posterior.samples),
            "ess": number(posterior.ess),
            "largest_weight": number(posterior.max_weight),
            "log_bayes_error": number(posterior.log_bayes_error),
            "rounds": posterior.rounds,
            "stratified": posterior.stratified,
        },
        "waveform": _waveform(posterior),
        "assumptions": [*ASSUMPTIONS, NOISES[likelihood["noise"]]],
    }


def unweighted_part(one: Unweighted, prior: Prior, config: SummaryConfig) -> dict[str, Any]:
    """The same of draws that no likelihood has weighted: what only weights can tell is null. ``prior``: the trained."""
    whitener = one.window.whitener
    fine = {
        SHORT_HISTORY: whitener.history >= config.short_history,
        UNFAMILIAR: one.latent_p is None or one.latent_p >= config.low_latent_p,
        DRIFT: whitener.drift <= config.high_drift,
        UNKNOWN_QUALITY: one.window.dq is not None,
    }
    doubts = (UNWEIGHTED, *(reason for reason in REASONS if not fine.get(reason, True)))
    unknown = ("snr", "log_bayes", "log_evidence", "likelihood", "residual_p", "peak_residual_p", "waveform")
    sampling = dict.fromkeys(("ess", "largest_weight", "log_bayes_error", "stratified"))
    return {
        **dict.fromkeys(unknown),
        **shared(one, equal_weights(len(one.samples)), doubts, prior),
        "sampling": {**sampling, "weighted": False, "draws": len(one.samples), "rounds": 0},
        "assumptions": [*ASSUMPTIONS, UNWEIGHTED_ASSUMPTION],
    }


def shared(one: Posterior | Unweighted, weights: Floats, doubts: tuple[str, ...], prior: Prior) -> dict[str, Any]:
    """What both have."""
    window = one.window
    parameters, matrix = _parameters(one.samples, window, weights)
    return {
        "id": one.id,
        "detector": window.detector,
        "simulated": window.simulated,
        "quality": {"verdict": "suspect" if doubts else "good", "reasons": list(doubts)},
        "window": {
            "gps": window.gps_ns / NANO,
            "gps_ns": window.gps_ns,
            "rate": window.rate,
            "samples": len(window.samples),
        },
        "coalescence": _moment(coalescence_ns(one.samples, window, weights)),
        "gate_snr": number(one.trigger.snr, 4),
        "latent_distance": _known(one.latent_distance),
        "latent_p": _known(one.latent_p),
        "parameters": parameters,
        "correlation": {"order": list(PARAMETERS), "matrix": matrix},
        "data": {"dq": window.dq, "gap": window.gap},
        "psd": _psd(window),
        "engine": one.engine,
        "bucket": one.bucket,
        "model": dict(one.model),
        "prior": prior_part(prior),
    }


def number(x: float, digits: int = 9) -> float | None:
    """``x`` to so many significant digits, None where it is not finite.

    Nine digits lie far below a thousandth of any posterior's standard deviation.
    """
    return float(f"{x:.{digits}g}") if math.isfinite(x) else None


def _known(x: float | None) -> float | None:
    return None if x is None else number(x)


def usable_weights(posterior: Posterior) -> Floats:
    """The weights; equal ones where they are of no use (such a posterior is suspect by its effective sample size)."""
    weights = np.asarray(posterior.weights, np.float64)
    total = float(weights.sum())
    if not math.isfinite(total) or total <= 0:
        return equal_weights(len(weights))
    return weights / total


def equal_weights(n: int) -> Floats:
    """(n,), of sum 1."""
    return np.full(n, 1.0 / n)


def chirp_mass(samples: Floats) -> Floats:
    """Chirp mass (n,), Msun, of draws (n, 5)."""
    mass_1, mass_2 = samples[:, 0], samples[:, 1]
    return np.asarray((mass_1 * mass_2) ** 0.6 / (mass_1 + mass_2) ** 0.2)


def coalescence_ns(samples: Floats, window: Window, weights: Floats) -> int:
    """Median coalescence in integer GPS ns, of draws (n, 5)."""
    times = samples[:, PARAMETERS.index("coalescence_time")]
    return _at(window, float(quantiles(times, weights, (0.5,))[0]))


def prior_part(prior: Prior) -> dict[str, Any]:
    """The prior in words and numbers."""

    def uniform(limits: tuple[float, float], unit: str) -> dict[str, Any]:
        return {"density": "uniform", "low": limits[0], "high": limits[1], "unit": unit}

    return {
        "masses": {
            **uniform(prior.mass, "Msun"),
            "density": "uniform in (mass_1, mass_2), mass_1 >= mass_2",
            "least_mass_ratio": prior.min_ratio,
        },
        "effective_distance": {**uniform(prior.distance, "Gpc"), "density": DISTANCE_DENSITIES[prior.distance_density]},
        "coalescence_time": uniform(prior.time, "s after the first sample of the window"),
        "phase": uniform((0.0, PERIOD), "rad"),
    }


def _parameters(samples: Floats, window: Window, weights: Floats) -> tuple[dict[str, Any], list[list[float | None]]]:
    """Statistics by parameter, and the correlation matrix, where the phase is its deviation from the circular mean."""
    draws = samples.copy()
    columns: dict[str, Floats] = {name: draws[:, k] for k, name in enumerate(PARAMETERS)}
    phase = circular(columns["phase"], weights, PERIOD)
    draws[:, PARAMETERS.index("phase")] = deviation(samples[:, PARAMETERS.index("phase")], phase.mean, PERIOD)
    mass_1, mass_2 = columns["mass_1"], columns["mass_2"]
    columns["chirp_mass"] = chirp_mass(samples)
    columns["mass_ratio"] = mass_2 / mass_1
    columns["total_mass"] = mass_1 + mass_2
    out: dict[str, Any] = {}
    for name, column in columns.items():
        if name == "phase":
            out[name] = _phase(phase)
        else:
            out[name] = _linear(name, column, weights, window if name == "coalescence_time" else None)
    matrix = [[number(value) for value in row] for row in correlation(draws, weights)]
    return out, matrix


def _linear(name: str, x: Floats, weights: Floats, window: Window | None) -> dict[str, Any]:
    """Median, mean, sd and 5 to 95 %; with a ``window``, ``x`` are seconds into it and come out as GPS times."""
    mean, sd = mean_sd(x, weights)
    p5, median, p95 = quantiles(x, weights, (0.05, 0.5, 0.95))
    values = {"median": float(median), "mean": mean, "p5": float(p5), "p95": float(p95)}
    out: dict[str, Any] = {"unit": UNITS[name], "sd": number(sd)}
    if window is None:
        return out | {key: number(value) for key, value in values.items()}
    exact = {key: _at(window, value) for key, value in values.items()}
    return out | {key: ns / NANO for key, ns in exact.items()} | {"gps_ns": exact}


def _phase(phase: Circular) -> dict[str, Any]:
    return {
        "unit": UNITS["phase"],
        "period": PERIOD,
        "mean": number(phase.mean),
        "resultant": number(phase.resultant),
        "arc": {"probability": 0.9, "start": number(phase.start), "end": number(phase.end)},
    }


def _likelihood(freedom: float) -> dict[str, Any]:
    return {"noise": "Gaussian" if math.isinf(freedom) else "Student-t", "degrees_of_freedom": number(freedom)}


def _waveform(posterior: Posterior) -> dict[str, Any]:
    wave = posterior.waveform
    bands = {"median": wave.median, "lower": wave.lower, "upper": wave.upper}
    return {"unit": "noise standard deviations", "probability": 0.9} | {
        key: _samples(band) for key, band in bands.items()
    }


def _samples(band: Floats) -> list[float | None]:
    """To four decimals, in noise standard deviations; 256 of them are 2 kB."""
    rounded = np.round(band, 4) + 0.0  # no -0.0
    finite = bool(np.isfinite(rounded).all())
    values: list[float] = rounded.tolist()
    return list(values) if finite else [number(value) for value in values]


def _psd(window: Window) -> dict[str, Any]:
    whitener = window.whitener
    return {
        "whitener": whitener.id,
        "state": whitener.state,
        "averages": whitener.averages,
        "history": number(whitener.history),
        "age": number((window.start - whitener.end) / window.rate),
        "drift": number(whitener.drift),
        "range_mpc": number(whitener.range_mpc),
    }


def _at(window: Window, seconds: float) -> int:
    return window.gps_ns + round(seconds * NANO)


def _moment(ns: int) -> dict[str, Any]:
    return {"gps": ns / NANO, "gps_ns": ns}
