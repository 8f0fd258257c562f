"""The tutorial, command by command: a model of one's own is trained, found calibrated, and serves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_docs import DOCS, fenced

ROOT = DOCS.parent
NAME = "fine"
MOST = 20 * 60  # s that the training may take on two cores, all told


def messages(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.slow
@pytest.mark.timeout(5400)
def test_a_model_of_ones_own_as_the_tutorial_makes_it(tmp_path: Path) -> None:
    (tmp_path / "gwstream").mkdir()
    (tmp_path / "gwstream" / "data").symlink_to(ROOT / "gwstream" / "data")
    settings = '[source]\nkind = "simulated"\n[source.detectors.H1]\n[inference]\nmodel = "models/fine"\n'
    (tmp_path / "gwstream.toml").write_text(settings, encoding="utf-8")
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    took: dict[str, float] = {}
    for command in fenced(DOCS / "tutorial.md", "sh"):
        begin = time.monotonic()
        done = subprocess.run(
            ["bash", "-euc", command], cwd=tmp_path, env=environment, text=True, stdout=subprocess.PIPE, check=False
        )
        took[command.split()[1]] = time.monotonic() - begin
        print(f"{took[command.split()[1]]:.0f} s: {command.strip()}\n{done.stdout[-2000:]}")
        assert done.returncode == 0, command  # of validate: that it is calibrated
    assert list(took) == ["new-model", "train", "validate", "simulate", "replay", "check-config"]
    print(f"trained in {took['train']:.0f} s, where {MOST} may be")
    found = messages(tmp_path / "posteriors.jsonl")
    posteriors = [one for one in found if one["schema"].startswith("gwstream.posterior")]
    assert posteriors
    assert {one["posterior"]["model"]["name"] for one in posteriors} == {NAME}
    (event,) = [one for one in messages(tmp_path / "gw150914.jsonl") if one["schema"].startswith("gwstream.event")][-1:]
    chirp = event["posterior"]["parameters"]["chirp_mass"]
    print(chirp)
    assert abs(chirp["median"] - 31.2) < 1.7  # Msun at the detector, as published (GWTC-1, 90 %)
