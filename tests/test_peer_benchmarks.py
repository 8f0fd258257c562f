"""The benchmarks against peers: small runs of each, and what they conclude from made-up times."""

from __future__ import annotations

import importlib
import itertools
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from gwstream.records import Strain

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "benchmarks"
LONG = 900  # s that a benchmark may take on a machine that has other work
PEERS = Path(os.environ.get("GWSTREAM_PEERS", ROOT / ".venv-peers")) / "bin" / "python"


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Import a benchmark, whose pictures go to a folder of the test's."""
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setattr(importlib.import_module("common"), "OUTPUT", tmp_path)
    return importlib.import_module


def ran(program: Path, script: str, *arguments: str) -> str:
    done = subprocess.run(
        [program, FOLDER / script, *arguments], capture_output=True, text=True, check=False, timeout=LONG
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def cells(table: str, label: str) -> list[str]:
    """The row of a table that begins with ``label``."""
    row = next(line for line in table.splitlines() if line.startswith(f"| {label} |"))
    return [cell.strip() for cell in row.strip("|").split("|")]


def test_ours_looks_ahead_as_far_as_the_table_says(load: Any) -> None:
    """Strain in pieces of 1/256 s: how far each window's end lies behind the strain that completed it."""
    rate = 1024
    way = load("conditioning").Ours(rate)
    noise = load("common").noise(np.random.default_rng(1), "aLIGO_O4_high", rate, 18)
    conditioner, start = way._conditioner, 1_400_000_000 * rate
    ahead = []
    for begin in range(0, len(noise), rate // 256):
        piece = noise[begin : begin + rate // 256]
        record = Strain(detector="H1", start=start + begin, rate=rate, samples=piece, dq=3)
        ahead += [record.end / rate - (one.start + 256) / 256 for one in conditioner.push(record)]
    assert len(ahead) > 16
    whitening, decimation = way.ahead
    assert whitening == 0
    assert decimation - 1 / 256 <= max(ahead) <= decimation + 1 / 256


def test_every_way_to_condition_whitens_the_same_strain(load: Any) -> None:
    conditioning: ModuleType = load("conditioning")
    rate = 1024
    strain = load("common").noise(np.random.default_rng(2), "aLIGO_O4_high", rate, 34)
    pieces = strain.reshape(-1, rate)
    for way in (conditioning.Ours(rate), conditioning.Gwpy(rate, 8), conditioning.Gwpy(rate, 32)):
        windows = [way.push(piece) for piece in pieces][-1]
        assert windows.shape == (16, 256)
        assert 0.75 < windows.std() < 1.15, way.name


def test_conditioning_prints_every_way_and_draws_it(load: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    conditioning = load("conditioning")
    monkeypatch.setattr(sys, "argv", ["conditioning.py", "--seconds", "1", "--rate", "512"])
    monkeypatch.setattr(conditioning, "WARM_UP", 64)
    conditioning.main()
    table = capsys.readouterr().out
    ours, theirs = cells(table, "gwstream"), cells(table, "gwpy, buffer of 64 s")
    assert ours[2] == "1.0"
    assert ours[3].startswith("0 + ")
    assert theirs[3].startswith("1000 + ")
    assert float(theirs[1].split()[0]) > 0
    assert (load("common").OUTPUT / "conditioning.png").stat().st_size > 5000


@pytest.mark.parametrize("truth", [3, 11, 16, 47, 128, 500])
def test_the_search_ends_within_an_eighth_of_the_truth(load: Any, truth: int) -> None:
    trying = load("capacity").steps(128)
    tried: list[int] = []
    number = next(trying)
    while True:
        assert number not in tried
        tried.append(number)
        try:
            number = trying.send(number <= truth)
        except StopIteration:
            break
    best = max((one for one in tried if one <= truth), default=0)
    assert best <= min(truth, 128) <= best + max(best // 8, 1)
    assert len(tried) <= 9


def test_held_means_no_backlog_no_loss_and_all_draws(load: Any) -> None:
    capacity = load("capacity")

    def made(judged: float = 1.0, **other: Any) -> Any:
        looks = [capacity.Look(t, 100 + judged * 16 * 4 * max(t - 1, 0), t, 0.5 * t, 500.0) for t in range(40)]
        one = capacity.Run(4, 16384, 40, looks=looks, draws={2000}, latencies=[0.1], caught_up=5.0)
        for name, value in other.items():
            setattr(one, name, value)
        return one

    assert made().held
    assert made().cores == pytest.approx(0.5)
    assert made().backlog[-1, 1] == pytest.approx(1.0)
    assert not made(judged=0.9).held
    assert made(judged=0.9).growth == pytest.approx(0.1)
    assert not made(dropped={"inference: overload": 3.0}).held
    assert not made(draws={2000, 500}).held


def test_losses_are_counted_by_reason_and_known_signals_are_none(load: Any) -> None:
    found = {
        'gwstream_dropped_total{detector="H1",reason="overload",stage="inference"}': 2.0,
        'gwstream_dropped_total{detector="L1",reason="overload",stage="inference"}': 3.0,
        'gwstream_dropped_total{detector="L1",reason="no pause",stage="calibration"}': 7.0,
        'gwstream_dropped_total{detector="",reason="outbox_age",stage="publish"}': 0.0,
    }
    assert load("capacity").lost(found) == {"inference: overload": 5.0}


def test_sources_join_on_to_themselves(load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The strain of a second, of the same second a period later, and the step from the last second to the first."""
    capacity = load("capacity")
    monkeypatch.setattr(capacity, "PERIOD", 32)
    frames = capacity.Frames(tmp_path, 1024, 1)
    strain = frames._strain[0]
    assert abs(strain[0] - strain[-1]) < 5 * np.abs(np.diff(strain)).std()
    first, again = (frames.second(0, second).read_bytes() for second in (5, 37))
    assert first != again  # another GPS time
    import gwframe

    data = [np.asarray(gwframe.read_bytes(one, "H1:GDS-CALIB_STRAIN_CLEAN").array) for one in (first, again)]
    assert np.array_equal(*data)


@pytest.mark.slow  # in real time: it wants the machine for itself
@pytest.mark.timeout(LONG)
def test_the_daemon_of_a_short_capacity_run_judges_what_it_is_given(load: Any) -> None:
    table = ran(
        Path(sys.executable),
        "capacity.py",
        "--streams",
        "2",
        "--minutes",
        "0.1",
        "--rate",
        "4096",
        "--before",
        "20",
        "--sources",
        "1",
    )
    row = cells(table, "2")
    assert float(row[2]) > 0
    assert row[-1] == "nothing"
    assert row[5] != "0.00 %"


def test_a_slope_is_the_power_it_was_made_with(load: Any) -> None:
    scaling = load("scaling")
    rng = np.random.default_rng(1)
    numbers = (1, 2, 4, 8, 16, 32)
    for power in (0.5, 1.0, 1.2):
        times = (5 + np.array(numbers) ** power) * rng.lognormal(0, 0.01, (15, 6))
        line = scaling.Line("streams", numbers, times)
        assert numbers[line.top] == (8, 16, 32)
        low, high = line.interval(rng)
        exact = np.polyfit(np.log(numbers[3:]), np.log(5 + np.array(numbers[3:]) ** power), 1)[0]
        assert low - 0.01 < exact < high + 0.01
        assert high - low < 0.06


def test_every_stream_has_windows_of_its_own(load: Any) -> None:
    """What is timed for streams: 16 windows of each, a second at a time, all judged."""
    scaling = load("scaling")
    judged: list[Any] = []

    class Gate:
        def gate(self, batch: Any) -> None:
            judged.extend(batch.windows)

    model = importlib.import_module("gwstream.inference").load_model(load("common").MODEL)
    streams = scaling.Streams(model, Gate(), 3)
    for _ in range(2):
        judged.clear()
        streams()
    assert len(judged) == 48
    assert len({one.whitener.id for one in judged}) >= 3
    assert not np.array_equal(judged[0].samples, judged[16].samples)


def test_a_replay_is_timed_with_what_it_told(load: Any, tmp_path: Path) -> None:
    """The command itself over a frame of 64 s with one signal in it."""
    replay = load("replay")
    paths = replay.record(tmp_path, "H1", 4096, 64)
    once = replay.replay(paths)
    assert once.events >= 1
    assert once.posteriors >= once.events
    assert once.core > 0
    with pytest.raises(SystemExit, match="gwstream replay ended with"):
        replay.replay([tmp_path / "H-H1_missing-1-1.gwf"])


def test_the_speed_of_a_replay_leaves_out_its_start(load: Any) -> None:
    replay = load("replay")
    one = replay.Speed(1, 4096, 256, 1024, [(replay.Once(12, 11, 3, 1), replay.Once(18, 16, 9, 3))])
    assert one.speeds == [128.0]
    assert one.whole == [1024 / 18]
    assert one.row()[4].startswith("6.51 ")


def test_vitamin_has_its_published_sizes_and_both_ways_draw_alike(load: Any) -> None:
    vitamin = load("vitamin")
    torch.manual_seed(1)
    net = vitamin.Vitamin().eval()
    assert net.see.size == 256 // 4 * 33
    assert net.look.size == 256 // 2 * 33
    assert sum(one.numel() for one in net.encoder.parameters()) == sum(
        a * b + b for a, b in itertools.pairwise((2112, 2048, 2048, 2048, 147))
    )
    strain = torch.randn(1, 3, 256)
    published, once = net.published(strain, 400), net.once(strain, 400)
    assert published.shape == once.shape == (400, 7)
    assert float(published.min()) >= 0
    assert float(published.max()) <= 1
    error = published.std(0) / 20
    assert bool(((published.mean(0) - once.mean(0)).abs() < 6 * error).all())


def test_latency_tells_of_the_worst_message_and_of_the_wait_for_its_frame(load: Any) -> None:
    """Two signals; the first is told twice, the second late."""
    latency = load("latency")
    rng = np.random.default_rng(1)
    play = latency.Play(4096, 60, begin=1_000)
    for at in (50, 40):
        gps_ns = (latency.GPS + at) * latency.NANO
        play.signals.append(load("common").draw(rng, "H1", gps_ns, (10, 20), "aLIGO_O4_high"))
    play.renamed = {("H1", second): 1_000 + (second + 1) * latency.NANO for second in range(60)}

    def message(at: int, inference: float) -> dict[str, Any]:
        """Of the window that ended a quarter second after the signal at ``at``."""
        return {
            "event": {"id": f"E{at}", "supersedes": []},
            "posterior": {"detector": "H1", "coalescence": {"gps_ns": (latency.GPS + at) * latency.NANO}},
            "delivery": {
                "sent_gps": latency.GPS + at + 1.02,
                "since_last_sample": 0.77,
                "latency": {"source": 0.004, "inference": inference, "total": 0.004 + inference},
            },
        }

    came = [(40, 41.43, 0.396), (50, 51.03, 0.016), (50, 52.03, 0.996)]
    received = [(1_000 + round(then * latency.NANO), message(at, spent)) for at, then, spent in came]
    found = next(latency.told(play, received))
    assert [round(one.latency, 6) for one in found] == [0.03, 1.03]
    assert found[0].since_last_sample == pytest.approx(0.78)
    assert found[0].waited == pytest.approx(0.75)
    assert found[0].since_coalescence == pytest.approx(1.03)
    report = latency.report(play, received, [500.0] * 8)
    assert cells(report, "rename to first event message")[1:] == ["230", "390", "426", "430"]
    assert cells(report, "rename to any event message, updates too")[4] == "1030"
    assert cells(report, "the frame's own wait: last sample to rename")[1] == "750"
    assert cells(report, "inference")[1:] == ["206.0", "98 %", "396.0"]
    assert "worst message (H1 40.0 s)" in report


@pytest.mark.peers
@pytest.mark.timeout(3 * LONG)
def test_the_peers_run_beside_ours() -> None:
    """ml4gw, amplfi and bilby in their environment, as ``make bench-peers`` and ``make bench-dynesty`` run them."""
    needs = "import ml4gw.transforms, amplfi, bilby"
    stub = f"import sys; sys.path.insert(0, {str(FOLDER)!r}); import peers; peers.stand_in_for_torchaudio(); {needs}"
    if not PEERS.is_file() or subprocess.run([PEERS, "-c", stub], capture_output=True).returncode:
        pytest.skip(f"{needs} fails in {PEERS.parents[1]}: make .venv-peers/.done")
    table = ran(PEERS, "conditioning.py", "--seconds", "1", "--rate", "1024")
    for name in ("Whiten, 64 s, once a second", "Whiten, 64 s, every window", "minimum phase, 64 s, once a second"):
        assert 0.75 < float(cells(table, f"ml4gw, {name}")[4]) < 1.2
    table = ran(PEERS, "peers_inference.py", "--rounds", "1")
    assert cells(table, "amplfi, as published")[2] == "16.96 M"
    table = ran(PEERS, "standard.py", "--live", "20", "--only-fast")
    assert cells(table, "dynesty, gwstream's likelihood")[1] == "as ours"
