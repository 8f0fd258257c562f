"""Triggers from outside: what somebody asks the daemon to look at, and why it may refuse. Pure, and no stage.

Whoever may write the trigger topic is a stranger here. Any bytes give a `Request` or raise `Refused`; nothing of what
was sent comes back but an id of plain characters; and a reply goes nowhere but below ``<prefix>/reply/``.
(`gwstream.records.Trigger` is another thing: what our own gate finds in a window.)
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gwstream.prior import DistanceDensity
from gwstream.records import NANO, Summary, Window

SCHEMA = "gwstream.trigger/1"
LARGEST = 2048  # bytes
LATEST = 1e10  # GPS s
CORRELATION = 128  # bytes of MQTT's correlation data
DETECTORS = 8
NAME = r"^[A-Za-z0-9_.-]{1,64}$"
DETECTOR = r"^[A-Z][0-9]$"
REASONS: Mapping[str, str] = {
    "malformed": "a trigger that is none: too large, no JSON, or not as the schema has it",
    "reply_elsewhere": "the reply to a trigger was to go to a topic that is not below <prefix>/reply/",
    "too_many": "more triggers came than publish.triggers.per_second lets in",
    "busy": "as many triggers wait for their answer as may",
    "unknown_detector": "a trigger named a detector that this daemon has not",
    "too_old": "a trigger's time has left the buffer of publish.triggers.buffer s",
    "too_new": "a trigger's time lay more than publish.triggers.wait s ahead of the strain",
    "no_data": "no window holds a trigger's time: strain was missing or vetoed, or the spectrum is not known yet",
    "stopping": "the daemon stopped before a trigger was answered",
    "unsent": "a reply that was not sent: the broker was away or refused it, or too many were due",
    "refused": "the broker does not let the daemon read the trigger topic",
}
"""Of `Refused`, and of the counter. The last two are of no message."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a reply goes, and what MQTT's correlation data it carries."""

    topic: str
    correlation: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A trigger. ``name``: the id its sender gave it. ``distance``: density of the distance; None: the daemon's."""

    name: str
    gps_ns: int
    detectors: tuple[str, ...]
    to: Address
    distance: DistanceDensity | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What came of a request for one detector: a ``summary``, or the ``reason`` why there is none, in words ``text``.

    ``detector`` is empty where all of the request is refused, ``name`` where its id could not be read. ``marks``: as in
    `gwstream.records.Outgoing`, from the arrival of the request.
    """

    to: Address
    name: str = ""
    gps_ns: int = 0
    detector: str = ""
    summary: Summary | None = None
    reason: str = ""
    text: str = ""
    marks: tuple[tuple[str, int], ...] = ()


class Refused(ValueError):
    """A trigger that is none. ``to``: who may be told; None: nobody can."""

    def __init__(self, reason: str, text: str, to: Address | None, name: str = "") -> None:
        super().__init__(text)
        self.reason, self.text, self.to, self.name = reason, text, to, name


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    id: str = Field(pattern=NAME)
    gps: float = Field(gt=0, lt=LATEST, allow_inf_nan=False)
    detectors: list[str] = Field(min_length=1, max_length=DETECTORS)
    distance_prior: Literal["uniform", "volume"] | None = None
    reply_to: str | None = None


def parse(payload: bytes, prefix: str, response: str | None = None, correlation: bytes = b"") -> Request:
    """The trigger in ``payload``. ``response``, ``correlation``: MQTT v5's properties. Raises `Refused`.

    The reply goes to ``response``, else to the trigger's ``reply_to``, else to ``<prefix>/reply/<id>``.
    """
    to = _address(response, prefix, correlation[:CORRELATION]) if response is not None else None
    if len(correlation) > CORRELATION:
        raise Refused("malformed", f"correlation data: more than {CORRELATION} bytes", to)
    body = _loaded(payload, to)
    name = body.get("id")
    name = name if isinstance(name, str) and re.fullmatch(NAME, name) else ""
    if to is None and isinstance(body.get("reply_to"), str):
        to = _address(body["reply_to"], prefix, correlation, name)
    elif to is None and name:
        to = Address(f"{prefix}/reply/{name}", correlation)
    try:
        trigger = _Body.model_validate(body)
    except ValidationError as problem:
        raise Refused("malformed", _why(problem), to, name) from None
    if not all(re.fullmatch(DETECTOR, one) for one in trigger.detectors):
        raise Refused("malformed", "detectors: each is a capital letter and a digit, as H1", to, name)
    if len(set(trigger.detectors)) < len(trigger.detectors):
        raise Refused("malformed", "detectors: one is named twice", to, name)
    assert to is not None  # the id is one
    return Request(
        name=trigger.id,
        gps_ns=int(trigger.gps) * NANO + round(trigger.gps % 1 * NANO),
        detectors=tuple(trigger.detectors),
        to=to,
        distance=trigger.distance_prior,
    )


def nearest(windows: Iterable[Window], gps_ns: int, time: tuple[float, float]) -> Window | None:
    """Of windows whose trained range of coalescence, ``time`` (s), holds ``gps_ns`` the one with the nearest middle."""
    low, high = (round(edge * NANO) for edge in time)
    holding = [one for one in windows if low <= gps_ns - one.gps_ns <= high]
    return min(holding, key=lambda one: abs(2 * (gps_ns - one.gps_ns) - low - high), default=None)


def _loaded(payload: bytes, to: Address | None) -> dict[str, Any]:
    """The JSON object. Raises `Refused`."""
    if len(payload) > LARGEST:
        raise Refused("malformed", f"it has more than {LARGEST} bytes", to)
    try:
        body = json.loads(payload.decode("utf-8"), parse_constant=_no_constant, object_pairs_hook=_once)
    except (ValueError, RecursionError):
        raise Refused("malformed", "it is not JSON, or has a key twice", to) from None
    if not isinstance(body, dict):
        raise Refused("malformed", "it is not a JSON object", to)
    return body


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key twice")
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _address(topic: str, prefix: str, correlation: bytes, name: str = "") -> Address:
    """Raises `Refused` for a topic that is not ours to write replies on."""
    head = f"{prefix}/reply/"
    levels = topic.removeprefix(head).split("/")
    if not topic.startswith(head) or len(levels) > 4 or not all(re.fullmatch(NAME, one) for one in levels):
        text = "replies go to <prefix>/reply/ and up to four levels of letters, digits, _ . and - below it"
        raise Refused("reply_elsewhere", text, None, name)
    return Address(topic, correlation)


def _why(problem: ValidationError) -> str:
    """What is wrong first, in our words alone."""
    error = problem.errors(include_input=False, include_context=False, include_url=False)[0]
    field = str(error["loc"][0])
    return f"{field}: {error['msg']}" if field in _Body.model_fields else "it has a field that triggers have not"
