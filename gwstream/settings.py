"""Settings that do not come from a file, and what settings mean in words."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from gwstream import state
from gwstream.config import CalibrationConfig, Config, InferenceConfig, MetricsConfig, default_model, explain
from gwstream.errors import ConfigError, SourceError
from gwstream.model import ModelSpec
from gwstream.records import silent

_NAMED = re.compile(r"[A-Z]-([A-Z][0-9])[_-]")


def replay_config(files: Sequence[Path], *, detector: str | None, channel: str, speed: float, **common: Any) -> Config:
    """Settings to replay ``files``; each belongs to ``detector``, or to the one its name says.

    Recordings mostly come without state vector and checksum, so these are not asked for. Raises `ConfigError`.
    """
    detectors: dict[str, dict[str, Any]] = {}
    for file in files:
        name = detector or _detector(file)
        detectors.setdefault(name, {"channel": channel, "files": []})["files"].append(file.resolve())
    source = {"kind": "replay", "detectors": detectors, "speed": speed}
    return _config({**source, "accept_unknown_dq": True, "accept_unchecked": True}, **common)


def simulated_config(
    detectors: Sequence[str], asd: str, source: dict[str, Any], *, speed: float, **common: Any
) -> Config:
    """Settings for simulated strain; ``source``: fields of `SourceConfig`. Raises `ConfigError`."""
    each = {name: {"asd": asd} for name in detectors}
    return _config({"kind": "simulated", "detectors": each, "speed": speed, **source}, **common)


def _config(
    source: dict[str, Any], *, model: Path | None, gate_snr: float, broker: str | None, engine: str = "auto"
) -> Config:
    table: dict[str, Any] = {
        "source": source,
        "inference": {"model": (model or default_model()).resolve(), "engine": engine, "gate_snr": gate_snr},
        "metrics": {"enabled": False},
        "calibration": {"interval": 0},
        "service": {"state": ""},  # it leaves nothing behind but what it compiled
    }
    if broker is None:
        table["service"]["log_level"] = "warning"  # what is printed is for programs to read
    else:
        table["publish"] = address(broker)
    try:
        return Config.model_validate(table)
    except ValidationError as problem:
        raise ConfigError(explain(Path("command line"), problem, Config)) from None


def address(broker: str) -> dict[str, Any]:
    """``host`` and, where it is given, ``port`` of HOST[:PORT]. Raises `ConfigError`."""
    from gwstream.client.connection import host_and_port

    host, port = host_and_port(broker)
    return {"host": host} if port is None else {"host": host, "port": port}


def _detector(file: Path) -> str:
    match = _NAMED.match(file.name)
    if match is None and not file.exists():
        raise SourceError(f"{file}: no such file")
    if match is None:
        raise ConfigError(
            f"{file}: the name does not begin like H-H1_..., so say which detector's it is: --detector H1"
        )
    return match[1]


def check(path: Path, config: Config) -> None:
    """Print what the settings mean. Raises `ModelError`, `SourceError` or `ConfigError` when they cannot work."""
    from gwstream.inference import load_model
    from gwstream.inference.engines import chosen

    places = [(f"  {name}", strain(config, name)) for name in config.source.detectors]
    _secrets(config)
    model = load_model(config.inference.model)
    _made_up(config, model.spec)
    prior = model.spec.prior.served(config.inference.distance_prior)
    engines = ", else ".join(one.name for one in chosen(config.inference))
    publish = config.publish
    in_volume = " in volume" if prior.distance_density == "volume" else ""
    rows = [
        ("source", config.source.kind),
        *places,
        ("model", f"{model.name} {model.version}, {model.hash[:12]}, in {config.inference.model}"),
        ("  windows", f"{model.spec.window} samples at {model.spec.rate} Hz, one every {model.spec.hop}"),
        ("  masses", f"{prior.mass[0]:g} to {prior.mass[1]:g} Msun at the detector, ratio from {prior.min_ratio:g}"),
        ("  distance", f"{prior.distance[0]:g} to {prior.distance[1]:g} Gpc, effective, uniform{in_volume}"),
        ("inference", f"gate at SNR {config.inference.gate_snr:g}, {config.inference.draws} draws a posterior"),
        ("  engine", engines),
        ("network", network(config)),
        ("calibration", _calibration(config.calibration, model.spec)),
        ("publish", f"MQTT v5 to {publish.host}:{publish.port}, topics {publish.prefix}/# (not tried)"),
        ("  outbox", _outbox(config)),
        ("  triggers", _triggers(config)),
        ("page, metrics", _web(config.metrics)),
    ]
    print(f"{path}: good")
    for label, meaning in rows:
        print(f"{label:<15}{meaning}")


def network(config: Config) -> str:
    """Between which detectors events may agree, with ms of light travel."""
    from gwstream.summary.coincidence import light_travel

    pairs = list(combinations(config.source.detectors, 2))
    if not config.summary.network.enabled or not pairs:
        return "off" if pairs else "one detector has none"
    between = light_travel()
    return ", ".join(f"{one}-{other} {1e3 * between(one, other):.1f} ms" for one, other in pairs) + " of light apart"


def _triggers(config: Config) -> str:
    triggers = config.publish.triggers
    if not triggers.enabled:
        return "not taken"
    return f"from whoever may write {config.publish.prefix}/trigger, about the last {triggers.buffer:g} s"


def _outbox(config: Config) -> str:
    directory = state_directory(config)
    if directory is None:
        return "in memory: a restart loses what the broker has not taken, and warms up anew"
    publish = config.publish
    bounds = f"{publish.archive_days:g} days or {publish.archive_mb:g} MB, and {publish.samples_mb:g} MB of draws"
    elsewhere = config.service.state == "auto" and not state.of_systemd()
    ours = " (under systemd: in its StateDirectory)" if elsewhere else ""
    return f"{directory}{ours}, archive of {bounds}"


def _web(config: MetricsConfig) -> str:
    if not config.enabled:
        return "off"
    from gwstream.web.server import LOOPBACK

    who = "this host alone" if config.host in LOOPBACK else "whoever reaches it"
    if config.token_file is not None:
        who = f"whoever has the token of {config.token_file}"
    return f"http://{config.host}:{config.port}/, for {who}"


def _made_up(config: Config, spec: ModelSpec) -> None:
    """Raises `ConfigError` where this strain cannot be simulated: its spectrum, its rate, its file of injections."""
    if config.source.kind != "simulated":
        return
    from gwstream.source.simulated import Simulated

    if config.source.rate % spec.rate:
        raise ConfigError(f"source.rate = {config.source.rate}: the model needs a whole multiple of {spec.rate} Hz")
    Simulated(config.source, spec.prior)


def _secrets(config: Config) -> None:
    """Raises `ConfigError` where password, certificates or token cannot serve.

    What is not for this user, or at a place that only the service knows (`$CREDENTIALS_DIRECTORY`), is not looked at.
    """
    from gwstream.publish.connection import credentials
    from gwstream.web.access import Access

    publish, web = config.publish, config.metrics
    if all(map(_ours, (publish.password_file, publish.ca_file, publish.certificate_file, publish.key_file))):
        credentials(publish)
    if web.enabled and _ours(web.token_file):
        Access(web, silent)


def _ours(file: Path | None) -> bool:
    return file is None or ("$" not in str(file) and (not file.exists() or os.access(file, os.R_OK)))


def _calibration(config: CalibrationConfig, spec: ModelSpec) -> str:
    """How often a known signal is judged. Raises `ConfigError` where this model cannot have that."""
    from gwstream.calibration.shadow import Plan

    if not config.interval:
        return "off"
    Plan(spec, spec.prior, config.interval)
    return f"a known signal in each {config.interval:g} s of a detector's strain, figures of the last {config.last}"


def state_directory(config: Config) -> Path | None:
    """Where this daemon keeps its outbox, archive and state; None: nowhere.

    ``service.state``; "auto": for frames systemd's ``$STATE_DIRECTORY``, else ``$XDG_STATE_HOME/gwstream``, else
    ``~/.local/state/gwstream``, and nowhere for strain that can be had again. In it, a folder of the daemon's own.
    """
    chosen = config.service.state
    if not chosen or (chosen == "auto" and config.source.kind != "frames"):
        return None
    if chosen == "auto":
        chosen = str(state.home())
    return Path(chosen) / config.publish.identity


def inference_config(config: Config) -> InferenceConfig:
    """The settings of inference, with a place for compiled engines: beside the rest of the state, where that is named.

    Engines are kept even where no state is: they are no daemon's, and take seconds or minutes.
    """
    chosen = config.service.state
    if config.inference.cache is not None or chosen in ("", "auto"):
        return config.inference
    return config.inference.model_copy(update={"cache": Path(chosen) / "engines"})


def strain(config: Config, name: str) -> str:
    """Where a detector's strain comes from, or `SourceError` that it cannot."""
    detector = config.source.detectors[name]
    if config.source.kind == "simulated":
        return f"simulated with {detector.asd}"
    if config.source.kind == "replay":
        for file in detector.files:
            if not file.is_file():
                raise SourceError(f"source.detectors.{name}.files: {file}: no such file")
        return f"{len(detector.files)} files"
    directory = detector.directory
    if directory is None or not directory.is_dir():
        raise SourceError(f"source.detectors.{name}.directory: {directory}: no such directory; create it or correct it")
    return f"frames in {directory}"
