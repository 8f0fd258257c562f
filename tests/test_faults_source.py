"""Faults of frames and of their directories, on the daemon's own process with a broker: nothing is lost unsaid.

One daemon lives through them all, each on later seconds; after each the account of seconds, windows, posteriors and
messages must add up.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from brokers import MOSQUITTO
from faults import GPS, RATE, World, content, gap, noise, strain, world
from frame_files import custom
from test_flow import mosquitto

from gwstream.records import Gap, Strain
from gwstream.source.channels import state_channel, strain_channel
from gwstream.source.gwf import TRAILER
from gwstream.source.writer import frame_bytes, frame_name, put

pytestmark = pytest.mark.skipif(MOSQUITTO is None, reason="needs mosquitto")
DETECTORS = ("H1", "L1", "V1")
FAR = 100 * 86_400  # s


@pytest.fixture(scope="module")
def it(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    root = tmp_path_factory.mktemp("faults")
    with mosquitto(root) as broker, world(root, broker, DETECTORS) as daemon:
        yield daemon


def part(second: int, begin: int, end: int, reason: str) -> list[Strain | Gap]:
    """A second of H1 of which samples [begin, end) became a gap."""
    whole, start = noise("H1", second), second * RATE
    cuts = [(0, begin, ""), (begin, end, reason), (end, RATE, "")]
    return [
        Gap(detector="H1", start=start + low, rate=RATE, length=high - low, reason=why)
        if why
        else Strain(detector="H1", start=start + low, rate=RATE, samples=whole[low:high], dq=3)
        for low, high, why in cuts
        if low < high
    ]


def spoilt(value: float) -> Callable[[World], list[Strain | Gap]]:
    def fault(it: World) -> list[Strain | Gap]:
        samples = noise("H1", it.second)
        samples[100:300] = value
        it.write("H1", content("H1", it.second, samples))
        return part(it.second, 100, 300, "not_finite")

    return fault


def zeros(it: World) -> list[Strain | Gap]:
    """A calibration pipeline that is down: finite numbers all the same."""
    it.write("H1", content("H1", it.second, np.zeros(RATE)))
    return [strain("H1", it.second, np.zeros(RATE))]


def missing(it: World) -> list[Strain | Gap]:
    return [gap("H1", it.second, it.second + 1)]


def cut(length: Callable[[int], int]) -> Callable[[World], list[Strain | Gap]]:
    def fault(it: World) -> list[Strain | Gap]:
        body = content("H1", it.second)
        it.write("H1", body[: length(len(body))])
        return missing(it)

    return fault


def mended(it: World) -> list[Strain | Gap]:
    """A writer that does not rename: half of it is seen first."""
    body = content("H1", it.second)
    before = it.metrics().dropped("H1")["truncated"]
    it.write("H1", body[: len(body) // 2])
    it.until(lambda: it.metrics().dropped("H1")["truncated"] > before, "the half")
    it.write("H1", body)
    return [strain("H1", it.second)]


def flipped(it: World) -> list[Strain | Gap]:
    body = bytearray(content("H1", it.second))
    body[len(body) // 2] ^= 16
    it.write("H1", bytes(body))
    return missing(it)


def duplicated(it: World) -> list[Strain | Gap]:
    path = it.write("H1", content("H1", it.second))
    it.read("H1", it.oracles["H1"].seconds["strain"] + 1)
    put(path, content("H1", it.second, noise("H1", it.second) * 2))  # with other strain, even
    return [strain("H1", it.second)]


def overlapping(it: World) -> list[Strain | Gap]:
    """Four seconds, the first three of which were there before."""
    first = it.second - 3
    samples = np.concatenate([noise("H1", first + k) * (1 if k == 3 else 5) for k in range(4)])
    it.read("H1", it.oracles["H1"].seconds["strain"])
    it.write("H1", frame_bytes("H1", first, samples, RATE), first, 4)
    return [strain("H1", it.second)]


def single(it: World) -> list[Strain | Gap]:
    """Strain in single precision, as Virgo's may be."""
    samples = noise("H1", it.second).astype(np.float32)
    channels = {
        strain_channel("H1"): (samples, float(RATE)),
        state_channel("H1"): (np.full(16, 3, np.uint32), 16.0),
    }
    it.write("H1", custom(channels, it.second - GPS))
    return [strain("H1", it.second, samples.astype(np.float64))]


def other_rate(it: World) -> list[Strain | Gap]:
    it.write("H1", frame_bytes("H1", it.second, np.tile(noise("H1", it.second), 2), 2 * RATE))
    return [gap("H1", it.second, it.second + 1, "wrong_rate")]


def other_channel(it: World) -> list[Strain | Gap]:
    channels = {"H1:LSC-DARM_ERR_DQ": (noise("H1", it.second), float(RATE))}
    it.write("H1", custom(channels, it.second - GPS))
    return missing(it)


def vetoed(it: World) -> list[Strain | Gap]:
    it.write("H1", content("H1", it.second, state=1))
    return [gap("H1", it.second, it.second + 1, "vetoed")]


def misnamed(it: World) -> list[Strain | Gap]:
    put(it.folder("H1") / "H-H1_llhoft-yesterday.gwf", content("H1", it.second))
    it.write("H1", content("H1", it.second))
    return [strain("H1", it.second)]


def future(it: World) -> list[Strain | Gap]:
    """A writer whose clock is years ahead, once."""
    second = it.second + 40 * 365 * 86_400
    it.write("H1", content("H1", second), second)
    it.write("H1", content("H1", it.second))
    return [strain("H1", it.second)]


def pipes(it: World) -> list[Strain | Gap]:
    """More of them than threads that may hang: who opens one waits for a writer, for ever."""
    name, before = frame_name("H1", it.second), it.metrics().dropped("H1")["unreadable"]
    for number in range(6):
        hidden = it.folder("H1") / f".{number}"
        os.mkfifo(hidden)
        hidden.rename(hidden.with_name(name.replace("_llhoft", f"_pipe{number}")))
    it.until(lambda: it.metrics().dropped("H1")["unreadable"] == before + 6, "the refusal")
    it.write("H1", content("H1", it.second))
    return [strain("H1", it.second)]


def vanished(it: World) -> list[Strain | Gap]:
    """Its name is seen, and nothing is behind it any more."""
    path = it.folder("H1") / frame_name("H1", it.second)
    link = path.with_name(".link")
    link.symlink_to(it.root / "nothing")
    link.rename(path)
    it.until(lambda: it.metrics().dropped("H1")["vanished"], "the loss")
    return [gap("H1", it.second, it.second + 1, "vanished")]


@dataclass(frozen=True)
class Fault:
    make: Callable[[World], list[Strain | Gap]]
    counted: dict[str, int]


FAULTS = {
    "missing": Fault(missing, {"missing": 1}),
    "duplicated": Fault(duplicated, {"duplicate": 1}),
    "overlapping": Fault(overlapping, {"overlap": 1}),
    "empty": Fault(cut(lambda n: 0), {"truncated": 1, "missing": 1}),
    "cut in the header": Fault(cut(lambda n: 20), {"truncated": 1, "missing": 1}),
    "cut after the header": Fault(cut(lambda n: 40), {"truncated": 1, "missing": 1}),
    "cut in the middle": Fault(cut(lambda n: n // 2), {"truncated": 1, "missing": 1}),
    "cut before its end": Fault(cut(lambda n: n - TRAILER.size), {"truncated": 1, "missing": 1}),
    "cut by a byte": Fault(cut(lambda n: n - 1), {"truncated": 1, "missing": 1}),
    "truncated, then mended": Fault(mended, {"truncated": 1}),
    "bit flipped": Fault(flipped, {"corrupt": 1, "missing": 1}),
    "not a number": Fault(spoilt(np.nan), {"not_finite": 1}),
    "infinite": Fault(spoilt(-np.inf), {"not_finite": 1}),
    "absurd": Fault(spoilt(1e30), {"not_finite": 1}),
    "zeros": Fault(zeros, {}),
    "single precision": Fault(single, {}),
    "wrong rate": Fault(other_rate, {"wrong_rate": 1}),
    "wrong channel": Fault(other_channel, {"no_channel": 1, "missing": 1}),
    "vetoed": Fault(vetoed, {"vetoed": 1}),
    "misnamed": Fault(misnamed, {"bad_name": 1}),
    "of the future": Fault(future, {"future": 1}),
    "pipes": Fault(pipes, {"unreadable": 6}),
    "vanished": Fault(vanished, {"vanished": 1}),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_frame_of_one_detector(it: World, name: str) -> None:
    """Between clean ones; the other detectors go on."""
    fault, before = FAULTS[name], it.metrics().dropped("H1")
    it.play(3)
    for record in fault.make(it):
        it.meant(record)
    for other in ("L1", "V1"):
        it.clean(other)
    it.second += 1
    it.play(2)
    after = it.settled()
    assert after.dropped("H1") - before == fault.counted
    assert after.dropped("L1") == after.dropped("V1") == {}


def test_what_comes_late_is_counted_and_out_of_order_is_no_fault(it: World) -> None:
    it.play(1)
    before, late = it.metrics().dropped("H1"), it.second
    for detector in ("L1", "V1"):
        it.clean(detector, *range(late, late + 6))
    it.write("H1", content("H1", late + 1), late + 1)
    it.meant(gap("H1", late, late + 1))
    it.meant(strain("H1", late + 1))
    it.read("H1", it.oracles["H1"].seconds["strain"])
    it.write("H1", content("H1", late), late)
    for second in (late + 4, late + 2, late + 3, late + 5):
        it.write("H1", content("H1", second), second)
    for second in range(late + 2, late + 6):
        it.meant(strain("H1", second))
    it.second += 6
    assert it.settled().dropped("H1") - before == {"missing": 1, "late": 1}


@pytest.mark.parametrize(("rate", "before"), [(2 * RATE, RATE), (RATE, 2 * RATE)])
def test_a_rate_that_stays_is_taken_for_the_new_one(it: World, rate: int, before: int) -> None:
    """Eight frames of it in succession: seven are refused, and counted. The second case goes back to the first."""
    counted = it.metrics().dropped("H1")
    for number in range(8):
        samples = np.tile(noise("H1", it.second), rate // RATE)
        it.write("H1", frame_bytes("H1", it.second, samples, rate))
        start = it.second * before
        if number < 7:
            it.meant(Gap(detector="H1", start=start, rate=before, length=before, reason="wrong_rate"))
        else:
            it.meant(Strain(detector="H1", start=it.second * rate, rate=rate, samples=samples, dq=3))
        it.clean("L1")
        it.clean("V1")
        it.second += 1
    assert it.settled().dropped("H1") - counted == {"wrong_rate": 7}


def test_a_directory_deleted_and_made_again(it: World) -> None:
    it.play(1)
    it.settled()
    before = it.metrics().dropped("L1")
    shutil.rmtree(it.folder("L1"))
    it.until(lambda: it.metrics().dropped("L1")["notify_lost"] > before["notify_lost"], "the loss of the directory")
    assert it.health() == (200, [])
    it.folder("L1").mkdir()
    it.play(2)
    after = it.settled().dropped("L1") - before
    assert set(after) == {"notify_lost"}
    assert 1 <= after["notify_lost"] <= 2


def stale(folder: Path, count: int) -> None:
    """``count`` files of past months, complete and without worth."""
    for number in range(count):
        os.close(os.open(folder / frame_name("V1", GPS - FAR + number), os.O_CREAT | os.O_WRONLY))


def resident(pid: int) -> float:
    """MB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


def test_a_hundred_thousand_stale_files_while_the_kernels_queue_overflows(it: World) -> None:
    """The daemon is stopped meanwhile, so that it can only find them by looking."""
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    if limit > 95_000:
        pytest.skip(f"fs.inotify.max_queued_events is {limit}")
    it.play(1)
    before, memory = it.settled().dropped("V1"), resident(it.pid)
    os.kill(it.pid, signal.SIGSTOP)
    try:
        stale(it.folder("V1"), 100_000)
        it.play(2)
    finally:
        os.kill(it.pid, signal.SIGCONT)
    it.read("V1", it.oracles["V1"].seconds["strain"])
    it.play(2)
    after = it.settled().dropped("V1") - before
    assert {"notify_lost", "late"} <= set(after) <= {"notify_lost", "late", "overflow", "duplicate"}
    assert after["late"] + after["overflow"] >= 100_000
    assert resident(it.pid) - memory < 100
    shutil.rmtree(it.folder("V1"))
    it.folder("V1").mkdir()
    it.play(3)
    it.settled()


def test_a_silent_detector_is_well_and_keeps_nobody(it: World) -> None:
    it.play(1)
    before, silent = it.settled().dropped("V1"), it.second
    for _ in range(8):
        it.clean("H1")
        it.clean("L1")
        it.second += 1
    assert it.settled().dropped("V1") == before  # all of the others has been told, and nobody is unwell
    it.meant(gap("V1", silent, it.second))
    it.play(2)
    assert it.settled().dropped("V1") - before == {"missing": 8}


def test_a_flood_in_one_detector_keeps_the_others_from_nothing(it: World) -> None:
    """Half a minute of it at once, each frame four times."""
    before, ahead = it.metrics(), 30
    for second in range(it.second, it.second + ahead):
        it.clean("V1", second)
        for _ in range(3):
            it.write("V1", content("V1", second), second)
    it.clean("H1", *range(it.second, it.second + ahead))
    it.clean("L1", *range(it.second, it.second + ahead))
    it.second += ahead
    after = it.settled()
    assert set(after.dropped("V1") - before.dropped("V1")) <= {"duplicate"}
    assert after.dropped("H1") == before.dropped("H1")
    assert after.dropped("V1", "inference") == after.dropped("H1", "inference") == {}
