"""Faults of the broker and of the way to it, while the daemon makes posteriors: all are delivered, each as it was.

The daemon reaches the broker through a gate that can be shut or slow, so that a subscriber may be back before it.
"""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
from brokers import MOSQUITTO
from faults import LONG, Witness, World, witness, world
from test_flow import free_port, wait

from gwstream.publish import store
from gwstream.publish.rows import ACKNOWLEDGED

PASSWORDS = shutil.which("mosquitto_passwd") or shutil.which("mosquitto_passwd", path="/usr/sbin")
pytestmark = pytest.mark.skipif(MOSQUITTO is None, reason="needs mosquitto")
LOST = {"outbox_full", "outbox_age", "too_many_attempts", "refused", "undelivered", "other_bytes", "not_durable"}
OPEN = "allow_anonymous true\n"


class Broker:
    """Mosquitto that forgets all when it ends."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self._settings = folder / "mosquitto.conf"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, extra: str = OPEN) -> None:
        self._settings.write_text(f"listener {self.port} 127.0.0.1\npersistence false\nuser root\n{extra}")
        assert MOSQUITTO is not None
        quiet = subprocess.DEVNULL
        self._process = subprocess.Popen([MOSQUITTO, "-c", str(self._settings)], stdout=quiet, stderr=quiet)

        def up() -> bool:
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", self.port)) == 0

        wait(up, 20, "mosquitto")

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


class Gate:
    """Hands on what comes to its port, ``delay`` s late, to another one; while ``shut``, it lets nobody in."""

    def __init__(self, target: int) -> None:
        self.delay = 0.0
        self.shut = False
        self._through: list[socket.socket] = []
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def cut(self) -> None:
        """End the connections that there are."""
        for one in self._through:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        self._through.clear()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.socket()
                if self.shut or far.connect_ex(("127.0.0.1", self._target)):
                    near.close()
                    far.close()
                    continue
                self._through.append(near)
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=self._pump, args=pair, daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(2048):
                time.sleep(self.delay)
                sink.sendall(data)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)
        source.close()  # and the other of the pair by the other thread


class Site:
    """The daemon, its broker, the way between them, and who listens."""

    def __init__(self, daemon: World, broker: Broker, gate: Gate, listener: Witness) -> None:
        self.daemon, self.broker, self.gate, self.listener = daemon, broker, gate, listener

    def down(self) -> None:
        """The broker is gone, and the daemon knows."""
        self.broker.end()
        self.daemon.until(lambda: not self.connected, "the loss")
        self.listener.ready.clear()

    def back(self, extra: str = OPEN) -> None:
        """A broker without memory; the listener is there first."""
        self.gate.shut = True
        self.broker.start(extra)
        assert self.listener.ready.wait(LONG)
        self.gate.shut = False

    @property
    def connected(self) -> bool:
        return self.daemon.metrics().of("gwstream_broker_connected") == 1

    def busy(self, posteriors: int = 4) -> None:
        """Strain until so many more are made."""
        self.daemon.busy(posteriors)

    def settled(self) -> None:
        """Nothing was lost or given up; each message is in the archive as acknowledged, under its own number."""
        self.daemon.settled()
        assert self.daemon.status()["state"] == "online"
        counted = self.daemon.metrics().dropped("H1", "publish") + self.daemon.metrics().dropped("", "publish")
        assert not LOST & set(counted), counted
        rows = list(store.read(self.daemon.stored, 0, 2**62))
        assert {row.state for row in rows} <= {ACKNOWLEDGED}
        numbers = [row.sequence for row in rows if row.outgoing.summary.detector == "H1"]
        assert sorted(numbers) == list(range(len(numbers)))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    root = tmp_path_factory.mktemp("broker")
    broker = Broker(root)
    broker.start()
    try:
        with (
            closing(Gate(broker.port)) as gate,
            witness(broker.port) as listener,
            world(root, gate.port, listener=listener) as daemon,
        ):
            yield Site(daemon, broker, gate, listener)
    finally:
        broker.end()


def test_killed_and_back_without_its_state(site: Site) -> None:
    site.busy(2)
    site.down()
    site.busy()
    assert site.daemon.health() == (200, [])
    site.back()
    site.settled()
    with witness(site.broker.port) as later:  # its retained messages were lost, too
        wait(
            lambda: any(one.topic.endswith("/status") and one.body["state"] == "online" for one in later.got), 20, "it"
        )


def test_frozen(site: Site) -> None:
    failures = site.daemon.metrics().of("gwstream_broker_failures_total")
    site.broker.signal(signal.SIGSTOP)
    try:
        site.busy()
        site.daemon.until(lambda: site.daemon.metrics().of("gwstream_broker_failures_total") > failures, "the notice")
        assert site.daemon.health() == (200, [])
        assert site.daemon.metrics().of("gwstream_queue_depth", "publish") > 0
    finally:
        site.broker.signal(signal.SIGCONT)
    site.settled()


def test_slow(site: Site) -> None:
    site.gate.delay = 0.1
    try:
        site.busy(5)
        site.settled()
    finally:
        site.gate.delay = 0.0
    assert site.daemon.health() == (200, [])


@pytest.mark.skipif(PASSWORDS is None, reason="needs mosquitto_passwd")
def test_refusing_our_login_for_a_while(site: Site, tmp_path: Path) -> None:
    secret = tmp_path / "passwords"
    assert PASSWORDS is not None
    subprocess.run([PASSWORDS, "-b", "-c", str(secret), "somebody", "else"], check=True, capture_output=True)
    site.down()
    site.broker.start(f"allow_anonymous false\npassword_file {secret}\n")
    site.daemon.until(
        lambda: site.daemon.metrics().of("gwstream_dropped_total", "login_refused", "publish") > 0, "the refusal"
    )
    site.busy()
    assert not site.connected
    assert site.daemon.health() == (200, [])
    assert "not authori" in site.daemon.log()
    site.broker.end()
    site.back()
    site.settled()


@pytest.mark.skipif(PASSWORDS is None, reason="needs mosquitto_passwd")
def test_a_login_that_is_refused_at_the_first_start_ends_it(tmp_path: Path) -> None:
    """Nothing waits yet, and somebody is there to read why."""
    secret = tmp_path / "passwords"
    assert PASSWORDS is not None
    subprocess.run([PASSWORDS, "-b", "-c", str(secret), "somebody", "else"], check=True, capture_output=True)
    broker = Broker(tmp_path)
    broker.start(f"allow_anonymous false\npassword_file {secret}\n")
    try:
        with world(tmp_path, broker.port, warm=False, listener=Witness([], threading.Event())) as it:
            it.start(up=False)
            assert it.process is not None
            assert it.process.wait(LONG) == 69
        assert "Traceback" not in it.log()
        assert "publish.username" in it.log()
    finally:
        broker.end()


def test_a_subscriber_whose_session_is_full_sees_the_gap_and_gets_what_it_missed(site: Site) -> None:
    site.busy(1)
    site.down()
    site.back(OPEN + "max_queued_messages 3\n")
    site.settled()
    with witness(site.broker.port, "absent"):
        pass  # it has a session there from now on
    last = max(told(site.listener))
    site.busy(6)
    site.settled()
    present = max(told(site.listener))
    with witness(site.broker.port, "absent") as absent:
        while max(told(absent), default=0) <= present:
            site.busy(1)
        missed = set(range(last + 1, present + 1)) - set(told(absent))
        assert missed  # by the numbers, anybody can see it
        done = subprocess.run(
            [sys.executable, "-m", "gwstream", "publish", str(site.daemon.config), "--from", "0"],
            capture_output=True,
            text=True,
            timeout=LONG,
        )
        assert done.returncode == 0, done.stderr
        wait(lambda: missed <= set(told(absent)), 20, "what was missed")
    site.settled()


def told(listener: Witness) -> list[int]:
    """Sequence numbers."""
    return [one.body["delivery"]["sequence"] for one in list(listener.got) if one.topic.startswith("gwstream/H1/")]
