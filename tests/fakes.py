"""Stand-ins for records and stages, small enough to reason about."""

from __future__ import annotations

import numpy as np

from gwstream.calibration import Report
from gwstream.calibration.alarm import QUANTITIES
from gwstream.records import Posterior, Trigger, Unweighted, Waveform, Whitener, Window

RATE = 256
HOP = 16
GPS = 1_400_000_000


def whitener(detector: str = "H1", **changes: object) -> Whitener:
    fields: dict[str, object] = {
        "id": f"{detector}-whitener",
        "detector": detector,
        "rate": RATE,
        "taps": np.eye(1, 8)[0],
        "psd": np.ones(5),
        "averages": 63,
        "history": 64.0,
        "end": GPS * RATE,
        "state": "full",
        "drift": 0.1,
        "range_mpc": 1200.0,
    }
    return Whitener(**{**fields, **changes})  # type: ignore[arg-type]


def window(number: int = 0, detector: str = "H1", **changes: object) -> Window:
    """Window number ``number`` of a detector, a hop apart; its samples are its number."""
    fields: dict[str, object] = {
        "detector": detector,
        "start": GPS * RATE + HOP * number,
        "rate": RATE,
        "samples": np.full(RATE, float(number)),
        "whitener": whitener(detector),
        "context": np.zeros(4, np.float32),
        "dq": 3,
    }
    return Window(**{**fields, **changes})  # type: ignore[arg-type]


def trigger(of: Window, time: float = 0.75, snr: float = 10.0, passed: bool = True) -> Trigger:
    return Trigger(window=of, snr=snr, time=time, phase=0.0, template=0, passed=passed)


def posterior(of: Window, time: float = 0.75, log_bayes: float = 40.0, n: int = 400, **changes: object) -> Posterior:
    """A posterior around 36 + 29 Msun that coalesces ``time`` s into the window; its draws depend on the window."""
    rng = np.random.default_rng(of.start % 2**31)
    heavy = rng.normal(38.0, 2.0, n)
    samples = np.column_stack(
        [
            heavy,
            heavy * rng.uniform(0.7, 1.0, n),
            rng.normal(0.9, 0.1, n),
            rng.normal(time, 0.002, n),
            rng.vonmises(2.0, 8.0, n) / 2 % np.pi,
        ]
    )
    weights = rng.exponential(size=n)
    weights /= weights.sum()
    wave = np.sin(np.arange(len(of.samples)) / 9.0)
    fields: dict[str, object] = {
        "id": f"{of.detector}-{of.start}-abc",
        "trigger": trigger(of, time),
        "samples": samples,
        "weights": weights,
        "log_evidence": -120.5,
        "log_bayes": log_bayes,
        "log_bayes_error": 0.05,
        "ess": float(1.0 / np.sum(weights**2)),
        "max_weight": float(weights.max()),
        "rounds": 1,
        "stratified": True,
        "noise_freedom": np.inf,
        "latent_distance": 9.0,
        "latent_p": 0.3,
        "snr": 12.0,
        "residual_p": 0.4,
        "peak_residual_p": 0.4,
        "waveform": Waveform(median=wave, lower=wave - 0.3, upper=wave + 0.3),
        "engine": "fake",
        "bucket": 1,
        "model": {"name": "fake", "version": "1", "hash": "0" * 64, "conditioning_hash": "1" * 64},
    }
    return Posterior(**{**fields, **changes})  # type: ignore[arg-type]


def unweighted(found: Trigger, bucket: int = 16, n: int = 100, **changes: object) -> Unweighted:
    """What the network alone says of a window; its draws depend on the window."""
    weighted = posterior(found.window, time=0.75, n=n)
    fields: dict[str, object] = {
        "id": f"{weighted.id}-u",
        "trigger": found,
        "samples": weighted.samples,
        "latent_distance": 9.0,
        "latent_p": 0.3,
        "engine": "fake",
        "bucket": bucket,
        "model": weighted.model,
    }
    return Unweighted(**{**fields, **changes})  # type: ignore[arg-type]


def report(detector: str = "H1", injections: int = 300, **changes: object) -> Report:
    """How known signals fared."""
    fields: dict[str, object] = {
        "detector": detector,
        "injections": injections,
        "total": injections,
        "coverage_50": 0.51,
        "coverage_50_error": 0.02,
        "coverage_90": 0.89,
        "coverage_90_error": 0.01,
        "p": dict.fromkeys(QUANTITIES, 0.4),
        "ess": 0.6,
        "snr_ratio": 1.01,
        "found": 0.97,
        "alarm": False,
        "alarm_about": "",
        "alarms": 0,
        "evidence": -10.0,
    }
    return Report(**{**fields, **changes})  # type: ignore[arg-type]
