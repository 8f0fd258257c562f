from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import gwpy
import numpy as np
import pytest
from frame_files import GPS, RATE, Counts, content, contiguous, custom, drop, samples, seconds, take, without_checksum
from hypothesis import given
from hypothesis import strategies as st

from gwstream.config import SourceConfig
from gwstream.errors import SourceError
from gwstream.records import NANO, Gap, Strain
from gwstream.source import Source, open_source, quality
from gwstream.source.report import REASONS, Report
from gwstream.source.sequence import File, Hole, Refused, Sequence
from gwstream.source.watch import parse
from gwstream.source.worker import Worker
from gwstream.source.writer import frame_name, put, split, write_frame

STRAIN, STATE = "H1:GDS-CALIB_STRAIN_CLEAN", "H1:GDS-CALIB_STATE_VECTOR"
MULTI = Path(gwpy.__file__).parent / "testing" / "data" / "HLV-HW100916-968654552-1.gwf"


@pytest.fixture
def counts() -> Counts:
    return Counts()


@asynccontextmanager
async def frames(
    directory: Path, counts: Counts, detectors: tuple[str, ...] = ("H1",), **settings: object
) -> AsyncIterator[Source]:
    table = {"patience": 0.3, **settings, "detectors": {name: {"directory": directory} for name in detectors}}
    async with open_source(SourceConfig.model_validate(table), counts) as source:
        yield source


def strain_of(records: list[Strain | Gap], second: float) -> np.ndarray:
    """The samples of the record that starts at GPS + second."""
    (found,) = [r for r in records if r.start == (GPS + second) * r.rate]
    assert isinstance(found, Strain)
    return found.samples


async def later(delay: float, *actions: Callable[[], object]) -> None:
    for action in actions:
        await asyncio.sleep(delay)
        action()


# -- frames that are in order ------------------------------------------------------------------------------------------


async def test_backlog_and_live_frames_come_whole_and_in_order(tmp_path: Path, counts: Counts) -> None:
    for second in (2, 0, 1):
        drop(tmp_path, second)
    async with frames(tmp_path, counts) as source:
        assert source.live
        live = asyncio.create_task(later(0.05, lambda: drop(tmp_path, 3), lambda: drop(tmp_path, 4)))
        found = await take(source, 5)
        await live
    assert seconds(found) == ["S 0-1", "S 1-2", "S 2-3", "S 3-4", "S 4-5"]
    for second, record in enumerate(found):
        assert isinstance(record, Strain)
        assert np.array_equal(record.samples, samples(second))
        assert record.samples.dtype == np.float64
        assert (record.dq, record.simulated, record.rate) == (3, False, RATE)
    assert not counts.found


async def test_arrival_is_the_moment_of_the_rename(tmp_path: Path, counts: Counts) -> None:
    delays = []
    async with frames(tmp_path, counts) as source:
        drop(tmp_path, 0)
        await take(source, 1)
        for second in range(1, 11):
            renamed = [0]

            def write(second: int = second, renamed: list[int] = renamed) -> None:
                renamed[0] = time.monotonic_ns()
                drop(tmp_path, second)

            writing = asyncio.create_task(later(0.01, write))
            (record,) = await take(source, second + 1)
            await writing
            assert renamed[0] < record.arrived <= time.monotonic_ns()
            delays.append((record.arrived - renamed[0]) / 1e6)
    assert np.median(delays) < 10  # ms, with the writing of the frame


async def test_recording_written_as_frames_comes_back_to_the_bit(tmp_path: Path, counts: Counts) -> None:
    from gwstream.source import recording

    whole = recording.read("L1")
    for second, piece in split(whole, 4):
        write_frame(tmp_path, "L1", second, piece, whole.rate)
    async with frames(tmp_path, counts, ("L1",)) as source:
        found = await take(source, 1126259479 - GPS, "L1")
    assert len(found) == 32
    assert found[0].start == whole.start
    assert contiguous(found)
    assert np.array_equal(np.concatenate([r.samples for r in found if isinstance(r, Strain)]), whole.samples)


async def test_frames_of_lalframe_in_single_precision(tmp_path: Path, counts: Counts) -> None:
    from gwpy.timeseries import TimeSeries

    values = samples(0, 2048, 4).astype(np.float32)
    path = tmp_path / f"H-H1_other-{GPS}-4.gwf"
    series = TimeSeries(values, t0=GPS, sample_rate=2048, name=STRAIN, channel=STRAIN)
    series.write(path, format="gwf", backend="lalframe")
    async with frames(tmp_path, counts, accept_unknown_dq=True) as source:
        found = await take(source, 4)
    assert [r.dq for r in found if isinstance(r, Strain)] == [None] * 4
    assert np.array_equal(np.concatenate([r.samples for r in found if isinstance(r, Strain)]), values)


async def test_real_frame_of_three_detectors(tmp_path: Path, counts: Counts) -> None:
    from gwpy.timeseries import TimeSeries

    (tmp_path / MULTI.name).write_bytes(MULTI.read_bytes())
    channels = {"H1": "H1:LDAS-STRAIN", "L1": "L1:LDAS-STRAIN", "V1": "V1:h_16384Hz"}
    table = {name: {"directory": tmp_path, "channel": channel} for name, channel in channels.items()}
    config = SourceConfig.model_validate({"detectors": table, "accept_unknown_dq": True})
    async with open_source(config, counts) as source:
        for name, channel in channels.items():
            (record,) = await take(source, 968654553 - GPS, name)
            assert isinstance(record, Strain)
            assert np.array_equal(record.samples, TimeSeries.read(MULTI, channel, format="gwf").value)
            assert record.rate == 16384
    assert not counts.found


async def test_silent_detector_delays_nobody(tmp_path: Path, counts: Counts) -> None:
    async with frames(tmp_path, counts, ("H1", "L1", "V1")) as source:
        silent = asyncio.create_task(take(source, 1, "L1", limit=60))
        for second in range(4):
            drop(tmp_path, second)
            drop(tmp_path, second, content(second, "V1"), "V1")
        began = time.monotonic()
        assert len(await take(source, 4, "H1")) == 4
        assert len(await take(source, 4, "V1")) == 4
        assert time.monotonic() - began < 0.25
        await asyncio.sleep(0.4)  # longer than the patience: with no later frame, nothing is missing
        assert not silent.done()
        silent.cancel()
    assert not counts.found


async def test_stream_ends_when_the_source_is_closed(tmp_path: Path, counts: Counts) -> None:
    async with frames(tmp_path, counts) as source:
        drop(tmp_path, 0)
        reader = asyncio.create_task(take(source, 100))
        await asyncio.sleep(0.1)
    assert seconds(await reader) == ["S 0-1"]


# -- frames that are not -----------------------------------------------------------------------------------------------


async def test_missing_frame_is_awaited_then_a_gap_and_late(tmp_path: Path, counts: Counts) -> None:
    drop(tmp_path, 0)
    async with frames(tmp_path, counts) as source:
        await take(source, 1)
        drop(tmp_path, 3)
        began = time.monotonic()
        found = await take(source, 4)
        assert 0.25 < time.monotonic() - began < 1
        drop(tmp_path, 2)
        drop(tmp_path, 4)
        found += await take(source, 5)
    assert seconds(found) == ["missing 1-3", "S 3-4", "S 4-5"]
    assert contiguous(found)
    assert counts.of() == {"missing": 2, "late": 1}


async def test_frame_within_the_patience_is_no_gap(tmp_path: Path, counts: Counts) -> None:
    drop(tmp_path, 0)
    async with frames(tmp_path, counts, patience=5) as source:
        drop(tmp_path, 2)
        drop(tmp_path, 3)
        late = asyncio.create_task(later(0.2, lambda: drop(tmp_path, 1)))
        found = await take(source, 4)
        await late
    assert seconds(found) == ["S 0-1", "S 1-2", "S 2-3", "S 3-4"]
    assert not counts.found


async def test_duplicates_and_overlaps(tmp_path: Path, counts: Counts) -> None:
    drop(tmp_path, 0)
    drop(tmp_path, 1)
    async with frames(tmp_path, counts) as source:
        found = await take(source, 2)
        drop(tmp_path, 1)  # the same name, written anew
        four = custom({STRAIN: (samples(0, RATE, 4), RATE), STATE: (np.full(64, 3, np.uint32), 16)}, 0, 4)
        put(tmp_path / frame_name("H1", GPS, 4), four)
        drop(tmp_path, 4)
        found += await take(source, 5)
    assert seconds(found) == ["S 0-1", "S 1-2", "S 2-3", "S 3-4", "S 4-5"]
    assert np.array_equal(strain_of(found, 3), samples(3))
    assert counts.of() == {"duplicate": 1, "overlap": 1}


def _bad() -> dict[str, tuple[bytes, str]]:
    good = content(1)
    spoilt = samples(1)
    spoilt[17] = np.nan
    state = (np.full(16, 3, np.uint32), 16)
    return {
        "truncated": (good[: len(good) // 2], "missing"),
        "corrupt": (good[:2000] + bytes([good[2000] ^ 1]) + good[2001:], "missing"),
        "unsupported": (good[:5] + b"\x06" + good[6:], "unsupported"),
        "unchecked": (without_checksum(good), "unchecked"),
        "no_channel": (custom({"H1:OTHER": (samples(1), RATE), STATE: state}, 1), "missing"),
        "unknown_dq": (content(1, state=None), "unknown_dq"),
        "wrong_rate": (content(1, rate=512), "wrong_rate"),
        "wrong_length": (custom({STRAIN: (samples(1)[:-1], RATE), STATE: state}, 1), "wrong_length"),
        "wrong_time": (content(5), "wrong_time"),
        "flagged": (_flagged(), "flagged"),
    }


def _flagged() -> bytes:
    masked = np.ma.MaskedArray(samples(1), mask=np.ones(RATE, bool))
    return custom({STRAIN: (masked, RATE), STATE: (np.full(16, 3, np.uint32), 16)}, 1, kind="adc")


@pytest.mark.parametrize("reason", list(_bad()))
async def test_bad_frame_is_a_gap_and_counted(tmp_path: Path, counts: Counts, reason: str) -> None:
    body, gap = _bad()[reason]
    drop(tmp_path, 0)
    drop(tmp_path, 1, body)
    drop(tmp_path, 2)
    async with frames(tmp_path, counts) as source:
        found = await take(source, 3)
    assert seconds(found) == ["S 0-1", f"{gap} 1-2", "S 2-3"]
    assert counts.of() == {reason: 1} | ({"missing": 1} if gap == "missing" else {})
    assert set(counts.of()) <= REASONS.keys()


async def test_a_rate_the_model_cannot_use_is_counted_and_ends_nothing(tmp_path: Path, counts: Counts) -> None:
    drop(tmp_path, 0, content(0, rate=1000))  # the very first, so no other rate is known yet
    drop(tmp_path, 1)
    async with frames(tmp_path, counts) as source:
        found = await take(source, 1)
    assert seconds(found) == ["S 1-2"]
    assert counts.of() == {"wrong_rate": 1}


@pytest.mark.parametrize(
    ("reason", "setting"), [("unchecked", {"accept_unchecked": True}), ("unknown_dq", {"accept_unknown_dq": True})]
)
async def test_what_is_waived_is_read(tmp_path: Path, counts: Counts, reason: str, setting: dict[str, bool]) -> None:
    drop(tmp_path, 1, _bad()[reason][0])
    async with frames(tmp_path, counts, **setting) as source:
        found = await take(source, 2)
    assert np.array_equal(strain_of(found, 1), samples(1))
    assert not counts.found


async def test_truncated_frame_that_is_written_again_in_time_leaves_no_gap(tmp_path: Path, counts: Counts) -> None:
    drop(tmp_path, 0)
    drop(tmp_path, 1, content(1)[:-500])
    async with frames(tmp_path, counts, patience=5) as source:
        found = await take(source, 1)
        drop(tmp_path, 2)
        again = asyncio.create_task(later(0.1, lambda: drop(tmp_path, 1)))
        found += await take(source, 3)
        await again
    assert seconds(found) == ["S 0-1", "S 1-2", "S 2-3"]
    assert counts.of() == {"truncated": 1}


async def test_frame_written_in_place_is_read_once_it_is_closed(tmp_path: Path, counts: Counts) -> None:
    drop(tmp_path, 0)
    async with frames(tmp_path, counts) as source:
        found = await take(source, 1)
        body = content(1)
        with (tmp_path / frame_name("H1", GPS + 1)).open("wb") as file:
            file.write(body[:3000])
            file.flush()
            await asyncio.sleep(0.1)
            file.write(body[3000:])
        found += await take(source, 2)
    assert np.array_equal(strain_of(found, 1), samples(1))
    assert not counts.found


async def test_dotfiles_strangers_and_odd_names(tmp_path: Path, counts: Counts) -> None:
    (tmp_path / f".H-H1_llhoft-{GPS}-1.gwf").write_bytes(content(0))
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / f"L-L1_llhoft-{GPS}-1.gwf").write_bytes(content(0, "L1"))
    (tmp_path / "H-H1_llhoft-now-1.gwf").write_bytes(content(0))
    (tmp_path / "H-H1_llhoft-9999999999-1.gwf").write_bytes(content(0))
    drop(tmp_path, 2)
    async with frames(tmp_path, counts) as source:
        assert seconds(await take(source, 3)) == ["S 2-3"]
    assert counts.of() == {"bad_name": 1, "future": 1}


async def test_vanished_frame_is_a_gap_at_once(tmp_path: Path, counts: Counts) -> None:
    drop(tmp_path, 0)
    path = drop(tmp_path, 1)
    drop(tmp_path, 2)
    async with frames(tmp_path, counts, patience=50) as source:
        path.unlink()
        found = await take(source, 3)
    assert seconds(found) == ["S 0-1", "vanished 1-2", "S 2-3"]
    assert counts.of() == {"vanished": 1}


async def test_changed_rate_is_dropped_until_it_stays(tmp_path: Path, counts: Counts) -> None:
    drop(tmp_path, 0)
    for second in range(1, 12):
        drop(tmp_path, second, content(second, rate=512))
    async with frames(tmp_path, counts) as source:
        found = await take(source, 12)
    assert counts.of() == {"wrong_rate": 7}
    assert contiguous(found)
    assert [r.rate for r in found if isinstance(r, Strain)] == [RATE, 512, 512, 512, 512]


# -- data quality ------------------------------------------------------------------------------------------------------


async def test_vetoed_stretches_become_gaps_and_the_rest_stays(tmp_path: Path, counts: Counts) -> None:
    state = np.full(16, 0b1_1110_0111, np.uint32)
    state[4:8] = 1  # not observing for a quarter of a second
    state[12] = 0b11
    drop(tmp_path, 0, custom({STRAIN: (samples(0), RATE), STATE: (state, 16)}))
    async with frames(tmp_path, counts) as source:
        found = await take(source, 1)
    assert seconds(found) == ["S 0-0.25", "vetoed 0.25-0.5", "S 0.5-1"]
    assert [r.dq for r in found if isinstance(r, Strain)] == [0b1_1110_0111, 0b11]
    assert np.array_equal(strain_of(found, 0.5), samples(0)[RATE // 2 :])
    assert counts.of() == {"vetoed": 1}


async def test_mask_is_configurable_and_virgo_may_state_it_in_floats(tmp_path: Path, counts: Counts) -> None:
    state = np.full(16, 7.0, np.float32)
    state[0], state[8] = np.nan, 3.0
    channels = {
        "V1:Hrec_hoft_16384Hz": (samples(0).astype(np.float32), float(RATE)),
        "V1:DQ_ANALYSIS_STATE_VECTOR": (state, 16.0),
    }
    drop(tmp_path, 0, custom(channels), "V1")
    async with frames(tmp_path, counts, ("V1",), state_mask=7) as source:
        found = await take(source, 1, "V1")
    assert seconds(found) == ["vetoed 0-0.0625", "S 0.0625-0.5", "vetoed 0.5-0.5625", "S 0.5625-1"]


async def test_samples_that_are_not_finite_are_a_gap(tmp_path: Path, counts: Counts) -> None:
    values = samples(0)
    values[256:512] = np.nan
    values[600] = np.inf
    values[700] = 1e300  # finite, and absurd
    drop(tmp_path, 0, custom({STRAIN: (values, RATE), STATE: (np.full(16, 3, np.uint32), 16)}))
    async with frames(tmp_path, counts) as source:
        found = await take(source, 1)
    assert [type(r) for r in found] == [Strain, Gap, Strain, Gap, Strain, Gap, Strain]
    assert {r.reason for r in found if isinstance(r, Gap)} == {"not_finite"}
    assert all(np.abs(r.samples).max() < 1e-10 for r in found if isinstance(r, Strain))
    assert counts.of() == {"not_finite": 3}


@given(
    start=st.integers(0, 5000),
    n=st.integers(1, 1200),
    state=st.lists(st.integers(0, 15), min_size=1, max_size=40),
    mask=st.integers(0, 15),
    bad=st.sets(st.integers(0, 1199), max_size=5),
)
def test_records_part_a_stretch_without_loss(start: int, n: int, state: list[int], mask: int, bad: set[int]) -> None:
    values = 1e-21 * np.arange(n, dtype=np.float64)
    values[[i for i in bad if i < n]] = np.nan
    stretch = quality.Stretch(
        detector="H1", start=start, rate=256, samples=values, state=np.array(state, np.int64), mask=mask
    )
    found = list(quality.records(stretch))
    assert found[0].start == start
    assert found[-1].end == start + n
    assert contiguous(found)
    usable = 0
    for record in found:
        assert record.end - record.start <= 256
        assert record.start // 256 == (record.end - 1) // 256
        if isinstance(record, Strain):
            usable += len(record.samples)
            assert record.dq is not None
            assert record.dq & mask == mask
            for sample in (record.start - start, record.end - start - 1):
                assert state[sample * len(state) // n] & mask == mask
            assert np.array_equal(record.samples, values[record.start - start : record.end - start])
    good = [state[i * len(state) // n] & mask == mask and np.isfinite(values[i]) for i in range(n)]
    touched = sum(good)
    assert touched - 2 * len(state) <= usable <= touched


def test_gwosc_masks_as_state_vector() -> None:
    dq = np.array([0, 1, 3, 127], np.uint32)
    assert quality.gwosc_bits(dq, None).tolist() == [0x1E0, 0x1E1, 0x1E3, 0x1E3]
    injections = np.array([31, 0b01000, 0b10000, 0b00111], np.uint32)
    assert quality.gwosc_bits(dq, injections).tolist() == [0x1E0, 1, 3 | 1 << 5, 3 | 0b111 << 6]


# -- the directory -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["removed", "moved", "symlink"])
async def test_directory_may_be_replaced(
    tmp_path: Path, counts: Counts, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if how != "symlink":  # the kernel tells of these: no need to look
        monkeypatch.setattr("gwstream.source.watch.RENEW", 3600.0)
    real = [tmp_path / "one", tmp_path / "two"]
    real[0].mkdir()
    watched = tmp_path / "watched" if how == "symlink" else real[0]
    if how == "symlink":
        watched.symlink_to(real[0])
    drop(real[0], 0)
    async with frames(watched, counts, patience=20) as source:
        found = await take(source, 1)
        if how == "removed":
            for path in real[0].iterdir():
                path.unlink()
            real[0].rmdir()
            await asyncio.sleep(0.15)
            real[0].mkdir()
        elif how == "moved":
            real[0].rename(tmp_path / "away")
            real[0].mkdir()
            drop(tmp_path / "away", 1, content(1, rate=512))  # what happens elsewhere is not ours
        else:
            real[1].mkdir()
            (tmp_path / "new").symlink_to(real[1])
            (tmp_path / "new").rename(watched)
        drop(watched, 1)
        found += await take(source, 2)
        drop(watched, 2)
        found += await take(source, 3)
    assert seconds(found) == ["S 0-1", "S 1-2", "S 2-3"]
    assert np.array_equal(strain_of(found, 1), samples(1))
    assert counts.of() == {"notify_lost": 1}


def max_queued_events() -> int:
    return int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())


async def test_overflow_of_the_kernels_queue_loses_nothing(tmp_path: Path, counts: Counts) -> None:
    limit = max_queued_events()
    if limit > 70_000:
        pytest.skip(f"fs.inotify.max_queued_events is {limit}")
    drop(tmp_path, 0)
    async with frames(tmp_path, counts, patience=20) as source:
        found = await take(source, 1)
        for number in range(limit + 10):  # while the loop does not run, nobody empties the queue
            os.close(os.open(tmp_path / f".{number % 2}", os.O_CREAT | os.O_WRONLY))
        drop(tmp_path, 1)
        drop(tmp_path, 2)
        found += await take(source, 3)
        drop(tmp_path, 3)
        found += await take(source, 4)
    assert seconds(found) == ["S 0-1", "S 1-2", "S 2-3", "S 3-4"]
    assert counts.of() == {"notify_lost": 1}


def test_missing_directory_is_said_at_once(tmp_path: Path) -> None:
    config = SourceConfig.model_validate({"detectors": {"H1": {"directory": tmp_path / "absent"}}})
    with pytest.raises(SourceError, match=r"absent: no such directory.*source\.detectors\.H1\.directory"):
        open_source(config)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("H-H1_llhoft-1126259447-1.gwf", ("H", 1126259447, 1126259448)),
        ("V-V1_llhoft-1126259447-4.gwf", ("V", 1126259447, 1126259451)),
        ("HLV-HW100916-968654552-1.gwf", ("HLV", 968654552, 968654553)),
        ("H-H1_llhoft-1126259447-0.gwf", None),
        ("H-H1_llhoft-1126259447.gwf", None),
        ("H-H1-llhoft-1126259447-1.gwf", None),
        ("H-H1_llhoft-1126259447-1.gwf.tmp", None),
    ],
)
def test_names(name: str, expected: tuple[str, int, int] | None) -> None:
    found = parse(name)
    assert (None if found is None else (found.observatory, found.start, found.end)) == expected


# -- order, without files ----------------------------------------------------------------------------------------------


def play(sequence: Sequence, now: float) -> list[str]:
    """All that the sequence says at ``now`` seconds, settling every file."""
    said = []
    while (step := sequence.next(round(now * NANO))) is not None:
        match step:
            case File(start, end):
                said.append(f"{start}-{end}")
                sequence.settle(end, lost=False)
            case Hole(start, end):
                said.append(f"hole {start}-{end}")
            case Refused(file, reason):
                said.append(f"{reason} {file.start}-{file.end}")
    return said


def told(start: int, arrived: float, end: int | None = None) -> File:
    end = start + 1 if end is None else end
    return File(start, end, Path(f"{start}-{end}"), round(arrived * NANO))


@given(order=st.permutations(range(12)), first=st.integers(0, 10**9))
def test_any_order_within_the_patience_comes_out_in_order(order: list[int], first: int) -> None:
    sequence = Sequence(2.0)
    sequence.offer(told(first, 0))
    said = play(sequence, 0)
    for step, number in enumerate(order):
        sequence.offer(told(first + 1 + number, 0.1 * step))
        said += play(sequence, 0.1 * step)
    assert said == [f"{first + k}-{first + k + 1}" for k in range(13)]


def test_patience_counts_from_the_first_later_file() -> None:
    sequence = Sequence(2.0)
    sequence.offer(told(0, 0))
    assert play(sequence, 0) == ["0-1"]
    assert sequence.deadline is None
    sequence.offer(told(5, 10))
    sequence.offer(told(3, 11))
    assert sequence.deadline == 12 * NANO
    assert play(sequence, 11.99) == []
    assert play(sequence, 12) == ["hole 1-3", "3-4", "hole 4-5", "5-6"]
    sequence.offer(told(2, 13))
    sequence.offer(told(3, 13))
    sequence.offer(told(5, 13))
    assert play(sequence, 13) == ["late 2-3", "duplicate 3-4", "duplicate 5-6"]


def test_one_wrong_name_far_ahead_does_not_end_the_stream() -> None:
    sequence = Sequence(2.0)
    for start in (0, 900_000, 1):
        sequence.offer(told(start, 0))
    assert play(sequence, 100) == ["0-1", "1-2"]
    sequence.offer(told(2, 101))
    assert play(sequence, 101) == ["2-3"]
    for start in (5000, 5001):  # an outage: two frames that follow each other
        sequence.offer(told(start, 200))
    assert play(sequence, 203) == ["hole 3-5000", "5000-5001", "5001-5002"]


def test_waiting_files_are_bounded() -> None:
    sequence = Sequence(2.0, limit=10)
    for start in range(25):
        sequence.offer(told(start, 0))
    said = play(sequence, 0)
    assert said[:15] == [f"overflow {k}-{k + 1}" for k in range(15)]
    assert said[15:] == [f"{k}-{k + 1}" for k in range(15, 25)]
    assert len(sequence) == 0


def test_each_fault_is_logged_once_and_counted_always(caplog: pytest.LogCaptureFixture, counts: Counts) -> None:
    now = [0.0]
    report = Report(counts, lambda: now[0])
    with caplog.at_level(logging.WARNING, "source"):
        for number in range(5):
            report("late", "H1", f"file {number}")
        report("late", "L1", "another")
        now[0] = 61
        report("late", "H1", "file 6")
    assert [r.getMessage() for r in caplog.records] == [
        "H1 late: file 0",
        "L1 late: another",
        "H1 late: file 6 (4 more like it since the last such line)",
    ]
    assert counts.of() == {"late": 6}


async def test_worker_leaves_a_stuck_thread_and_goes_on() -> None:
    worker = Worker("test")

    def fail() -> None:
        raise KeyError("as raised")

    assert await worker.run(lambda: 5, 1) == 5
    with pytest.raises(KeyError, match="as raised"):
        await worker.run(fail, 1)
    free = threading.Event()
    try:
        for _ in range(3):
            with pytest.raises(TimeoutError):
                await worker.run(free.wait, 0.02)
            assert await worker.run(lambda: 6, 5) == 6
        with pytest.raises(SourceError, match="4 at once take longer"):
            await worker.run(free.wait, 0.02)
    finally:
        free.set()
        worker.close()


async def test_slow_frames_do_not_add_up_when_their_threads_come_back() -> None:
    worker = Worker("test")
    for _ in range(6):
        with pytest.raises(TimeoutError):
            await worker.run(lambda: time.sleep(0.05), 0.01)
        await asyncio.sleep(0.1)
    worker.close()
