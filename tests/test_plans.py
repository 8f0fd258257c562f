"""Compiled networks are kept, and never loaded where another could have put them or meant something else."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import pytest

from gwstream.inference import plans
from gwstream.inference.plans import Plan, Plans

KEY = {"network": "cvae", "precision": "fp32", "windows": "16", "gpu": "NVIDIA H100", "weights": "abc"}
PLAN = Plan(bytes(range(256)) * 40, ("y", "windows"), ("output0",))


@pytest.fixture
def kept(tmp_path: Path) -> Plans:
    found = Plans(tmp_path / "state" / "engines")
    found.save(KEY, PLAN)
    return found


def file(kept: Plans) -> Path:
    (found,) = kept.directory.iterdir()
    return found


def test_a_plan_comes_back_as_it_was_and_is_nobody_elses_to_read(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        kept = Plans(tmp_path / "engines")
        assert kept.load(KEY) is None
        kept.save(KEY, PLAN)
    finally:
        os.umask(before)
    assert kept.load(KEY) == PLAN
    assert kept.directory.stat().st_mode & 0o777 == 0o700
    assert file(kept).stat().st_mode & 0o777 == 0o600
    assert file(kept).name.startswith("cvae-fp32-16-")


def test_a_cache_that_may_only_be_read_is_read(kept: Plans, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr(plans.os, "utime", refuse)
    assert kept.load(KEY) == PLAN


@pytest.mark.parametrize("part", list(KEY))
def test_a_plan_for_anything_else_is_none(kept: Plans, part: str) -> None:
    assert kept.load({**KEY, part: "other"}) is None


def test_a_plan_under_the_name_of_another_is_not_loaded(kept: Plans, caplog: pytest.LogCaptureFixture) -> None:
    other = {**KEY, "weights": "def"}
    path = file(kept)
    kept.save(other, PLAN)
    (stranger,) = (one for one in kept.directory.iterdir() if one != path)
    stranger.rename(path)
    assert kept.load(KEY) is None
    assert "it was made for something else" in caplog.text


@pytest.mark.parametrize("cut", [0, 10, 500, -1])
def test_a_damaged_plan_is_not_loaded_and_is_replaced(kept: Plans, cut: int) -> None:
    path = file(kept)
    path.write_bytes(path.read_bytes()[:cut])
    assert kept.load(KEY) is None
    kept.save(KEY, PLAN)
    assert kept.load(KEY) == PLAN


def test_a_flipped_bit_is_found(kept: Plans) -> None:
    body = bytearray(file(kept).read_bytes())
    body[-100] ^= 1
    file(kept).write_bytes(body)
    assert kept.load(KEY) is None


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o777, 0o701])
def test_a_directory_that_is_open_to_others_is_not_used(
    kept: Plans, mode: int, caplog: pytest.LogCaptureFixture
) -> None:
    kept.directory.chmod(mode)
    assert kept.load(KEY) is None
    assert f"others may get at it (mode {mode:04o})" in caplog.text
    kept.save({**KEY, "weights": "def"}, PLAN)
    assert len(list(kept.directory.iterdir())) == 1


def test_a_file_that_others_may_write_is_not_loaded(kept: Plans) -> None:
    file(kept).chmod(0o620)
    assert kept.load(KEY) is None


def test_what_belongs_to_somebody_else_is_not_used(
    kept: Plans, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    assert kept.load(KEY) is None
    assert f"it belongs to user {owner}, and this is user {owner + 1}" in caplog.text


def test_a_file_of_somebody_else_is_not_loaded(kept: Plans, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a directory of ours, where only root could have put it."""
    users = iter([os.geteuid(), os.geteuid() + 1, os.geteuid() + 1])
    monkeypatch.setattr(os, "geteuid", lambda: next(users))
    assert kept.load(KEY) is None
    assert next(users, None) is None


def test_links_are_not_followed(kept: Plans, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(kept.directory)
    assert Plans(link).load(KEY) is None
    path = file(kept)
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert kept.load(KEY) is None


def test_a_directory_that_takes_the_place_of_ours_on_the_way_is_not_read(kept: Plans, tmp_path: Path) -> None:
    with kept._opened() as place:
        kept.directory.rename(tmp_path / "moved")
        kept.directory.mkdir(mode=0o700)
        assert [one.name for one in place.iterdir()] == [one.name for one in (tmp_path / "moved").iterdir()] != []


def test_where_nothing_can_be_written_nothing_is_kept_and_that_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    kept = Plans(tmp_path / "file" / "engines")
    kept.save(KEY, PLAN)
    assert kept.load(KEY) is None
    assert "the compiled network is not kept in" in caplog.text


def test_those_that_were_used_last_stay(kept: Plans, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "KEPT", 3)
    keys = [{**KEY, "weights": str(k)} for k in range(4)]
    for age, key in enumerate(keys):
        kept.save(key, PLAN)
        newest = max(kept.directory.iterdir(), key=lambda path: path.stat().st_mtime)
        os.utime(newest, (1e9 + age, 1e9 + age))
    assert [kept.load(key) is not None for key in (KEY, *keys)] == [True, False, False, True, True]


def test_what_was_not_written_to_its_end_does_not_stay(kept: Plans) -> None:
    (kept.directory / ".cvae-fp32-8-0123.plan.tmp").touch()
    kept.save({**KEY, "weights": "def"}, PLAN)
    assert {path.name[-5:] for path in kept.directory.iterdir()} == {".plan"}


def test_of_two_that_save_at_once_one_does(kept: Plans, caplog: pytest.LogCaptureFixture) -> None:
    other = {**KEY, "weights": "def"}
    handle = os.open(kept.directory, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        kept.save(other, PLAN)
        assert kept.load(other) is None
        assert kept.load(KEY) == PLAN
    finally:
        os.close(handle)
    kept.save(other, PLAN)
    assert kept.load(other) == PLAN
    assert not caplog.text
