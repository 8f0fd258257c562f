"""Settings: the annotated example is true, and mistakes are answered with what, where and what to do."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from gwstream import settings
from gwstream.config import Config, Detector, Section, default_model, load
from gwstream.errors import ConfigError
from gwstream.settings import state_directory

EXAMPLE = Path(__file__).parent.parent / "deploy" / "gwstream.toml"
MINIMAL = '[source.detectors.H1]\ndirectory = "frames"\n'


def write(folder: Path, text: str) -> Path:
    path = folder / "gwstream.toml"
    path.write_text(text, encoding="utf-8")
    return path


def refused(folder: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(write(folder, text))
    return str(caught.value)


def documented() -> dict[str, set[str]]:
    """Keys the example names, set or commented out, by section."""
    found: dict[str, set[str]] = {}
    section = ""
    for line in EXAMPLE.read_text(encoding="utf-8").splitlines():
        if header := re.match(r"\[([\w.]+)\]", line):
            section = header[1]
        elif key := re.match(r"#?\s*(\w+) = \S", line):
            found.setdefault(section, set()).add(key[1])
    return found


def sections(of: type[BaseModel] = Config, prefix: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    for name, field in of.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield prefix + name, field.annotation
            yield from sections(field.annotation, f"{prefix}{name}.")


def test_example_loads() -> None:
    config = load(EXAMPLE)
    assert set(config.source.detectors) == {"H1", "L1"}
    assert config.inference.model == default_model()


def test_example_names_every_setting() -> None:
    keys = documented()
    everywhere = set().union(*keys.values())
    for name, section in sections():
        inner = {key.removeprefix(f"{name}.") for key, _ in sections() if key.startswith(f"{name}.")}
        wanted = set(section.model_fields) - {"detectors"} - inner
        assert wanted <= (everywhere if name == "source" else keys[name]), name
    assert set(Detector.model_fields) <= everywhere


def test_example_comments_show_the_defaults(tmp_path: Path) -> None:
    text = EXAMPLE.read_text(encoding="utf-8")
    optional = {"channel", "state_channel", "asd", "injection_file", "username", "password_file"}
    optional |= {"ca_file", "certificate_file", "key_file", "token_file", "cache"}
    kept = []
    for line in text.splitlines():
        commented = re.match(r"# (\w+) = \S", line)
        kept.append(line[2:] if commented and commented[1] not in optional else line)
    spoken = "\n".join(kept)
    # the settings of a simulated source stand below the detectors in the example, and belong to [source]
    moved = re.findall(r"^(?:speed|seed|rate|start|duration|injection_interval) = .*$", spoken, re.MULTILINE)
    assert len(moved) == 6
    for line in moved:
        spoken = spoken.replace(line, "")
    spoken = spoken.replace("[source]\n", "[source]\n" + "\n".join(moved) + "\n")
    assert load(write(tmp_path, spoken)).model_dump(exclude={"inference": {"model"}}) == load(EXAMPLE).model_dump(
        exclude={"inference": {"model"}}
    )


def test_relative_paths_start_from_the_file(tmp_path: Path) -> None:
    config = load(write(tmp_path, MINIMAL + '[inference]\nmodel = "m"\n[publish]\npassword_file = "secret"\n'))
    assert config.source.detectors["H1"].directory == tmp_path / "frames"
    assert config.inference.model == tmp_path / "m"
    assert config.publish.password_file == tmp_path / "secret"
    assert load(write(tmp_path, MINIMAL + '[metrics]\ntoken_file = "t"\n')).metrics.token_file == tmp_path / "t"
    assert load(write(tmp_path, MINIMAL + '[service]\nstate = "s"\n')).service.state == str(tmp_path / "s")


def test_secrets_come_from_systemd_and_halves_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", "/run/credentials/gwstream.service")
    config = load(write(tmp_path, MINIMAL + '[publish]\npassword_file = "$CREDENTIALS_DIRECTORY/mqtt-password"\n'))
    assert config.publish.password_file == Path("/run/credentials/gwstream.service/mqtt-password")
    assert "go together" in refused(tmp_path, MINIMAL + '[publish]\ntls = true\ncertificate_file = "cert.pem"\n')
    assert "without tls = true" in refused(tmp_path, MINIMAL + '[publish]\nca_file = "ca.pem"\n')


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (MINIMAL + "[inference]\ngate_srn = 8\n", ["inference.gate_srn", "did you mean 'gate_snr'?"]),
        (MINIMAL + "[publisher]\n", ["publisher", "did you mean 'publish'?"]),
        ('[source.detectors.H1]\ndirektory = "x"\n', ["source.detectors.H1.direktory", "did you mean 'directory'?"]),
        (MINIMAL + "[batching]\nzzz = 1\n", ["batching.zzz", "known keys: max_age, size"]),
        (MINIMAL + "[batching]\nsize = 65\n", ["batching.size", "64", "65"]),
        (MINIMAL + '[service]\nlog_level = "loud"\n', ["service.log_level", "warning", "loud"]),
        (MINIMAL + '[publish]\nprefix = "a/#"\n', ["publish.prefix", "may have no '#', '+' or space", "a/#"]),
        ('[source]\nkind = "simulated"\n[source.detectors]\nH1 = "x"\n', ["must be a section, [source.detectors.H1]"]),
        ("[source.detectors.H1]\n", ["detectors.H1.directory is missing"]),
        ('[source]\nkind = "replay"\n[source.detectors.L1]\n', ["detectors.L1.files is empty"]),
        (
            '[source]\nrate = 8192\n[source.detectors.L1]\ndirectory = "x"\n',
            ["rate is for kind simulated, and source.kind is 'frames'"],
        ),
        (
            '[source]\nkind = "simulated"\n[source.detectors.L1]\nfiles = ["x.gwf"]\n',
            ["detectors.L1.files is for kind replay, and source.kind is 'simulated'"],
        ),
        (
            '[source]\nspeed = 2\n[source.detectors.L1]\ndirectory = "x"\n',
            ["speed is for kind replay or simulated"],
        ),
        ("[source]\ndetectors = {}\n", ["source.detectors"]),
        ("", ["source"]),
        ("[source\n", ["not valid TOML", "line 1"]),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, said: list[str]) -> None:
    message = refused(tmp_path, text)
    for part in ["gwstream.toml", *said]:
        assert part in message


def test_every_mistake_is_named_at_once(tmp_path: Path) -> None:
    message = refused(tmp_path, MINIMAL + "[batching]\nsize = 0\nage = 1\n[publish]\nport = 70000\n")
    assert len(message.splitlines()) == 3


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.toml: no such file"):
        load(tmp_path / "absent.toml")


@pytest.mark.parametrize("name", ["", "H1/x", "#", "h1", "Hanford"])
def test_a_detector_is_named_by_its_prefix(tmp_path: Path, name: str) -> None:
    text = refused(tmp_path, f'[source.detectors."{name}"]\ndirectory = "frames"\n')
    assert f"'{name}'" in text
    assert "a letter and a digit" in text


def test_the_shipped_model_is_the_default_and_in_the_wheel(tmp_path: Path) -> None:
    model = load(write(tmp_path, MINIMAL)).inference.model  # wherever the settings lie
    assert model == default_model()
    root = EXAMPLE.parent.parent
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    taken = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    for name in ("model.toml", "weights.safetensors"):
        assert (model / name).is_file()
        assert taken[f"models/bbh-1det/{name}"] == f"gwstream/models/bbh-1det/{name}"


def test_state_has_a_place_unless_it_is_not_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def place(more: str, kind: str = "frames") -> Path | None:
        text = MINIMAL if kind == "frames" else f'[source]\nkind = "{kind}"\n[source.detectors.H1]\n'
        text += more
        return state_directory(load(write(tmp_path, text)))

    monkeypatch.setenv("XDG_STATE_HOME", "/xdg")
    assert place("") == Path("/xdg/gwstream/gwstream-gwstream")
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/gwstream")
    assert place('[publish]\nprefix = "a/b"\ninstance = "site"\n') == Path("/var/lib/gwstream/a-b-site")
    assert place("", "simulated") is None  # strain that can be had again
    assert place('[service]\nstate = ""\n') is None
    assert place('[service]\nstate = "here"\n', "simulated") == tmp_path / "here" / "gwstream-gwstream"
    monkeypatch.delenv("STATE_DIRECTORY")
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", "/home/ann")
    assert place("") == Path("/home/ann/.local/state/gwstream/gwstream-gwstream")
    said = settings._outbox(load(write(tmp_path, MINIMAL)))  # by whoever checks the settings of a service by hand
    assert said.startswith("/home/ann/.local/state/gwstream/gwstream-gwstream (under systemd: in its StateDirectory)")


def test_the_broker_keeps_messages_as_long_as_we_do(tmp_path: Path) -> None:
    assert "expiry, 60 s, is shorter than retention, 3600 s" in refused(tmp_path, MINIMAL + "[publish]\nexpiry = 60\n")
