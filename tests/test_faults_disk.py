"""A disk that is full, and one that cannot be written, under a daemon at work: it says so, and loses nothing.

The daemon has a small disk of its own, which nobody else sees.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from brokers import MOSQUITTO
from faults import World, world
from test_flow import mosquitto, wait

from gwstream.publish import store
from gwstream.publish.rows import ACKNOWLEDGED

DISK = "/mnt"


def disk(mode: str = "rw") -> tuple[str, ...]:
    """Starts what follows with a small file system at `DISK`, which may be written or not."""
    return ("unshare", "-Urm", "sh", "-c", f'mount -t tmpfs -o size=16m,{mode} none {DISK} && exec "$@"', "sh")


def spaces() -> bool:
    """Whether a process may have a file system of its own, and another may come into it."""
    if shutil.which("unshare") is None or shutil.which("nsenter") is None:
        return False
    return not subprocess.run([*disk(), "true"], capture_output=True, check=False).returncode


pytestmark = [
    pytest.mark.skipif(MOSQUITTO is None, reason="needs mosquitto"),
    pytest.mark.skipif(not spaces(), reason="needs user namespaces: unshare -Urm"),
]


@contextmanager
def running(root: Path, mode: str) -> Iterator[World]:
    program = (*disk(mode), sys.executable, "-m", "gwstream")
    more = {"publish": "archive_mb = 4\nsamples_mb = 0\n", "state": Path(DISK) / "state"}
    with mosquitto(root) as broker, world(root, broker, program=program, **more) as daemon:
        yield daemon


def told(it: World, root: Path) -> None:
    """The disk is there again: what went out unwritten comes into the archive, and the daemon says that it is well."""
    it.until(lambda: it.metrics().of("gwstream_outbox_durable") == 1, "the disk")
    it.play(2)
    found = it.settled()
    it.until(lambda: it.status()["durable"], "the status")
    inside = Path(f"/proc/{it.pid}/root{it.stored}")
    shutil.copytree(inside, root / "copy", ignore=shutil.ignore_patterns("*.lock", "*-shm"))
    rows = list(store.read(root / "copy", 0, 2**62))
    numbers = [row.sequence for row in rows if row.outgoing.summary.detector == "H1"]
    assert numbers == list(range(len(numbers)))
    assert {row.state for row in rows} == {ACKNOWLEDGED}
    assert len(numbers) >= found.of("gwstream_posteriors_total") > 0


def unwritten(it: World) -> None:
    """Posteriors go out, and metrics and status say that they are not on disk."""
    it.busy(3)
    found = it.settled()
    assert found.of("gwstream_outbox_durable") == 0
    assert found.dropped("H1", "publish")["not_durable"] >= 2
    it.until(lambda: it.status()["durable"] is False, "the status")
    assert it.status()["trouble"]


def test_a_disk_that_is_full_for_a_while(tmp_path: Path) -> None:
    with running(tmp_path, "rw") as it:
        it.play(2)
        assert it.settled().of("gwstream_outbox_durable") == 1
        block = Path(f"/proc/{it.pid}/root{DISK}/fill")
        with suppress(OSError), block.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        assert shutil.disk_usage(block.parent).free == 0
        it.busy(1, lambda: it.metrics().of("gwstream_outbox_durable") == 0)
        assert it.metrics().of("gwstream_state_free_ratio") < 0.01
        unwritten(it)
        block.unlink()
        told(it, tmp_path)


def test_a_disk_that_may_only_be_read_at_first(tmp_path: Path) -> None:
    """As one is after an error, until somebody has mended it."""
    with running(tmp_path, "ro") as it:
        unwritten(it)
        enter = ("nsenter", "--preserve-credentials", "-U", "-m", "-t", str(it.pid))
        subprocess.run([*enter, "mount", "-o", "remount,rw", DISK], check=True, timeout=20)
        told(it, tmp_path)


@contextmanager
def kept() -> Iterator[int]:
    """A small disk that outlives who works on it: the process whose it is."""
    keeper = subprocess.Popen([*disk(), "sleep", "infinity"])
    try:
        name = Path(f"/proc/{keeper.pid}/comm")
        wait(lambda: name.read_text() == "sleep\n", 20, "the disk")  # it is there before that begins
        yield keeper.pid
    finally:
        keeper.kill()
        keeper.wait()


def ids(it: World) -> set[str]:
    """Of the posteriors that have come."""
    return {one.body["posterior"]["id"] for one in list(it.got) if one.topic.endswith("/posterior")}


def spoil(inside: tuple[str, ...], block: Path, how: str) -> None:
    if how == "full":
        with suppress(OSError), block.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        assert shutil.disk_usage(block.parent).free == 0
    else:
        subprocess.run([*inside, "mount", "-o", "remount,ro", DISK], check=True, timeout=20)


def mend(inside: tuple[str, ...], block: Path, how: str) -> None:
    if how == "full":
        block.unlink()
    else:
        subprocess.run([*inside, "mount", "-o", "remount,rw", DISK], check=True, timeout=20)


@pytest.mark.parametrize("how", ["full", "read-only"])
def test_killed_and_started_on_a_disk_that_cannot_be_written(tmp_path: Path, how: str) -> None:
    """It knows all the same what was told, and under which numbers; and writes when it can."""
    with kept() as keeper, mosquitto(tmp_path) as broker:
        inside = ("nsenter", "--preserve-credentials", "-U", "-m", "-t", str(keeper))
        block = Path(f"/proc/{keeper}/root{DISK}/fill")
        program = (*inside, sys.executable, "-m", "gwstream")
        more = {"publish": "archive_mb = 4\nsamples_mb = 0\n", "state": Path(DISK) / "state"}
        with world(tmp_path, broker, program=program, **more) as it:
            it.busy(4)
            it.settled()
            before = len(ids(it))
            assert it.end(signal.SIGKILL) == -signal.SIGKILL
            spoil(inside, block, how)
            it.start()
            # a full disk has room in the log that is there
            while len(ids(it)) < before + 3 or it.metrics().of("gwstream_outbox_durable") == 1:
                it.play(1, 0.3)
            it.complete()
            mend(inside, block, how)
            it.until(lambda: it.metrics().of("gwstream_outbox_durable") == 1, "the disk")
            it.play(2)
            it.complete()
            copy = tmp_path / "copy"
            inner = Path(f"/proc/{it.pid}/root{it.stored}")

            def settled() -> bool:
                shutil.rmtree(copy, ignore_errors=True)
                shutil.copytree(inner, copy, ignore=shutil.ignore_patterns("*.lock", "*-shm"))
                rows = list(store.read(copy, 0, 2**62))
                numbers = sorted(row.sequence for row in rows if row.outgoing.summary.detector == "H1")
                return {row.state for row in rows} == {ACKNOWLEDGED} and numbers == list(range(len(numbers)))

            it.until(settled, "the archive")
