"""Stage 5: a `Posterior` in, what subscribers are told of it out. Pure, with the events so far as explicit state.

Nothing here waits or knows a clock: network events follow from the detectors' events, whenever those come.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from gwstream.config import SummaryConfig
from gwstream.prior import Prior
from gwstream.records import NANO, Posterior, Summary, Unweighted
from gwstream.summary import network
from gwstream.summary.chirp_mass import ChirpMasses
from gwstream.summary.coincidence import Change, Coincidences, light_travel
from gwstream.summary.draws import packed
from gwstream.summary.events import Event, Events, rank
from gwstream.summary.message import (
    canonical,
    coalescence_ns,
    equal_weights,
    part,
    reasons,
    unweighted_part,
    usable_weights,
)
from gwstream.summary.schema import schema

__all__ = ["News", "Summarizer", "canonical", "schema"]


@dataclass(frozen=True, slots=True)
class News:
    """An event that is new or now better told, by ``posterior``, which is suspect for ``doubts``."""

    posterior: Posterior
    event: Event
    doubts: tuple[str, ...]


class Summarizer:
    """Turns posteriors into `Summary`s, those of one signal into one event, and those of all detectors into another.

    ``prior``: the one the posteriors were made with; it is stated in every message. ``trained``: the network's own, of
    unweighted ones; None: the same.
    """

    def __init__(self, config: SummaryConfig, prior: Prior, trained: Prior | None = None) -> None:
        self._config = config
        self._prior = prior
        self._trained = trained or prior
        self._events = Events(config.cluster, config.shadow)
        self._masses = ChirpMasses(prior)
        self._network = Coincidences(config.network.sigmas, light_travel()) if config.network.enabled else None

    def state(self) -> dict[str, Any]:
        """The events so far, as plain values."""
        return {"events": self._events.state(), "network": self._network.state() if self._network else None}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on with the events of ``state``. Raises ValueError or LookupError where it is none."""
        self._events.restore(state["events"])
        if self._network and state["network"]:
            self._network.restore(state["network"])

    def go_on(self, before: Summarizer) -> None:
        """With the events of another. With those of its network only where the masses have the same prior: what the
        network keeps of a member is a likelihood over that."""
        state = before.state()
        if (self._prior.mass, self._prior.min_ratio) != (before._prior.mass, before._prior.min_ratio):
            state["network"] = None
        self.restore(state)

    def add(self, posterior: Posterior) -> tuple[Summary, ...]:
        """The summary of the posterior; then, if it is new or now better told, that of its event; then what that
        changes in the network."""
        own, news = self.own(posterior)
        return own + self.together(news)

    def own(self, posterior: Posterior) -> tuple[tuple[Summary, ...], News | None]:
        """What the detector says by itself, and what `together` is to be given once that is on its way."""
        window = posterior.window
        single = replace(self.answer(posterior, self._prior), kind="posterior", samples=packed(posterior))
        gps_ns = single.gps_ns
        into_window = (gps_ns - window.gps_ns) / NANO
        doubts = reasons(posterior, self._config)
        event = self._events.add(window.detector, gps_ns, rank(posterior, into_window, not doubts, self._prior))
        if event is None:
            return (single,), None
        told = {"id": event.id, "supersedes": list(event.replaced), "windows": event.windows}
        best = replace(single, kind="event", id=event.id, event=told, samples=b"")
        return (single, best), News(posterior, event, doubts)

    def answer(self, posterior: Posterior, prior: Prior) -> Summary:
        """What is told of a posterior that somebody asked for, made with ``prior``; it is never an event."""
        window = posterior.window
        body = canonical(part(posterior, prior, self._config))
        return Summary(
            kind="answer",
            detector=window.detector,
            id=posterior.id,
            gps_ns=coalescence_ns(posterior.samples, window, usable_weights(posterior)),
            posterior=body,
            sha256=hashlib.sha256(body).hexdigest(),
            injected=window.injected,
        )

    def unweighted(self, one: Unweighted) -> Summary:
        """What subscribers are told of draws that no likelihood has weighted; they are never an event."""
        window, body = one.window, canonical(unweighted_part(one, self._trained, self._config))
        return Summary(
            kind="unweighted",
            detector=window.detector,
            id=one.id,
            gps_ns=coalescence_ns(one.samples, window, equal_weights(len(one.samples))),
            posterior=body,
            sha256=hashlib.sha256(body).hexdigest(),
            injected=window.injected,
        )

    def together(self, news: News | None) -> tuple[Summary, ...]:
        """What news of a detector's event change in the network."""
        if self._network is None or news is None:
            return ()
        member = network.member(news.posterior, news.event, news.doubts, self._masses)
        return tuple(map(self._tell, self._network.add(member)))

    def _tell(self, change: Change) -> Summary:
        """The summary of a network event that stands, or is withdrawn."""
        assert self._network is not None
        found = change.network
        mass = self._masses.posterior([one.mass for one in found.members])
        body = canonical(network.part(found, self._network.pairs(found), mass))
        return Summary(
            kind="network",
            detector="network",
            id=found.id,
            gps_ns=found.loudest.gps_ns,
            posterior=body,
            sha256=hashlib.sha256(body).hexdigest(),
            event=network.told(change),
            injected=any(member.injected for member in found.members),
        )
