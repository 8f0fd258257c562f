"""Whether the account of the fault tests sees bytes that are not those that were told."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from faults import the_same
from test_flow import Received

from gwstream.publish import message
from gwstream.records import Summary

BODIES = {
    "posterior": b'{"detector":"H1","id":"H1-5-a","snr":8.0}',
    "event": b'{"detector":"H1","id":"H1-5-a","snr":8.0}',
    "network": b'{"id":"N-H1L1-b","snr":9.0}',
}


def sent(kind: Any, body: bytes, sequence: int, claim: bytes | None = None) -> Received:
    """``claim``: whose digest it bears, if not its own."""
    event = {"posterior": None, "event": {"id": "E-c"}, "network": {"id": "N-H1L1-b", "state": "standing"}}[kind]
    summary = Summary(
        kind=kind,
        detector="network" if kind == "network" else "H1",
        id="",
        gps_ns=5,
        posterior=body,
        sha256=hashlib.sha256(body if claim is None else claim).hexdigest(),
        event=event,
    )
    latency = {"posterior": 0.5, "network": 0.5}  # the names of steps, too
    payload = message.compose(summary, {"sequence": sequence, "latency": latency})
    return Received(message.topic("gwstream", summary), payload, "", {}, None)


def test_repeats_are_no_fault() -> None:
    got = [sent(kind, body, number) for number, (kind, body) in enumerate(BODIES.items())]
    told = the_same([*got, *got])
    assert told == {("posterior", "H1-5-a"): BODIES["posterior"], ("event", "E-c"): BODIES["event"]} | {
        ("network", "N-H1L1-b"): BODIES["network"]
    }


@pytest.mark.parametrize("kind", BODIES)
def test_bytes_that_are_not_those_of_the_digest(kind: str) -> None:
    body = BODIES[kind]
    with pytest.raises(AssertionError, match=kind):
        the_same([sent(kind, body.replace(b'snr":', b'snr": '), 0, claim=body)])


@pytest.mark.parametrize("kind", BODIES)
def test_a_repeat_with_other_bytes(kind: str) -> None:
    """They say the same, and have the digest that they name."""
    body = BODIES[kind]
    with pytest.raises(AssertionError, match=kind):
        the_same([sent(kind, body, 0), sent(kind, body.replace(b'snr":', b'snr": '), 1)])


def test_a_number_that_is_used_twice() -> None:
    with pytest.raises(AssertionError, match="H1 3"):
        the_same([sent("posterior", BODIES["posterior"], 3), sent("event", BODIES["event"], 3)])
