"""The posteriors and network events a page lists: so many, events longest, and no more told than a page can use."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from gwstream.records import Floats, Summary
from gwstream.web.pages import packed

POSTERIORS = 24  # kept for a page that opens now, and shown
NETWORKS = 8  # network events, likewise
RATE = 6.0  # posteriors a second that are told for long; those of events come beyond that
BURST = 24.0  # that may come at once
STEP = 0.01  # noise standard deviations: a sixth of a pixel
LEFT_OUT = ("correlation", "assumptions")  # of a posterior: the page does not show them
CURVES = ("median", "lower", "upper")

Tell = Callable[[str, Callable[[], Mapping[str, Any]]], None]
"""Tells the pages of a kind of news, which is made only where there is a page."""


class Rows:
    """What is listed. ``tell`` hears of each change."""

    def __init__(self, tell: Tell, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._tell = tell
        self._monotonic = monotonic
        self._left, self._since = BURST, monotonic()
        self._rows: list[dict[str, Any]] = []  # in the order they came
        self._networks: deque[dict[str, Any]] = deque(maxlen=NETWORKS)

    def posterior(self, summary: Summary, samples: Floats, *, event: bool = False) -> dict[str, Any] | None:
        """List a posterior, unless too many come; ``samples``: of its window. Returns its part of the message."""
        if not self._allowed() and not event:
            return None
        part = {name: value for name, value in json.loads(summary.posterior).items() if name not in LEFT_OUT}
        row = {"posterior": part, "samples": samples, "event": None, "network": None, "delivery": None}
        self._rows.append(row)
        self._tell("posterior", lambda: encoded(row))
        if len(self._rows) > POSTERIORS:
            self._forget()
        return part

    def event(self, summary: Summary, samples: Floats) -> None:
        """Mark the posterior an event is told by, and unmark those it stands for."""
        event: dict[str, Any] = dict(summary.event or {})
        gone = set(event.get("supersedes", ()))
        for row in self._rows:
            if row["event"] is not None and row["event"]["id"] in gone:
                self.amend(row["posterior"]["id"], event=None)
        wanted = json.loads(summary.posterior)["id"]
        if not any(row["posterior"]["id"] == wanted for row in self._rows):
            self.posterior(summary, samples, event=True)
        self.amend(wanted, event=event)

    def network(self, summary: Summary) -> None:
        """Mark the posteriors of a network event's members, and unmark those it stands for, or all when withdrawn."""
        event: dict[str, Any] = dict(summary.event or {})
        gone = {*event.get("supersedes", ()), summary.id}
        for row in self._rows:
            if row["network"] is not None and row["network"]["id"] in gone:
                self.amend(row["posterior"]["id"], network=None)
        kept = [one for one in self._networks if one["network"]["id"] not in gone]
        part = json.loads(summary.posterior)
        standing = event.get("state") == "standing"
        if standing:
            for member in part["members"]:
                self.amend(member["posterior"], network=part)
            kept.append({"network": part, "event": event})
        self._networks = deque(kept, maxlen=NETWORKS)
        told = list(self._networks)
        self._tell("networks", lambda: {"networks": told})

    def amend(self, posterior: str, **news: Any) -> None:
        """Something new of a posterior, if it is listed."""
        for row in self._rows:
            if row["posterior"]["id"] == posterior:
                row |= news
                self._tell("amend", lambda: {"id": posterior, **news})

    def history(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """All of it, for a page that opens now."""
        for row in self._rows:
            yield "posterior", encoded(row)
        yield "networks", {"networks": list(self._networks)}

    def _allowed(self) -> bool:
        now = self._monotonic()
        self._left = min(BURST, self._left + (now - self._since) * RATE)
        self._since = now
        if self._left < 1:
            return False
        self._left -= 1
        return True

    def _forget(self) -> None:
        """One row less: the oldest that is no event, or, where most are, the oldest of all but the newest."""
        events = sum(row["event"] is not None for row in self._rows)
        candidates = [row for row in self._rows[:-1] if row["event"] is None or events > POSTERIORS // 2]
        row = candidates[0]
        self._rows.remove(row)
        name = row["posterior"]["id"]
        self._tell("amend", lambda: {"id": name, "gone": True})


def encoded(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row as it goes to a page, with its curves packed."""
    part = row["posterior"]
    curves = {name: packed(np.array(part["waveform"][name], np.float64), STEP) for name in CURVES}
    return {**row, "posterior": {**part, "waveform": curves}, "samples": packed(row["samples"], STEP)}
