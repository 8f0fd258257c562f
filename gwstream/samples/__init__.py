"""Posteriors with their draws, which no message carries: kept by the daemon for a while, or computed again.

What a `Drawn` says is checked: its ``sha256`` is that of the message, over the canonical bytes of ``body``.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from gwstream.config import SummaryConfig
from gwstream.errors import SamplesError
from gwstream.prior import DistanceDensity, Prior
from gwstream.records import PARAMETERS, Floats, Posterior, Trigger, Waveform, Window
from gwstream.summary.message import canonical, part, usable_weights

if TYPE_CHECKING:
    from gwstream.pipeline.parts import InferenceLike

SCHEMA = "gwstream.samples/1"
KEPT = 64  # posteriors of which the daemon keeps the draws: some 8 MB


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """A posterior with its draws. ``body``: the part ``posterior`` of its message, of which ``sha256`` is the digest.

    ``samples``: (S, 5) in the order of `gwstream.records.PARAMETERS`, times in s after the window's first sample;
    ``weights``: (S,), of sum 1. ``strain``: (n,) the whitened window. ``psd``: (m,) one-sided, 1/Hz, from 0 Hz to half
    the window's rate.
    """

    body: Mapping[str, Any]
    sha256: str
    samples: Floats
    weights: Floats
    strain: Floats
    psd: Floats

    @classmethod
    def of(cls, posterior: Posterior, prior: Prior, config: SummaryConfig) -> Self:
        """Of a posterior as the daemon has it, and as its message tells it."""
        content = canonical(part(posterior, prior, config))
        return cls(
            body=json.loads(content),
            sha256=hashlib.sha256(content).hexdigest(),
            samples=posterior.samples,
            weights=usable_weights(posterior),
            strain=posterior.window.samples,
            psd=posterior.window.whitener.psd,
        )

    @property
    def id(self) -> str:
        return str(self.body["id"])

    @property
    def detector(self) -> str:
        return str(self.body["detector"])

    @property
    def gps_ns(self) -> int:
        """Of the window's first sample."""
        return int(self.body["window"]["gps_ns"])

    @property
    def rate(self) -> int:
        """Of the window, Hz."""
        return int(self.body["window"]["rate"])

    @property
    def waveform(self) -> Waveform:
        """Whitened, as the message has it."""
        curves = self.body["waveform"]
        return Waveform(**{name: np.array(curves[name], np.float64) for name in ("median", "lower", "upper")})

    def document(self) -> bytes:
        """As JSON, exact to the last bit; `parse` reads it."""
        columns = {name: self.samples[:, k].tolist() for k, name in enumerate(PARAMETERS)}
        whole = {
            "schema": SCHEMA,
            "sha256": self.sha256,
            "posterior": self.body,
            "draws": columns | {"weight": self.weights.tolist()},
            "window": {"samples": self.strain.tolist()},
            "psd": {"unit": "1/Hz", "step": self.rate / 2 / (len(self.psd) - 1), "values": self.psd.tolist()},
        }
        return json.dumps(whole, separators=(",", ":")).encode("ascii") + b"\n"

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> Self:
        """Of what `document` gave. Raises `SamplesError` where it is none, or its digest does not hold."""
        try:
            body, draws = document["posterior"], document["draws"]
            made = cls(
                body=body,
                sha256=str(document["sha256"]),
                samples=np.array([draws[name] for name in PARAMETERS], np.float64).T,
                weights=np.array(draws["weight"], np.float64),
                strain=np.array(document["window"]["samples"], np.float64),
                psd=np.array(document["psd"]["values"], np.float64),
            )
            whole = len(made.samples) == len(made.weights) == body["sampling"]["draws"]
            if not whole or len(made.strain) != body["window"]["samples"]:
                raise ValueError("some draws or samples are missing")
        except (LookupError, TypeError, ValueError) as problem:
            raise SamplesError(f"not a posterior with its draws: {problem}") from None
        if hashlib.sha256(canonical(body)).hexdigest() != made.sha256:
            raise SamplesError(f"{made.id}: was changed: its SHA-256 is not the one it states")
        return made


class Keeper:
    """An inference that remembers its last ``kept`` posteriors, for who asks for their draws. Safe with threads."""

    def __init__(self, inference: InferenceLike, prior: Prior, config: SummaryConfig, kept: int = KEPT) -> None:
        self._inference = inference
        self._prior = prior
        self._config = config
        self._kept = kept
        self._posteriors: OrderedDict[str, tuple[Posterior, Prior, SummaryConfig]] = OrderedDict()
        self._lock = threading.Lock()
        self.gate = inference.gate
        self.unweighted = inference.unweighted
        self.prepare = inference.prepare

    def heir(self, inference: InferenceLike, prior: Prior, config: SummaryConfig) -> Keeper:
        """One of another inference. What both keep is kept together, and either knows all of it."""
        heir = Keeper(inference, prior, config, self._kept)
        heir._posteriors, heir._lock = self._posteriors, self._lock
        return heir

    def infer(self, trigger: Trigger, bucket: int, draws: int | None = None) -> Posterior:
        """As the inference does it."""
        posterior = self._inference.infer(trigger, bucket, draws)
        with self._lock:
            self._posteriors[posterior.id] = posterior, self._prior, self._config
            while len(self._posteriors) > self._kept:
                self._posteriors.popitem(last=False)
        return posterior

    def asked(self, window: Window, distance: DistanceDensity | None = None) -> Posterior:
        """As the inference does it; not remembered, or who asks often would displace what the daemon found."""
        return self._inference.asked(window, distance)

    def document(self, name: str) -> bytes | None:
        """Of the posterior or event called ``name``; None: it is not known any more. Takes some 10 ms."""
        with self._lock:
            found = self._posteriors.get(posterior_of(name))
        return None if found is None else Drawn.of(*found).document()


def posterior_of(name: str) -> str:
    """The id of the posterior that an event's id stands for; a posterior's own is its own."""
    return name.removeprefix("E-")
