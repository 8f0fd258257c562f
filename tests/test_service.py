from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from gwstream import service
from gwstream.config import ServiceConfig
from gwstream.demo.child import free_port

ROOT = Path(__file__).resolve().parents[1]

PROGRAM = """
import asyncio, sys, time
from concurrent.futures import ThreadPoolExecutor
from prometheus_client import CollectorRegistry
from gwstream import logs, service
from gwstream.config import MetricsConfig, ServiceConfig
from gwstream.errors import GwstreamError, ModelError
from gwstream.health import Health
from gwstream.metrics import Metrics
from gwstream.web import Feed

async def drains(life):
    life.ready("two detectors")
    await life.stop.wait()
    await asyncio.sleep(0.3)
    print("drained", flush=True)

async def stuck(life):
    life.ready()
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            print("cancelled", flush=True)
            raise

async def blocked(life):
    life.ready()
    while True:
        time.sleep(0.01)

async def deaf(life):
    life.ready()
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            pass

async def hangs(life):
    life.ready()
    with ThreadPoolExecutor(1) as thread:
        thread.submit(time.sleep, 60)
        await life.stop.wait()

async def leaves(life):
    life.ready()
    thread = ThreadPoolExecutor(1)
    thread.submit(time.sleep, 60)
    await life.stop.wait()
    thread.shutdown(wait=False)

async def ends(life):
    life.ready()

async def model(life):
    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.sleep(60))
        group.create_task(broken_model())

async def broken_model():
    raise ModelError("models/x: no weights; train it")

async def defect(life):
    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.to_thread(service.watchdog_interval, 1))

work, drain, port, json_logs = sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), sys.argv[4:] == ["json"]
config = ServiceConfig(drain=drain, log_json=json_logs)
logs.configure(config)
try:
    asyncio.run(service.serve(
        globals()[work], service=config, http=MetricsConfig(port=port),
        metrics=Metrics(CollectorRegistry()), feed=Feed(), health=Health()))
except GwstreamError as problem:
    print(f"gwstream: {problem}", file=sys.stderr)
    sys.exit(problem.exit_code)
"""


class Systemd:
    """Plays the notify socket."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self._socket.setblocking(False)
        self.heard: list[str] = []

    async def until(self, word: str, limit: float = 20.0) -> None:
        async with asyncio.timeout(limit):
            while not any(word in message for message in self.heard):
                message = await asyncio.get_running_loop().sock_recv(self._socket, 4096)
                self.heard += message.decode().splitlines()

    def close(self) -> None:
        self._socket.close()


@dataclass
class Daemon:
    process: asyncio.subprocess.Process
    systemd: Systemd

    async def end(self, limit: float = 10.0) -> tuple[int, str, str]:
        """Exit status, stdout, stderr."""
        out, problem = await asyncio.wait_for(self.process.communicate(), limit)
        assert self.process.returncode is not None
        return self.process.returncode, out.decode(), problem.decode()


@asynccontextmanager
async def daemon(
    folder: Path, work: str, *more: str, drain: float = 5.0, port: int = 0, **environment: str
) -> AsyncIterator[Daemon]:
    program = folder / "program.py"
    program.write_text(PROGRAM)
    systemd = Systemd(environment.pop("address", str(folder / "notify")))
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(program),
        work,
        str(drain),
        str(port),
        *more,
        env=os.environ | {"NOTIFY_SOCKET": systemd.address, **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield Daemon(process, systemd)
    finally:
        systemd.close()
        if process.returncode is None:
            process.kill()
            await process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_the_first_signal_drains_and_exits_0(tmp_path: Path, number: signal.Signals) -> None:
    async with daemon(tmp_path, "drains") as it:
        await it.systemd.until("READY=1")
        it.process.send_signal(number)
        await it.systemd.until("STOPPING=1")
        status, out, problem = await it.end()
    assert (status, out) == (0, "drained\n")
    assert "STATUS=two detectors" in it.systemd.heard
    assert "Traceback" not in problem


async def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    async with daemon(tmp_path, "stuck", drain=60) as it:
        await it.systemd.until("READY=1")
        it.process.terminate()
        await it.systemd.until("STOPPING=1")
        await asyncio.sleep(2 * service.TOGETHER)
        begin = time.monotonic()
        it.process.terminate()
        status, _, problem = await it.end()
    assert status == 128 + signal.SIGTERM
    assert time.monotonic() - begin < 1
    assert "second signal" in problem


async def test_two_signals_at_once_are_one(tmp_path: Path) -> None:
    """As of timeout(1), which signals the process and then its group."""
    async with daemon(tmp_path, "stuck", drain=0.2) as it:
        await it.systemd.until("READY=1")
        it.process.terminate()
        it.process.send_signal(signal.SIGINT)
        status, out, problem = await it.end()
    assert (status, out) == (0, "cancelled\n")
    assert "second signal" not in problem


async def test_a_second_signal_works_though_the_loop_does_not_turn(tmp_path: Path) -> None:
    async with daemon(tmp_path, "blocked") as it:
        await it.systemd.until("READY=1")
        it.process.send_signal(signal.SIGINT)
        await asyncio.sleep(0.2)
        it.process.send_signal(signal.SIGINT)
        status, _, _ = await it.end()
    assert status == 130


async def test_work_that_does_not_drain_is_cancelled_within_the_bound(tmp_path: Path) -> None:
    async with daemon(tmp_path, "stuck", drain=0.2) as it:
        await it.systemd.until("READY=1")
        begin = time.monotonic()
        it.process.terminate()
        status, out, problem = await it.end()
    assert (status, out) == (0, "cancelled\n")
    assert time.monotonic() - begin < 0.2 + service.GRACE + 15
    assert "not finished after 0.2 s" in problem


async def test_work_that_cannot_be_cancelled_does_not_keep_the_process(tmp_path: Path) -> None:
    async with daemon(tmp_path, "deaf", drain=0.1) as it:
        await it.systemd.until("READY=1")
        it.process.terminate()
        status, _, problem = await it.end(15)
    assert status == 70
    assert "a part does not stop" in problem


async def test_a_thread_that_hangs_and_blocks_the_loop_does_not_keep_the_process(tmp_path: Path) -> None:
    async with daemon(tmp_path, "hangs", drain=0) as it:
        await it.systemd.until("READY=1")
        begin = time.monotonic()
        it.process.terminate()
        status, _, problem = await it.end(20)
    assert status == 70
    assert time.monotonic() - begin < service.GRACE + service.CANCEL_LIMIT + service.LAST + 2
    assert "a part hangs" in problem


async def test_a_thread_that_hangs_when_all_is_finished_is_no_failure(tmp_path: Path) -> None:
    """Such as one that writes to a disk which does not answer: the interpreter would wait for it."""
    async with daemon(tmp_path, "leaves", drain=30) as it:
        await it.systemd.until("READY=1")
        it.process.terminate()
        status, _, problem = await it.end(20)
    assert status == 0
    assert problem.splitlines()[-2].endswith("stopped")
    assert "a part hangs" in problem.splitlines()[-1]


def test_systemd_waits_longer_than_the_process_and_never_gives_up() -> None:
    unit = dict(
        line.split("=", 1) for line in (ROOT / "deploy" / "gwstream.service").read_text().splitlines() if "=" in line
    )
    longest = ServiceConfig().drain + service.GRACE + service.CANCEL_LIMIT + service.LAST
    assert float(unit["TimeoutStopSec"]) > longest
    assert unit["StartLimitIntervalSec"] == "0"  # a broker that is away for an hour must not end the service for good


async def test_work_that_ends_by_itself_exits_0(tmp_path: Path) -> None:
    async with daemon(tmp_path, "ends") as it:
        status, _, problem = await it.end()
    assert status == 0, problem


async def test_an_error_of_ours_is_one_message_and_its_status(tmp_path: Path) -> None:
    async with daemon(tmp_path, "model") as it:
        status, _, problem = await it.end()
    assert status == 65
    assert problem.rstrip().endswith("gwstream: models/x: no weights; train it")
    assert "Traceback" not in problem


async def test_a_defect_names_its_place_and_keeps_its_trace_for_the_report(tmp_path: Path) -> None:
    async with daemon(tmp_path, "defect") as it:
        status, _, problem = await it.end()
    assert status == 70
    assert "gwstream: the daemon failed" in problem.splitlines()[-1]
    assert "TypeError" in problem.splitlines()[-1]
    assert "please report" in problem


async def test_a_taken_http_port_is_a_wrong_setting(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        async with daemon(tmp_path, "drains", port=port) as it:
            status, _, problem = await it.end()
    assert status == 78
    assert f"metrics.port = {port}" in problem
    assert "Traceback" not in problem


async def test_the_watchdog_is_fed_while_the_loop_turns(tmp_path: Path) -> None:
    async with daemon(tmp_path, "drains", address=f"@gwstream-test-{os.getpid()}", WATCHDOG_USEC="1500000") as it:
        await it.systemd.until("READY=1")
        await it.systemd.until("WATCHDOG=1", 5)
        it.process.terminate()
        assert (await it.end())[0] == 0
    async with daemon(tmp_path, "blocked", WATCHDOG_USEC="1500000") as it:
        await it.systemd.until("READY=1")
        with pytest.raises(TimeoutError):
            await it.systemd.until("WATCHDOG=1", 2.0)


async def test_logs_can_be_json_lines(tmp_path: Path) -> None:
    port = free_port()
    async with daemon(tmp_path, "ends", "json", port=port) as it:
        _, _, problem = await it.end()
    lines = [json.loads(line) for line in problem.splitlines()]
    assert lines[0]["logger"] == "service"
    assert lines[0]["level"] == "info"
    assert f"http://127.0.0.1:{port}/" in lines[0]["message"]
    assert lines[0]["time"].endswith("Z")


def test_the_watchdog_of_another_process_is_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "3000000")
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    assert service.watchdog_interval() == 3.0
    monkeypatch.setenv("WATCHDOG_PID", "1")
    assert service.watchdog_interval() == 0.0


def test_systemd_has_nothing_to_say_of_the_unit(tmp_path: Path) -> None:
    tool = shutil.which("systemd-analyze")
    if tool is None:
        pytest.skip("systemd-analyze is not installed: apt-get install systemd")
    text = (ROOT / "deploy" / "gwstream.service").read_text()
    unit = tmp_path / "gwstream.service"  # the binary and the documentation are those of an installed system
    text = text.replace("/opt/gwstream/bin/gwstream", "/bin/true").replace(
        "/opt/gwstream/share/gwstream/README.md", "/dev/null"
    )
    unit.write_text(text)
    done = subprocess.run([tool, "verify", str(unit)], capture_output=True, text=True, timeout=60)
    assert done.stdout + done.stderr == ""
    rated = subprocess.run(
        [tool, "security", "--offline=true", "--threshold=30", str(unit)], capture_output=True, text=True, timeout=60
    )
    assert rated.returncode == 0, rated.stdout[-600:]


def test_the_unit_does_not_restart_what_cannot_mend() -> None:
    from gwstream.errors import ConfigError, ModelError

    text = (ROOT / "deploy" / "gwstream.service").read_text()
    line = next(line for line in text.splitlines() if line.startswith("RestartPreventExitStatus="))
    assert set(line.partition("=")[2].split()) == {str(ConfigError.exit_code), str(ModelError.exit_code)}


def test_promtool_accepts_the_scrape_settings() -> None:
    tool = shutil.which("promtool")
    if tool is None:
        pytest.skip("promtool is not installed: apt-get install prometheus")
    done = subprocess.run(
        [tool, "check", "config", str(ROOT / "deploy" / "prometheus.yml")], capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stderr
