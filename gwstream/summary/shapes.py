"""The words in which the JSON Schemas of messages are written."""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

NUMBER: Schema = {"type": "number"}
MAYBE: Schema = {"type": ["number", "null"], "description": "null: not a finite number"}
COUNT: Schema = {"type": "integer", "minimum": 0}
TEXT: Schema = {"type": "string"}
GPS: Schema = {"type": "number", "description": "GPS s; a double resolves 0.24 us, the integer beside it is exact"}
NS: Schema = {"type": "integer", "description": "GPS time in ns, exact; too large for a double, as JavaScript reads it"}


def record(about: str = "", /, **properties: Schema) -> Schema:
    """An object with these keys, all required, and no others."""
    out: Schema = {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
    return out | ({"description": about} if about else {})


def opened(kind: Schema, others: Schema | bool = True) -> Schema:
    """The same object with ``others`` allowed."""
    return kind | {"additionalProperties": others}


def or_null(kind: Schema) -> Schema:
    """The same object, or null."""
    return kind | {"type": [kind["type"], "null"]}


def says(kind: Schema, about: str) -> Schema:
    """The same with a description."""
    return kind | {"description": about}
