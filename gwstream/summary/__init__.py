"""Stage 5: a `Posterior` in, what subscribers are told of it out. Pure, with the events so far as explicit state."""

from __future__ import annotations

import hashlib

from gwstream.config import SummaryConfig
from gwstream.prior import Prior
from gwstream.records import NANO, Posterior, Summary
from gwstream.summary.events import Events, rank
from gwstream.summary.message import canonical, coalescence_ns, part, reasons
from gwstream.summary.schema import schema

__all__ = ["Summarizer", "canonical", "schema"]


class Summarizer:
    """Turns posteriors into `Summary`s, and those of one signal into one event.

    ``prior``: the one the posteriors were made with; it is stated in every message.
    """

    def __init__(self, config: SummaryConfig, prior: Prior) -> None:
        self._config = config
        self._prior = prior
        self._events = Events(config.cluster, config.shadow)

    def add(self, posterior: Posterior) -> tuple[Summary, ...]:
        """The summary of the posterior, and after it that of its event if it is new or now better told."""
        window = posterior.window
        body = canonical(part(posterior, self._prior, self._config))
        digest = hashlib.sha256(body).hexdigest()
        gps_ns = coalescence_ns(posterior)
        single = Summary(
            kind="posterior",
            detector=window.detector,
            id=posterior.id,
            gps_ns=gps_ns,
            posterior=body,
            sha256=digest,
        )
        into_window = (gps_ns - window.gps_ns) / NANO
        good = not reasons(posterior, self._config)
        event = self._events.add(window.detector, gps_ns, rank(posterior, into_window, good, self._prior))
        if event is None:
            return (single,)
        told = {"id": event.id, "supersedes": list(event.replaced), "windows": event.windows}
        return (
            single,
            Summary(
                kind="event",
                detector=window.detector,
                id=event.id,
                gps_ns=gps_ns,
                posterior=body,
                sha256=digest,
                event=told,
            ),
        )
