"""deploy/gwstream.service: how far it is confined, and that the daemon works so, under a real systemd."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from manager import OTHERS, Manager, manager
from test_flow import LEAST_SNR, Received, daemon, embedded, folders, play, subscriber, wait

from gwstream.pipeline import progress

DEPLOY = Path(__file__).resolve().parents[1] / "deploy"
UNIT = DEPLOY / "gwstream.service"
TEMPLATE = DEPLOY / "gwstream@.service"
BAR = 2.0
needs_systemd = pytest.mark.skipif(
    not shutil.which("systemd-analyze"), reason="systemd-analyze: apt-get install systemd"
)


def analyze(*arguments: str) -> tuple[int, str]:
    done = subprocess.run(("systemd-analyze", *arguments), capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


@needs_systemd
@pytest.mark.parametrize("unit", [UNIT, TEMPLATE], ids=lambda path: path.name)
def test_the_units_exposure_is_below_the_bar(unit: Path) -> None:
    status, said = analyze("security", "--offline=true", "--no-pager", f"--threshold={BAR * 10:g}", str(unit))
    exposure = re.search(r"Overall exposure level for gwstream(?:@i)?.service: ([0-9.]+)", said)
    assert exposure is not None, said
    assert float(exposure[1]) <= BAR
    assert status == 0, said


@needs_systemd
@pytest.mark.parametrize(
    "more", ["", *(path.name for path in sorted(DEPLOY.glob("*.conf")) if "[Service]" in path.read_text())]
)
@pytest.mark.parametrize("unit", [UNIT, TEMPLATE], ids=lambda path: path.name)
def test_unit_and_drop_ins_have_no_mistakes(tmp_path: Path, unit: Path, more: str) -> None:
    text = unit.read_text().replace("/opt/gwstream/bin/gwstream", "/bin/true")
    text = text.replace("file:///opt/gwstream/share/gwstream/README.md", "https://example.org")
    if more:
        text += (DEPLOY / more).read_text()
    (tmp_path / unit.name).write_text(text)
    status, said = analyze("verify", "--man=no", str(tmp_path / unit.name.replace("@", "@h1")))
    said = "\n".join(line for line in said.splitlines() if "gwstream" in line)  # it may say a word on the host's own
    assert (status, said) == (0, "")


def test_the_template_is_the_unit_but_for_what_instances_have_of_their_own() -> None:
    """A line that is changed in one of them is changed in the other."""
    one, many = (path.read_text().partition("[Unit]")[2] for path in (UNIT, TEMPLATE))
    own = {
        "over MQTT\n": "over MQTT (%i)\n",
        "/etc/gwstream/gwstream.toml\n": "/etc/gwstream/%i.toml\n",
        "StateDirectory=gwstream\n": "StateDirectory=gwstream-%i\n",
    }
    for alone, instance in own.items():
        assert one.count(alone) == 1
        one = one.replace(alone, instance)
    assert many == one


@contextmanager
def directories() -> Iterator[Path]:
    """Directories for frames in shared memory, of one user, and for members of one group to read."""
    made = Path("/dev/shm") / f"gwstream-test-{os.getpid()}"
    for path in (made, made / "H1", made / "L1"):
        path.mkdir()
        os.chown(path, 4321, OTHERS)
        path.chmod(0o2750)
    try:
        yield made
    finally:
        shutil.rmtree(made)


TOKEN = "0123456789abcdef"


def install(at: Manager, broker: int, frames: Path, instead: str = "") -> None:
    """The unit and settings of deploy/, with what this host needs; ``instead``: to start in the daemon's place."""
    units = at.etc / "systemd" / "system"
    drop_ins = units / "gwstream.service.d"
    drop_ins.mkdir()
    shutil.copy(UNIT, units)
    shutil.copy(DEPLOY / "web-token.conf", drop_ins)
    (drop_ins / "test.conf").write_text(
        "[Service]\nSupplementaryGroups=frames\nEnvironment=PYTHONPATH=/opt/src OMP_NUM_THREADS=1\n"
        "Environment=LD_LIBRARY_PATH=/opt/python/lib\n"
        "StandardOutput=append:/run/gwstream.log\nStandardError=append:/run/gwstream.log\n"
        + (f"Type=oneshot\nRestart=no\nExecStart=\nExecStart=/opt/gwstream/bin/python {instead}\n" if instead else "")
    )
    settings = at.etc / "gwstream"
    (settings / "web-token").write_text(TOKEN)
    (settings / "web-token").chmod(0o600)
    text = (DEPLOY / "gwstream.toml").read_text().replace("/dev/shm/kafka", str(frames))
    for commented, meant in (
        ("port = 1883", f"port = {broker}"),
        ("token_file =", ""),
        ("interval = 16.0", "interval = 0"),
    ):
        assert text.count(f"# {commented}") == 1
        text = text.replace(f"# {commented}", meant or commented)
    (settings / "gwstream.toml").write_text(text)


def log(at: Manager) -> str:
    return at.run("cat", "/run/gwstream.log", check=False)


def start(at: Manager) -> None:
    """Returns when the daemon says that it is ready."""
    at.run("systemctl", "start", "gwstream", check=False)
    assert at.shown("gwstream", "Result") == "success", log(at) + at.log()


def hashes(got: list[Received]) -> dict[str, str]:
    """SHA-256 of each posterior, by id."""
    return {one.body["posterior"]["id"]: one.body["sha256"] for one in got if one.topic.endswith("/posterior")}


def loudest(got: list[Received]) -> dict[str, float]:
    """SNR by detector."""
    events = [one.body["posterior"] for one in got if one.topic.endswith("1/event")]
    return {name: max((one["snr"] for one in events if one["detector"] == name), default=0.0) for name in LEAST_SNR}


@pytest.mark.slow
def test_the_service_works_so_confined(tmp_path: Path) -> None:
    """GW150914, killed and started again by systemd: the same bytes as of a daemon that nothing confines."""
    with manager(tmp_path) as at, directories() as frames, embedded() as broker, subscriber(broker) as got:
        install(at, broker, frames)
        start(at)
        assert at.shown("gwstream", "ActiveState") == "active"
        play(frames, 0.15)
        wait(lambda: all(snr > LEAST_SNR[name] for name, snr in loudest(got).items()), 120, "both events")
        asked = urllib.request.Request("http://127.0.0.1:9480/metrics", headers={"Authorization": f"Bearer {TOKEN}"})
        wait(lambda: _metrics(asked).count("gwstream_strain_seconds_total{detector=") == 2, 60, "all strain")
        text = _metrics(asked)
        assert "gwstream_outbox_durable 1.0" in text
        saved = f"/var/lib/gwstream/gwstream-gwstream/{progress.NAME}"
        wait(lambda: at.run("ls", saved, check=False), 60, "a saved state")
        before = at.shown("gwstream", "MainPID")
        at.run("systemctl", "kill", "--signal=KILL", "gwstream")
        wait(lambda: at.shown("gwstream", "MainPID") not in ("0", before), 60, "the next one")
        wait(lambda: at.shown("gwstream", "ActiveState") == "active", 120, "the next one's being ready")
        assert log(at).count("without a new warm-up") == 2
        at.run("systemctl", "stop", "gwstream")
        assert at.shown("gwstream", "Result") == "success", log(at)
        assert at.run("stat", "-c", "%U %a", "/var/lib/gwstream").strip() == "gwstream 700"
        assert "Traceback" not in log(at)
        assert TOKEN not in log(at)
    assert hashes(got) == _unconfined(tmp_path)


@pytest.mark.slow
def test_an_engine_that_hangs_ends_in_a_restart(tmp_path: Path) -> None:
    """No later than 5 s after the watchdog's time; and the next daemon tells of what the one before had to leave."""
    watchdog, late = 15, 5.0
    with manager(tmp_path) as at, directories() as frames, embedded() as broker, subscriber(broker) as got:
        install(at, broker, frames)
        hang = at.etc / "gwstream" / "hang"
        hang.mkdir()
        (at.etc / "systemd" / "system" / "gwstream.service.d" / "hang.conf").write_text(
            f"[Service]\nWatchdogSec={watchdog}\nEnvironment=HANG=/etc/gwstream/hang\nExecStart=\n"
            "ExecStart=/opt/gwstream/bin/python /opt/src/tests/hanging.py run /etc/gwstream/gwstream.toml\n"
        )
        start(at)
        before = at.shown("gwstream", "MainPID")
        (hang / "engine").touch()
        play(frames, 0.15)
        wait(lambda: "inference: stuck for" in at.shown("gwstream", "StatusText"), 60, "the status to say so")
        told = re.search(r"stuck for (\d+) s", at.shown("gwstream", "StatusText"))
        assert told is not None
        since = time.monotonic() - int(told[1])
        wait(lambda: at.shown("gwstream", "MainPID") not in ("0", before), 3 * watchdog, "the next daemon")
        took = time.monotonic() - since
        print(f"the next daemon was started {took:.1f} s after the engine began to hang; watchdog: {watchdog} s")
        assert took < watchdog + late
        assert at.shown("gwstream", "NRestarts") == "1"
        (hang / "engine").unlink()
        wait(lambda: all(snr > LEAST_SNR[name] for name, snr in loudest(got).items()), 120, "both events")
        at.run("systemctl", "stop", "gwstream")


@pytest.mark.slow
def test_systemctl_reloads(tmp_path: Path) -> None:
    """Other settings, then broken ones: the same process goes on, and systemd sees it ready each time."""
    with manager(tmp_path) as at, directories() as frames, embedded() as broker:
        install(at, broker, frames)
        start(at)
        before = at.shown("gwstream", "MainPID")
        settings = at.etc / "gwstream" / "gwstream.toml"
        good = settings.read_text().replace("# gate_snr = 6.5", "gate_snr = 7.5")
        for text, said in (
            (good, "changed: inference.gate_snr"),
            (good + "\n[publish", "not reloaded, all goes on as it was: "),
        ):
            settings.write_text(text)
            at.run("systemctl", "reload", "gwstream")
            wait(lambda said=said: said in log(at), 60, said)
            wait(lambda: at.shown("gwstream", "ActiveState") == "active", 10, "its being ready again")
        assert at.shown("gwstream", "MainPID") == before
        assert at.shown("gwstream", "StatusText").endswith("the last reload was refused, the log says why")
        at.run("systemctl", "stop", "gwstream")
        assert at.shown("gwstream", "Result") == "success", log(at)


@pytest.mark.slow
def test_instances_live_side_by_side_and_a_clash_is_named(tmp_path: Path) -> None:
    """gwstream@h1 and @l1 share nothing but the user; @port and @name have something of h1's, and end for it."""
    with manager(tmp_path) as at, directories() as frames, embedded() as broker, subscriber(broker) as got:
        install(at, broker, frames)
        plain = (at.etc / "gwstream" / "gwstream.toml").read_text()
        of_units = at.etc / "systemd" / "system"
        shutil.copy(TEMPLATE, of_units)
        shutil.copytree(of_units / "gwstream.service.d", of_units / "gwstream@.service.d")
        for name, identity, port in (("h1", "h1", 9481), ("l1", "l1", 9482), ("port", "p", 9481), ("name", "h1", 9483)):
            text = plain.replace('# instance = "gwstream"', f'instance = "{identity}"')
            text = text.replace("# port = 9480", f"port = {port}")
            (at.etc / "gwstream" / f"{name}.toml").write_text(text)
        for name in ("h1", "l1"):
            at.run("systemctl", "start", f"gwstream@{name}", check=False)
            assert at.shown(f"gwstream@{name}", "ActiveState") == "active", log(at)
            assert at.run("ls", f"/var/lib/gwstream-{name}").split() == [f"gwstream-{name}"]
        for name, said in (("port", "metrics.port = 9481"), ("name", "publish.instance = 'h1': process")):
            at.run("systemctl", "start", f"gwstream@{name}", check=False)
            assert at.shown(f"gwstream@{name}", "ExecMainStatus") == "78", log(at)
            assert at.shown(f"gwstream@{name}", "NRestarts") == "0"
            assert said in log(at).splitlines()[-1]
        for name in ("h1", "l1"):  # nothing came of it for those who were there first
            assert at.shown(f"gwstream@{name}", "ActiveState") == "active"
        said = [one.body["state"] for one in got if one.topic.startswith("gwstream/h1/status")]
        assert set(said) == {"online"}
        at.run("systemctl", "stop", "gwstream@h1", "gwstream@l1")
        assert at.shown("gwstream@h1", "Result") == at.shown("gwstream@l1", "Result") == "success", log(at)


def _metrics(asked: urllib.request.Request) -> str:
    with urllib.request.urlopen(asked, timeout=20) as answer:
        return str(answer.read().decode())


def _unconfined(root: Path) -> dict[str, str]:
    """What a daemon tells of the same frames when nothing confines it."""
    for path in folders(root).values():
        path.mkdir()
    with embedded() as broker, subscriber(broker) as got, daemon(root, broker, "") as (process, _):
        wait(lambda: any(one.body.get("state") == "online" for one in got), 60, "the daemon")
        play(root, 0.15)
        wait(lambda: all(snr > LEAST_SNR[name] for name, snr in loudest(got).items()), 120, "both events")
        process.terminate()
        assert process.wait(60) == 0
    return hashes(got)


ALLOWED = {"read frames", "watch frames", "write state", "write /tmp", "connect here", "bind 9480", "read boot id"}
ALLOWED |= {"executable memory", "turned executable"}  # which engines need
DENIED = ("EPERM", "EACCES", "EROFS", "EAFNOSUPPORT", "TimeoutError", "PermissionError")


@pytest.mark.slow
def test_whoever_took_the_daemon_over_can_do_no_more_than_it(tmp_path: Path) -> None:
    """Nothing of it is denied to root on this host without the unit: else it would prove nothing."""
    with manager(tmp_path) as at, directories() as frames, socket.create_server(("0.0.0.0", 0)) as listener:
        port = listener.getsockname()[1]
        tries = f"/opt/src/tests/intruder.py {port} {frames}/H1 {_neighbour()}"
        install(at, port, frames, instead=tries)
        start(at)
        confined = json.loads(log(at))
        free = json.loads(at.run("/opt/gwstream/bin/python", *tries.split()))
    assert {name for name, problem in confined.items() if not problem} == ALLOWED
    assert {name: problem for name, problem in confined.items() if problem and not problem.startswith(DENIED)} == {}
    assert {name: problem for name, problem in free.items() if problem.startswith(DENIED)} == {}


def _neighbour() -> str:
    """An address of this host that is not loopback, as a neighbour's would be; without a network, one of nobody."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return "192.0.2.1"
        return str(probe.getsockname()[0])
