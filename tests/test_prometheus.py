"""A real Prometheus, started with the shipped settings and rules, watches the daemon: a part of it, then the whole."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml
from brokers import MOSQUITTO, Mosquitto, mosquitto
from prometheus import DEPLOY, PROMETHEUS, Prometheus, prometheus, shorter
from test_guard import TOKEN
from test_guard import site as guarded
from test_web import new_feed, site

from gwstream import __version__, clock
from gwstream.config import SourceConfig, default_model
from gwstream.demo import child
from gwstream.records import NANO, Strain
from gwstream.source import writer
from gwstream.source.simulated import Simulated

RATE = 4096
SIGNALS = 3.0  # s between two signals in L1; H1 has none, so that its known signals find undisturbed windows
SPACE = ("unshare", "-Urm", "sh", "-c", 'mount -t tmpfs -o size=32m none "$0" && exec "$@"')
pytestmark = pytest.mark.skipif(PROMETHEUS is None, reason="needs prometheus: apt-get install prometheus")


async def test_prometheus_scrapes_the_daemon(tmp_path: Path) -> None:
    async with site(new_feed()) as daemon, prometheus(tmp_path, daemon.removeprefix("http://")) as server:
        async with asyncio.timeout(60):
            while not (found := await server.query("gwstream_build_info")):
                await asyncio.sleep(0.2)
        up = await server.query("up")
    assert found[0]["metric"]["version"] == __version__
    assert found[0]["metric"]["job"] == "gwstream"
    assert [sample["value"][1] for sample in up] == ["1"]


@pytest.mark.parametrize("shown", [True, False])
async def test_prometheus_shows_the_token(tmp_path: Path, shown: bool) -> None:
    token = tmp_path / "token"
    token.write_text(TOKEN)
    async with (
        guarded(token_file=token) as at,
        prometheus(tmp_path, f"127.0.0.1:{at.port}", token if shown else None) as server,
    ):
        async with asyncio.timeout(60):
            while not (up := await server.query("up")):
                await asyncio.sleep(0.2)
    assert up[0]["value"][1] == ("1" if shown else "0")
    assert bool(at.counts["unauthorized"]) is not shown


def test_times_are_shortened_and_little_else() -> None:
    text = (DEPLOY / "rules.yml").read_text(encoding="utf-8")
    short = shorter(text)
    times = r"(for: |\[|offset )\d+[smh]"
    assert re.sub(times, r"\1", short) == re.sub(times, r"\1", text).replace('le="0.25"', 'le="0.5"')
    alerts = [rule for group in yaml.safe_load(short)["groups"] for rule in group["rules"] if "alert" in rule]
    assert {rule["for"] for rule in alerts} == {"1s", "2s", "5s"}
    assert "[360s]" in short


@dataclass
class Detector:
    """Writes a frame a second, with what is broken just now."""

    name: str
    directory: Path
    amplitude: float = 1.0
    held: bool = False  # frames wait, and are late from then on
    skip: bool = False  # what waits is never written
    backlog: list[Strain] = field(default_factory=list)

    def second(self, strain: Strain) -> None:
        self.backlog.append(strain)
        if self.skip:
            del self.backlog[:-1]
        if not self.held:
            one = self.backlog.pop(0)
            writer.write_frame(self.directory, self.name, one.start // RATE, self.amplitude * one.samples, RATE)


@dataclass
class Watched:
    """The daemon with all around it."""

    server: Prometheus
    broker: Mosquitto
    detectors: dict[str, Detector]
    config: Path
    port: int
    state: Path

    @asynccontextmanager
    async def daemon(self, *program: str) -> AsyncIterator[asyncio.subprocess.Process]:
        """It runs with a small disk of its own for its state."""
        start = (*SPACE, str(self.state), sys.executable, *program)
        log = self.config.with_suffix(".log")
        async with child.daemon(self.config, log, self.port, start) as process:
            yield process


def strain(folder: Path) -> Simulated:
    """Of H1 and L1 from now on, loud signals in L1."""
    start = clock.gps_now_ns() // NANO
    signals = folder / "signals.jsonl"
    times = [start + 5.5 + k * SIGNALS for k in range(200)]
    loud = {"mass_1": 36.0, "mass_2": 29.0, "effective_distance": 0.8, "phase": 1.0}
    one = [json.dumps({"detector": "L1", "gps_ns": round(t * NANO), **loud}) for t in times]
    signals.write_text("\n".join(one), encoding="utf-8")
    settings = {"kind": "simulated", "detectors": {"H1": {}, "L1": {}}, "speed": 0, "rate": RATE, "start": start}
    return Simulated(SourceConfig.model_validate({**settings, "injection_file": signals}))


async def feed(source: Simulated, detectors: dict[str, Detector]) -> None:
    """A second of strain every second."""
    streams = {name: source.stream(name) for name in detectors}
    loop = asyncio.get_running_loop()
    due = loop.time()
    while True:
        for name, detector in detectors.items():
            record = await anext(streams[name])
            assert isinstance(record, Strain)
            await asyncio.to_thread(detector.second, record)
        due += 1
        await asyncio.sleep(due - loop.time())


@asynccontextmanager
async def watched(folder: Path) -> AsyncIterator[Watched]:
    """Two detectors, a broker and Prometheus; the daemon is the caller's."""
    detectors = {name: Detector(name, folder / name) for name in ("H1", "L1")}
    for one in detectors.values():
        one.directory.mkdir()
    state, port, config = folder / "state", child.free_port(), folder / "gwstream.toml"
    state.mkdir()
    async with mosquitto(folder) as broker, prometheus(folder, f"127.0.0.1:{port}") as server:
        settings = child.Settings(
            directories={name: one.directory for name, one in detectors.items()},
            model=default_model(),
            broker_port=broker.port,
            http_port=port,
            state=str(state),
            more="\n[calibration]\ninterval = 4\n",
        )
        config.write_text(settings.toml().replace("[publish]\n", "[publish]\nqueue = 8\n"), encoding="utf-8")
        feeding = asyncio.create_task(feed(strain(folder), detectors))
        try:
            yield Watched(server, broker, detectors, config, port, state)
        finally:
            feeding.cancel()
            await asyncio.gather(feeding, return_exceptions=True)


def spaces() -> bool:
    """Whether a process may have a file system of its own."""
    return not subprocess.run([*SPACE, "/mnt", "true"], capture_output=True).returncode


@pytest.mark.slow
@pytest.mark.skipif(not spaces(), reason="needs user namespaces: unshare -Urm")
@pytest.mark.skipif(MOSQUITTO is None, reason="needs mosquitto")
@pytest.mark.timeout(600)
async def test_every_alert_fires_and_clears_and_every_panel_has_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HANG", str(tmp_path))  # where a file makes the part of its name hang
    async with watched(tmp_path) as it, AsyncExitStack() as life:
        server = it.server
        process = await life.enter_async_context(it.daemon(str(Path(__file__).with_name("faulty.py"))))
        await server.fires("GwstreamPsdNotReady")  # it has just begun
        await server.clears("GwstreamPsdNotReady")
        await server.fires("GwstreamCalibrationOff")
        (tmp_path / "stray").touch()
        await server.fires("GwstreamEngineFallenBack")  # and that lasts until the daemon starts anew
        (tmp_path / "stray").unlink()
        (tmp_path / "engine").touch()
        await server.fires("GwstreamStuck")
        (tmp_path / "engine").unlink()
        await server.clears("GwstreamStuck")
        (tmp_path / "slow").touch()
        await server.fires("GwstreamOverloaded")
        (tmp_path / "slow").unlink()
        await server.clears("GwstreamOverloaded", limit=180)
        await _no_broker_and_no_strain(it)
        await _slow_broker_and_late_strain(it)
        await _other_noise_and_a_full_disk(it, process.pid)
        await server.clears("GwstreamLatencyBurnsFast", "GwstreamLatencyBurnsSlowly", "GwstreamDropping", limit=120)
        await _panels(server)
        await life.aclose()
        await server.fires("GwstreamDown")
        for _ in range(3):
            async with it.daemon("-m", "gwstream"):
                await asyncio.sleep(2)  # so that Prometheus has seen it
        await server.fires("GwstreamRestarting")
        await life.enter_async_context(it.daemon("-m", "gwstream"))
        await server.clears(limit=90)  # starts are counted over a minute; in three, the disk would be full again
        seen = await server.query('count by (alertname) (count_over_time(ALERTS{alertstate="firing"}[30m]))')
    groups = yaml.safe_load((DEPLOY / "rules.yml").read_text(encoding="utf-8"))["groups"]
    alerts = {rule["alert"] for group in groups for rule in group["rules"] if "alert" in rule}
    assert {one["metric"]["alertname"] for one in seen} == alerts


async def _no_broker_and_no_strain(it: Watched) -> None:
    it.detectors["H1"].held = True
    await it.broker.kill()
    await it.server.fires("GwstreamBrokerAway", "GwstreamOutboxFilling", "GwstreamMessagesLost", "GwstreamNoData")
    await it.broker.start()
    await it.server.clears("GwstreamBrokerAway", "GwstreamOutboxFilling", "GwstreamMessagesLost")


async def _slow_broker_and_late_strain(it: Watched) -> None:
    h1 = it.detectors["H1"]
    while len(h1.backlog) < 20:
        await asyncio.sleep(0.5)
    h1.held = False
    slow = asyncio.create_task(_slow(it.broker))
    try:
        await it.server.fires("GwstreamLateData")
        await it.server.clears("GwstreamNoData")
        await it.server.fires("GwstreamLatencyBurnsFast", "GwstreamLatencyBurnsSlowly")
    finally:
        slow.cancel()
        await asyncio.gather(slow, return_exceptions=True)
    h1.skip = True
    await it.server.fires("GwstreamDropping")
    await it.server.clears("GwstreamLateData")


async def _slow(broker: Mosquitto) -> None:
    """It answers now and then, and is left in order."""
    assert broker.process is not None
    try:
        while True:
            broker.process.send_signal(signal.SIGSTOP)
            await asyncio.sleep(1.6)
            broker.process.send_signal(signal.SIGCONT)
            await asyncio.sleep(0.2)
    finally:
        broker.process.send_signal(signal.SIGCONT)


async def _other_noise_and_a_full_disk(it: Watched, pid: int) -> None:
    it.detectors["H1"].amplitude = 0.3
    block = Path(f"/proc/{pid}/root{it.state}/fill")  # the daemon's disk, which nobody else sees
    await asyncio.to_thread(_fill, block)
    assert shutil.disk_usage(block.parent).free == 0
    await it.server.fires("GwstreamPsdDrifting", "GwstreamDiskFilling", "GwstreamNotDurable")
    it.detectors["H1"].amplitude = 1.0
    block.unlink()
    await it.server.clears("GwstreamPsdDrifting", "GwstreamDiskFilling", "GwstreamNotDurable")


def _fill(file: Path) -> None:
    with suppress(OSError), file.open("wb", buffering=0) as out:
        while True:
            out.write(bytes(4096))


async def _panels(server: Prometheus) -> None:
    """Each expression of the dashboard has an answer that is a number."""
    board = json.loads((DEPLOY / "grafana.json").read_text(encoding="utf-8"))
    asked = 0
    for panel in board["panels"]:
        for target in panel.get("targets", ()):
            expression = target["expr"].replace("$__rate_interval", "10s")
            expression = expression.replace("$instance", ".*").replace("$detector", ".*")
            found = await server.query(shorter(expression))
            values = [float(one["value"][1]) for one in found]
            assert any(value == value for value in values), f"{panel['title']}: {expression} has {found}"
            asked += 1
    assert asked >= len(board["panels"]) - 6  # rows ask nothing


def test_the_dashboard_is_sound() -> None:
    board = json.loads((DEPLOY / "grafana.json").read_text(encoding="utf-8"))
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not cells & taken, f"{panel['title']} lies on another"
        taken |= cells
        if panel["type"] != "row":
            assert panel["description"]
            assert panel["datasource"]["uid"] == "${datasource}"  # of whoever imports it
            assert panel["fieldConfig"]["defaults"]["unit"]
            assert all("$instance" in one["expr"] or "ALERTS" in one["expr"] for one in panel["targets"])
    names = {one["name"] for one in board["templating"]["list"]}
    assert set(re.findall(r"\$([a-z_]+)", json.dumps([p.get("targets") for p in panels]))) <= names | {
        "__rate_interval"
    }
