"""Posteriors with their draws: from files, daemons and strain, as files of the field, and drawn."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import fakes
import h5py
import numpy as np
import pytest
from test_client import payload
from test_publish import outgoing
from test_web import new_feed

from gwstream import cli, client, settings
from gwstream.client import Broker, Daemon, events
from gwstream.client.messages import parse
from gwstream.config import MetricsConfig, SummaryConfig
from gwstream.demo import broker as demo_broker
from gwstream.demo import child
from gwstream.errors import ConfigError, SamplesError
from gwstream.prior import Prior
from gwstream.records import NANO, PARAMETERS, Batch, Posterior, Strain, Trigger, Unweighted, Whitener
from gwstream.samples import KEPT, Drawn, Keeper, files, pictures, recompute
from gwstream.samples.find import Places, find
from gwstream.source import recording
from gwstream.summary.message import canonical
from gwstream.web import serving

ROOT = Path(__file__).resolve().parents[1]
PEERS = Path(os.environ.get("GWSTREAM_PEERS", ROOT / ".venv-peers")) / "bin" / "python"
NOWHERE = Places(url="http://127.0.0.1:1")


def posterior(number: int = 0, **changes: Any) -> Posterior:
    made = fakes.posterior(fakes.window(number), **changes)
    weights = np.random.default_rng(number).gamma(0.7, size=len(made.weights))
    return replace(made, weights=weights / weights.sum())


def drawn(number: int = 0) -> Drawn:
    return Drawn.of(posterior(number), Prior(), SummaryConfig())


class Fake:
    """Makes the posterior of a trigger's window, as inference would."""

    def gate(self, batch: Batch) -> tuple[Trigger, ...]:
        return tuple(fakes.trigger(window) for window in batch.windows)

    def infer(self, trigger: Trigger, bucket: int, draws: int | None = None) -> Posterior:
        return replace(fakes.posterior(trigger.window), bucket=bucket)

    def unweighted(self, triggers: Sequence[Trigger], least: int = 1) -> Sequence[Unweighted]:
        raise NotImplementedError

    def prepare(self, whitener: Whitener) -> None:
        raise NotImplementedError


def keeper(kept: int = KEPT) -> Keeper:
    return Keeper(Fake(), Prior(), SummaryConfig(), kept)


def test_a_document_is_exact_and_shows_what_was_changed() -> None:
    before = drawn()
    document = json.loads(before.document())
    after = Drawn.parse(document)
    assert (after.id, after.detector, after.rate) == (before.id, "H1", 256)
    for name in ("samples", "weights", "strain", "psd"):
        assert np.array_equal(getattr(after, name), getattr(before, name)), name
    told = json.loads(outgoing(0).summary.posterior)
    assert told["parameters"].keys() == before.body["parameters"].keys()
    document["posterior"]["snr"] = 99.0
    with pytest.raises(SamplesError, match="was changed: its SHA-256"):
        Drawn.parse(document)
    for lacking in ("draws", "window", "sha256"):
        with pytest.raises(SamplesError, match="not a posterior with its draws"):
            Drawn.parse({name: part for name, part in json.loads(before.document()).items() if name != lacking})
    fewer = json.loads(before.document())
    fewer["draws"] = {name: column[:-1] for name, column in fewer["draws"].items()}
    with pytest.raises(SamplesError, match="some draws or samples are missing"):
        Drawn.parse(fewer)


def test_what_is_kept_is_as_the_message_tells_it_and_bounded() -> None:
    made = keeper(kept=3)
    triggers = [fakes.trigger(fakes.window(number)) for number in range(5)]
    found = [made.infer(trigger, 1) for trigger in triggers]
    assert [made.document(one.id) is not None for one in found] == [False, False, True, True, True]
    content = made.document(f"E-{found[-1].id}")
    assert content is not None
    assert json.loads(content)["sha256"] == outgoing(4).summary.sha256
    assert made.document("H1-0-nothing") is None


def test_draws_that_count_alike() -> None:
    one = drawn()
    chosen = files.equal(one)
    n = int(1 / np.sum(one.weights**2))
    assert len(chosen) == n
    counts = np.bincount(chosen, minlength=len(one.weights))
    assert np.all(np.abs(counts - n * one.weights) < 1)
    assert np.array_equal(chosen, files.equal(one))
    assert not np.array_equal(np.sort(chosen), chosen)


def test_hdf5_has_equal_and_weighted_draws(tmp_path: Path) -> None:
    one = drawn()
    path = tmp_path / "one.hdf5"
    path.write_bytes(files.encode(one, "hdf5"))
    with h5py.File(path) as file:
        every = {name: column[:] for name, column in file["nested_samples"].items()}
        equal = {name: column[:] for name, column in file["posterior"].items()}
        message = json.loads(file["meta_data/gwstream"][()])
        priors = json.loads(file["priors"][()])
    assert message == {"sha256": one.sha256, "posterior": one.body}
    assert np.array_equal(every["weights"], one.weights)
    assert np.array_equal(every["mass_1"], one.samples[:, 0])
    assert np.allclose(every["H1_time"] - one.gps_ns / NANO, one.samples[:, 3], atol=1e-6)
    assert np.allclose(every["chirp_mass"], (every["mass_1"] * every["mass_2"]) ** 0.6 / every["total_mass"] ** 0.2)
    assert set(equal) == set(every) - {"weights"}
    assert np.array_equal(equal["mass_2"], every["mass_2"][files.equal(one)])
    assert priors["mass_1"]["kwargs"]["minimum"] == Prior().mass[0]
    assert priors["effective_distance"]["kwargs"]["alpha"] == 0


def peer(needs: str, script: str, *arguments: Path) -> dict[str, Any]:
    """What a script prints as JSON in the environment of the peers (`make .venv-peers/.done`)."""
    if not PEERS.is_file() or subprocess.run([PEERS, "-c", f"import {needs}"], capture_output=True).returncode:
        pytest.skip(f"{needs} is not installed in {PEERS.parents[1]}: make .venv-peers/.done")
    done = subprocess.run([PEERS, "-c", script, *arguments], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


BILBY = """
import json, sys, bilby
r = bilby.core.result.read_in_result(sys.argv[1])
prior = bilby.gw.prior.BBHPriorDict(dict(r.priors)).sample(2000)
q = prior["mass_2"] / prior["mass_1"]
nested = r.nested_samples
print(json.dumps({
    "label": r.label, "draws": len(r.posterior), "chirp": list(r.posterior["chirp_mass"][:5]), "ln": r.log_bayes_factor,
    "noise": r.log_noise_evidence, "searched": r.search_parameter_keys, "weighted": float(
        (nested["weights"] * nested["mass_1"]).sum()), "q": [float(q.min()), float(q.max())],
    "sha256": json.loads(r.meta_data["gwstream"])["sha256"], "labels": r.parameter_labels_with_unit}))
"""


@pytest.mark.peers
def test_bilby_reads_it(tmp_path: Path) -> None:
    one = drawn()
    path = tmp_path / "one.hdf5"
    path.write_bytes(files.encode(one, "hdf5"))
    found = peer("bilby", BILBY, path)
    assert (found["label"], found["sha256"], found["ln"]) == (one.id, one.sha256, one.body["log_bayes"])
    assert found["noise"] == pytest.approx(one.body["log_evidence"] - one.body["log_bayes"])
    chirp = files.columns(one)["chirp_mass"][files.equal(one)]
    assert found["draws"] == len(chirp)
    assert found["chirp"] == list(chirp[:5])
    assert found["weighted"] == pytest.approx(float(one.weights @ one.samples[:, 0]))
    assert found["searched"] == ["mass_1", "mass_2", "effective_distance", "H1_time", "phase"]
    assert found["labels"][2] == "$D_{\\rm eff}$ [Gpc]"
    low, high = found["q"]
    assert Prior().min_ratio <= low < 0.4
    assert 0.9 < high <= 1


PESUMMARY = """
import json, sys
from pesummary.io import read
f = read(sys.argv[1], package="gw")
s = f.samples_dict
print(json.dumps({"kind": type(f).__name__, "chirp": list(map(float, s["chirp_mass"][:5])),
    "time": float(s["H1_time"][0]), "prior": sorted(f.priors["analytic"]), "n": len(s["mass_1"])}))
"""


@pytest.mark.peers
def test_pesummary_reads_it(tmp_path: Path) -> None:
    one = drawn()
    path = tmp_path / "one.hdf5"
    path.write_bytes(files.encode(one, "hdf5"))
    found = peer("pesummary", PESUMMARY, path)
    chosen = files.equal(one)
    every = files.columns(one)
    assert found["kind"] == "Bilby"
    assert found["n"] == len(chosen)
    assert found["chirp"] == list(every["chirp_mass"][chosen][:5])
    assert found["time"] == every["H1_time"][chosen][0]
    assert {"mass_1", "mass_2", "effective_distance", "phase", "H1_time"} <= set(found["prior"])


PARQUET = """
import json, sys, pyarrow.parquet as pq
sys.path.insert(0, sys.argv[3])
from pathlib import Path
from gwstream.samples import Drawn, files
one = Drawn.parse(json.loads(Path(sys.argv[1]).read_text()))
Path(sys.argv[2]).write_bytes(files.encode(one, "parquet"))
t = pq.read_table(sys.argv[2])
print(json.dumps({"names": t.column_names, "mass": t["mass_1"].to_pylist(), "weight": t["weight"].to_pylist(),
    "sha256": json.loads(t.schema.metadata[b"gwstream"])["sha256"]}))
"""


@pytest.mark.peers
def test_parquet(tmp_path: Path) -> None:
    one = drawn()
    source = tmp_path / "one.json"
    source.write_bytes(one.document())
    found = peer("pyarrow", PARQUET, source, tmp_path / "one.parquet", ROOT)
    assert found["mass"] == one.samples[:, 0].tolist()
    assert found["weight"] == one.weights.tolist()
    assert found["sha256"] == one.sha256
    assert {"H1_time", "phase", "chirp_mass"} <= set(found["names"])


def test_parquet_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"pip install 'gwstream\[parquet\]'"):
        files.encode(drawn(), "parquet")


async def test_draws_of_a_daemon_by_http(tmp_path: Path) -> None:
    made = keeper()
    one = made.infer(fakes.trigger(fakes.window(0)), 1)
    message = tmp_path / "message.json"
    message.write_bytes(payload(outgoing(0, "H1", "event"), 0))
    other = tmp_path / "other.json"
    other.write_bytes(message.read_bytes().replace(outgoing(0).summary.sha256.encode(), b"0" * 64))
    config = MetricsConfig(port=0)
    async with serving(config, feed=new_feed(), exposition=bytes, samples=made.document) as port:
        places = Places(url=f"http://127.0.0.1:{port}/")
        for what in (one.id, f"E-{one.id}", str(message)):
            found = await asyncio.to_thread(find, what, places)
            assert np.array_equal(found.samples, one.samples)
        with pytest.raises(SamplesError, match="not among the last posteriors"):
            await asyncio.to_thread(find, "H1-1-gone", places)
        with pytest.raises(SamplesError, match="has another posterior of this id"):
            await asyncio.to_thread(find, str(other), places)
    with pytest.raises(SamplesError, match=r"no draws from http://127\.0\.0\.1:1/samples/.*--url.*--strain"):
        find(one.id, NOWHERE)
    token = tmp_path / "token"
    token.write_text("0123456789abcdef\n")
    config = MetricsConfig(port=0, token_file=token)
    async with serving(config, feed=new_feed(), exposition=bytes, samples=made.document) as port:
        places = Places(url=f"http://127.0.0.1:{port}")
        with pytest.raises(SamplesError, match=r"token is missing or wrong; --token-file FILE"):
            await asyncio.to_thread(find, one.id, places)
        found = await asyncio.to_thread(find, one.id, replace(places, token="0123456789abcdef"))
    assert found.id == one.id


async def test_draws_by_the_client(tmp_path: Path) -> None:
    made = keeper()
    one = made.infer(fakes.trigger(fakes.window(0)), 1)
    event, network = (parse(payload(outgoing(0, "H1", kind), 0)) for kind in ("event", "network"))
    other = parse(payload(outgoing(0, "H1", "event"), 0).replace(outgoing(0).summary.sha256.encode(), b"0" * 64))
    assert isinstance(event, client.Event)
    assert isinstance(network, client.NetworkEvent)
    assert isinstance(other, client.Event)
    token = tmp_path / "token"
    token.write_text("0123456789abcdef\n")
    config = MetricsConfig(port=0, token_file=token)
    async with serving(config, feed=new_feed(), exposition=bytes, samples=made.document) as port:
        daemon = Daemon(url=f"http://127.0.0.1:{port}/", token="0123456789abcdef")
        for what in (one.id, event.id, event):
            found = await client.draws(what, daemon)
            assert np.array_equal(np.array([found.values[name] for name in PARAMETERS]).T, one.samples)
        assert found.weights == pytest.approx(one.weights)
        assert found.mean("mass_1") == pytest.approx(float(one.weights @ one.samples[:, 0]))
        assert (found.id, found.detector, found.gps_ns) == (one.id, "H1", one.trigger.window.gps_ns)
        assert found.gps[0] == pytest.approx(one.trigger.window.gps_ns / NANO + one.samples[0, 3], abs=1e-6)
        with pytest.raises(SamplesError, match="not among the last posteriors"):
            await client.draws("H1-1-gone", daemon)
        with pytest.raises(SamplesError, match="has another posterior of this id"):
            await client.draws(other, daemon)
        with pytest.raises(SamplesError, match="its members do: E-"):
            await client.draws(network, daemon)
        with pytest.raises(SamplesError, match=r"token is missing or wrong; see Daemon\.token"):
            await client.draws(event, daemon.url)
    with pytest.raises(
        SamplesError, match=r"no draws from http://127\.0\.0\.1:1/samples/.*name the daemon's HTTP port"
    ):
        await client.draws(one.id, "http://127.0.0.1:1")
    with pytest.raises(SamplesError, match="name the daemon's HTTP port"):
        await client.draws(one.id, "localhost")


async def test_the_client_takes_no_draws_that_were_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    one = drawn()
    whole = json.loads(one.document())
    part = {**whole["posterior"], "snr": 99.0}
    fewer = {name: column[:-1] for name, column in whole["draws"].items()}
    wrong: dict[str, bytes] = {
        "SHA-256": json.dumps({**whole, "posterior": part}).encode(),
        "some draws are missing": json.dumps({**whole, "draws": fewer}).encode(),
        "not gwstream.samples/1 of this id": drawn(1).document(),
        "not a posterior with its draws": b"<html>",
    }
    for said, content in wrong.items():
        answer: Callable[[str], bytes] = lambda _, content=content: content  # noqa: E731
        async with serving(MetricsConfig(port=0), feed=new_feed(), exposition=bytes, samples=answer) as port:
            with pytest.raises(SamplesError, match=said):
                await client.draws(one.id, f"http://127.0.0.1:{port}")
    monkeypatch.setattr("gwstream.client.fetch.LARGEST", 1000)
    async with serving(
        MetricsConfig(port=0), feed=new_feed(), exposition=bytes, samples=lambda _: one.document()
    ) as port:
        with pytest.raises(SamplesError, match="longer than"):
            await client.draws(one.id, f"http://127.0.0.1:{port}")


def test_a_file_of_several_messages(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b"\n".join([drawn(1).document(), drawn(2).document(), b'{"schema": "gwstream.status/1"}']))
    assert find(str(path), NOWHERE).id == drawn(2).id
    assert find(str(path), NOWHERE, f"E-{drawn(1).id}").id == drawn(1).id
    with pytest.raises(SamplesError, match="holds no message of H1-0"):
        find(str(path), NOWHERE, "H1-0")
    path.write_bytes(payload(outgoing(0, "L1", "network"), 0))
    with pytest.raises(SamplesError, match="network events have no draws, but their members do"):
        find(str(path), NOWHERE)
    path.write_bytes(payload(outgoing(0, "L1", "unweighted"), 0))
    with pytest.raises(SamplesError, match="holds no posterior"):
        find(str(path), NOWHERE)
    with pytest.raises(SamplesError, match="is unweighted: its draws are kept nowhere"):
        find("H1-1-x-u", NOWHERE)
    path.write_bytes(b"\x89PNG\xff")
    with pytest.raises(SamplesError, match="cannot be read as JSON"):
        find(str(path), NOWHERE)
    with pytest.raises(SamplesError, match="no such file"):
        find(str(tmp_path / "none.json"), NOWHERE)
    with pytest.raises(ConfigError, match="--strain needs the message"):
        find("H1-1-x", Places(strain=(path,)))
    with pytest.raises(ConfigError, match="write it as http://HOST:PORT"):
        find("H1-1-x", Places(url="localhost:9480"))


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All that `gwstream replay` says of the shipped recording of H1."""
    path = tmp_path_factory.mktemp("told") / "messages.jsonl"
    with path.open("wb") as out:
        subprocess.run(
            [sys.executable, "-m", "gwstream", "replay", str(recording.path("H1")), "--detector", "H1"],
            stdout=out,
            check=True,
            timeout=300,
        )
    return path


def test_get_and_plot_from_message_and_strain(
    told: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from matplotlib.image import imread

    monkeypatch.chdir(tmp_path)
    assert cli.main(["get", str(told), "--strain", str(recording.path("H1"))]) == 0
    written = Path(capsys.readouterr().out.strip())
    event = [one for one in map(json.loads, told.read_text().splitlines()) if one["schema"] == "gwstream.event/1"][-1]
    document = json.loads(written.read_text())
    assert (document["posterior"], document["sha256"]) == (event["posterior"], event["sha256"])
    draws = document["draws"]
    assert len(draws["mass_1"]) == event["posterior"]["sampling"]["draws"]
    order = np.argsort(draws["mass_1"])
    held = np.cumsum(np.array(draws["weight"])[order])
    median = np.array(draws["mass_1"])[order][np.searchsorted(held, 0.5)]
    assert median == pytest.approx(event["posterior"]["parameters"]["mass_1"]["median"], rel=0.01)
    assert cli.main(["get", str(written), "-o", "one.h5"]) == 0
    assert h5py.is_hdf5("one.h5")
    assert cli.main(["plot", str(written), "-o", "pictures"]) == 0
    made = sorted(Path("pictures").iterdir())
    assert [path.stem.rpartition("-")[2] for path in made] == ["corner", "spectrum", "waveform"]
    for path in made:
        image = imread(path)
        assert min(image.shape[:2]) > 400
        assert image[:, :, :3].std() > 0.05
    assert cli.main(["plot", str(written), "--what", "corner", "--format", "pdf"]) == 0
    assert Path(f"{document['posterior']['id']}-corner.pdf").read_bytes().startswith(b"%PDF")
    capsys.readouterr()
    assert cli.main(["get", str(written), "-o", "one.txt"]) == ConfigError.exit_code
    assert "which format is that?" in capsys.readouterr().err
    assert cli.main(["get", str(written), "-o", "nowhere/one.json"]) == ConfigError.exit_code
    assert "nowhere/one.json: cannot be written" in capsys.readouterr().err


def cut(folder: Path, first: int, last: int) -> Path:
    """Seconds ``first`` to ``last`` of the recording of H1."""
    path = folder / f"H-H1_cut-{1126259447 + first}-{last - first}.hdf5"
    with h5py.File(recording.path("H1")) as whole, h5py.File(path, "w") as out:
        strain = whole["strain/Strain"]
        made = out.create_dataset("strain/Strain", data=strain[first * 4096 : last * 4096])
        made.attrs.update({**dict(strain.attrs), "Xstart": strain.attrs["Xstart"] + first})
        whole.copy("meta", out)
        del out["meta/GPSstart"], out["meta/Duration"]
        out["meta/GPSstart"], out["meta/Duration"] = 1126259447 + first, last - first
    return path


def test_the_draws_of_an_answer_come_from_the_strain(told: Path, tmp_path: Path) -> None:
    """Its posterior is that of its window, whoever asked for it."""
    lines = [json.loads(line) for line in told.read_text(encoding="utf-8").splitlines()]
    posterior = next(one for one in lines if one["schema"] == "gwstream.posterior/1")
    answer = posterior | {"schema": "gwstream.answer/1", "answer": {"id": "A-ann-17", "trigger": "ann-17"}}
    path = tmp_path / "answer.json"
    path.write_text(json.dumps(answer), encoding="utf-8")
    found = find(str(path), Places(strain=(recording.path("H1"),)))
    assert (found.id, found.sha256) == (posterior["posterior"]["id"], posterior["sha256"])


async def test_strain_without_state_vector_has_the_bits_of_the_message(told: Path) -> None:
    """As of the demo, which vouches for its frames: its message, with the recording it played."""
    config = settings.replay_config(
        [recording.path("H1")], detector="H1", channel="", speed=0.0, model=None, gate_snr=6.5, broker=None
    )
    event = [one for one in map(json.loads, told.read_text().splitlines()) if one["schema"] == "gwstream.event/1"][-1]
    strain = await recompute._read(config, "H1")
    body = {**event["posterior"], "data": {"dq": 3, "gap": False}}
    body["quality"] = {**body["quality"], "reasons": [r for r in body["quality"]["reasons"] if "data" not in r]}
    assert body["quality"] != event["posterior"]["quality"]
    message = {"posterior": body, "sha256": hashlib.sha256(canonical(body)).hexdigest()}
    (found,) = await asyncio.to_thread(recompute.posteriors, config, {"H1": strain}, [message])
    assert found.body == body
    vetoed = [replace(one, dq=1) if isinstance(one, Strain) else one for one in strain]
    with pytest.raises(SamplesError, match="other bits of the state vector"):
        await asyncio.to_thread(recompute.posteriors, config, {"H1": vetoed}, [message])


def test_other_strain_is_noticed(told: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def said(strain: Path) -> str:
        assert cli.main(["get", str(told), "--strain", str(strain), "-o", "-"]) == SamplesError.exit_code
        return capsys.readouterr().err

    assert "holds strain of L1, not of H1" in said(recording.path("L1"))
    assert "computed again, differs from what was sent: another spectrum" in said(cut(tmp_path, 1, 32))
    assert "must begin 12 s or more before that" in said(cut(tmp_path, 0, 4))


async def test_a_running_daemon_gives_the_draws_of_what_it_has_just_told(tmp_path: Path) -> None:
    config, log, port = tmp_path / "gwstream.toml", tmp_path / "log", child.free_port()
    async with demo_broker.Broker() as broker:
        config.write_text(
            '[source]\nkind = "simulated"\nseed = 3\nrate = 1024\nduration = 600\ninjection_interval = 8\nspeed = 4\n'
            '[source.detectors.H1]\nasd = "aLIGO_O4_high"\n[calibration]\ninterval = 0\n'
            f"[publish]\nport = {broker.port}\n[metrics]\nport = {port}\n"
        )
        async with child.daemon(config, log, port):
            stream = events(Broker(port=broker.port))
            event = await asyncio.wait_for(anext(stream), 120)
            await stream.aclose()
            found = await asyncio.to_thread(find, event.id, Places(url=f"http://127.0.0.1:{port}"))
            own = await client.draws(event, f"http://127.0.0.1:{port}")
    assert own.values["mass_2"] == tuple(found.samples[:, 1])
    assert (found.sha256, found.body) == (event.body["sha256"], event.body["posterior"])
    assert len(found.samples) == event.body["posterior"]["sampling"]["draws"]
    chirp = files.columns(found)["chirp_mass"]
    assert float(found.weights @ chirp) == pytest.approx(event.body["posterior"]["parameters"]["chirp_mass"]["mean"])


def test_spectra_are_of_the_window(tmp_path: Path) -> None:
    path = pictures.draw(drawn(), "spectrum", tmp_path / "spectrum.pdf")
    assert path.read_bytes().startswith(b"%PDF")
