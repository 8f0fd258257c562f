"""The command line: quick help that teaches, and errors that say what, where and what to do, with a status each."""

from __future__ import annotations

import argparse
import json
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from gwstream import __version__, cli, daemon, errors, settings
from gwstream.cli import base, values
from gwstream.config import Config, load
from gwstream.errors import ConfigError, EngineError, GwstreamError, PublishError, SourceError
from gwstream.training.train import Data

NAMES = (
    *("run", "demo", "watch", "ask", "get", "plot", "replay", "simulate", "publish"),
    *("train", "validate", "compare", "check-config", "schema", "completion"),
)
HEAVY = {"numpy", "scipy", "torch", "pydantic", "aiohttp", "aiomqtt", "gwpy", "h5py", "matplotlib", "rich", "asyncio"}


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    for name in NAMES:
        assert re.search(rf"^ {{4}}{name}\b", text, re.MULTILINE), name


@pytest.mark.parametrize("name", NAMES)
def test_command_help_teaches(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([name, "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert f"  gwstream {name}" in text.partition("examples:")[2]
    assert "exit status:" in text


def test_help_lists_every_exit_status() -> None:
    listed = {int(code) for code in re.findall(r"^ {2}(\d+) ", base.EXIT_CODES, re.MULTILINE)}
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, GwstreamError)]
    assert len(kinds) == 9
    assert listed == {0, 1, 2, 130} | {kind.exit_code for kind in kinds}


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom gwstream import cli\n"
        "try:\n    cli.main(['run', '--help'])\nexcept SystemExit:\n    pass\n"
        "print(sorted(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert not HEAVY & set(re.findall(r"'(\w+)'", done.stderr))


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--version"])
    assert capsys.readouterr().out == f"gwstream {__version__}\n"


def test_unknown_command_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["rnu", "gwstream.toml"])
    assert ended.value.code == 2
    assert "'rnu'" in capsys.readouterr().err


def raising(problem: Exception) -> object:
    def call(*_: object, **__: object) -> int:
        raise problem

    return call


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    path = tmp_path / "gwstream.toml"
    path.write_text('[source.detectors.H1]\ndirectory = "frames"\n', encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "problem",
    [
        PublishError("the broker refuses us"),
        ExceptionGroup("stages", [ExceptionGroup("inner", [ValueError("x"), EngineError("out of memory")])]),
    ],
)
def test_errors_become_message_and_status(
    problem: Exception, config_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(daemon, "run", raising(problem))
    code = cli.main(["run", str(config_file)])
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert len(error.splitlines()) == 1
    assert (code, error) in {
        (69, "gwstream run: the broker refuses us\n"),
        (70, "gwstream run: out of memory\n"),
    }


def test_debug_shows_the_traceback(
    config_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(daemon, "run", raising(PublishError("no")))
    assert cli.main(["run", str(config_file), "--debug"]) == 69
    assert "Traceback" in capsys.readouterr().err
    config_file.write_text(
        config_file.read_text(encoding="utf-8") + '[service]\nlog_level = "debug"\n', encoding="utf-8"
    )
    assert cli.main(["run", str(config_file)]) == 69
    assert "Traceback" in capsys.readouterr().err


def test_a_bug_is_not_hidden(
    config_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(daemon, "run", raising(KeyError("lost")))
    assert cli.main(["run", str(config_file)]) == 70
    error = capsys.readouterr().err
    assert "KeyError: 'lost'" in error
    assert "a bug in gwstream" in error.splitlines()[-1]


def test_interrupt_and_broken_pipe(config_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(daemon, "run", interrupted)
    assert cli.main(["run", str(config_file)]) == 130


def test_debug_reaches_the_daemon(config_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    levels = []

    def run(config: Config, **_: object) -> int:
        levels.append(config.service.log_level)
        return 0

    monkeypatch.setattr(daemon, "run", run)
    assert cli.main(["run", str(config_file)]) == 0
    assert cli.main(["run", str(config_file), "--debug"]) == 0
    assert levels == ["info", "debug"]


def gwstream(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gwstream", *arguments], capture_output=True, text=True, check=False, timeout=120
    )


@pytest.mark.parametrize("command", ["run", "check-config"])
def test_wrong_key(config_file: Path, command: str) -> None:
    config_file.write_text('[source.detectors.H1]\ndirektory = "x"\n', encoding="utf-8")
    done = gwstream(command, str(config_file))
    assert done.returncode == 78
    assert "did you mean 'directory'?" in done.stderr
    assert "Traceback" not in done.stderr


def test_missing_directory(config_file: Path) -> None:
    done = gwstream("run", str(config_file))
    assert done.returncode == 66
    assert f"source.detectors.H1.directory: {config_file.parent / 'frames'}: no such directory" in done.stderr
    assert "Traceback" not in done.stderr


def with_model(config_file: Path) -> Path:
    """Name a model folder in the settings, relative to them; its place."""
    with config_file.open("a", encoding="utf-8") as settings_:
        settings_.write('[inference]\nmodel = "models/bbh-1det"\n')
    return config_file.parent / "models/bbh-1det"


def test_missing_model(config_file: Path) -> None:
    (config_file.parent / "frames").mkdir()
    model = with_model(config_file)
    done = gwstream("check-config", str(config_file))
    assert done.returncode == 65
    assert f"{model}: no such model folder" in done.stderr
    assert "Traceback" not in done.stderr


def test_model_that_does_not_match(config_file: Path) -> None:
    (config_file.parent / "frames").mkdir()
    model = with_model(config_file)
    shutil.copytree(settings.default_model(), model)
    recipe = (model / "model.toml").read_text(encoding="utf-8")
    changed = re.sub(r"^floor_hz = .*$", "floor_hz = 19.5", recipe, flags=re.MULTILINE)
    assert changed != recipe
    (model / "model.toml").write_text(changed, encoding="utf-8")
    done = gwstream("run", str(config_file))
    assert done.returncode == 65
    assert "another [conditioning]" in done.stderr
    assert "Traceback" not in done.stderr


def test_unreachable_broker(config_file: Path) -> None:
    (config_file.parent / "frames").mkdir()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        port = taken.getsockname()[1]
        more = f'[inference]\nmodel = "{settings.default_model()}"\n[publish]\nport = {port}\n[metrics]\nport = 0\n'
        config_file.write_text(config_file.read_text(encoding="utf-8") + more, encoding="utf-8")
        done = gwstream("run", str(config_file))
    assert done.returncode == 69
    assert f"127.0.0.1:{port}" in done.stderr
    assert "publish.host" in done.stderr
    assert "Traceback" not in done.stderr


def test_check_config_says_what_it_means(config_file: Path) -> None:
    (config_file.parent / "frames").mkdir()
    more = f'[inference]\nmodel = "{settings.default_model()}"\n'
    config_file.write_text(config_file.read_text(encoding="utf-8") + more, encoding="utf-8")
    done = gwstream("check-config", str(config_file))
    assert done.returncode == 0, done.stderr
    for part in (
        "good",
        str(config_file.parent / "frames"),
        "bbh-1det",
        "127.0.0.1:1883",
        "one detector has none",
        "in each 16 s",
    ):
        assert part in done.stdout


@pytest.mark.parametrize("command", ["run", "check-config"])
def test_known_signals_too_often(config_file: Path, command: str) -> None:
    more = "[calibration]\ninterval = 2.5\n[metrics]\nport = 0\n"
    config_file.write_text(f'[source]\nkind = "simulated"\n[source.detectors.H1]\n{more}', encoding="utf-8")
    done = gwstream(command, str(config_file))
    assert done.returncode == 78
    assert "calibration.interval = 2.5: must be 0, or at least 4 s" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("source", "more", "said"),
    [
        ("", 'asd = "ligo"\n', "no amplitude spectral density is called 'ligo'"),
        ("rate = 1000\n", "", "source.rate = 1000: the model needs a whole multiple of 256 Hz"),
        ('injection_file = "absent.jsonl"\n', "", "absent.jsonl: cannot be read"),
        ("", '[metrics]\ntoken_file = "short"\n', "can be guessed"),
        ("", '[publish]\nusername = "us"\npassword_file = "absent"\n', "publish.password_file = "),
        ("", '[publish]\ntls = true\nca_file = "absent.pem"\n', "publish.ca_file = "),
    ],
)
def test_check_config_refuses_what_the_daemon_would_refuse(tmp_path: Path, source: str, more: str, said: str) -> None:
    (tmp_path / "short").write_text("guess", encoding="utf-8")
    path = tmp_path / "gwstream.toml"
    path.write_text(f'[source]\nkind = "simulated"\n{source}[source.detectors.H1]\n{more}', encoding="utf-8")
    with pytest.raises(ConfigError, match=re.escape(said)):
        settings.check(path, load(path))


def test_check_config_leaves_alone_what_only_the_service_sees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    more = '[publish]\nusername = "us"\npassword_file = "$CREDENTIALS_DIRECTORY/mqtt-password"\n'
    more += '[metrics]\ntoken_file = "$CREDENTIALS_DIRECTORY/web-token"\n'
    path = tmp_path / "gwstream.toml"
    path.write_text(f'[source]\nkind = "simulated"\n[source.detectors.H1]\n{more}', encoding="utf-8")
    settings.check(path, load(path))
    assert "good" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("web", "who"), [("", "for this host alone"), ('[metrics]\nhost = "0.0.0.0"\n', "for whoever reaches it")]
)
def test_check_config_says_who_may_read(tmp_path: Path, capsys: pytest.CaptureFixture[str], web: str, who: str) -> None:
    path = tmp_path / "gwstream.toml"
    path.write_text(f'[source]\nkind = "simulated"\n[source.detectors.H1]\n{web}', encoding="utf-8")
    settings.check(path, load(path))
    assert who in capsys.readouterr().out.splitlines()[-1]


def test_check_config_says_how_far_detectors_are_apart() -> None:
    def said(detectors: tuple[str, ...], **network: object) -> str:
        table = {"kind": "simulated", "detectors": {name: {} for name in detectors}}
        return settings.network(Config.model_validate({"source": table, "summary": {"network": network}}))

    assert said(("H1", "L1")) == "H1-L1 10.0 ms of light apart"
    assert "H1-Y9 42.6 ms" in said(("H1", "L1", "Y9"))  # nobody knows where that is
    assert said(("H1", "L1"), enabled=False) == "off"


def test_replay_prints_gw150914() -> None:
    from jsonschema import Draft202012Validator

    from gwstream.source import recording
    from gwstream.summary import schema

    done = gwstream("replay", str(recording.path("H1")), "--detector", "H1", "--json")
    assert done.returncode == 0, done.stderr
    messages = [json.loads(line) for line in done.stdout.splitlines()]
    validator = Draft202012Validator(schema())
    for message in messages:
        validator.validate(message)
    events = [message for message in messages if message["schema"].startswith("gwstream.event/")]
    assert events
    assert all(abs(event["posterior"]["coalescence"]["gps"] - 1126259462.427) < 0.010 for event in events)


def test_replay_ends_quietly_when_nobody_reads() -> None:
    from gwstream.source import recording

    command = f"{sys.executable} -m gwstream replay {recording.path('H1')} --detector H1 | head -c 100"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, check=False, timeout=120)
    assert done.returncode == 0
    assert not done.stderr


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("1.5", 1.5), ("90s", 90), ("30m", 1800), ("1h30m", 5400)])
def test_durations(text: str, seconds: float) -> None:
    assert values.seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "m", "-5", "30 minutes", "1m1h"])
def test_wrong_durations(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="write it as 90s, 30m or 1h30m"):
        values.seconds(text)


def replayed(*files: str, **changes: object) -> Config:
    options = {"detector": None, "channel": "", "speed": 0.0, "model": None, "gate_snr": 6.5, "broker": None}
    return settings.replay_config([Path(name) for name in files], **{**options, **changes})  # type: ignore[arg-type]


def test_replay_reads_the_detector_from_the_name() -> None:
    config = replayed("H-H1_GWOSC_4KHZ_R1-1126259447-32.hdf5", "L-L1_x-1.gwf", "H-H1_x-2.gwf")
    found = {name: [file.name for file in d.files] for name, d in config.source.detectors.items()}
    assert found == {"H1": ["H-H1_GWOSC_4KHZ_R1-1126259447-32.hdf5", "H-H1_x-2.gwf"], "L1": ["L-L1_x-1.gwf"]}
    assert config.source.kind == "replay"
    assert config.source.speed == 0
    assert config.source.accept_unknown_dq
    assert config.inference.model == settings.default_model().resolve()


@pytest.mark.parametrize("command", [("simulate",), ("replay", "H-H1_x.gwf")])
def test_the_engine_can_be_chosen(command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Config] = []
    monkeypatch.setattr("gwstream.daemon.run", lambda config, **_: seen.append(config) or 0)
    assert cli.main([*command, "--engine", "torch"]) == cli.main([*command]) == 0
    assert [config.inference.engine for config in seen] == ["torch", "auto"]


def test_replay_asks_for_the_detector_it_cannot_tell(tmp_path: Path) -> None:
    (tmp_path / "strain.hdf5").touch()
    with pytest.raises(ConfigError, match=r"strain\.hdf5: .*--detector"):
        replayed(str(tmp_path / "strain.hdf5"))
    with pytest.raises(SourceError, match=r"strain\.hdf5: no such file"):  # a detector would not help
        replayed("strain.hdf5")
    assert list(replayed("strain.hdf5", detector="V1").source.detectors) == ["V1"]


@pytest.mark.parametrize(
    ("broker", "host", "port"),
    [("mq", "mq", 1883), ("mq:99", "mq", 99), ("127.0.0.1:1884", "127.0.0.1", 1884), ("::1", "::1", 1883)],
)
def test_broker_address(broker: str, host: str, port: int) -> None:
    publish = replayed("H-H1_x.gwf", broker=broker).publish
    assert (publish.host, publish.port) == (host, port)


def test_wrong_broker_address() -> None:
    with pytest.raises(ConfigError, match="'mqtt' is not a port"):
        replayed("H-H1_x.gwf", broker="localhost:mqtt")


def test_schema_is_a_schema(capsys: pytest.CaptureFixture[str]) -> None:
    from jsonschema import Draft202012Validator

    assert cli.main(["schema"]) == 0
    Draft202012Validator.check_schema(json.loads(capsys.readouterr().out))


def test_validate_and_compare_pass_on_how_much_to_measure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[object] = []

    def call(*arguments: object) -> Path | None:
        asked.extend(arguments)
        return None

    monkeypatch.setattr("gwstream.training.validate.validate", call)
    monkeypatch.setattr("gwstream.training.compare.compare", call)
    options = ["--seed", "7", "--exact", "2", "--fixed", "0", "--jobs", "2"]
    assert cli.main(["validate", "m", *options]) == 1
    assert cli.main(["compare", "a", "b", *options, "--cache", str(tmp_path), "--output", "o"]) == 0
    first, second = asked[1], asked[4]
    assert first.options == "--injections 2000 --seed 7 --fixed 0 --exact 2"
    assert second.options == "--injections 1000 --seed 7 --fixed 0 --exact 2"
    assert (first.jobs, second.cache) == (2, tmp_path)
    assert asked[:1] + asked[2:4] + asked[5:] == [Path("m"), Path("m"), [Path("a"), Path("b")], Path("o")]
    assert "NOT calibrated" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["--injections", "0"], ["--injections", "many"], ["--seed", "-1"]])
def test_a_number_that_cannot_be_is_a_usage_error(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["validate", "models/bbh-1det", *arguments])
    assert ended.value.code == 2
    assert f"'{arguments[1]}' is not a whole number from" in capsys.readouterr().err


def test_train_says_where_the_weights_are_and_what_comes_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: dict[str, object] = {}

    def train(recipe: Path, **settings: object) -> Path:
        asked.update(settings)
        return recipe.parent / "weights.safetensors"

    monkeypatch.setattr("gwstream.training.train.train", train)
    assert cli.main(["train", str(tmp_path / "model.toml"), "--budget", "30m"]) == 0
    nothing = dict.fromkeys(("output", "samples", "seed", "data"))
    assert asked == {**nothing, "budget": 1800.0, "resume": False}
    assert f"gwstream validate {tmp_path}" in capsys.readouterr().out


def test_train_on_stored_examples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[object] = []

    def prepare(recipe: Path, data: object) -> int:
        asked.extend([recipe, data])
        return 65536

    monkeypatch.setattr("gwstream.training.train.prepare", prepare)
    recipe = str(tmp_path / "model.toml")
    assert cli.main(["train", recipe, "--data", "runs/data", "--stored", "50000", "--prepare"]) == 0
    assert asked == [tmp_path / "model.toml", Data(Path("runs/data"), 50_000)]
    assert "runs/data: 65536 examples" in capsys.readouterr().out
    assert cli.main(["train", recipe, "--prepare"]) == ConfigError.exit_code
    assert "add --data DIR" in capsys.readouterr().err
