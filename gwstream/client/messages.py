"""What a subscriber gets: messages with types, and all of their content beside them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

NANO = 1_000_000_000


class NotOurs(ValueError):
    """A payload that is no message of gwstream, or of a version this client does not know."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A parameter in ``unit``: median, ends of its central 90 % interval, standard deviation; NaN: not finite."""

    unit: str
    median: float
    p5: float
    p95: float
    sd: float

    def __str__(self) -> str:
        unit = "" if self.unit == "1" else f" {self.unit}"
        return f"{self.median:.4g} [{self.p5:.4g}, {self.p95:.4g}]{unit}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """What all messages have. ``detector``: "network" for those of several. ``gps_ns``: of coalescence.

    ``reasons``: why it is not ``good``. ``chirp_mass``: at the detector. ``latency``: s from the frame to sending.
    ``body``: the whole message, as docs/messages.md describes it.
    """

    id: str
    detector: str
    gps_ns: int
    snr: float
    log_bayes: float
    good: bool
    reasons: tuple[str, ...]
    chirp_mass: Interval
    simulated: bool
    sequence: int
    latency: float
    body: Mapping[str, Any] = field(repr=False, compare=False)

    @property
    def gps(self) -> float:
        """GPS s of coalescence; `gps_ns` has it exactly."""
        return self.gps_ns / NANO


@dataclass(frozen=True, slots=True, kw_only=True)
class Posterior(Message):
    """Of one window. ``parameters``: those on a line, by name; phase and time are in ``body``.

    ``weighted``: by the likelihood; where it is not, the SNR and the ln Bayes factor are NaN.
    """

    weighted: bool = True
    parameters: Mapping[str, Interval] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Event(Posterior):
    """The best posterior of a signal so far. ``supersedes``: ids of the events it replaces."""

    supersedes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer(Posterior):
    """Of the window that holds a time somebody asked for. ``trigger``: id of the question. Its ``sequence`` is -1."""

    trigger: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkEvent(Message):
    """Events of detectors that agree. ``withdrawn``: they do not any more. ``members``: ids of events by detector."""

    supersedes: tuple[str, ...]
    withdrawn: bool
    members: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """What a daemon says of itself every 10 s; the last one is retained, so a new subscriber has it at once.

    ``reason``: why it is not ``online``. ``body``: all of it, as docs/messages.md describes it.
    """

    instance: str
    online: bool
    reason: str
    body: Mapping[str, Any] = field(repr=False, compare=False)


def parse(payload: bytes) -> Message | Status:
    """The message or status in ``payload``. Raises `NotOurs`."""
    try:
        body = json.loads(payload)
        make = KINDS.get(body["schema"])
        if make is None:
            raise NotOurs(f"schema {body['schema']!r} is not known to this client: {', '.join(KINDS)} are")
        return make(body)
    except (ValueError, LookupError, TypeError, AttributeError) as problem:
        raise problem if isinstance(problem, NotOurs) else NotOurs(f"{type(problem).__name__}: {problem}") from None


def _status(body: Mapping[str, Any]) -> Status:
    online = body["state"] == "online"
    return Status(instance=str(body["instance"]), online=online, reason=str(body.get("reason", "")), body=body)


def _common(body: Mapping[str, Any], part: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "gps_ns": int(part["coalescence"]["gps_ns"]),
        "snr": _number(part["snr"]),
        "log_bayes": _number(part["log_bayes"]),
        "good": part["quality"]["verdict"] == "good",
        "reasons": tuple(part["quality"]["reasons"]),
        "simulated": bool(part["simulated"]),
        "sequence": int(body["delivery"].get("sequence", -1)),
        "latency": float(body["delivery"]["latency"]["total"]),
        "body": body,
    }


def _told(body: Mapping[str, Any]) -> dict[str, Any]:
    part = body["posterior"]
    linear = {name: _interval(one) for name, one in part["parameters"].items() if {"median", "p5", "unit"} <= set(one)}
    del linear["coalescence_time"]  # a double does not resolve it: see gps_ns
    known = {"detector": str(part["detector"]), "chirp_mass": linear["chirp_mass"], "parameters": linear}
    known["weighted"] = bool(part.get("sampling", {}).get("weighted", True))  # daemons of before have no others
    return _common(body, part) | known


def _posterior(body: Mapping[str, Any]) -> Posterior:
    return Posterior(id=str(body["posterior"]["id"]), **_told(body))


def _event(body: Mapping[str, Any]) -> Event:
    event = body["event"]
    return Event(id=str(event["id"]), supersedes=tuple(event["supersedes"]), **_told(body))


def _answer(body: Mapping[str, Any]) -> Answer:
    answer = body["answer"]
    return Answer(id=str(answer["id"]), trigger=str(answer["trigger"]), **_told(body))


def _network(body: Mapping[str, Any]) -> NetworkEvent:
    part, event = body["network"], body["event"]
    return NetworkEvent(
        id=str(part["id"]),
        detector="network",
        supersedes=tuple(event["supersedes"]),
        withdrawn=event["state"] == "withdrawn",
        members={str(one["detector"]): str(one["event"]) for one in part["members"]},
        chirp_mass=_interval(part["chirp_mass"]),
        **_common(body, part),
    )


def _interval(part: Mapping[str, Any]) -> Interval:
    numbers = {name: _number(part[name]) for name in ("median", "p5", "p95", "sd")}
    return Interval(unit=str(part["unit"]), **numbers)


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


KINDS: dict[str, Callable[[Mapping[str, Any]], Message | Status]] = {
    "gwstream.posterior/1": _posterior,
    "gwstream.event/1": _event,
    "gwstream.network_event/1": _network,
    "gwstream.status/1": _status,
    "gwstream.answer/1": _answer,
}
