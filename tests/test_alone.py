"""Two daemons of one host and one name: the second says so and ends, before it throws the first out at the broker."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from test_flow import daemon, embedded, folders, subscriber, wait

from gwstream.alone import alone, meeting_place
from gwstream.config import PublishConfig
from gwstream.errors import ConfigError


def test_a_name_is_had_once_and_free_again_afterwards(tmp_path: Path) -> None:
    here = PublishConfig()
    others = (
        PublishConfig(instance="b"),
        PublishConfig(port=1884),
        PublishConfig(host="::1"),
        PublishConfig(prefix="p/q"),
    )
    with alone(here, tmp_path):
        for other in others:
            with alone(other, tmp_path):
                pass
        said = rf"publish\.instance = 'gwstream': process {os.getpid()} .*127.0.0.1:1883"
        with pytest.raises(ConfigError, match=said), alone(here, tmp_path):
            pass
    with alone(here, tmp_path):
        pass
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}


def test_without_systemd_nothing_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RUNTIME_DIRECTORY", raising=False)
    assert meeting_place() is None
    with alone(PublishConfig(), None), alone(PublishConfig(), None):
        pass
    monkeypatch.setenv("RUNTIME_DIRECTORY", f"{tmp_path}:/run/more")
    assert meeting_place() == tmp_path


def test_a_place_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    said = r"gone/gwstream-gwstream@127.0.0.1-1883.lock: No such file"
    with pytest.raises(ConfigError, match=said), alone(PublishConfig(), tmp_path / "gone"):
        pass


def test_a_second_daemon_of_one_name_ends_with_78(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))
    for path in folders(tmp_path).values():
        path.mkdir()
    with embedded() as broker, subscriber(broker) as got, daemon(tmp_path, broker) as (process, _):
        wait(lambda: any(one.body.get("state") == "online" for one in got), 60, "the first")
        text = (tmp_path / "gwstream.toml").read_text()
        second = tmp_path / "second.toml"
        text = re.sub(r"(?m)(?<=\[metrics\]\n)port = .*$", "port = 0", text)
        second.write_text(text.replace(str(tmp_path / "state"), str(tmp_path / "other")))
        command = [sys.executable, "-m", "gwstream", "run", str(second)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=100)
        assert done.returncode == 78, done.stderr
        assert f"process {process.pid} publishes under this name" in done.stderr
        assert "publish.instance of its own" in done.stderr
        assert process.poll() is None
        assert {one.body["state"] for one in got if one.topic.endswith("/status")} == {"online"}
