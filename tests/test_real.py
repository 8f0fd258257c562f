"""The pure parts of the programs that measure on real strain; the strain itself is not needed."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from fakes import posterior, window
from trained import members, shipped, templates

from gwstream.config import SummaryConfig
from gwstream.prior import Prior
from gwstream.records import Strain
from gwstream.summary import Summarizer

FOLDER = Path(__file__).resolve().parent.parent / "benchmarks"


def module(name: str) -> ModuleType:
    return importlib.import_module(name)


@pytest.fixture(autouse=True)
def _path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))


@pytest.mark.parametrize("script", ["coverage.py", "background.py", "glitches.py", "reference.py"])
def test_without_data_it_says_so_and_is_no_failure(script: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(FOLDER / script), "--data", str(tmp_path)],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "skipped: no real strain" in done.stdout


def test_a_coloured_glitch_has_the_snr_that_is_asked_for_and_its_place() -> None:
    glitches, spec = module("glitches"), shipped().spec
    t = (np.arange(8192) - 4096) / 4096
    whitened = np.exp(-((t / 0.01) ** 2)) * np.cos(2 * np.pi * 60 * t)
    spectrum = glitches.coloured(spec.conditioning, whitened, "O3_H1")
    one = window(whitener=members()[1].whitener)
    at = one.gps_ns / 1e9 + 0.75
    seen = glitches.seen(spec.conditioning, spectrum, one, at, 12.0)
    assert np.linalg.norm(seen) == pytest.approx(12.0, rel=0.02)
    assert abs(np.sum(np.arange(256) * seen**2) / np.sum(seen**2) / 256 - 0.75) < 0.03
    assert np.linalg.norm(glitches.seen(spec.conditioning, spectrum, one, at + 10.0, 12.0)) < 0.01


def test_a_signal_by_lalsimulation_is_the_one_of_the_bank() -> None:
    x = np.array([45.0, 35.0, 1.0, 0.74, 1.0])
    wave = module("strain").signal(shipped().spec.conditioning, x, members()[1].whitener.taps)
    other = templates().waveforms(x[None])[0]
    assert np.linalg.norm(wave - other) < 0.01 * np.linalg.norm(wave)


def test_what_the_list_names_is_left_out_with_its_margins_and_nothing_else() -> None:
    strain, spec = module("strain"), shipped().spec
    detector, low, high = strain.GLITCHES[0]

    def quiet(gps: float, detector: str = detector, folder: str = "x", candidate: float | None = None) -> bool:
        record = Strain(detector=detector, start=0, rate=256, samples=np.zeros(1))
        one = window(detector=detector, start=round(gps * 256))
        return bool(strain.quiet(strain.Stretch(folder, record, candidate), spec, one))

    assert quiet(low - 5.01)
    assert not quiet(low - 4.99)
    assert not quiet(high + 3.99)
    assert quiet(high + 4.01)
    assert quiet(low, detector="L1")
    assert not quiet(1e9, "V1", "GW190519_153544")
    assert quiet(1e9, "H1", "GW190519_153544")
    assert not quiet(1e9, "L1", "GW191204_171526")
    assert quiet(1e9, candidate=1e9 + 3.01)
    assert not quiet(1e9, candidate=1e9 + 2.99)


def test_block_bootstrap_sees_what_rows_of_a_block_share() -> None:
    rng = np.random.default_rng(3)
    blocks = np.repeat(np.arange(200), 10)
    alone, shared = rng.standard_normal((2000, 1)), np.repeat(rng.standard_normal((200, 1)), 10, axis=0)
    errors = [module("intervals").block_bootstrap(values, blocks, rng)[0] for values in (alone, shared)]
    assert errors[0] == pytest.approx(1 / np.sqrt(2000), rel=0.2)
    assert errors[1] == pytest.approx(1 / np.sqrt(200), rel=0.2)


def test_intervals_and_limits() -> None:
    intervals = module("intervals")
    assert intervals.rate_limit(0, 10.0) == pytest.approx(0.29957, rel=1e-4)  # ln 20 over the time
    assert intervals.fraction(0, 20)[0] == 0.0
    low, high = intervals.fraction(50, 100)
    assert low == pytest.approx(1 - high)
    assert 0.08 < high - 0.5 < 0.09


def test_events_are_counted_and_not_windows_and_good_stays_good() -> None:
    clusters = module("clusters")
    windows = [posterior(window(k), 0.78 - k / 16, log_bayes=40.0 + k) for k in range(3)]
    doubtful = [posterior(window(k), 0.75, residual_p=1e-9) for k in (100, 101)]
    found, network = clusters.told(Summarizer(SummaryConfig(), Prior()), [*windows, *doubtful])
    assert [one.good for one in found] == [True, False]
    assert network == []


def test_slid_detectors_agree_by_as_much_as_they_are_slid() -> None:
    slides = module("slides")
    pair = [
        slides.Judged("x", name, (posterior(window(k, name), 0.75),), 0.0, 0.0) for name, k in (("H1", 0), ("L1", 64))
    ]
    found = []
    for seconds in (-4, 0, 4):
        moved = [slides.slid(one, seconds) for one in pair[1].posteriors]
        found.append(len(slides.network(Prior(), [*pair[0].posteriors, *moved])))
    assert found == [1, 0, 0]


def test_a_section_takes_the_place_of_its_own_and_of_no_other() -> None:
    replaced = module("sections").replaced
    once = replaced("# head\n", "B", "two")
    both = replaced(once, "A", "one\n\n| a |")
    assert both == "# head\n\n## A\n\none\n\n| a |\n\n## B\n\ntwo\n"
    assert replaced(both, "B", "three") == both.replace("two", "three")


def test_thresholds_are_chosen_without_the_group_they_judge() -> None:
    """A glitch that only a threshold on it would catch passes when it is left out."""
    thresholds = module("thresholds")
    fine, bad = [20.0, 0.5, 0.5, 500.0, 0.4], [20.0, 0.5, 0.015, 500.0, 0.4]

    def case(group: str, kind: str, facts: list[float]) -> object:
        return thresholds.Case(group, kind, "Whistle", np.array([facts]), np.array([False]))

    signals = [case(f"s{k}", "signal", fine) for k in range(5)]
    judged, _ = thresholds.left_out([*signals, case("g1", "glitch", bad), case("g2", "glitch", bad)])
    verdicts = {one.group: good for one, good in judged}
    assert all(verdicts[f"s{k}"] for k in range(5))
    assert not verdicts["g1"]  # caught by what g2 teaches
    judged, _ = thresholds.left_out([*signals, case("g1", "glitch", bad)])
    assert {one.group: good for one, good in judged}["g1"]
