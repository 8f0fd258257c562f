"""JSON Schema of triggers from outside and of the replies to them; `gwstream.asked` reads the ones."""

from __future__ import annotations

from gwstream.asked import CORRELATION, DETECTOR, DETECTORS, LARGEST, LATEST, NAME, REASONS
from gwstream.summary.shapes import NS, NUMBER, TEXT, Schema, opened, or_null, record, says

MESSAGES = ("answer_message", "trigger_error")
UNTOLD = ("reply_elsewhere", "unsent", "refused")  # reasons that are of no message


def definitions(posterior: Schema) -> dict[str, Schema]:
    """Of the trigger, which is sent to the daemon, and of what it sends."""
    return {"trigger": _trigger(), "answer_message": _answer(posterior), "trigger_error": _error()}


def _trigger() -> Schema:
    name: Schema = {"type": "string", "pattern": NAME}
    detectors: Schema = {
        "type": "array",
        "items": {"type": "string", "pattern": DETECTOR},
        "minItems": 1,
        "maxItems": DETECTORS,
        "uniqueItems": True,
    }
    gps: Schema = {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": LATEST}
    whole = record(
        f"Sent to the daemon on <prefix>/trigger, at most {LARGEST} bytes. Each detector is answered by itself. The "
        "reply goes to MQTT's response topic, else to reply_to, else to <prefix>/reply/<id>; with MQTT's correlation "
        f"data, at most {CORRELATION} bytes.",
        id=says(name, "the sender's own; it comes back"),
        gps=says(gps, "GPS s of coalescence at the detectors"),
        detectors=says(detectors, "to be looked at"),
        distance_prior=says(
            or_null({"type": "string"}) | {"enum": ["uniform", "volume", None]},
            "density of the effective distance; left out or null: the daemon's",
        ),
        reply_to=says(or_null({"type": "string"}), "topic below <prefix>/reply/, up to four levels as id is made"),
    )
    return whole | {"required": ["id", "gps", "detectors"]}


def _answer(posterior: Schema) -> Schema:
    latency = record("s; they add up to the total.", total=NUMBER)
    return record(
        "To who sent a trigger, and never an event. The posterior is that of the window in which the asked time lies "
        "nearest to the middle of the trained range, whether or not it passed the gate: the same bytes as the daemon "
        "publishes of that window, if it does, by the same prior and number of draws.",
        schema={"const": "gwstream.answer/1"},
        sha256={"type": "string", "pattern": "^[0-9a-f]{64}$"},
        answer=record(
            id=says(TEXT, "of trigger and posterior; no other message has it"),
            trigger=says({"type": "string", "pattern": NAME}, "its id"),
            gps_ns=NS | {"description": "the time that was asked for, GPS ns"},
        ),
        posterior=posterior,
        delivery=record(
            "Of this answer on its way.",
            instance=says(TEXT, "the daemon's name"),
            latency=opened(latency, NUMBER),
            sent_gps=says(NUMBER, "GPS s at sending, by the clock of the daemon's host"),
        ),
    )


def _error() -> Schema:
    return record(
        "Why there is no answer to a trigger.",
        schema={"const": "gwstream.trigger_error/1"},
        trigger=says({"type": ["string", "null"]}, "its id; null: it could not be read"),
        detector=says({"type": ["string", "null"]}, "the one it is about; null: all of the trigger"),
        reason={"enum": [reason for reason in REASONS if reason not in UNTOLD]},
        text=says(TEXT, "for people"),
        instance=says(TEXT, "the daemon's name"),
        sent_gps=says(NUMBER, "GPS s at sending, by the clock of the daemon's host"),
    )
