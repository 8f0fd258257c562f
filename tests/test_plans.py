"""Compiled networks are kept, and never loaded where another could have put them or meant something else."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
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
    assert f"others may get at it (mode {mode:04o}); remove it" in kept.save({**KEY, "weights": "def"}, PLAN)
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


def test_links_are_not_followed(kept: Plans, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    link = tmp_path / "link"
    link.symlink_to(kept.directory)
    assert Plans(link).load(KEY) is None
    assert f"compiling again what is kept in {link}, for it is not used: it is a link; put a directory" in caplog.text
    assert "it is a link" in Plans(link).save(KEY, PLAN)
    path = file(kept)
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert kept.load(KEY) is None


def test_a_directory_that_takes_the_place_of_ours_on_the_way_is_not_read(kept: Plans, tmp_path: Path) -> None:
    with kept._opened() as place:
        kept.directory.rename(tmp_path / "moved")
        kept.directory.mkdir(mode=0o700)
        assert [one.name for one in place.iterdir()] == [one.name for one in (tmp_path / "moved").iterdir()] != []


@pytest.mark.parametrize("name", ["features.py", "networks/layers.py"])
def test_a_change_of_any_code_of_the_stage_is_another_plan(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = tmp_path / "inference"
    shutil.copytree(Path(plans.__file__).parent, stage, ignore=shutil.ignore_patterns("__pycache__"))
    before = plans._code()
    monkeypatch.setattr(plans, "__file__", str(stage / "plans.py"))
    assert plans._code.__wrapped__() == before
    with (stage / name).open("a") as file:
        file.write("# a change\n")
    assert plans._code.__wrapped__() != before


def test_where_nothing_can_be_written_nothing_is_kept_and_that_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    kept = Plans(tmp_path / "file" / "engines")
    why = kept.save(KEY, PLAN)
    assert kept.load(KEY) is None
    assert why == f"what was compiled is not kept in {kept.directory}: Not a directory"
    assert f"{why}; every start compiles it again until it can be" in caplog.text


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


@contextmanager
def locked(place: Path) -> Iterator[None]:
    """As by another process that saves there."""
    handle = os.open(place, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def test_of_two_that_save_at_once_one_waits_for_the_other(kept: Plans, monkeypatch: pytest.MonkeyPatch) -> None:
    other = {**KEY, "weights": "def"}
    waits: list[float] = []
    with ExitStack() as stack:
        stack.enter_context(locked(kept.directory))

        def sleep(seconds: float) -> None:
            waits.append(seconds)
            assert kept.load(other) is None
            assert kept.load(KEY) == PLAN
            if len(waits) == 3:
                stack.close()

        monkeypatch.setattr(plans.time, "sleep", sleep)
        assert kept.save(other, PLAN) == ""
    assert len(waits) == 3
    assert kept.load(other) == PLAN


def test_it_does_not_wait_for_ever(
    kept: Plans, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(plans, "WAIT", 0.1)
    other = {**KEY, "weights": "def"}
    with locked(kept.directory):
        why = kept.save(other, PLAN)
    assert "another process has kept it locked for 0.1 s" in why
    assert why in caplog.text
    assert kept.load(other) is None
    assert kept.save(other, PLAN) == ""


def test_what_was_loaded_is_forgotten_and_what_was_saved_is_not(kept: Plans) -> None:
    again = Plans(kept.directory)
    other, third = {**KEY, "weights": "def"}, {**KEY, "weights": "ghi"}
    for key in (other, third):
        kept.save(key, PLAN)
    assert again.load(KEY) == again.load(other) == PLAN
    again.save(other, PLAN)  # it was loaded, and no engine took it
    again.forget()
    assert [kept.load(key) for key in (KEY, other, third)] == [None, PLAN, PLAN]
