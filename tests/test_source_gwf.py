from __future__ import annotations

import random
import shutil
import subprocess
import time
from pathlib import Path

import gwframe
import gwpy
import numpy as np
import pytest
from frame_files import GPS, RATE, content, custom, samples, without_checksum

from gwstream.source import gwf

STRAIN, STATE = "H1:GDS-CALIB_STRAIN_CLEAN", "H1:GDS-CALIB_STATE_VECTOR"
MULTI = Path(gwpy.__file__).parent / "testing" / "data" / "HLV-HW100916-968654552-1.gwf"


def reason(body: bytes) -> str:
    try:
        gwf.check(body)
    except gwf.FrameError as problem:
        return problem.reason
    return "good"


def test_posix_checksum_is_that_of_cksum(tmp_path: Path) -> None:
    cksum = shutil.which("cksum")
    if cksum is None:
        pytest.skip("cksum (apt install coreutils) is missing")
    for size in (0, 1, 255, 256, 70_000):
        body = random.Random(size).randbytes(size)
        (tmp_path / "body").write_bytes(body)
        told = subprocess.run([cksum, tmp_path / "body"], capture_output=True, text=True, check=True).stdout
        assert gwf.posix_checksum(body) == int(told.split()[0])


def test_own_frame_comes_back() -> None:
    body = content(7)
    found = gwf.read(body, gwf.check(body), (STRAIN, STATE, "H1:ABSENT"))
    assert set(found) == {STRAIN, STATE}
    assert np.array_equal(found[STRAIN].samples, samples(7))
    assert (found[STRAIN].start, found[STRAIN].rate) == (GPS + 7, RATE)
    assert found[STATE].samples.tolist() == [3] * 16


def test_frame_of_lalframe_is_good(tmp_path: Path) -> None:
    from gwpy.timeseries import TimeSeries

    path = tmp_path / f"H-H1_lal-{GPS}-4.gwf"
    values = samples(0, RATE, 4).astype(np.float32)
    TimeSeries(values, t0=GPS, sample_rate=RATE, name=STRAIN, channel=STRAIN).write(
        path, format="gwf", backend="lalframe"
    )
    body = path.read_bytes()
    found = gwf.read(body, gwf.check(body), (STRAIN,))
    assert np.array_equal(found[STRAIN].samples, values)


def test_real_frame_of_three_detectors_equals_gwpy() -> None:
    from gwpy.timeseries import TimeSeries

    body = MULTI.read_bytes()
    names = ("H1:LDAS-STRAIN", "L1:LDAS-STRAIN", "V1:h_16384Hz")
    assert gwf.channel_names(body) == list(names)
    found = gwf.read(body, gwf.check(body), names)
    for name in names:
        other = TimeSeries.read(MULTI, name, format="gwf")
        assert np.array_equal(found[name].samples, other.value)
        assert (found[name].start, found[name].rate) == (other.t0.value, other.sample_rate.value)


def test_real_frame_of_32_s(shared_data: Path) -> None:
    body = (shared_data / "events/GW150914/H-H1_LOSC_4_V2-1126259446-32.gwf").read_bytes()
    assert gwf.check(body) == 1
    assert len(gwf.read(body, 1, ("H1:LOSC-STRAIN",))["H1:LOSC-STRAIN"].samples) == 32 * 4096


def test_no_mutant_passes() -> None:
    """The end record and the checksum let no damaged file through to the parser, and cost little."""
    rng = random.Random(5)
    bodies = [content(0), MULTI.read_bytes()[:-1] + MULTI.read_bytes()[-1:]]
    cost = 0.0
    for number in range(3000):
        body = bodies[number % 10 == 0]
        mutant = bytearray(body)
        match number % 4:
            case 0:
                mutant[rng.randrange(len(mutant))] ^= 1 << rng.randrange(8)
            case 1:
                del mutant[rng.randrange(len(mutant)) :]
            case 2:
                at = rng.randrange(len(mutant) - 8)
                mutant[at : at + 8] = rng.randbytes(8)
            case _:
                at = rng.randrange(len(mutant))
                mutant[at:at] = rng.randbytes(rng.randrange(1, 99))
        if mutant == body:
            continue
        began = time.perf_counter()
        assert reason(bytes(mutant)) in {"truncated", "corrupt", "unsupported", "unchecked"}, number
        cost += time.perf_counter() - began
    assert cost < 6


def test_file_without_checksum_is_checked_by_its_structures() -> None:
    """A flipped bit in the body can send the parser into an endless loop: none may get there."""
    rng = random.Random(2)
    body = without_checksum(content(0, rate=256))
    assert gwf.check(body, accept_unchecked=True) == 1
    for _ in range(1000):
        mutant = bytearray(body)
        mutant[rng.randrange(40, len(mutant) - 46)] ^= 1 << rng.randrange(8)
        with pytest.raises(gwf.FrameError):
            gwf.check(bytes(mutant), accept_unchecked=True)


def test_without_checksum_no_structure_and_no_contents_may_be_lost() -> None:
    """The parser takes seconds, or hangs, over such damage."""
    body = without_checksum(content(0, rate=256))
    for at, byte in ((48, 0), (len(body) - gwf.TRAILER.size + 19, body[len(body) - gwf.TRAILER.size + 19] ^ 1)):
        assert body[at] != byte
        mutant = bytearray(body)
        mutant[at] = byte
        with pytest.raises(gwf.FrameError, match=r"only some|no table"):
            gwf.check(bytes(mutant), accept_unchecked=True)


def test_complaints_of_the_parser_become_one_error() -> None:
    body = bytearray(content(0, rate=256))
    body[30] ^= 255  # the header's check of its own number formats
    with pytest.raises(gwf.FrameError) as told:
        gwf.read(bytes(body), 1, (STRAIN,))
    assert told.value.reason == "corrupt"
    with pytest.raises(gwf.FrameError):
        gwf.read(bytes(body[:500]), 1, (STRAIN,))


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", "truncated"),
        (b"IGWD", "truncated"),
        (b"GIF89a" + bytes(200), "corrupt"),
        (content(0)[:-1], "truncated"),
        (content(0) + b"\0", "truncated"),
        (content(0)[:5] + b"\x06" + content(0)[6:], "unsupported"),
        (content(0)[:12] + b"\x12\x34" + content(0)[14:], "unsupported"),
        (without_checksum(content(0)), "unchecked"),
    ],
)
def test_fault_is_named(body: bytes, expected: str) -> None:
    assert reason(body) == expected


def test_file_without_checksum_is_read_where_allowed() -> None:
    body = without_checksum(content(3))
    assert np.array_equal(gwf.read(body, gwf.check(body, accept_unchecked=True), (STRAIN,))[STRAIN].samples, samples(3))


def test_several_frames_in_a_file_are_joined(tmp_path: Path) -> None:
    path = tmp_path / "many.gwf"
    with gwframe.FrameWriter(path) as writer:
        for second in range(3):
            writer.write({STRAIN: samples(second)}, start=GPS + second, sample_rate=RATE, name="H1")
    body = path.read_bytes()
    found = gwf.read(body, gwf.check(body), (STRAIN,))
    assert np.array_equal(found[STRAIN].samples, samples(0, RATE, 3))


def test_samples_flagged_invalid_are_refused() -> None:
    masked = np.ma.MaskedArray(samples(0), mask=np.ones(RATE, bool))
    body = custom({STRAIN: (masked, RATE)}, kind="adc")
    with pytest.raises(gwf.FrameError) as told:
        gwf.read(body, gwf.check(body), (STRAIN,))
    assert told.value.reason == "flagged"
