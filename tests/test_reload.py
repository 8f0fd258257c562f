"""Settings read again: between two pieces of work another judge takes over, and nothing is lost or told twice."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fakes
import jsonschema
import pytest
from test_flow import DETECTORS, Received, daemon, embedded, folders, of_kind, play, subscriber, wait
from test_pipeline import (
    FakeCalibration,
    FakeConditioner,
    FakeInference,
    FakePublisher,
    FakeSource,
    kinds,
    parts,
    strain,
    until,
)
from test_resume import kept, metric, sequences, taken, true
from test_samples import Fake, outgoing
from trained import shipped

from gwstream import reload
from gwstream.calibration import Calibration
from gwstream.conditioning import Conditioner
from gwstream.config import Config, SummaryConfig, default_model
from gwstream.errors import ConfigError, ModelError
from gwstream.inference.parity import GivenUp, Serving
from gwstream.judge import EngineNews, Judge
from gwstream.metrics.served import Served
from gwstream.pipeline import Parts, Succession, Successor, run
from gwstream.pipeline.progress import Progress
from gwstream.prior import Prior
from gwstream.records import Posterior, Strain, Trigger
from gwstream.samples import Keeper
from gwstream.source import recording
from gwstream.source.writer import split
from gwstream.summary import Summarizer, schema

SECONDS = 8
USUAL = Prior()
BEGIN, LATER = 1126259447, 26  # GPS s of the recording's first sample, and s of it before the last piece
QUIET = {name: value for name, value in os.environ.items() if name != "NOTIFY_SOCKET"}


class Newer(FakeInference):
    """Says so in the ids."""

    def infer(self, found: Trigger, bucket: int, draws: int | None = None) -> Posterior:
        one = super().infer(found, bucket, draws)
        return replace(one, id=one.id.replace("-abc", "-new"))


def successor(joined: Parts, inference: FakeInference, done: Callable[[], None], **changes: Any) -> Successor:
    fields: dict[str, Any] = {
        "config": joined.config,
        "inference": inference,
        "prior": joined.prior,
        "summarizer": Summarizer(SummaryConfig(), joined.prior),
        "calibration": None,
        "taken": done,
    }
    return Successor(**{**fields, **changes})


@pytest.mark.parametrize("live", [False, True])
async def test_each_window_is_judged_once_by_the_old_one_or_the_new(live: bool) -> None:
    source = FakeSource({name: [strain(n, name) for n in range(SECONDS)] for name in DETECTORS}, live)
    old, new, succession = FakeInference(), Newer(), Succession()
    old.hold = threading.Event()
    joined = parts(source, inference=old)
    at: list[tuple[int, int]] = []
    async with asyncio.timeout(20):
        task = asyncio.create_task(run(joined, asyncio.Event(), succession))
        await until(lambda: bool(old.judged))
        await asyncio.sleep(0.05)  # its first posterior is in hand, and held
        succession.offer(successor(joined, new, lambda: at.append((len(old.judged), len(old.inferred)))))
        await asyncio.sleep(0.05)
        assert at == []  # not in the middle of a piece of work
        old.hold.set()
        await task
    assert at == [(len(old.judged), 1)]  # and then it did nothing more
    for name in DETECTORS:
        judged = [one.start for one in old.judged + new.judged if one.detector == name]
        assert judged == [w.start for n in range(SECONDS) for w in FakeConditioner(name).push(strain(n, name))]
    inferred = Counter((one.detector, one.start) for one in old.inferred + new.inferred)
    assert set(inferred.values()) == {1}
    assert len(inferred) == 2 * SECONDS * 3
    assert isinstance(joined.publisher, FakePublisher)
    ids = [one.summary.id for one in kinds(joined.publisher, "posterior")]
    assert [name.endswith("-abc") for name in ids] == [True] + [False] * (len(ids) - 1)
    assert old.threads == new.threads  # the one of inference


async def test_the_new_one_goes_on_with_the_events() -> None:
    """The second window of a signal, of a better place: it supersedes what the old one told."""

    class Faint(FakeInference):
        def infer(self, found: Trigger, bucket: int, draws: int | None = None) -> Posterior:
            return replace(super().infer(found, bucket, draws), log_bayes=20.0)

    source = FakeSource({"H1": [strain(0)]}, live=True)
    old, new, succession = Faint(), Newer(), Succession()
    old.hold = threading.Event()
    joined = parts(source, inference=old)
    done = asyncio.Event()
    async with asyncio.timeout(20):
        task = asyncio.create_task(run(joined, asyncio.Event(), succession))
        await until(lambda: bool(old.judged))
        succession.offer(successor(joined, new, done.set))
        old.hold.set()
        await task
    assert done.is_set()
    assert isinstance(joined.publisher, FakePublisher)
    first, second = (one.summary for one in kinds(joined.publisher, "event")[:2])
    assert first.id.endswith("-abc")
    assert second.id.endswith("-new")
    assert second.event is not None
    assert second.event["supersedes"] == [first.id]


async def test_where_nothing_comes_it_takes_over_at_once_and_is_ready_for_what_does() -> None:
    source = FakeSource({"H1": [strain(0)]}, live=True, endless=True)
    old, new, succession, stop = FakeInference({}), Newer({}), Succession(), asyncio.Event()
    before, after = FakeCalibration(signals=0), FakeCalibration(signals=2)
    joined = parts(source, inference=old, calibration=before)
    done = asyncio.Event()
    async with asyncio.timeout(20):
        task = asyncio.create_task(run(joined, stop, succession))
        await until(lambda: len(old.judged) == 16)
        await asyncio.sleep(0.05)
        succession.offer(successor(joined, new, done.set, calibration=after))
        assert done.is_set()
        assert set(succession.whiteners) == {"H1"}
        stop.set()
        await task
    assert new.judged == []


@pytest.mark.parametrize("known", [True, False])
async def test_known_signals_are_judged_by_the_one_that_serves(known: bool) -> None:
    """``known``: the new one has known signals, too."""

    class Slow(FakeSource):
        async def stream(self, detector: str) -> Any:
            async for record in super().stream(detector):
                await asyncio.sleep(0.1)
                yield record

    source = Slow({"H1": [strain(n) for n in range(6)]}, live=True)
    old, new, succession = FakeInference(), Newer(), Succession()
    before, after = FakeCalibration(signals=1000), FakeCalibration(signals=1000)
    joined = parts(source, inference=old, calibration=before)
    judged: list[int] = []
    async with asyncio.timeout(20):
        task = asyncio.create_task(run(joined, asyncio.Event(), succession))
        await until(lambda: len(before.judged) > 1)
        calibration = after if known else None
        succession.offer(successor(joined, new, lambda: judged.append(len(before.judged)), calibration=calibration))
        await task
    assert judged == [len(before.judged)]
    assert len(before.records) + len(after.records) == (6 if known else len(before.records))
    assert bool(after.judged) == bool(after.records) == known


def test_a_network_goes_on_under_the_same_masses_alone() -> None:
    def judged(by: Summarizer, detector: str, number: int) -> list[str]:
        return [one.kind for one in by.add(fakes.posterior(fakes.window(number, detector)))]

    for prior, common in ((Prior(distance_density="volume"), True), (Prior(mass=(10.0, 100.0)), False)):
        old = Summarizer(SummaryConfig(), Prior())
        assert judged(old, "H1", 0) == ["posterior", "event"]
        new = Summarizer(SummaryConfig(), prior)
        new.go_on(old)
        assert new.state()["events"] == old.state()["events"]
        assert judged(new, "L1", 0) == ["posterior", "event", *(["network"] if common else [])]


def test_draws_are_told_as_their_message_told_them() -> None:
    """By the thresholds and the prior of then, whoever of the two is asked."""
    old = Keeper(Fake(), Prior(), SummaryConfig())
    new = old.heir(Fake(), Prior(), SummaryConfig(low_log_bayes=1000.0))
    first, second = (fakes.trigger(fakes.window(number)) for number in (4, 5))
    by_old, by_new = old.infer(first, 1), new.infer(second, 1)
    for keeper in (old, new):
        told, doubted = (json.loads(keeper.document(one.id) or b"") for one in (by_old, by_new))
        assert told["sha256"] == outgoing(4).summary.sha256
        assert told["posterior"]["quality"]["reasons"] == []
        assert doubted["posterior"]["quality"]["reasons"] == ["weak evidence"]


async def test_what_is_kept_for_a_restart_fits_the_new_settings_soon(tmp_path: Path) -> None:
    await kept(tmp_path, taken(14), model="old")
    progress = Progress(tmp_path, {"model": "old"}, settled=true, pause=1000)
    task = asyncio.create_task(progress.run())
    progress.offer(taken(15))
    await asyncio.sleep(0.1)
    assert not progress.due  # for 1000 s
    progress.identify({"model": "new"})
    async with asyncio.timeout(5):
        while not progress.due:
            await asyncio.sleep(0.01)
    progress.offer(taken(16))
    await progress.close()
    await task
    new = Summarizer(SummaryConfig(), Prior())
    states, _ = Progress(tmp_path, {"model": "new"}, settled=true).load(lambda: new)
    assert states["H1"].second == fakes.GPS + 16


def test_an_engine_given_up_before_is_none_of_the_new_one() -> None:
    from prometheus_client import CollectorRegistry

    counted: list[int] = []
    served = Served(CollectorRegistry(), lambda stage, reason, detector, count=1: counted.append(count))
    served.model("a", "1", "0" * 64, "openvino")
    served.engine(Serving("torch", 0.0, 1e-3, (GivenUp("openvino", "it strays"),)))
    served.model("b", "1", "1" * 64, "openvino")
    served.engine(Serving("openvino", 0.0, 1e-3))
    served.engine(Serving("torch", 0.0, 1e-3, (GivenUp("openvino", "it strays"),)))
    assert counted == [1, 1]


def config(**sections: Any) -> Config:
    table = {"source": {"detectors": {"H1": {"directory": "/h1"}, "L1": {"directory": "/l1"}}}}
    return Config.model_validate({**table, **sections})


@pytest.mark.parametrize(
    ("keys", "sections"),
    [
        ("inference.gate_snr", {"inference": {"gate_snr": 9}}),
        (
            "calibration.last, inference.distance_prior, inference.draws, inference.engine, inference.latents",
            {
                "inference": {"draws": 500, "latents": 100, "engine": "torch", "distance_prior": "volume"},
                "calibration": {"last": 10},
            },
        ),
        ("summary.low_ess, summary.network.sigmas", {"summary": {"low_ess": 5, "network": {"sigmas": 2}}}),
    ],
)
def test_what_may_change(keys: str, sections: dict[str, Any]) -> None:
    found = reload.changed(config(), config(**sections))
    assert ", ".join(found) == keys
    reload.refuse(found)


@pytest.mark.parametrize(
    ("key", "sections"),
    [
        ("publish.port", {"publish": {"port": 1884}}),
        ("publish.every_window", {"publish": {"every_window": True}}),
        ("metrics.port", {"metrics": {"port": 1}}),
        ("service.state", {"service": {"state": "/x"}}),
        ("batching.size", {"batching": {"size": 1}}),
        ("inference.threads", {"inference": {"threads": 2, "gate_snr": 9}}),
        ("inference.latency_target", {"inference": {"latency_target": 9}}),
        ("source.patience", {"source": {"patience": 9, "detectors": {"H1": {"directory": "/h1"}}}}),
        ("source.detectors.L1", {"source": {"detectors": {"H1": {"directory": "/h1"}}}}),
        (
            "source.detectors.H1.directory",
            {"source": {"detectors": {"H1": {"directory": "/x"}, "L1": {"directory": "/l1"}}}},
        ),
    ],
)
def test_what_may_not(key: str, sections: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"'{key}'.* cannot change while the daemon runs: restart it"):
        reload.refuse(reload.changed(config(), config(**sections)))


async def test_a_model_of_other_windows_needs_a_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    model = shipped()
    spec = model.spec.model_copy(update={"conditioning": model.spec.conditioning.model_copy(update={"hop": 32})})
    other = replace(model, spec=spec)
    old = Judge(config=config(), model=other, inference=None, news=EngineNews())  # type: ignore[arg-type]
    with pytest.raises(ModelError, match=r"\[conditioning\] of its model.toml differs; restart the daemon"):
        await reload.renewed(config, old, {})


async def test_it_is_prepared_for_whiteners_that_come_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    whiteners = {"H1": fakes.whitener("H1")}
    prepared: list[str] = []

    class Preparing(FakeInference):
        def prepare(self, whitener: Any) -> None:
            prepared.append(whitener.id)
            whiteners.setdefault("L1", fakes.whitener("L1"))

    new = Judge(config=config(), model=shipped(), inference=Preparing(), news=EngineNews())  # type: ignore[arg-type]
    monkeypatch.setattr(reload, "_made", lambda *_: new)
    assert await reload.renewed(config, new, whiteners) is new
    assert prepared == ["H1-whitener", "L1-whitener"]


def judge(by: Prior = USUAL, digest: str = "a", **sections: Any) -> Judge:
    """One that has no model but in name."""
    model = replace(shipped(), hash=digest)
    served: Any = SimpleNamespace(prior=by)
    return Judge(config=config(**sections), model=model, inference=served, news=None)  # type: ignore[arg-type]


def test_what_is_known_of_calibration_goes_on_where_thresholds_alone_have_changed() -> None:
    before = judge()
    assert judge(inference={"gate_snr": 9, "cache": "/x"}, summary={"low_ess": 5}).like(before)
    for other in (
        judge(digest="b"),
        judge(Prior(distance_density="volume")),
        judge(inference={"draws": 100}),
        judge(inference={"likelihood": "student"}),
        judge(calibration={"last": 10}),
    ):
        assert not other.like(before)
    old, new = (Calibration(config(), shipped().spec, Prior(), FakeInference(), live=True) for _ in range(2))
    old.done(fakes.report(), 0.1)
    assert new.told("H1") != old.told("H1")
    new.go_on(old)
    assert new.told("H1") == old.told("H1") == fakes.report().part()


class Systemd:
    """Hears what the daemon tells it."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.setblocking(False)
        self._heard: list[str] = []

    def close(self) -> None:
        self._socket.close()

    def heard(self) -> list[str]:
        while True:
            try:
                self._heard += self._socket.recv(4096).decode().splitlines()
            except BlockingIOError:
                return self._heard


class Site:
    """A daemon, its settings, and what it says."""

    def __init__(self, root: Path, process: Any, http: int, got: list[Received], systemd: Systemd) -> None:
        self.root, self.process, self.http, self.got, self.systemd = root, process, http, got, systemd
        self.settings = root / "gwstream.toml"
        self.good = self.settings.read_text()

    def reload(self, text: str) -> dict[str, Any]:
        """What the status says of a reload of these settings."""
        self.settings.write_text(text)
        before = len(self._told())
        self.process.send_signal(signal.SIGHUP)
        wait(lambda: len(self._told()) > before, 60, "the reload")
        found: dict[str, Any] = self._told()[-1]
        return found

    def _told(self) -> list[dict[str, Any]]:
        """Of all reloads so far."""
        assert self.process.poll() is None, (self.root / "log").read_text()
        told = [one.body["reload"] for one in of_kind(self.got, "status") if "reload" in one.body]
        return [one for k, one in enumerate(told) if one not in told[:k]]

    def posteriors(self) -> list[dict[str, Any]]:
        return [one.body["posterior"] for one in of_kind(self.got, "posterior")]

    def metric(self, name: str) -> float:
        time.sleep(0.1)  # it answers an address 20 times a second
        return metric(self.http, name)

    def labels(self, name: str) -> str:
        time.sleep(0.1)
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http}/metrics", timeout=10) as answer:
            return next(line for line in answer.read().decode().splitlines() if line.startswith(name))

    def read(self) -> float:
        return self.metric("gwstream_strain_seconds_total")

    def waiting(self) -> float:
        return self.metric("gwstream_queue_depth")

    def judged(self) -> dict[str, float]:
        return {name: self.metric(f'gwstream_windows_total{{detector="{name}"}}') for name in DETECTORS}


def windows(detector: str) -> int:
    """That the recording makes."""
    conditioner = Conditioner(shipped().spec, detector)
    strains = (
        Strain(detector=detector, start=gps * 4096, rate=4096, samples=samples, dq=3)
        for gps, samples in split(recording.read(detector))
    )
    return sum(len(conditioner.push(one)) for one in strains)


@pytest.mark.timeout(300)
def test_a_daemon_that_is_told_to_reload(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """GW150914: a broken file, a key that may not change, a model that is not there; then new ones, as strain comes."""
    for path in folders(tmp_path).values():
        path.mkdir()
    systemd = Systemd(tmp_path / "notify")
    request.addfinalizer(systemd.close)
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    with (
        embedded() as broker,
        subscriber(broker) as got,
        daemon(tmp_path, broker, "gate_snr = 4.2\n") as (process, http),
    ):
        wait(lambda: any("READY=1" in line for line in systemd.heard()), 60, "the daemon")
        site = Site(tmp_path, process, http, got, systemd)
        play(tmp_path, 0.1, slice(0, 18))
        wait(lambda: len(site.posteriors()) > 5, 30, "posteriors")
        for bad, reason in (
            (site.good + "\n[inference", "not valid TOML"),
            (site.good.replace("gate_snr", "gate_snrs"), "unknown key 'inference.gate_snrs'; did you mean 'gate_snr'?"),
            (site.good.replace("drain = 30.0", "drain = 31.0"), "'service.drain' cannot change while the daemon runs"),
            (site.good.replace(str(default_model()), str(tmp_path)), "model.toml: no such file"),
        ):
            told = site.reload(bad.replace("4.2", "9.5"))
            assert told["result"] == "refused"
            assert reason in told["reason"]
            assert told["changed"] == []
        log = (tmp_path / "log").read_text()
        assert log.count("not reloaded, all goes on as it was") == 4
        assert site.metric('gwstream_reloads_total{result="refused"}') == 4
        assert site.metric('gwstream_reloads_total{result="done"}') == 0

        writing = threading.Thread(target=play, args=(tmp_path, 0.25, slice(18, LATER)))
        writing.start()
        new = site.good.replace("bbh-1det", "bbh-1det-nsf").replace("4.2", "4.5")
        told = site.reload(new)
        assert told["result"] == "done", told
        assert told["changed"] == ["inference.gate_snr", "inference.model"]
        writing.join()
        wait(lambda: site.read() == 2 * LATER and not site.waiting(), 60, "what the old gate let pass")
        play(tmp_path, 0.1, slice(LATER, None))
        wait(lambda: site.judged() == {name: windows(name) for name in DETECTORS}, 40, "all windows")
        assert site.metric('gwstream_reloads_total{result="done"}') == 1
        assert site.metric("gwstream_model_info") == 1  # and not that of before, too
        model = of_kind(got, "status")[-1].body["model"]
        assert model["name"] == "bbh-1det-nsf"
        assert model["hash"][:12] in site.labels("gwstream_model_info")
        process.send_signal(signal.SIGTERM)
        assert process.wait(40) == 0, (tmp_path / "log").read_text()
        wait(lambda: got[-1].body.get("state") == "offline", 10, "the farewell")
        goes_on(site)
    check(site, got)
    heard = [line for line in systemd.heard() if line in ("RELOADING=1", "READY=1", "STOPPING=1")]
    assert heard == ["READY=1", *["RELOADING=1", "READY=1"] * 5, "STOPPING=1"]
    assert any(line.startswith("MONOTONIC_USEC=") for line in systemd.heard())
    assert any("the last reload was refused" in line for line in systemd.heard())


def goes_on(site: Site) -> None:
    """A restart finds what was kept to be of the new settings."""
    with (site.root / "again").open("wb") as log:
        again = subprocess.Popen(
            [sys.executable, "-m", "gwstream", "run", str(site.settings)], stdout=log, stderr=log, env=QUIET
        )
    try:
        wait(lambda: "ready: " in (site.root / "again").read_text(), 60, "the next daemon")
    finally:
        again.terminate()
        again.wait(40)
    said = (site.root / "again").read_text()
    assert said.count("without a new warm-up") == 2, said


def check(site: Site, got: list[Received]) -> None:
    """No window lost, none judged twice, all numbered in turn, and each as those settings say that judged it."""
    validator = jsonschema.Draft202012Validator(schema())
    for one in got:
        validator.validate(one.body)
    by: dict[str, list[dict[str, Any]]] = {}
    for part in site.posteriors():
        by.setdefault(part["model"]["name"], []).append(part)
    assert set(by) == {"bbh-1det", "bbh-1det-nsf"}
    assert len({part["id"].rpartition("-")[2] for part in by["bbh-1det"]}) == 1
    assert not {p["id"].rpartition("-")[2] for p in by["bbh-1det"]} & {
        p["id"].rpartition("-")[2] for p in by["bbh-1det-nsf"]
    }
    assert min(part["gate_snr"] for part in by["bbh-1det"]) < 4.5
    later = [part for part in by["bbh-1det-nsf"] if part["window"]["gps"] > BEGIN + LATER]
    assert min(part["gate_snr"] for part in later) >= 4.5
    places = Counter((part["detector"], part["window"]["gps_ns"]) for parts in by.values() for part in parts)
    assert set(places.values()) == {1}
    for level, numbers in sequences(got).items():
        assert numbers == list(range(len(numbers))), level
