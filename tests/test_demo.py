"""The demo: what is played, what is printed, the pictures, and the whole of it once, in a hurry."""

from __future__ import annotations

import asyncio
import io
import json
import subprocess
import sys
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import fakes
import gwframe
import numpy as np
import pytest
from rich.console import Console

from gwstream import clock
from gwstream.config import SummaryConfig
from gwstream.demo import child, play, watch
from gwstream.errors import GwstreamError, SourceError
from gwstream.prior import Prior
from gwstream.publish import message
from gwstream.records import NANO, Posterior
from gwstream.samples import Drawn, pictures
from gwstream.source import recording, writer
from gwstream.source.channels import strain_channel
from gwstream.summary import Summarizer

GW150914 = {"H1": 1126259462.427, "L1": 1126259462.4205}


def messages(*posteriors: Posterior) -> list[dict[str, Any]]:
    """What a subscriber gets of these posteriors."""
    summarizer = Summarizer(SummaryConfig(), Prior())
    out = []
    for posterior in posteriors:
        told = summarizer.add(posterior)
        out += [json.loads(message.compose(one, {"latency": {"total": 0.0425}})) for one in told]
    return out


def drawn(posterior: Posterior) -> Drawn:
    return Drawn.of(posterior, Prior(), SummaryConfig())


def printed(*posteriors: Posterior) -> tuple[str, watch.Seen]:
    seen = watch.Seen()
    console = Console(file=io.StringIO(), width=100)
    for one in messages(*posteriors):
        watch.take(one, console, seen)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue(), seen


def test_score_is_the_recording() -> None:
    strains = {name: recording.read(name) for name in recording.DETECTORS}
    ticks = list(play.score(strains, loop=False))
    assert [tick.gps for tick in ticks] == list(range(1126259447, 1126259479))
    assert {tick.state for tick in ticks} == {3}
    for name, strain in strains.items():
        assert np.array_equal(np.concatenate([tick.strain[name] for tick in ticks]), strain.samples)


def test_looped_score_goes_on_in_time_and_marks_the_cut() -> None:
    strains = {name: recording.read(name) for name in recording.DETECTORS}
    ticks = list(islice(play.score(strains, loop=True), 70))
    assert all(after.gps == before.gps + 1 for before, after in pairwise(ticks))
    assert [index for index, tick in enumerate(ticks) if tick.state == 0] == [32, 65]
    assert np.array_equal(ticks[33].strain["H1"], ticks[0].strain["H1"])


def test_table_has_what_a_subscriber_needs() -> None:
    posterior = fakes.posterior(fakes.window(3))
    text, seen = printed(posterior)
    part = messages(posterior)[0]["posterior"]
    for name in ("chirp_mass", "mass_1", "mass_2"):
        one = part["parameters"][name]
        assert f"{one['median']:.1f}" in text
        assert f"{one['p5']:.1f} to {one['p95']:.1f}" in text
    for word in ("Msun", "Gpc", "rad", "SNR 12.0", "latency 42 ms", "event found", "good"):
        assert word in text
    assert seen.posteriors == {"H1": 1}


def test_table_says_why_a_posterior_is_suspect() -> None:
    short = fakes.whitener(history=14.0, averages=13, state="ready")
    text, _ = printed(fakes.posterior(fakes.window(3, whitener=short)))
    assert "suspect: short PSD history" in text


def test_table_survives_what_is_unknown() -> None:
    text, _ = printed(fakes.posterior(fakes.window(3), snr=float("nan"), residual_p=float("nan")))
    assert "SNR ?" in text


def test_superseded_events_are_forgotten() -> None:
    first = fakes.posterior(fakes.window(3), time=0.84)
    second = fakes.posterior(fakes.window(4), time=0.7775, log_bayes=60)
    text, seen = printed(first, second)
    assert "event updated" in text
    assert [message["posterior"]["id"] for message in seen.events.values()] == [second.id]
    gps_ns = next(iter(seen.events.values()))["posterior"]["coalescence"]["gps_ns"]
    assert seen.best("H1", gps_ns) is None
    assert seen.best("L1", gps_ns + 1) is None
    best = seen.best("H1", gps_ns + 1)
    assert best is not None
    assert best["posterior"]["id"] == second.id


def test_detectors_that_agree_are_one_line_and_may_part_again() -> None:
    both = [fakes.posterior(fakes.window(4, name)) for name in ("H1", "L1")]
    text, seen = printed(*both)
    assert "network event found in H1 and L1: SNR 17.0, chirp mass" in text
    (standing,) = seen.networks.values()
    assert {one["posterior"] for one in standing["network"]["members"]} == {one.id for one in both}
    assert {one["posterior"]["id"] for one in seen.events.values()} == {one.id for one in both}
    better = fakes.posterior(fakes.window(5, "L1"), time=0.75, log_bayes=80.0)  # 62.5 ms later
    text, seen = printed(*both, better)
    assert "network event withdrawn in H1 and L1" in text
    assert seen.networks == {}


def test_pictures(tmp_path: Path) -> None:
    from matplotlib.image import imread

    each = [drawn(fakes.posterior(fakes.window(number, name))) for number, name in ((0, "H1"), (1, "L1"))]
    for path in (
        pictures.waveforms(each, "two", tmp_path / "waveform.png"),
        pictures.corner(each[0], "corner", tmp_path / "corner.png"),
    ):
        image = imread(path)
        assert min(image.shape[:2]) > 400
        assert image[:, :, :3].std() > 0.05


def test_phases_are_shown_around_their_mean() -> None:
    rng = np.random.default_rng(1)
    posterior = fakes.posterior(fakes.window())
    posterior.samples[:, 4] = rng.normal(0.0, 0.2, len(posterior.samples)) % np.pi  # on either side of the cut
    column = pictures._column(drawn(posterior), 4)
    assert np.ptp(column.values) < 2.0
    assert np.allclose(np.exp(2j * column.values), np.exp(2j * posterior.samples[:, 4]))


def test_times_are_shown_from_the_epoch_on_the_label() -> None:
    posterior = fakes.posterior(fakes.window())
    column = pictures._column(drawn(posterior), 3)
    assert ".749 [ms]" in column.label or ".750 [ms]" in column.label
    epoch = float(column.label.split("…")[1].split(" ")[0]) - fakes.GPS % 1000
    assert np.allclose(column.values / 1e3 + epoch, posterior.samples[:, 3], atol=1e-9)


def test_child_settings_load(tmp_path: Path) -> None:
    from gwstream.config import load

    settings = child.Settings(
        directories={"H1": tmp_path / 'a "b"'},
        model=tmp_path,
        broker_port=1234,
        http_port=1235,
        source="patience = 9\n",
    )
    path = tmp_path / "gwstream.toml"
    path.write_text(settings.toml(), encoding="utf-8")
    config = load(path)
    assert config.source.detectors["H1"].directory == tmp_path / 'a "b"'
    assert config.source.patience == 9
    assert (config.publish.port, config.metrics.port) == (1234, 1235)


async def test_a_daemon_that_does_not_come_up_is_quoted(tmp_path: Path) -> None:
    config = tmp_path / "gwstream.toml"
    config.write_text("[sauce]\n", encoding="utf-8")
    with pytest.raises(GwstreamError, match=r"status 78(?s:.*)did you mean 'source'"):
        async with child.daemon(config, tmp_path / "log", child.free_port()):
            raise AssertionError("it came up")


def test_demo_finds_gw150914(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gwstream", "demo", "--speed", "8", "--output", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("waveform", "H1-corner", "L1-corner"):
        path = tmp_path / f"GW150914-{name}.png"
        assert path.stat().st_size > 20_000
        assert str(path) in done.stdout
    for detector, gps in GW150914.items():
        message = json.loads((tmp_path / f"GW150914-{detector}.json").read_text(encoding="utf-8"))
        assert abs(message["posterior"]["coalescence"]["gps"] - gps) < 0.010
        chirp = message["posterior"]["parameters"]["chirp_mass"]
        assert chirp["p5"] < 31.0 < chirp["p95"]
        assert message["posterior"]["snr"] > {"H1": 13, "L1": 9}[detector]
    assert "http://127.0.0.1:" in done.stdout
    assert f"its log in {tmp_path / 'daemon.log'}\n" in done.stdout  # on the same line, however long
    assert "page have ended" in done.stdout.splitlines()[-1]
    together = json.loads((tmp_path / "GW150914-network.json").read_text(encoding="utf-8"))["network"]
    assert [one["detector"] for one in together["members"]] == ["H1", "L1"]
    assert together["snr"] == pytest.approx(17.4, abs=0.3)
    assert f"network event found in H1 and L1: SNR {together['snr']:.1f}, chirp mass" in done.stdout
    found = [line for line in done.stdout.splitlines() if line.startswith("event found")]
    assert len(found) == 2
    for line in found:
        detector = line.split()[3].rstrip(":")
        gps = float(line.split("GPS ")[1].split(",")[0])
        assert abs(gps - GW150914[detector]) < 0.010


async def test_frames_are_the_recording_as_of_now_and_go_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, bytes] = {}

    def look() -> None:
        for path in tmp_path.glob("*/*.gwf"):
            seen[f"{path.parent.name}/{path.name}"] = path.read_bytes()

    monkeypatch.setattr(play, "READ", 0.01)
    begin = clock.gps_now_ns() // NANO
    how = play.How(speed=200.0, check=look)
    await play.feed(tmp_path, Console(file=io.StringIO()), asyncio.Event(), how)
    names = sorted(seen)
    first = int(names[0].split("-")[2])
    assert begin <= first <= begin + 5
    assert names == sorted(
        f"{name}/{writer.frame_name(name, first + n)}" for name in recording.DETECTORS for n in range(31)
    )  # the last second is written after the last look
    strain = recording.read("L1")
    assert np.array_equal(
        gwframe.read_bytes(seen[f"L1/{writer.frame_name('L1', first + 15)}"], strain_channel("L1")).array,
        strain.samples[15 * strain.rate : 16 * strain.rate],
    )
    assert not list(tmp_path.glob("*/*.gwf"))


async def test_frames_that_cannot_be_written_are_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SourceError, match=r"file: frames cannot be written there: .*Not a directory"):
        await play.feed(tmp_path / "file", Console(file=io.StringIO()), asyncio.Event(), play.How(speed=200.0))
