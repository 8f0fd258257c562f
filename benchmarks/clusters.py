"""Windows in, events out, as the daemon makes them; and what became of each."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gwstream.batching import BUCKETS
from gwstream.config import SummaryConfig
from gwstream.inference import Inference
from gwstream.records import NANO, Batch, Posterior, Summary, Window
from gwstream.summary import Summarizer


@dataclass(frozen=True, slots=True)
class Event:
    """The last word on an event. ``good``: whether it was ever told as good; ``reasons``: of the last word."""

    detector: str
    gps: float
    snr: float
    log_bayes: float
    good: bool
    reasons: tuple[str, ...]
    masses: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Network:
    """A network event that stands. ``good``: whether it was ever told as good."""

    gps: float
    snr: float
    good: bool


def judged(inference: Inference, windows: Iterable[Window]) -> Iterator[Posterior]:
    """Posteriors of the windows behind the gate, in order."""
    batch: list[Window] = []
    for window in windows:
        batch.append(window)
        if len(batch) == BUCKETS[2]:
            yield from _posteriors(inference, batch)
            batch = []
    if batch:
        yield from _posteriors(inference, batch)


def _posteriors(inference: Inference, batch: list[Window]) -> Iterator[Posterior]:
    for trigger in inference.gate(Batch(tuple(batch), len(batch))):
        if trigger.passed:
            yield inference.infer(trigger)


def keep(path: Path, group: str, kind: str, label: str, posteriors: Iterable[Posterior]) -> None:
    """Add what decides the quality of an event's posteriors to a file of JSON lines, for ``thresholds.py``."""
    config = SummaryConfig()
    rows = [
        {
            "log_bayes": posterior.log_bayes,
            "residual_p": posterior.residual_p,
            "peak_residual_p": posterior.peak_residual_p,
            "ess": posterior.ess,
            "snr": posterior.snr,
            "drift": posterior.window.whitener.drift,
            "other": posterior.window.whitener.history < config.short_history,
        }
        for posterior in posteriors
    ]
    path.parent.mkdir(exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"group": group, "kind": kind, "label": label, "posteriors": rows}) + "\n")


def events(summarizer: Summarizer, posteriors: Iterable[Posterior]) -> list[Event]:
    """Events of single detectors that nothing supersedes, in order of time."""
    return told(summarizer, posteriors)[0]


def told(summarizer: Summarizer, posteriors: Iterable[Posterior]) -> tuple[list[Event], list[Network]]:
    """Events of single detectors, and of several, that nothing supersedes, each in order of time."""
    single: dict[str, Event] = {}
    network: dict[str, Network] = {}
    for posterior in posteriors:
        for summary in summarizer.add(posterior):
            if summary.event is None:
                continue
            part = json.loads(summary.posterior)
            names: list[str] = summary.event["supersedes"]  # type: ignore[assignment]
            if summary.kind == "event":
                replaced = [single.pop(name) for name in names if name in single]
                single[summary.id] = _event(summary, part, good=any(one.good for one in replaced))
            else:
                before = [network.pop(name) for name in names if name in network]
                good = part["quality"]["verdict"] == "good" or any(one.good for one in before)
                if summary.event["state"] == "standing":
                    network[summary.id] = Network(summary.gps_ns / NANO, part["snr"], good)
    return sorted(single.values(), key=lambda one: one.gps), sorted(network.values(), key=lambda one: one.gps)


def _event(summary: Summary, part: dict[str, Any], *, good: bool) -> Event:
    said = part["parameters"]
    return Event(
        detector=summary.detector,
        gps=summary.gps_ns / NANO,
        snr=part["snr"],
        log_bayes=part["log_bayes"],
        good=good or part["quality"]["verdict"] == "good",
        reasons=tuple(part["quality"]["reasons"]),
        masses=(said["mass_1"]["median"], said["mass_2"]["median"]),
    )
