"""Triggers as strangers send them: any bytes are a request or a refusal, by the published schema."""

from __future__ import annotations

import json
import math
from typing import Any

import fakes
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from gwstream.asked import CORRELATION, LARGEST, REASONS, Address, Refused, Request, nearest, parse
from gwstream.records import NANO
from gwstream.summary import schema

GOOD: dict[str, Any] = {"id": "ann-1", "gps": 1126259462.42, "detectors": ["H1", "L1"]}
whole = schema()
TRIGGER = Draft202012Validator({**whole, "oneOf": [{"$ref": "#/$defs/trigger"}]})


def sent(**changes: object) -> bytes:
    return json.dumps({**GOOD, **changes}).encode()


def refused(payload: bytes, response: str | None = None, correlation: bytes = b"") -> Refused:
    with pytest.raises(Refused) as caught:
        parse(payload, "gwstream", response, correlation)
    assert caught.value.reason in REASONS
    return caught.value


def test_a_trigger_is_read_with_all_it_says() -> None:
    assert parse(sent(), "gwstream") == Request(
        name="ann-1",
        gps_ns=1126259462420000076,  # what the double is
        detectors=("H1", "L1"),
        to=Address("gwstream/reply/ann-1"),
    )
    more = parse(sent(distance_prior="volume", reply_to="gw/s/reply/ann/x.1"), "gw/s", None, b"7")
    assert (more.distance, more.to) == ("volume", Address("gw/s/reply/ann/x.1", b"7"))
    assert parse(sent(reply_to="elsewhere"), "gwstream", "gwstream/reply/a").to.topic == "gwstream/reply/a"


@pytest.mark.parametrize(
    "topic",
    [
        "gwstream/H1/event", "gwstream/reply", "gwstream/reply/", "gwstream/reply/+", "gwstream/reply/#", "elsewhere",
        "gwstream/reply/a/../b/", "gwstream/reply//a", "$SYS/x", "gwstream/trigger", "other/reply/a",
        "gwstream/reply/a/b/c/d/e", "gwstream/reply/" + 65 * "a", "gwstream/reply/a\n", "gwstream/reply/\0",
        "gwstream/replyx/a", "", "GWSTREAM/reply/a",
    ],
)  # fmt: skip
def test_a_stranger_cannot_make_us_publish_elsewhere(topic: str) -> None:
    for problem in (refused(sent(), topic), refused(sent(reply_to=topic))):
        assert problem.reason == "reply_elsewhere"
        assert problem.to is None


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe{}", "not JSON"),
        (b"[" * LARGEST, "not JSON"),
        (b'{"a":' * 400, "not JSON"),
        (b'{"id":"a","id":"b"}', "a key twice"),
        (b"[1]", "not a JSON object"),
        (sent() + b" " * LARGEST, "more than 2048 bytes"),
        (sent(gps=math.nan), "not JSON"),
        (sent(gps=-1), "gps: "),
        (sent(gps=True), "gps: "),
        (sent(gps="1126259462"), "gps: "),
        (sent(gps=10**400), "gps: "),
        (sent(detectors=[]), "detectors: "),
        (sent(detectors=["h1"]), "detectors: "),
        (sent(detectors=["H1", "H1"]), "detectors: one is named twice"),
        (sent(detectors="H1"), "detectors: "),
        (sent(id="a b"), "id: "),
        (sent(id="a\n"), "id: "),
        (sent(id=7), "id: "),
        (sent(distance_prior="flat"), "distance_prior: "),
        (sent(evil="<b>"), "it has a field that triggers have not"),
    ],
)
def test_what_is_no_trigger_is_refused_in_our_words_alone(payload: bytes, said: str) -> None:
    problem = refused(payload, "gwstream/reply/ann")
    assert problem.reason == "malformed"
    assert said in problem.text
    assert problem.to == Address("gwstream/reply/ann")
    assert "evil" not in problem.text
    assert "<b>" not in problem.text
    assert "flat" not in problem.text


def test_whoever_can_be_told_is_told() -> None:
    assert refused(sent(gps=-1)).to == Address("gwstream/reply/ann-1")
    assert refused(sent(gps=-1)).name == "ann-1"
    assert refused(sent(id="a b")).to is None
    assert refused(b"x", "gwstream/reply/a", b"c").to == Address("gwstream/reply/a", b"c")
    long = refused(sent(), "gwstream/reply/a", bytes(CORRELATION + 1))
    assert (long.reason, long.to) == ("malformed", Address("gwstream/reply/a", bytes(CORRELATION)))


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["H1", "ann-1", "uniform"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
detectors = st.sampled_from(["H1", "L1", "V1", "K1", "H12", "h1", "H٣"])
changes = st.fixed_dictionaries(
    {},
    optional={
        "id": st.sampled_from(["a" * 64, "a" * 65, "", "ä", "a/b"]) | anything,
        "gps": st.floats() | st.integers() | anything,
        "detectors": st.lists(detectors, max_size=10) | anything,
        "distance_prior": st.sampled_from(["uniform", "volume", None, "model"]) | anything,
        "reply_to": st.sampled_from([None, "gwstream/reply/a"]) | anything,
        "more": anything,
    },
)
near = st.tuples(changes, st.sets(st.sampled_from([*GOOD, "none"]), max_size=1)).map(
    lambda told: {name: value for name, value in {**GOOD, **told[0]}.items() if name not in told[1]}
)


@given(st.binary() | near.map(lambda body: json.dumps(body).encode()), st.none() | st.text(), st.binary())
def test_any_bytes_are_a_request_or_a_refusal(payload: bytes, response: str | None, correlation: bytes) -> None:
    try:
        to: Address | None = parse(payload, "gwstream", response, correlation).to
    except Refused as problem:
        to = problem.to
    assert to is None or to.topic.startswith("gwstream/reply/")


@settings(max_examples=500)
@given(near)
@example({**GOOD, "detectors": ["H1", "H1"]})
def test_the_schema_says_what_is_taken(body: dict[str, Any]) -> None:
    try:
        parse(json.dumps(body).encode(), "gwstream", "gwstream/reply/a")
        taken = True
    except Refused:
        taken = False
    valid = TRIGGER.is_valid(body) and not any(isinstance(x, float) and not math.isfinite(x) for x in body.values())
    assert taken == valid or len(json.dumps(body)) > LARGEST


@given(st.sets(st.integers(0, 24), min_size=1), st.integers(0, 3 * NANO))
@example(set(range(24)), 3 * NANO // 2)
def test_the_window_with_the_nearest_middle_is_taken(numbers: set[int], after: int) -> None:
    windows = [fakes.window(number) for number in sorted(numbers)]
    at = fakes.GPS * NANO + after
    found = nearest(windows, at, (0.65, 0.85))
    away = {one.start: (at - one.gps_ns) / NANO - 0.75 for one in windows}
    holding = {start for start, offset in away.items() if abs(offset) <= 0.1 + 1e-9}
    if found is None:
        assert not any(abs(offset) < 0.1 - 1e-9 for offset in away.values())
    else:
        assert found.start in holding
        assert abs(away[found.start]) == pytest.approx(min(abs(offset) for offset in away.values()), abs=1e-9)
