"""Signals that are loud enough to be told as `good` events: how many are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import clusters
import intervals
import numpy as np
import strain as real
from numpy.random import Generator

from gwstream.config import SummaryConfig
from gwstream.inference import Inference
from gwstream.records import NANO, Posterior, Window
from gwstream.summary import Summarizer

LOUD = 9.0  # optimal SNR from which signals are to be kept
WANTED = 0.95
AROUND = (0.4, 1.1)  # s from a window's first sample to coalescence
MATCH = 0.1  # s between an event and the signal


@dataclass(frozen=True, slots=True)
class Kept:
    """A signal of optimal ``snr``, whether a good event told of it, and if not why; the posteriors around it."""

    snr: float
    good: bool
    reasons: tuple[str, ...]
    posteriors: tuple[Posterior, ...]


def try_one(inference: Inference, windows: Sequence[Window], gps: float, rng: Generator) -> Kept:
    """A signal from the prior, `LOUD` or more, into the noise of these windows, one of which holds ``gps``."""
    spec = inference.model.spec
    home = min(windows, key=lambda one: abs(gps - one.gps_ns / NANO - spec.prior.middle))
    while True:
        x = spec.prior.draw(rng, 1)[0]
        x[3] = gps - home.gps_ns / NANO
        snr = float(np.linalg.norm(real.signal(spec.conditioning, x, home.whitener.taps)))
        if snr >= LOUD:
            break
    near = []
    for window in windows:
        x[3] = gps - window.gps_ns / NANO
        if AROUND[0] < x[3] < AROUND[1]:
            near.append(real.added(window, real.signal(spec.conditioning, x, window.whitener.taps)))
    posteriors = tuple(clusters.judged(inference, near))
    events = clusters.events(Summarizer(SummaryConfig(), inference.prior), posteriors)
    there = [one for one in events if abs(one.gps - gps) < MATCH]
    best = max(there, key=lambda one: (one.good, one.log_bayes), default=None)
    if best is None:
        return Kept(snr, good=False, reasons=("not found",), posteriors=posteriors)
    return Kept(snr, best.good, best.reasons, posteriors)


def sentence(tried: Sequence[Kept]) -> str:
    """What fraction is kept, and why the others are not."""
    good = sum(one.good for one in tried)
    low, high = intervals.fraction(good, len(tried))
    why = Counter(reason for one in tried if not one.good for reason in one.reasons)
    lost = "; the others: " + ", ".join(f"{reason} {count}" for reason, count in why.most_common()) if why else ""
    return (
        f"Of {len(tried)} signals from the served prior with optimal SNR {LOUD:g} or more, added to this noise, "
        f"{good / len(tried):.1%} ({low:.1%} to {high:.1%}) are told as good events{lost}."
    )


def enough(tried: Sequence[Kept]) -> bool:
    """Whether as many are kept as a threshold must keep."""
    return sum(one.good for one in tried) >= WANTED * len(tried)
