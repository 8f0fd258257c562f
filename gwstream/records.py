"""The frozen records that travel between the stages, and the time they share.

Time is an integer: the number of samples since GPS 0 at the record's own rate. Every record can say its GPS start in
integer nanoseconds; float seconds appear only at the edges. Nothing here reads a clock or does I/O.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

NANO = 1_000_000_000

PARAMETERS = ("mass_1", "mass_2", "effective_distance", "coalescence_time", "phase")
"""The five parameters of a window, in the order of the last axis of ``Posterior.samples``.

Detector-frame solar masses (mass_1 >= mass_2), Gpc, seconds after the window's first sample, radians in [0, pi)."""


LOADS = ("all", "weighted only", "fewer draws", "every second window", "every third window", "newest windows")
"""What is done for live windows, by level of load: see `gwstream.pipeline.load`."""

RELOADS = ("done", "refused")
"""What comes of a reload: see `gwstream.reload`."""


def gps_ns(start: int, rate: int) -> int:
    """GPS time in integer ns of sample number ``start`` at ``rate`` Hz, rounded to the nearest ns."""
    return (start * NANO * 2 + rate) // (2 * rate)


@dataclass(frozen=True, slots=True, kw_only=True)
class Strain:
    """A stretch of good strain of one detector.

    ``start``: samples since GPS 0 at ``rate`` (Hz). ``samples``: (n,) float64, dimensionless strain.
    ``dq``: the state-vector bits set through the whole stretch, or None where no state vector is known.
    ``arrived``: ``time.monotonic_ns()`` when the data became visible to us (0 where that has no meaning).
    """

    detector: str
    start: int
    rate: int
    samples: Floats
    dq: int | None = None
    simulated: bool = False
    arrived: int = 0

    @property
    def end(self) -> int:
        return self.start + len(self.samples)

    @property
    def gps_ns(self) -> int:
        return gps_ns(self.start, self.rate)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """A stretch without usable strain: ``length`` samples at ``rate``, and why (``missing``, ``vetoed``, …)."""

    detector: str
    start: int
    rate: int
    length: int
    reason: str
    arrived: int = 0

    @property
    def end(self) -> int:
        return self.start + self.length

    @property
    def gps_ns(self) -> int:
        return gps_ns(self.start, self.rate)


@dataclass(frozen=True, slots=True, kw_only=True)
class Whitener:
    """A causal whitening filter and the spectrum it was made from.

    ``taps``: (n,) float64 minimum-phase FIR at the model's rate. ``psd``: (n/2 + 1,) one-sided PSD (1/Hz) of the
    decimated stream at ``frequencies = rate * k / n``. ``averages``: Welch segments in it. ``history``: seconds they
    span. ``end``: sample count (model rate) at which the PSD was complete. ``drift``: largest abs ln ratio, over bands,
    of the last few segments to the PSD. ``range_mpc``: distance to a 30+30 Msun binary at SNR 8, optimally oriented.
    """

    id: str
    detector: str
    rate: int
    taps: Floats
    psd: Floats
    averages: int
    history: float
    end: int
    state: Literal["ready", "full"]
    drift: float = 0.0
    range_mpc: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Whitened samples of one detector, (n,) float64 of unit variance in noise, and all that made them.

    ``start``: samples since GPS 0 at ``rate``, filter delays removed. ``context``: (k,) float32 compressed PSD.
    ``dq`` as in `Strain`, over everything that touched the window. ``gap``: a gap lies within its PSD history.
    ``injected``: a copy with a known signal added, to see how the daemon judges it; never to be published.
    """

    detector: str
    start: int
    rate: int
    samples: Floats
    whitener: Whitener
    context: NDArray[np.float32]
    dq: int | None = None
    gap: bool = False
    simulated: bool = False
    injected: bool = False

    @property
    def gps_ns(self) -> int:
        return gps_ns(self.start, self.rate)


BUCKETS = (1, 4, 16, 64)
"""Sizes a batch is padded to, so that an engine sees few shapes."""


def bucket(n: int) -> int:
    """The least of `BUCKETS` that holds ``n`` windows. Raises ValueError outside 1 to 64."""
    if not 1 <= n <= BUCKETS[-1]:
        raise ValueError(f"a batch holds 1 to {BUCKETS[-1]} windows, not {n}")
    return next(size for size in BUCKETS if size >= n)


@dataclass(frozen=True, slots=True)
class Batch:
    """Windows for one model, oldest first; ``bucket`` is the size they are padded to."""

    windows: tuple[Window, ...]
    bucket: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Trigger:
    """What the gate says of a window: the best of its matched filters.

    ``snr``; ``time``: coalescence, seconds after the window's first sample; ``phase``: radians in [0, 2 pi), of the
    gravitational wave; ``template``: index in the bank; ``passed``: SNR above the threshold and time inside the prior.
    """

    window: Window
    snr: float
    time: float
    phase: float
    template: int
    passed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Waveform:
    """Pointwise median and 90 % band of the whitened waveform, each (n,), aligned with the window's samples."""

    median: Floats
    lower: Floats
    upper: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Posterior:
    """Weighted draws for one window, and what they say of signal against noise.

    ``samples``: (S, 5) in the order of `PARAMETERS`; ``weights``: (S,) normalised to sum 1.
    ``log_evidence`` is that of the signal model; ``log_bayes`` the ln Bayes factor signal against noise.
    ``noise_freedom``: degrees of freedom of the noise, infinite where it is taken for Gaussian.
    ``log_bayes_error``: standard error of both from the weights' spread, infinite where they cannot tell.
    ``ess``: effective sample size, (sum w)^2 / sum w^2. ``rounds`` of importance sampling; ``stratified``: draws
    spread evenly over the proposal's parts. ``residual_p``, ``peak_residual_p``: p-values of the chi-square
    of what the best draw leaves over, in the window and around coalescence. ``latent_distance`` of the window's code
    from the training's, and its p-value (None: the model cannot say). ``snr``: optimal-filter SNR of the best
    draw. ``model``: name and hashes, as in the message.
    """

    id: str
    trigger: Trigger
    samples: Floats
    weights: Floats
    log_evidence: float
    log_bayes: float
    log_bayes_error: float
    ess: float
    max_weight: float
    rounds: int
    stratified: bool
    noise_freedom: float
    snr: float
    residual_p: float
    peak_residual_p: float
    latent_distance: float | None
    latent_p: float | None
    waveform: Waveform
    engine: str
    bucket: int
    model: Mapping[str, str] = field(default_factory=dict)

    @property
    def window(self) -> Window:
        return self.trigger.window


@dataclass(frozen=True, slots=True, kw_only=True)
class Unweighted:
    """Draws for one window as the network proposes them, which no likelihood has weighted.

    ``id``: another than that of the window's weighted posterior. ``samples``: (S, 5) in the order of `PARAMETERS`.
    ``bucket``: the number of windows the network saw at a time. The others as in `Posterior`.
    """

    id: str
    trigger: Trigger
    samples: Floats
    latent_distance: float | None
    latent_p: float | None
    engine: str
    bucket: int
    model: Mapping[str, str] = field(default_factory=dict)

    @property
    def window(self) -> Window:
        return self.trigger.window


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What subscribers are told of a posterior or network event, and nothing that depends on when or how often.

    ``posterior``: canonical JSON (sorted keys, no spaces), the message part whose ``sha256`` is stated in the message;
    for kind "network" the part ``network``, and ``detector`` is "network". ``event``: the event's own fields, as a
    mapping fit for JSON; None for the kinds of one window. ``gps_ns``: median coalescence time.
    ``injected``: of such a `Window`. ``samples``: the weighted draws of a posterior, for the archive; empty: not known,
    or not any more.
    """

    kind: Literal["posterior", "unweighted", "event", "network", "answer"]
    detector: str
    id: str
    gps_ns: int
    posterior: bytes
    sha256: str
    event: Mapping[str, object] | None = None
    injected: bool = False
    samples: bytes = field(default=b"", compare=False, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
    """A summary on its way to the broker, with the time at which each step before `publish` was left behind.

    ``arrived``: ``time.monotonic_ns()`` at which the frame that completed the window became visible. ``marks``: pairs
    of step ("source", "conditioning_queue", "conditioning", "batching", "inference_queue", "inference", "summary") and
    the ``time.monotonic_ns()`` at its end, in order; each step lasts from the mark before it.
    ``data_end_ns``: GPS ns of the last sample needed. ``first_event``: of a network event, ``time.monotonic_ns()`` at
    which the first of its members' events was made; 0: of anything else. ``calibration``: how known signals fared of
    late, fit for JSON. ``load``: one of `LOADS`, where the daemon was overloaded; else empty.

    Raises ValueError for a summary of an injected window, which is never published, and for an answer, which goes to
    who asked alone.
    """

    summary: Summary
    arrived: int
    marks: tuple[tuple[str, int], ...]
    data_end_ns: int
    first_event: int = 0
    calibration: Mapping[str, object] | None = None
    load: str = ""

    def __post_init__(self) -> None:
        if self.summary.injected:
            raise ValueError(f"{self.summary.id}: an injected signal is never published")
        if self.summary.kind == "answer":
            raise ValueError(f"{self.summary.id}: an answer goes to who asked alone")


class Tally(Protocol):
    """How a stage says that it dropped, vetoed or degraded something; ``reason`` is one fixed word or phrase."""

    def __call__(self, stage: str, reason: str, detector: str, count: int = 1) -> None: ...


def silent(stage: str, reason: str, detector: str, count: int = 1) -> None:
    """A `Tally` that nobody listens to."""
