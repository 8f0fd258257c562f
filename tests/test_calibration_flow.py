"""Known signals beside the real stream: nothing of them comes out, and nothing that comes out is changed by them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Any

import jsonschema
import pytest
from fakes import posterior, window
from prometheus_client import CollectorRegistry
from trained import inference, shipped

from gwstream.calibration import Calibration
from gwstream.conditioning import Conditioner
from gwstream.config import Config, SummaryConfig
from gwstream.metrics import Metrics
from gwstream.pipeline import run
from gwstream.pipeline.parts import Parts
from gwstream.prior import Prior
from gwstream.publish import message
from gwstream.records import Outgoing, Summary
from gwstream.source import open_source
from gwstream.summary import Summarizer, schema
from gwstream.web import Feed, Watch

SECONDS = 44
TIMED = (
    "gwstream_stage_seconds",
    "gwstream_queue_depth",
    "gwstream_latency",
    "gwstream_data_age",
    "process_",
    "python_",
)
CALIBRATION = "gwstream_calibration_"


@dataclass
class Out:
    """All that left the pipeline by any door, with what belongs to the clock left out."""

    sent: list[Outgoing] = field(default_factory=list)
    messages: list[dict[str, Any]] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)
    page: list[tuple[str, Any]] = field(default_factory=list)
    status: dict[str, Any] = field(default_factory=dict)


class Publisher:
    """Makes the messages, and keeps them."""

    def __init__(self, out: Out) -> None:
        self.out = out

    async def put(self, outgoing: Outgoing) -> None:
        number = sum(one.summary.detector == outgoing.summary.detector for one in self.out.sent)
        self.out.sent.append(outgoing)
        part = message.delivery(outgoing, sequence=number, attempt=1, monotonic_ns=outgoing.marks[-1][1], gps_ns=0)
        self.out.messages.append(json.loads(message.compose(outgoing.summary, part)))

    async def run(self) -> None:
        await asyncio.Event().wait()

    async def drain(self, limit: float) -> None:
        return


async def flow(interval: float) -> Out:
    table = {
        "source": {
            "kind": "simulated", "speed": 0, "duration": SECONDS, "injection_interval": 11, "seed": 3,
            "detectors": {"H1": {}},
        },
        "calibration": {"interval": interval},
    }  # fmt: skip
    config, out, served = Config.model_validate(table), Out(), inference()
    metrics = Metrics(CollectorRegistry(), ("H1",))
    feed = Feed(("H1",))
    feed._tell = lambda kind, make: out.page.append((kind, json.loads(json.dumps(make()))))  # type: ignore[method-assign]
    async with open_source(config.source, metrics.tally, served.prior, shipped().spec.rate) as source:
        calibration = None
        if interval:
            calibration = Calibration(
                config, shipped().spec, served.prior, served, live=source.live, tally=metrics.tally
            )
        parts = Parts(
            config=config,
            source=source,
            conditioner=partial(Conditioner, shipped().spec),
            spec=shipped().spec.conditioning,
            inference=served,
            prior=served.prior,
            publisher=Publisher(out),
            calibration=calibration,
            observers=(metrics, Watch(feed, live=False, detectors=("H1",), tell=out.status.update)),
            tally=metrics.tally,
        )
        async with asyncio.timeout(120):
            await run(parts, asyncio.Event())
    out.metrics = dict(lines(metrics))
    return out


def lines(metrics: Metrics) -> Iterator[tuple[str, float]]:
    for line in metrics.exposition().decode().splitlines():
        if not line.startswith(("#", *TIMED)):
            name, _, value = line.rpartition(" ")
            yield name, float(value)


@cache
def outs() -> tuple[Out, Out]:
    """Without known signals, and with one in every four seconds."""
    return asyncio.run(flow(0)), asyncio.run(flow(4))


def test_known_signals_were_judged() -> None:
    without, with_them = outs()
    told = [json.loads(json.dumps(part)) for kind, part in with_them.page if kind == "calibration"]
    assert 4 <= len(told) <= (SECONDS - 12) / 4 + 1
    assert [one["total"] for one in told] == list(range(1, len(told) + 1))
    assert told[-1]["ess"] > 0.1
    assert with_them.metrics[f'{CALIBRATION}injections_total{{detector="H1"}}'] == len(told)
    assert with_them.metrics[f'{CALIBRATION}coverage{{detector="H1",interval="90"}}'] > 0.5
    assert 0.8 < with_them.metrics[f'{CALIBRATION}snr_ratio{{detector="H1"}}'] < 1.3
    assert with_them.status["calibration"].keys() == {"H1"}
    assert "calibration" not in without.status
    assert not [name for name in without.metrics if name.startswith(CALIBRATION) and "H1" in name]


def test_what_is_published_is_the_same_without_them() -> None:
    """Ids, bytes, events, order and sequence numbers."""
    without, with_them = outs()
    assert len(without.sent) > 6
    assert [one.summary for one in with_them.sent] == [one.summary for one in without.sent]
    assert [one["delivery"]["sequence"] for one in with_them.messages] == list(range(len(without.sent)))


def test_the_metrics_of_real_strain_are_the_same_without_them() -> None:
    without, with_them = outs()
    left = {
        name: value
        for name, value in with_them.metrics.items()
        if not name.startswith(CALIBRATION) and 'stage="calibration"' not in name
    }
    assert left == {name: value for name, value in without.metrics.items() if not name.startswith(CALIBRATION)}
    assert left['gwstream_posteriors_total{detector="H1",quality="good"}'] > 0


def test_the_page_shows_the_same_strain_and_posteriors_without_them() -> None:
    without, with_them = outs()
    for kind in ("strain", "posterior", "amend"):
        shown = [told for name, told in without.page if name == kind]
        assert [told for name, told in with_them.page if name == kind] == shown
        assert shown


def test_messages_say_how_known_signals_fared() -> None:
    without, with_them = outs()
    check = jsonschema.Draft202012Validator(schema())
    for one in (*without.messages, *with_them.messages):
        check.validate(one)
    assert not any("calibration" in one["delivery"] for one in without.messages)
    said = [one["delivery"]["calibration"] for one in with_them.messages]
    assert said[0]["injections"] < said[-1]["injections"]
    assert said[-1]["text"].startswith("90 % intervals covered ")
    with pytest.raises(jsonschema.ValidationError):
        check.validate(with_them.messages[-1] | {"delivery": with_them.messages[-1]["delivery"] | {"calibration": {}}})


def test_an_injected_window_cannot_be_on_its_way_to_the_broker() -> None:
    summarizer = Summarizer(SummaryConfig(), Prior())
    summaries = summarizer.add(posterior(window(injected=True)))
    assert [one.kind for one in summaries] == ["posterior", "event"]
    for summary in summaries:
        with pytest.raises(ValueError, match="never published"):
            outgoing(summary)
        outgoing(replace(summary, injected=False))


def outgoing(summary: Summary) -> Outgoing:
    return Outgoing(summary=summary, arrived=0, marks=(), data_end_ns=0)
