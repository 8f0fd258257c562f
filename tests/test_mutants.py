from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

PROGRAM = Path(__file__).resolve().parents[1] / "benchmarks" / "mutants.py"


def test_no_damaged_frame_crashes_the_reader_or_passes_with_other_strain() -> None:
    """A short run of ``make bench-mutants``."""
    ran = subprocess.run(
        [sys.executable, PROGRAM, "--count", "2000", "--seed", "7"], capture_output=True, text=True, check=False
    )
    found = json.loads(ran.stdout)
    assert found["mutants"] == 2000
    assert {name: found[name] for name in ("crashes", "raised", "wrong")} == {"crashes": 0, "raised": 0, "wrong": 0}
    assert found["refused"] > 1900
