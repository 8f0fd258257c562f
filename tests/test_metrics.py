from __future__ import annotations

import math
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import fakes
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families
from test_publish import outgoing

from gwstream import clock
from gwstream.inference.parity import GivenUp, Serving
from gwstream.metrics import REASONS, STAGES, Metrics
from gwstream.metrics.exposition import free_ratio
from gwstream.publish import Delivered, message
from gwstream.records import NANO, Batch, Gap, Strain

NOW = fakes.GPS * NANO


def samples(metrics: Metrics) -> Iterator[tuple[str, dict[str, str], float]]:
    for family in text_string_to_metric_families(metrics.exposition().decode()):
        for sample in family.samples:
            yield sample.name, sample.labels, sample.value


def value(metrics: Metrics, name: str, **labels: str) -> float:
    found = [number for other, given, number in samples(metrics) if other == name and given == labels]
    assert len(found) == 1, (name, labels, found)
    return found[0]


def busy(detectors: tuple[str, ...] = ("H1", "L1")) -> Metrics:
    """Metrics of a daemon in which everything that can happen has happened."""
    metrics = Metrics(CollectorRegistry(), detectors, now_ns=lambda: NOW + 2 * NANO)
    metrics.served.model("bbh-1det", "1", "a" * 64, "torch")
    for stage in STAGES:
        metrics.stage(stage, 0.02)
        if stage not in ("source", "summary"):  # which nothing waits for
            metrics.queue(stage, 3)
    metrics.loop_lag(0.001)
    metrics.load(3, "every second window")
    metrics.web_clients(2)
    metrics.connection(True, "")
    metrics.connection(False, "gone")
    metrics.outbox(7)
    metrics.storage(Path("/"), lambda: True)
    for bucket in (1, 4, 16, 64):
        window = fakes.window(0, detectors[0])
        metrics.gated(Batch((window,), bucket), (fakes.trigger(window),))
    for detector in detectors:
        window = fakes.window(0, detector)
        zeros = fakes.window(0, detector).samples
        start = (fakes.GPS - 1) * fakes.RATE
        metrics.record(Strain(detector=detector, start=start, rate=fakes.RATE, samples=zeros))
        metrics.record(Gap(detector=detector, start=start, rate=fakes.RATE, length=512, reason="vetoed"))
        metrics.conditioned(detector, [window], window.whitener)
        for kind in ("posterior", "event"):
            out = outgoing(0, detector, kind)
            metrics.outgoing(out, window)
            part = message.delivery(
                out, sequence=0, attempt=1, monotonic_ns=out.arrived + 90_000_000, gps_ns=out.summary.gps_ns + NANO
            )
            metrics.delivered(Delivered(outgoing=out, delivery=part, latency=0.091))
        metrics.calibrated(fakes.report(detector, alarm=detector == "L1"))
        out = outgoing(0, detector, "unweighted")
        metrics.outgoing(out, window)
        part = message.delivery(out, sequence=0, attempt=1, monotonic_ns=out.arrived + 90_000_000, gps_ns=NOW)
        metrics.delivered(Delivered(outgoing=out, delivery=part, latency=0.091))
        for number in range(2 * REASONS):
            metrics.tally("source", f"reason_{number}", detector)
    out = outgoing(0, detectors[0], "network")
    assert out.summary.event is not None
    for state in ("standing", "withdrawn"):
        out = replace(out, summary=replace(out.summary, event={**out.summary.event, "state": state}))
        metrics.outgoing(out, fakes.window(0, detectors[0]))
        part = message.delivery(out, sequence=0, attempt=1, monotonic_ns=out.arrived + 90_000_000, gps_ns=NOW)
        metrics.delivered(Delivered(outgoing=out, delivery=part, latency=0.091))
    return metrics


def test_values_are_those_that_were_told() -> None:
    metrics = busy()
    assert value(metrics, "gwstream_data_age_seconds", detector="H1") == pytest.approx(2.0)
    assert value(metrics, "gwstream_strain_seconds_total", detector="L1") == 1
    assert value(metrics, "gwstream_gap_seconds_total", detector="L1") == 2
    assert value(metrics, "gwstream_psd_state", detector="H1", state="full") == 1
    assert value(metrics, "gwstream_psd_state", detector="H1", state="waiting") == 0
    assert value(metrics, "gwstream_psd_averages", detector="H1") == 63
    assert value(metrics, "gwstream_range_mpc", detector="H1") == 1200
    assert value(metrics, "gwstream_triggers_total", detector="H1") == 4
    assert value(metrics, "gwstream_events_total", detector="H1") == 1
    assert value(metrics, "gwstream_published_total", detector="H1", kind="event") == 1
    assert value(metrics, "gwstream_published_total", detector="H1", kind="unweighted") == 1
    assert value(metrics, "gwstream_latency_seconds_count", detector="H1") == 2  # not of the unweighted
    assert value(metrics, "gwstream_network_events_total", quality="good") == 1
    assert value(metrics, "gwstream_network_events_total", quality="withdrawn") == 1
    assert value(metrics, "gwstream_network_events_total", quality="suspect") == 0
    assert value(metrics, "gwstream_published_total", detector="network", kind="network") == 2
    assert value(metrics, "gwstream_queue_depth", stage="publish") == 7
    assert value(metrics, "gwstream_load_level") == 3
    assert value(metrics, "gwstream_outbox_used_ratio") == pytest.approx(7 / 10_000)
    assert value(metrics, "gwstream_outbox_durable") == 1
    assert value(metrics, "gwstream_broker_connected") == 0
    assert value(metrics, "gwstream_broker_connections_total") == 1
    assert value(metrics, "gwstream_stage_seconds_count", stage="publish") == 1 + 4 + 2
    assert value(metrics, "gwstream_latency_seconds_sum", detector="H1") == pytest.approx(0.182)
    assert value(metrics, "gwstream_first_event_seconds_count", detector="H1") == 1
    assert value(metrics, "gwstream_since_coalescence_seconds", detector="H1") == pytest.approx(1.0)
    assert value(metrics, "gwstream_posteriors_total", detector="H1", quality="good") == 1


def test_the_disk_is_asked_where_the_state_is_to_be(tmp_path: Path) -> None:
    metrics, state = Metrics(CollectorRegistry()), [True]
    metrics.storage(tmp_path / "not" / "yet", lambda: state[0])
    usage = shutil.disk_usage(tmp_path)
    assert value(metrics, "gwstream_state_free_ratio") == pytest.approx(usage.free / usage.total, abs=0.1)
    state[0] = False
    assert value(metrics, "gwstream_outbox_durable") == 0
    assert math.isnan(free_ratio(tmp_path / ("x" * 300)))


def test_only_the_first_message_of_an_event_counts_for_the_objective() -> None:
    metrics, out = Metrics(CollectorRegistry(), ("H1",)), outgoing(0, "H1", "event")
    assert out.summary.event is not None
    update = replace(out, summary=replace(out.summary, event={**out.summary.event, "supersedes": [out.summary.id]}))
    for one, latency in ((out, 0.07), (update, 0.9), (outgoing(0, "H1", "posterior"), 0.9)):
        part = message.delivery(one, sequence=0, attempt=1, monotonic_ns=one.arrived, gps_ns=NOW)
        metrics.delivered(Delivered(outgoing=one, delivery=part, latency=latency))
    assert value(metrics, "gwstream_first_event_seconds_count", detector="H1") == 1
    assert value(metrics, "gwstream_first_event_seconds_sum", detector="H1") == pytest.approx(0.07)


def test_known_signals_have_their_own_figures_and_count_as_no_posteriors() -> None:
    metrics = Metrics(CollectorRegistry(), ("H1",))
    before = dict.fromkeys(name for name, _, _ in samples(metrics))
    metrics.calibrated(fakes.report())
    metrics.calibrated(fakes.report(coverage_90=0.7, alarm=True))
    name = "gwstream_calibration_"
    assert value(metrics, f"{name}injections_total", detector="H1") == 2
    assert value(metrics, f"{name}coverage", detector="H1", interval="50") == 0.51
    assert value(metrics, f"{name}coverage", detector="H1", interval="90") == 0.7
    assert value(metrics, f"{name}coverage_error", detector="H1", interval="90") == 0.01
    assert value(metrics, f"{name}rank_p", detector="H1", parameter="joint") == 0.4
    assert value(metrics, f"{name}alarm", detector="H1") == 1
    changed = [other for other, _, number in samples(metrics) if number and other not in before]
    assert all(other.startswith(name) for other in changed)
    for other in ("windows", "triggers", "events"):
        assert value(metrics, f"gwstream_{other}_total", detector="H1") == 0


def test_the_tally_counts_by_reason_and_is_bounded() -> None:
    metrics = Metrics(CollectorRegistry(), ("H1",))
    metrics.tally("source", "late", "H1", 3)
    metrics.tally("source", "late", "H1")
    assert value(metrics, "gwstream_dropped_total", stage="source", reason="late", detector="H1") == 4
    crowded = busy(("H1",))
    dropped = {k["reason"]: v for name, k, v in samples(crowded) if name == "gwstream_dropped_total"}
    assert len(dropped) == REASONS + 1
    assert dropped["other"] == REASONS  # none is lost


def test_series_stay_within_the_budget() -> None:
    sizes = [sum(1 for _ in samples(busy(tuple(f"X{k}" for k in range(n))))) for n in (1, 2, 5)]
    each = sizes[1] - sizes[0]
    assert each <= 150
    assert sizes[0] - each <= 100
    assert sizes[2] == sizes[0] + 4 * each


def test_ids_are_no_labels() -> None:
    labels = {text for _, given, _ in samples(busy()) for text in given.values()}
    assert not any(len(text) > 24 for text in labels)


def test_no_created_series() -> None:
    assert not [name for name, _, _ in samples(busy()) if name.endswith("_created")]


def test_stage_histograms_span_what_matters() -> None:
    edges = [float(k["le"]) for name, k, _ in samples(busy()) if name == "gwstream_latency_seconds_bucket"]
    assert min(edges) == pytest.approx(1e-4)
    assert {0.1, 0.25, 10.0} <= set(edges)  # the promised p50, p99, and the end


def test_two_daemons_do_not_meet() -> None:
    one, two = Metrics(CollectorRegistry(), ("H1",)), Metrics(CollectorRegistry(), ("H1",))
    one.tally("source", "late", "H1")
    assert not [k for name, k, _ in samples(two) if name == "gwstream_dropped_total"]


def test_promtool_has_nothing_to_say() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed: apt-get install prometheus")
    done = subprocess.run([promtool, "check", "metrics"], input=busy().exposition(), capture_output=True, timeout=30)
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")


def test_gps_time_of_the_clock() -> None:
    # 2017-08-17 12:41:04 UTC is GPS 1187008882 (GW170817)
    assert clock.gps_now_ns(1_502_973_664 * NANO) == 1_187_008_882 * NANO


def test_an_engine_that_is_given_up_is_counted_once_and_named_no_more() -> None:
    metrics = Metrics(CollectorRegistry(), ("H1",))
    metrics.served.model("bbh-1det", "1", "a" * 64, "openvino")

    def named() -> list[dict[str, str]]:
        return [given for name, given, _ in samples(metrics) if name == "gwstream_model_info"]

    expected = {"name": "bbh-1det", "version": "1", "hash": "a" * 12}
    metrics.served.engine(Serving("openvino", 2e-6, 1e-3))
    assert named() == [{**expected, "engine": "openvino"}]
    for _ in range(2):
        metrics.served.engine(Serving("torch", 0.0, 1e-3, (GivenUp("openvino", "it fell"),)))
        dropped = {"stage": "inference", "reason": "engine_given_up", "detector": ""}
        assert value(metrics, "gwstream_dropped_total", **dropped) == 1
        assert named() == [{**expected, "engine": "torch"}]
