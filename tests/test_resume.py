"""A daemon that is killed and started anew on the same state directory and frames."""

from __future__ import annotations

import asyncio
import random
import re
import signal
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from brokers import MOSQUITTO
from faults import GATE, START, WARM, world
from test_flow import DETECTORS, Received, daemon, embedded, folders, mosquitto, play, subscriber, wait

from gwstream.conditioning import Conditioner, State
from gwstream.config import SummaryConfig
from gwstream.model import ModelSpec
from gwstream.pipeline import progress
from gwstream.pipeline.progress import Progress, Taken
from gwstream.prior import Prior
from gwstream.records import Strain
from gwstream.summary import Summarizer

BUSY = "gate_snr = 4.5"  # of noise too, so that posteriors come all the time
LAST = 32  # s of the recording
AT_WORK = 4.0  # s that a daemon has before it is killed, at most, once it tells of new posteriors
PACE = 0.4  # s of real time for one of strain
PATIENT = f"{GATE}latency_target = 60.0\n"  # a busy machine is no reason to give up windows
GPS, RATE = 1_400_000_000, 1024


def metric(http: int, name: str) -> float:
    with urllib.request.urlopen(f"http://127.0.0.1:{http}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))


def posteriors(got: list[Received]) -> dict[str, bytes]:
    """By id, the bytes; every repeat has the same."""
    found: dict[str, bytes] = {}
    for one in got:
        if one.topic.endswith("/posterior"):
            assert found.setdefault(one.id[1], one.part) == one.part
    return found


def sequences(got: list[Received]) -> dict[str, list[int]]:
    """Sequence numbers by detector, of messages with an id of their own, sorted."""
    seen: dict[tuple[str, int], str] = {}
    for one in got:
        if not one.topic.endswith("/status"):
            level, number = one.topic.split("/")[1], one.body["delivery"]["sequence"]
            name = one.topic + one.body["sha256"]
            assert seen.setdefault((level, number), name) == name
    return {level: sorted(n for other, n in seen if other == level) for level in {level for level, _ in seen}}


class Lives:
    """One state directory and one set of frames, and the daemons on them."""

    def __init__(self, root: Path, broker: int, got: list[Received]) -> None:
        self.root, self.broker, self.got = root, broker, got
        for path in folders(root).values():
            path.mkdir(parents=True)

    def live(self, seconds: slice, *, kill: bool, names: Sequence[str] = DETECTORS, said: str = "") -> str:
        """A daemon that reads these seconds of the recording, and says so much; returns its log."""
        online = sum(one.body.get("state") == "online" for one in self.got)
        with daemon(self.root, self.broker, BUSY) as (process, http):

            def up() -> bool:
                assert process.poll() is None, self.log()
                return sum(one.body.get("state") == "online" for one in self.got) > online

            wait(up, 60, "the daemon")
            play(self.root, 0.1, seconds, names)
            if kill:
                before = len(posteriors(self.got))
                wait(lambda: len(posteriors(self.got)) > before + 5, 60, "posteriors")
                wait(lambda: (self.state() / progress.NAME).exists(), 10, "a saved state")
                process.kill()
                assert process.wait() == -signal.SIGKILL
            else:
                wait(lambda: self._idle(http) and said in self.log(), 60, "all strain")
                self.missing = metric(http, 'gwstream_dropped_total{detector="H1",reason="missing"')
                process.send_signal(signal.SIGTERM)
                assert process.wait(40) == 0, self.log()
        return self.log()

    def _idle(self, http: int) -> bool:
        """Nothing has been read for a second, and something before that."""
        before = metric(http, "gwstream_strain_seconds_total")
        time.sleep(1.0)
        self.read = metric(http, "gwstream_strain_seconds_total")
        return self.read == before > 0

    def state(self) -> Path:
        return self.root / "state" / "gwstream-gwstream"

    def log(self) -> str:
        return (self.root / "log").read_text()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """All posteriors of the recording from one daemon."""
    with embedded() as broker, subscriber(broker) as got:
        lives = Lives(tmp_path_factory.mktemp("whole"), broker, got)
        lives.live(slice(None), kill=False)
        assert lives.read == 2 * LAST
        return posteriors(got)


def test_killed_it_goes_on_without_a_new_warm_up(tmp_path: Path, whole: dict[str, bytes]) -> None:
    with embedded() as broker, subscriber(broker) as got:
        lives = Lives(tmp_path, broker, got)
        lives.live(slice(0, 18), kill=True)
        first = len(posteriors(got))
        log = lives.live(slice(18, None), kill=False)
    assert log.count("without a new warm-up") == 2
    assert lives.read < 2 * 20  # what came before the saved state is not read again
    assert lives.missing == 0
    assert 5 < first < len(whole)
    assert posteriors(got) == whole
    for level, numbers in sequences(got).items():
        assert numbers == list(range(len(numbers))), level
    assert set(sequences(got)) >= set(DETECTORS)


def test_frames_that_went_meanwhile_are_a_gap_that_is_told(tmp_path: Path) -> None:
    with embedded() as broker, subscriber(broker) as got:
        lives = Lives(tmp_path, broker, got)
        lives.live(slice(0, 18), kill=True)
        for folder in folders(tmp_path).values():
            for frame in folder.iterdir():
                frame.unlink()
        log = lives.live(slice(22, None), kill=False)
    assert log.count("without a new warm-up") == 2
    assert "did not come" in log
    assert 4 <= lives.missing <= 10
    ends = [one.body["posterior"]["coalescence"]["gps"] for one in got if one.topic.endswith("/posterior")]
    assert max(ends) > 1126259447 + 25  # with the spectrum of before: 12 s of warm-up would end at 34 s


def test_a_detector_that_is_silent_for_a_whole_life_goes_on_as_well(tmp_path: Path) -> None:
    with embedded() as broker, subscriber(broker) as got:
        lives = Lives(tmp_path, broker, got)
        lives.live(slice(0, 18), kill=True)
        for frame in folders(tmp_path)["L1"].iterdir():  # what it had not read yet
            frame.unlink()
        lives.live(slice(18, 24), kill=False, names=["H1"])
        log = lives.live(slice(24, None), kill=False, said="did not come")
    assert re.findall(r"(..): going on at GPS .* without a new warm-up", log) == [*DETECTORS]
    assert len(re.findall(r"L1 missing: GPS \d+ to \d+ did not come", log)) == 1


def test_a_state_that_was_damaged_is_set_aside(tmp_path: Path) -> None:
    with embedded() as broker, subscriber(broker) as got:
        lives = Lives(tmp_path, broker, got)
        lives.live(slice(0, 18), kill=True)
        path = lives.state() / progress.NAME
        body = bytearray(path.read_bytes())
        body[len(body) // 2] ^= 1
        path.write_bytes(body)
        log = lives.live(slice(18, None), kill=False)
        assert lives.read == 2 * LAST
    assert f"set aside as {progress.SET_ASIDE}" in log
    assert "without a new warm-up" not in log
    assert (lives.state() / progress.SET_ASIDE).exists()


def test_an_upgrade_warms_up_anew_and_the_outbox_goes_on_and_so_does_the_way_back(tmp_path: Path) -> None:
    """The state of an older version, then of a newer one, as after going back: both are set aside."""
    with embedded() as broker, subscriber(broker) as got:
        lives = Lives(tmp_path, broker, got)
        lives.live(slice(0, 18), kill=True)
        for version, seconds in (("0.0.9", slice(18, 25)), ("99.0", slice(25, None))):
            path = lives.state() / progress.NAME
            tree = progress.snapshot.load(path)
            tree["identity"]["version"] = version
            progress.snapshot.save(path, tree)
            log = lives.live(seconds, kill=False)
            assert "it is not of version" in log
            assert "without a new warm-up" not in log
            aside = progress.snapshot.load(lives.state() / progress.SET_ASIDE)
            assert aside["identity"]["version"] == version
    for level, numbers in sequences(got).items():  # over three daemons, without a gap or a repeat
        assert numbers == list(range(len(numbers))), level


def told(got: list[Received]) -> int:
    """Posteriors so far, with repeats."""
    return sum(one.topic.endswith("/posterior") for one in list(got))


@pytest.mark.slow
@pytest.mark.skipif(MOSQUITTO is None, reason="needs mosquitto")
def test_killed_again_and_again_at_any_moment(tmp_path: Path) -> None:
    """From the start of the interpreter to posteriors on their way, whether or not a state was ever saved."""
    chance = random.Random(4)
    with mosquitto(tmp_path) as broker, world(tmp_path, broker, ("H1", "L1"), warm=False, inference=PATIENT) as it:
        it.play(WARM + 3)
        began = time.monotonic()
        it.start()
        takes = time.monotonic() - began
        for at_work in chance.sample((True, True, True, False, False), 5):
            if at_work:
                it.until(lambda: it.health()[0] == 200, "the daemon", START)
                before = told(it.got)
                while told(it.got) == before:
                    it.play(1, PACE)
            end = time.monotonic() + chance.uniform(0, AT_WORK if at_work else takes)
            while time.monotonic() < end:
                it.play(1, PACE)
            assert it.end(signal.SIGKILL) == -signal.SIGKILL
            it.start(up=False)
        it.until(lambda: it.health()[0] == 200, "the last of them", START)
        it.play(2)
        it.complete()


def fresh() -> Summarizer:
    return Summarizer(SummaryConfig(), Prior())


def conditioned(seconds: int) -> State:
    conditioner = Conditioner(ModelSpec(name="test"), "H1")
    for second in range(seconds):
        samples = np.random.default_rng(second).normal(size=RATE) * 1e-21
        conditioner.push(Strain(detector="H1", start=(GPS + second) * RATE, rate=RATE, samples=samples, dq=3))
    state = conditioner.state()
    assert state is not None
    return state


async def true() -> bool:
    return True


def taken(seconds: int) -> Taken:
    return Taken({"H1": conditioned(seconds)}, fresh().state())


async def kept(folder: Path, one: Taken, **identity: object) -> None:
    keeper = Progress(folder, identity, settled=true)
    keeper.offer(one)
    await asyncio.gather(keeper.run(), keeper.close())


async def test_what_was_kept_is_loaded(tmp_path: Path) -> None:
    await kept(tmp_path, taken(14), model="a")
    states, _ = Progress(tmp_path, {"model": "a"}, settled=true).load(fresh)
    assert states["H1"].second == GPS + 14
    assert (tmp_path / progress.NAME).stat().st_mode & 0o777 == 0o600


@pytest.fixture
def counts() -> Counter[tuple[str, str]]:
    return Counter()


@pytest.mark.parametrize("harm", ["another model", "cut", "no state", "events", "a folder"])
async def test_what_does_not_fit_is_set_aside(tmp_path: Path, harm: str, counts: Counter[tuple[str, str]]) -> None:
    def tally(stage: str, reason: str, detector: str, count: int = 1) -> None:
        counts[stage, reason] += count

    path = tmp_path / progress.NAME
    one = taken(14)
    if harm == "events":
        one = Taken(one.detectors, {"events": {"H1": [{"foreign": 1}]}, "network": None})
    await kept(tmp_path, one, model="b" if harm == "another model" else "a")
    if harm == "cut":
        path.write_bytes(path.read_bytes()[:-9])
    elif harm == "no state":
        progress.snapshot.save(path, {"identity": {"format": progress.FORMAT, "model": "a"}, "detectors": {"H1": {}}})
    elif harm == "a folder":
        path.unlink()
        path.mkdir()
    states, summarizer = Progress(tmp_path, {"model": "a"}, settled=true, tally=tally).load(fresh)
    assert states == {}
    assert summarizer.state() == fresh().state()
    assert counts["service", "set_aside"] == 1
    assert not path.exists()
    assert (tmp_path / progress.SET_ASIDE).exists()


async def test_nothing_is_kept_that_is_not_on_disk_first(tmp_path: Path) -> None:
    order: list[str] = []
    released = asyncio.Event()

    async def settled() -> bool:
        order.append("asked")
        await released.wait()
        order.append("there")
        return len(order) > 2

    keeper = Progress(tmp_path, {}, settled=settled, pause=0.01)
    task = asyncio.create_task(keeper.run())
    keeper.offer(taken(3))
    assert not keeper.due
    await asyncio.sleep(0.05)
    assert not (tmp_path / progress.NAME).exists()
    released.set()
    while not keeper.due:
        await asyncio.sleep(0.01)
    assert order == ["asked", "there"]
    assert not (tmp_path / progress.NAME).exists()  # the disk was in trouble
    keeper.offer(taken(4))
    await keeper.close()
    await task
    assert (tmp_path / progress.NAME).exists()


async def test_at_the_end_nothing_waits_for_a_pause(tmp_path: Path) -> None:
    keeper = Progress(tmp_path, {}, settled=true, pause=1000.0)
    task = asyncio.create_task(keeper.run())
    keeper.offer(taken(3))
    while not (tmp_path / progress.NAME).exists():
        await asyncio.sleep(0.01)
    keeper.offer(taken(4))
    async with asyncio.timeout(60):
        await keeper.close()
    await task
    states, _ = Progress(tmp_path, {}, settled=true).load(fresh)
    assert states["H1"].second == taken(4).detectors["H1"].second


async def test_half_a_second_is_no_place_to_go_on_from(tmp_path: Path) -> None:
    conditioner = Conditioner(ModelSpec(name="test"), "H1")
    conditioner.push(Strain(detector="H1", start=GPS * RATE, rate=RATE, samples=np.zeros(RATE // 2), dq=3))
    state = conditioner.state()
    assert state is not None
    keeper = Progress(tmp_path, {}, settled=true)
    keeper.offer(Taken({"H1": state}, {}))
    assert keeper.due


async def test_a_disk_that_fails_does_not_end_the_daemon(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(progress.snapshot, "save", refuse)
        await kept(tmp_path, taken(3))
    assert "No space left on device; a restart will warm up anew" in caplog.text


async def test_a_disk_that_hangs_has_one_thread_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others are for metrics, draws and looking at directories; and no two write the same file."""
    monkeypatch.setattr(progress, "LEAVE", 0.02)
    begun: list[threading.Thread] = []
    goes_on = threading.Event()
    real = progress.snapshot.save

    def hangs(*arguments: Any) -> None:
        begun.append(threading.current_thread())
        assert goes_on.wait(30)
        real(*arguments)

    monkeypatch.setattr(progress.snapshot, "save", hangs)
    keeper = Progress(tmp_path, {}, settled=true, pause=0.01)
    task = asyncio.create_task(keeper.run())
    try:
        for _ in range(5):
            while not keeper.due:
                await asyncio.sleep(0.01)
            keeper.offer(taken(3))
        while not keeper.due:
            await asyncio.sleep(0.01)
        assert len(begun) == 1
    finally:
        goes_on.set()
    while not (tmp_path / progress.NAME).exists():
        await asyncio.sleep(0.01)
    keeper.offer(taken(4))
    await keeper.close()
    await task
    assert len(begun) == 2
    states, _ = Progress(tmp_path, {}, settled=true).load(fresh)
    assert states["H1"].second == taken(4).detectors["H1"].second
