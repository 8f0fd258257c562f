from __future__ import annotations

import asyncio
import contextlib
import gzip
import time
from pathlib import Path

import gwpy
import h5py
import numpy as np
import pytest
from frame_files import GPS, RATE, Counts, contiguous, drop, samples, seconds, take

from gwstream.config import SourceConfig
from gwstream.errors import SourceError
from gwstream.records import Floats, Gap, Strain
from gwstream.source import open_source, recording

MULTI = Path(gwpy.__file__).parent / "testing" / "data" / "HLV-HW100916-968654552-1.gwf"


def gwosc(path: Path, values: Floats, start: float, dq: list[int] | None = None, detector: str = "H1") -> Path:
    """A file in the layout of GWOSC."""
    with h5py.File(path, "w") as file:
        strain = file.create_dataset("strain/Strain", data=values)
        strain.attrs.update(Xstart=start, Xspacing=1 / RATE, Npoints=len(values))
        file["meta/GPSstart"], file["meta/Detector"] = start, detector
        file["meta/Duration"] = len(values) / RATE
        if dq is not None:
            file["quality/simple/DQmask"] = np.array(dq, np.uint32)
            file["quality/injections/Injmask"] = np.full(len(dq), 23, np.uint32)
    return path


async def played(
    *paths: Path, detector: str = "H1", counts: Counts | None = None, speed: float = 0, **settings: object
) -> list[Strain | Gap]:
    table = {"kind": "replay", "speed": speed, "detectors": {detector: {"files": paths, **settings}}}
    async with open_source(SourceConfig.model_validate(table), counts or Counts()) as source:
        assert not source.live
        assert not source.simulated
        return await take(source, 10**9, detector, limit=30)


def joined(records: list[Strain | Gap]) -> Floats:
    return np.concatenate([r.samples for r in records if isinstance(r, Strain)])


def test_recording_equals_the_text_to_its_last_digit(shared_data: Path) -> None:
    for detector in recording.DETECTORS:
        name = f"{detector[0]}-{detector}_GWOSC_4KHZ_R1-1126259447-32.txt.gz"
        with gzip.open(shared_data / "events/GW150914" / name, "rt") as lines:
            text = [line.strip() for line in lines if not line.startswith("#")]
        found = recording.read(detector)
        assert (found.start, found.rate, found.detector) == (1126259447 * 4096, 4096, detector)
        assert len(text) == len(found.samples)
        assert found.samples.tolist() == [float(line) for line in text]
        assert all(f"{value:.16e}" == line for value, line in zip(found.samples, text, strict=True))


def test_recording_names_its_origin() -> None:
    for detector in recording.DETECTORS:
        with h5py.File(recording.path(detector)) as file:
            assert "CC BY 4.0" in file.attrs["License"]
            assert "gwosc.org" in file.attrs["Acknowledgement"]
    with pytest.raises(SourceError, match="no recording of V1"):
        recording.path("V1")


async def test_recording_equals_what_gwpy_reads() -> None:
    from gwpy.timeseries import TimeSeries

    path = recording.path("L1")
    other = TimeSeries.read(path, format="hdf5.gwosc")
    found = await played(path, detector="L1")
    assert len(found) == 32
    assert contiguous(found)
    assert all(r.start % r.rate == 0 for r in found)
    assert np.array_equal(joined(found), other.value)
    assert found[0].start == round(other.t0.value) * 4096
    whole = recording.read("L1")
    assert (whole.start, whole.rate) == (found[0].start, 4096)
    assert np.array_equal(whole.samples, other.value)
    assert {r.dq for r in found if isinstance(r, Strain)} == {None}


@pytest.mark.parametrize(
    "name", ["events/GW150914/H-H1_LOSC_4_V2-1126259446-32.hdf5", "events/GW150914/H-H1_LOSC_4_V2-1126259446-32.gwf"]
)
async def test_real_files_with_masks_equal_what_gwpy_reads(shared_data: Path, name: str) -> None:
    from gwpy.timeseries import TimeSeries

    path = shared_data / name
    if path.suffix == ".gwf":
        other = TimeSeries.read(path, "H1:LOSC-STRAIN", format="gwf")
    else:
        other = TimeSeries.read(path, format="hdf5.gwosc")
    found = await played(path)
    assert np.array_equal(joined(found), other.value)
    assert {r.dq for r in found if isinstance(r, Strain)} == {0b1_1110_0011}


async def test_long_file_is_read_in_pieces(shared_data: Path) -> None:
    path = shared_data / "noise/O3a_H1_500s/H-H1_MLGWSC_NOISE-1238205077-500.hdf5"
    found = await played(path)
    with h5py.File(path) as file:
        assert np.array_equal(joined(found), file["strain/Strain"][:])
    assert len(found) == 500
    assert contiguous(found)


async def test_blocks_of_a_long_file_join(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gwstream.source.files.BLOCK", 3)
    path = gwosc(tmp_path / "a", samples(0, RATE, 10), GPS, [127] * 7 + [0] * 3)
    found = await played(path)
    assert seconds(found) == [f"S {k}-{k + 1}" for k in range(7)] + [f"vetoed {k}-{k + 1}" for k in range(7, 10)]
    assert np.array_equal(joined(found), samples(0, RATE, 7))


async def test_multi_detector_frame_finds_the_detectors_own_strain() -> None:
    from gwpy.timeseries import TimeSeries

    for detector, channel in (("L1", "L1:LDAS-STRAIN"), ("V1", "V1:h_16384Hz")):
        (record,) = await played(MULTI, detector=detector)
        assert isinstance(record, Strain)
        assert np.array_equal(record.samples, TimeSeries.read(MULTI, channel, format="gwf").value)
    (record,) = await played(MULTI, channel="L1:LDAS-STRAIN", detector="L1")
    with pytest.raises(SourceError, match="holds no H1:NO-STRAIN: it has H1:LDAS-STRAIN"):
        await played(MULTI, channel="H1:NO-STRAIN")


async def test_low_latency_frames_play_as_they_ran_live(tmp_path: Path) -> None:
    paths = [drop(tmp_path, second) for second in range(5)]
    found = await played(*paths)
    assert np.array_equal(joined(found), samples(0, RATE, 5))
    assert [r.dq for r in found if isinstance(r, Strain)] == [3] * 5


@pytest.mark.parametrize(("suffix", "kind"), [("hdf5", "hdf5"), ("csv", "csv"), ("txt", "txt")])
async def test_other_formats_through_gwpy(tmp_path: Path, suffix: str, kind: str) -> None:
    from gwpy.timeseries import TimeSeries

    path = tmp_path / f"strain.{suffix}"
    values = samples(0, 256, 3)
    TimeSeries(values, t0=GPS, sample_rate=256, name="H1:MINE").write(str(path), format=kind)
    found = await played(path)
    assert seconds(found) == ["S 0-1", "S 1-2", "S 2-3"]
    assert np.allclose(joined(found), values, rtol=1e-14, atol=0)


async def test_time_between_files_is_a_gap_and_overlap_is_cut(tmp_path: Path) -> None:
    counts = Counts()
    paths = [
        gwosc(tmp_path / "a", samples(0, RATE, 2), GPS),
        gwosc(tmp_path / "b", samples(5, RATE, 2), GPS + 5),
        gwosc(tmp_path / "c", samples(6, RATE, 2), GPS + 6, [3, 1]),
        gwosc(tmp_path / "d", samples(1), GPS + 1),
    ]
    found = await played(*paths, counts=counts)
    assert seconds(found) == ["S 0-1", "S 1-2", "missing 2-5", "S 5-6", "S 6-7", "vetoed 7-8"]
    assert contiguous(found)
    assert counts.of() == {"missing": 3, "overlap": 1, "late": 1, "vetoed": 1}


async def test_masked_and_absent_seconds_are_gaps(tmp_path: Path) -> None:
    values = samples(0, RATE, 5)
    values[3 * RATE :] = np.nan
    counts = Counts()
    path = gwosc(tmp_path / "a", values, GPS, [127, 0, 3, 127, 1])
    found = await played(path, counts=counts)
    assert seconds(found) == ["S 0-1", "vetoed 1-2", "S 2-3", "not_finite 3-4", "vetoed 4-5"]
    assert counts.of() == {"vetoed": 2, "not_finite": 1}


async def test_stretch_off_the_whole_second_is_aligned_to_it(tmp_path: Path) -> None:
    found = await played(gwosc(tmp_path / "a", samples(0, RATE, 3)[: RATE * 2], GPS + 0.25))
    assert seconds(found) == ["S 0.25-1", "S 1-2", "S 2-2.25"]
    assert np.array_equal(joined(found), samples(0, RATE, 3)[: RATE * 2])


async def test_speed_is_kept_and_detectors_stay_together(tmp_path: Path) -> None:
    paths = {
        "H1": gwosc(tmp_path / "h", samples(0, RATE, 8), GPS),
        "L1": gwosc(tmp_path / "l", samples(4, RATE, 4), GPS + 4, detector="L1"),
    }
    table = {"kind": "replay", "speed": 16, "detectors": {name: {"files": [path]} for name, path in paths.items()}}
    async with open_source(SourceConfig.model_validate(table)) as source:
        began = time.monotonic()
        both = await asyncio.gather(take(source, 8, "H1"), take(source, 8, "L1"))
        assert 0.45 < time.monotonic() - began < 0.9
    arrived = [{r.start: r.arrived for r in found} for found in both]
    shared = set(arrived[0]) & set(arrived[1])
    assert len(shared) == 4
    assert all(abs(arrived[0][start] - arrived[1][start]) < 50e6 for start in shared)


async def test_replay_waits_for_its_reader(tmp_path: Path) -> None:
    table = {"kind": "replay", "speed": 0, "detectors": {"H1": {"files": [recording.path("H1")]}}}
    async with open_source(SourceConfig.model_validate(table)) as source:
        stream = source.stream("H1")
        first = await anext(stream)
        await asyncio.sleep(0.1)
        second = await anext(stream)
        assert second.arrived - first.arrived > 0.09e9
        with contextlib.suppress(StopAsyncIteration):
            await stream.aclose()  # type: ignore[attr-defined]


async def test_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"absent: no such file.*source\.detectors\.H1\.files"):
        await played(tmp_path / "absent")
    (tmp_path / "noise.txt").write_text("not\nstrain at all\n")
    with pytest.raises(SourceError, match=r"noise\.txt: gwpy cannot read it"):
        await played(tmp_path / "noise.txt")
    with pytest.raises(SourceError, match="holds strain of L1, not of H1"):
        await played(recording.path("L1"))
    frame = drop(tmp_path, 0)
    frame.write_bytes(frame.read_bytes()[:-9])
    with pytest.raises(SourceError, match="truncated"):
        await played(frame)
    slow = gwosc(tmp_path / "slow", samples(0), GPS)
    with h5py.File(slow, "a") as file:
        file["strain/Strain"].attrs["Xspacing"] = 1 / 128
    with pytest.raises(SourceError, match="128 Hz; whole numbers from 256 Hz"):
        await played(slow)


@pytest.mark.parametrize("later", [False, True])
async def test_a_file_without_a_sample_is_refused(tmp_path: Path, later: bool) -> None:
    empty = gwosc(tmp_path / "empty.hdf5", np.zeros(0), GPS + 2)
    full = gwosc(tmp_path / "full.hdf5", np.ones(2 * RATE), GPS)
    async with asyncio.timeout(20):
        with pytest.raises(SourceError, match=r"empty\.hdf5: holds no strain"):
            await played(*([full] if later else []), empty)


async def test_what_gwpy_cannot_read_is_said_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "noise.gwf"
    path.write_bytes(bytes(range(256)) * 40)
    with pytest.raises(SourceError, match="gwpy cannot read it") as caught:
        await played(path)
    assert len(str(caught.value).splitlines()) == 1
