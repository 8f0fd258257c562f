"""The bytes of a message, put together when it is sent: the delivery part says how it got here, and when."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from gwstream.asked import Reply
from gwstream.records import NANO, Outgoing, Summary

POSTERIOR_SCHEMA = "gwstream.posterior/1"
EVENT_SCHEMA = "gwstream.event/1"
NETWORK_SCHEMA = "gwstream.network_event/1"
STATUS_SCHEMA = "gwstream.status/1"
ANSWER_SCHEMA = "gwstream.answer/1"
ERROR_SCHEMA = "gwstream.trigger_error/1"


def schema_of(summary: Summary) -> str:
    """Name and version of the schema of a message."""
    return {"event": EVENT_SCHEMA, "network": NETWORK_SCHEMA}.get(summary.kind, POSTERIOR_SCHEMA)


def topic(prefix: str, summary: Summary) -> str:
    """Where a message goes: ``<prefix>/<detector>/posterior``, ``…/event``, or ``<prefix>/network/event``."""
    return f"{prefix}/{summary.detector}/{'event' if summary.kind in ('event', 'network') else 'posterior'}"


def delivery(outgoing: Outgoing, *, sequence: int, attempt: int, monotonic_ns: int, gps_ns: int) -> dict[str, Any]:
    """How a message that is sent now got here; ``monotonic_ns`` and ``gps_ns`` are now, on the two clocks, in ns.

    Latencies are seconds and add up to their total: each step lasts from the mark before it, ``publish`` from the last.
    How known signals fared of late is said as it was when the posterior was made.
    """
    part: dict[str, Any] = {
        "sequence": sequence,
        "attempt": attempt,
        "latency": _latency(outgoing, monotonic_ns),
        "since_last_sample": round((gps_ns - outgoing.data_end_ns) / NANO, 6),
        "since_coalescence": round((gps_ns - outgoing.summary.gps_ns) / NANO, 6),
        "sent_gps": gps_ns / NANO,
    }
    if outgoing.first_event:
        part["since_first_event"] = round((monotonic_ns - outgoing.first_event) / NANO, 6)
    if outgoing.load:
        part["load"] = outgoing.load
    return part if outgoing.calibration is None else part | {"calibration": outgoing.calibration}


def compose(summary: Summary, delivery_part: dict[str, Any]) -> bytes:
    """The message as it goes out. The part made of the strain is copied byte for byte: its SHA-256 holds on the wire.

    It is called ``posterior``, and ``network`` in a network event.
    """
    head: dict[str, Any] = {"schema": schema_of(summary), "sha256": summary.sha256}
    if summary.event is not None:
        head["event"] = summary.event
    head["delivery"] = delivery_part
    name = b"network" if summary.kind == "network" else b"posterior"
    return _json(head)[:-1] + b',"' + name + b'":' + summary.posterior + b"}"


def status(state: str, facts: dict[str, Any]) -> bytes:
    """The status message: ``state`` online or offline, and what is known of the daemon."""
    return _json({"schema": STATUS_SCHEMA, "state": state, **facts})


def reply(what: Reply, *, instance: str, monotonic_ns: int, gps_ns: int) -> bytes:
    """What goes to who asked: an answer, or an error. Its id is that of trigger and posterior: no other message's."""
    if what.summary is None:
        head: dict[str, Any] = {"schema": ERROR_SCHEMA, "trigger": what.name or None, "detector": what.detector or None}
        return _json(head | {"reason": what.reason, "text": what.text, "instance": instance, "sent_gps": gps_ns / NANO})
    summary = what.summary
    told = {"id": f"A-{what.name}-{summary.id}", "trigger": what.name, "gps_ns": what.gps_ns}
    latency = _steps(what.marks[0][1], what.marks[1:], monotonic_ns)
    sent = {"instance": instance, "latency": latency, "sent_gps": gps_ns / NANO}
    head = {"schema": ANSWER_SCHEMA, "sha256": summary.sha256, "answer": told, "delivery": sent}
    return _json(head)[:-1] + b',"posterior":' + summary.posterior + b"}"


def _latency(outgoing: Outgoing, now: int) -> dict[str, float]:
    marks = outgoing.marks
    begin = outgoing.arrived or (marks[0][1] if marks else now)  # 0: no arrival is known, as in a replay
    return _steps(begin, marks, now)


def _steps(begin: int, marks: Sequence[tuple[str, int]], now: int) -> dict[str, float]:
    steps: dict[str, int] = {}
    last = begin
    for name, mark in (*marks, ("publish", now)):
        steps[name] = steps.get(name, 0) + mark - last
        last = mark
    return {name: step / NANO for name, step in steps.items()} | {"total": (now - begin) / NANO}


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode("ascii")
