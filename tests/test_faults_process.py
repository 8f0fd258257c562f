"""Faults of the daemon itself and of the machine it runs on: clock, engine, descriptors, an end at any moment."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from brokers import MOSQUITTO
from faults import GPS, LONG, WARM, World, gap, witness, world
from test_faults_broker import Broker, Gate
from test_flow import mosquitto

from gwstream.clock import gps_now_ns
from gwstream.records import NANO

pytestmark = pytest.mark.skipif(MOSQUITTO is None, reason="needs mosquitto")
PROGRAM = (sys.executable, str(Path(__file__).with_name("breaking.py")))
DAY = 86_400
YEAR = 365 * DAY


class Broken:
    """A daemon that can be broken."""

    def __init__(self, daemon: World) -> None:
        self.daemon = daemon

    def tell(self, name: str, text: str = "") -> None:
        (self.daemon.root / name).write_text(text)

    def untell(self, name: str) -> None:
        (self.daemon.root / name).unlink(missing_ok=True)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BREAK", str(tmp_path))
    return tmp_path


@pytest.fixture
def it(folder: Path) -> Iterator[Broken]:
    with mosquitto(folder) as broker, world(folder, broker, program=PROGRAM) as daemon:
        yield Broken(daemon)


def test_a_clock_that_is_set_forward_and_back(it: Broken) -> None:
    """Nothing hangs on it but what is told of ages, and which frames are of the future: those are counted."""
    daemon = it.daemon
    for wrong in (3 * DAY, -3 * DAY, 40 * YEAR):  # the last beyond the end of every list of leap seconds
        it.tell("clock", str(wrong))
        daemon.play(3)
        found = daemon.settled()
        age = gps_now_ns() / NANO + wrong - daemon.second
        assert found.of("gwstream_data_age_seconds", "H1") == pytest.approx(age, abs=LONG)
    assert found.dropped("H1") == found.dropped("H1", "publish") == {}
    it.tell("clock", str(-(gps_now_ns() // NANO - GPS + 2 * DAY)))
    lost = daemon.second
    for _ in range(3):
        daemon.write("H1", b"not looked at")
        daemon.second += 1
    daemon.until(lambda: daemon.metrics().dropped("H1")["future"] == 3, "the refusal")
    it.untell("clock")
    daemon.meant(gap("H1", lost, daemon.second))
    daemon.play(2)
    assert daemon.settled().dropped("H1") == {"future": 3, "missing": 3}


def test_files_that_the_kernel_says_nothing_of(it: Broken) -> None:
    """As where another host writes them: we find them by looking, and say so."""
    it.tell("deaf")
    it.daemon.play(3)
    found = it.daemon.settled().dropped("H1")
    assert set(found) == {"notify_lost"}
    assert "the kernel says nothing of" in it.daemon.log()
    it.untell("deaf")
    it.daemon.play(2)
    assert it.daemon.settled().dropped("H1") == found


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def test_no_descriptor_left(folder: Path) -> None:
    """Frames cannot be opened, and the broker is lost and cannot be reached: then all goes on."""
    with (
        mosquitto(folder) as broker,
        closing(Gate(broker)) as gate,
        witness(broker) as listener,
        world(folder, gate.port, program=PROGRAM, listener=listener) as daemon,
    ):
        before = resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE)
        first = daemon.second
        resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (3, before[1]))
        try:
            daemon.write("H1", b"cannot be opened")
            daemon.second += 1
            daemon.until(lambda: "unreadable" in daemon.log(), "the complaint")
            gate.cut()
            daemon.until(lambda: "too many open files; trying again" in daemon.log(), "the loss of the broker")
        finally:
            resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, before)
        daemon.meant(gap("H1", first, daemon.second))
        daemon.until(lambda: daemon.health() == (200, []), "an answer")
        daemon.play(3)
        found = daemon.settled()
        assert found.dropped("H1") == {"unreadable": 1, "missing": 1}
        assert found.of("gwstream_broker_connected") == 1
        assert descriptors(daemon.pid) < 100


@pytest.mark.parametrize("fault", ["raise", "nan"])
def test_an_engine_that_fails_and_then_the_last_one(folder: Path, fault: str) -> None:
    """The next one serves, and every posterior is told; without a next one the daemon ends, and its successor tells."""
    with mosquitto(folder) as broker, world(folder, broker, program=PROGRAM) as daemon:
        it = Broken(daemon)
        assert daemon.status()["engine"] == "openvino"
        it.tell("openvino", fault)
        daemon.busy(1, lambda: daemon.status()["engine"] == "torch")
        daemon.settled()
        given_up = daemon.status()["parity"]["given_up"]
        assert [one["engine"] for one in given_up] == ["openvino"]
        assert daemon.metrics().of("gwstream_dropped_total", "engine_given_up") == 1
        it.tell("torch", "raise")
        assert daemon.process is not None
        while daemon.process.poll() is None:  # at the next window that passes
            daemon.play(1, 0.5)
        assert daemon.process.wait() == 70
        assert "torch was told to fail" in daemon.log().splitlines()[-1]
        it.untell("torch")
        it.untell("openvino")
        daemon.start()
        daemon.play(1)
        daemon.complete()


STAGES = ("model", "frame", "conditioning", "gate", "posterior", "summary", "disk", "state")
QUICK = ("model", "posterior")


@pytest.mark.parametrize("stage", [pytest.param(one, marks=() if one in QUICK else pytest.mark.slow) for one in STAGES])
def test_told_to_stop_while_a_stage_is_at_work(folder: Path, stage: str) -> None:
    """It finishes what it has read, and ends in good order; its successor goes on, and nothing is missing."""
    with mosquitto(folder) as broker, world(folder, broker, program=PROGRAM, warm=stage != "model") as daemon:
        it = Broken(daemon)
        it.tell(f"hold-{stage}")
        if stage == "model":
            daemon.start(up=False)
        at = folder / f"at-{stage}"
        while not at.exists():
            assert daemon.process is not None
            assert daemon.process.poll() is None, daemon.log()
            if stage != "model":
                daemon.play(1)
            time.sleep(0.5)
        assert daemon.process is not None
        daemon.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        it.untell(f"hold-{stage}")
        # before there is anything to finish, the signal ends the process as it ends any
        assert daemon.process.wait(LONG) == (-signal.SIGTERM if stage == "model" else 0), daemon.log()
        assert "Traceback" not in daemon.log()
        daemon.start()
        daemon.play(WARM + 10 if stage == "model" else 2)
        daemon.complete()


DRAIN = 2.0  # s


@pytest.mark.parametrize("how", ["away", "frozen", "frozen, and not known to be"])
def test_told_to_stop_while_messages_wait_for_the_broker(folder: Path, how: str) -> None:
    """It ends in good order when the time to drain is over, and its successor delivers them."""
    broker = Broker(folder)
    broker.start()
    try:
        with (
            closing(Gate(broker.port)) as gate,
            witness(broker.port) as listener,
            world(
                folder,
                gate.port,
                listener=listener,
                drain=DRAIN,
                publish="timeout = 60.0\nkeepalive = 600\n" if how == "frozen, and not known to be" else "",
            ) as daemon,
        ):
            before = len(listener.got)
            if how == "away":
                gate.shut = True
                gate.cut()
                daemon.until(lambda: daemon.metrics().of("gwstream_broker_connected") == 0, "the loss")
            else:
                broker.signal(signal.SIGSTOP)
            daemon.busy(3)
            daemon.until(lambda: daemon.metrics().of("gwstream_queue_depth", "publish") >= 3, "what waits")
            assert daemon.end() == 0, daemon.log()
            assert "wait in the outbox for the next start" in daemon.log()
            assert not [one for one in listener.got[before:] if one.topic.endswith("/posterior")]
            gate.shut = False
            broker.signal(signal.SIGCONT)
            daemon.start()
            daemon.play(2)
            daemon.complete()
    finally:
        broker.end()


@pytest.mark.parametrize("stage", ["disk", "state"])
def test_told_to_stop_while_the_disk_hangs_for_good(folder: Path, stage: str) -> None:
    """A thread that nobody can end keeps it only for a moment more; what was not written is told again."""
    with mosquitto(folder) as broker, world(folder, broker, program=PROGRAM, drain=DRAIN) as daemon:
        it = Broken(daemon)
        it.tell(f"hold-{stage}")
        daemon.busy(3, (folder / f"at-{stage}").exists)
        daemon.settled()
        assert daemon.process is not None
        daemon.process.send_signal(signal.SIGTERM)  # its successor makes the same posteriors, so they are not added up
        assert daemon.process.wait(LONG) == 0, daemon.log()
        assert "a part hangs" in daemon.log()
        it.untell(f"hold-{stage}")
        daemon.start()
        daemon.play(2)
        daemon.complete()


def test_a_recording_is_replayed_when_every_list_of_leap_seconds_has_expired(folder: Path) -> None:
    (folder / "clock").write_text(str(40 * YEAR))
    from gwstream.source import recording

    done = subprocess.run(
        [*PROGRAM, "replay", "--detector", "H1", str(recording.path("H1"))],
        capture_output=True,
        text=True,
        timeout=LONG,
    )
    assert done.returncode == 0, done.stderr
    assert "gwstream.event/1" in done.stdout
    assert "leap" not in done.stderr
