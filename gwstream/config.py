"""Settings of the daemon (``gwstream.toml``), one section a stage.

What belongs to a model (rate, window, hop, band, limits of the prior) is not here on purpose: it lives in
``model.toml`` alone, so a skew between training and serving cannot be written down.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from gwstream.errors import ConfigError


class Section(BaseModel):
    """A frozen group of settings that refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=True)


KINDS = {"frames", "replay", "simulated"}  # as the descriptions of what belongs to some of them begin


class Detector(Section):
    """Where one detector's strain comes from. ``state_channel`` empty: no state vector, data quality unknown."""

    directory: Path | None = Field(None, description="frames: directory that receives GWF files")
    files: tuple[Path, ...] = Field((), description="replay: files, in time order, of any format gwpy reads")
    channel: str = Field("", description="strain channel; empty: the usual one of the detector")
    state_channel: str | None = Field(None, description="state-vector channel; null: the usual one; '': none")
    asd: str = Field("aLIGO_O4_high", description="simulated: name of a shipped amplitude spectral density")


class SourceConfig(Section):
    """Where strain comes from, and what is accepted."""

    kind: Literal["frames", "replay", "simulated"] = "frames"
    detectors: dict[str, Detector] = Field(min_length=1)
    patience: float = Field(2.0, ge=0.1, le=60, description="s to wait for a missing frame before it is a gap")
    state_mask: int = Field(3, ge=0, description="state-vector bits that must all be set")
    accept_unknown_dq: bool = Field(False, description="accept strain without a state vector")
    accept_unchecked: bool = Field(False, description="accept frames without a checksum")
    speed: float = Field(1.0, ge=0, description="replay, simulated: times real time; 0: as fast as possible")
    seed: int = Field(1, ge=0, description="simulated: seed of noise and injections")
    rate: int = Field(4096, description="simulated: sample rate in Hz")
    start: int = Field(1_400_000_000, description="simulated: GPS start in s")
    duration: float = Field(0, ge=0, description="simulated: s of strain; 0: for ever")
    injection_interval: float = Field(0, ge=0, description="simulated: s between injections; 0: none")
    injection_file: Path | None = Field(None, description="simulated: JSON lines of injections")

    @model_validator(mode="after")
    def _complete(self) -> SourceConfig:
        for name, detector in self.detectors.items():
            if not re.fullmatch(r"[A-Z][0-9]", name):  # the name becomes a topic's level, a label and part of an id
                raise ValueError(f"detectors.{name!r}: a detector is called by its prefix, a letter and a digit: H1")
            if self.kind == "frames" and detector.directory is None:
                raise ValueError(f"detectors.{name}.directory is missing, and source.kind is 'frames'")
            if self.kind == "replay" and not detector.files:
                raise ValueError(f"detectors.{name}.files is empty, and source.kind is 'replay'")
            self._refuse_foreign(f"detectors.{name}.", detector)
        self._refuse_foreign("", self)
        return self

    def _refuse_foreign(self, place: str, section: Section) -> None:
        """Whatever was set for another kind of source: it would do nothing, and somebody meant something by it."""
        for name in sorted(section.model_fields_set):
            field = type(section).model_fields[name]
            kinds = (field.description or "").partition(":")[0].split(", ")
            if set(kinds) <= KINDS and self.kind not in kinds and getattr(section, name) != field.default:
                raise ValueError(f"{place}{name} is for kind {' or '.join(kinds)}, and source.kind is '{self.kind}'")


class BatchingConfig(Section):
    """When windows become a batch: at ``size`` windows, or when the oldest is ``max_age`` seconds old."""

    size: int = Field(16, ge=1, le=64)
    max_age: float = Field(0.01, ge=0, le=1.0)


def default_model() -> Path:
    """The shipped model: inside the package when installed, beside it in a checkout."""
    package = Path(__file__).resolve().parent
    installed = package / "models" / "bbh-1det"
    return installed if installed.is_dir() else package.parent / "models" / "bbh-1det"


class InferenceConfig(Section):
    """Which model, on what engine, and when a window is worth a posterior."""

    model: Path = Field(default_factory=default_model, description="folder; left out: the shipped one")
    engine: str = Field("auto", description="auto: the best that is installed and as good as torch")
    precision: Literal["fp32", "fp16", "bf16"] = Field("fp32", description="of the wide layers; halves are faster")
    cache: Path | None = Field(None, description="directory of compiled engines; null: engines, beside the state")
    gate_snr: float = Field(6.5, ge=0, description="matched-filter SNR a window must reach")
    draws: int = Field(2000, ge=100, le=100_000)
    latents: int = Field(1000, ge=10, le=20_000, description="components of the proposal's mixture")
    latency_target: float = Field(
        2.0, ge=0.2, le=3600, description="s live windows may wait; then fewer draws are made, then fewer windows"
    )
    threads: int = Field(1, ge=1, le=64)
    likelihood: Literal["gaussian", "student"] = Field(
        "gaussian", description="student: allows for the uncertainty of a spectrum made from few segments"
    )
    distance_prior: Literal["model", "uniform", "volume"] = Field(
        "model", description="of the effective distance: uniform, or uniform in volume; by weights, without retraining"
    )


class NetworkConfig(Section):
    """When events of several detectors become one network event."""

    enabled: bool = True
    sigmas: float = Field(3.0, gt=0, le=10, description="deviations by which times and chirp masses may differ")
    wait: float = Field(
        1.0, gt=0, le=60, description="s behind the first event of its members after which a network event is late"
    )


class SummaryConfig(Section):
    """How windows of one signal become one event."""

    cluster: float = Field(0.3, gt=0, le=5, description="s: coalescence times closer than this are one event")
    shadow: float = Field(
        1.0, ge=0, le=10, description="s: a doubtful posterior so near a much louder event is part of it"
    )
    short_history: float = Field(32.0, ge=0, description="s of PSD history below which a posterior is suspect")
    low_log_bayes: float = Field(12.0, description="ln Bayes factor below which a posterior is suspect")
    low_ess: float = Field(100.0, ge=0, description="effective sample size below which a posterior is suspect")
    low_residual_p: float = Field(1e-3, ge=0, le=1)
    low_peak_residual_p: float = Field(2e-2, ge=0, le=1)
    low_latent_p: float = Field(1e-2, ge=0, le=1, description="p-value of the distance from the training's windows")
    high_drift: float = Field(1.3, gt=0)
    network: NetworkConfig = NetworkConfig()


class CalibrationConfig(Section):
    """Known signals put into copies of the windows, to see whether posteriors are right."""

    interval: float = Field(16.0, ge=0, description="s of strain a signal, in each detector; 0: none")
    last: int = Field(300, ge=10, le=10_000, description="signals a detector that the figures are of")
    false_alarm_days: float = Field(30.0, gt=0, description="days between two false alarms, at least, on average")


class TriggersConfig(Section):
    """Triggers from outside, on ``<prefix>/trigger``."""

    enabled: bool = Field(False, description="whoever may write that topic can ask for posteriors")
    buffer: float = Field(60.0, ge=2, le=3600, description="s of windows at hand for them")
    wait: float = Field(10.0, ge=0, le=600, description="s that a trigger's time may lie ahead of the strain")
    per_second: float = Field(1.0, gt=0, le=100, description="triggers, on average; more are refused")


class PublishConfig(Section):
    """The broker and the topics."""

    host: str = "127.0.0.1"
    port: int = Field(1883, ge=1, le=65535)
    prefix: str = Field("gwstream", pattern=r"^[^#+/\s][^#+\s]*$", description="no '#', '+' or space, nor '/' in front")
    instance: str = Field("gwstream", pattern=r"^[^#+/\s]+$", description="no '#', '+', '/' or space")
    username: str | None = None
    password_file: Path | None = None
    tls: bool = Field(False, description="encrypt, and see by its certificate that the broker is the one meant")
    ca_file: Path | None = Field(None, description="who must have signed that certificate; null: the system's list")
    certificate_file: Path | None = Field(None, description="our own certificate, for brokers that ask for one")
    key_file: Path | None = None
    keepalive: int = Field(10, ge=2, le=600)
    timeout: float = Field(2.0, gt=0, le=60)
    expiry: int = Field(3600, ge=1, description="s a broker keeps a message for an absent subscriber")
    queue: int = Field(10_000, ge=1, description="messages kept while the broker is away")
    retention: float = Field(3600.0, gt=0, description="s a message is kept while the broker is away")
    archive_days: float = Field(7.0, gt=0, description="days that messages stay on disk")
    archive_mb: float = Field(1000.0, gt=0, description="MB of them at most")
    samples_mb: float = Field(500.0, ge=0, description="MB of posteriors' weighted draws on disk at most; 0: none")
    every_window: bool = Field(False, description="unweighted posteriors of the windows that do not pass the gate")
    backoff: float = Field(5.0, gt=0, le=300, description="longest pause in s between two connection attempts")
    triggers: TriggersConfig = TriggersConfig()

    @model_validator(mode="after")
    def _consistent(self) -> PublishConfig:
        if self.expiry < self.retention:  # the broker would drop at once what has waited here
            raise ValueError(f"expiry, {self.expiry} s, is shorter than retention, {self.retention:g} s")
        if (self.certificate_file is None) != (self.key_file is None):
            raise ValueError("certificate_file and key_file go together: one of them is missing")
        if not self.tls and (self.ca_file or self.certificate_file):
            raise ValueError("ca_file and certificate_file mean nothing without tls = true")
        return self

    @property
    def identity(self) -> str:
        """What no two daemons of a broker share: client identifier, and name of the folder in the state directory."""
        return f"{self.prefix}-{self.instance}".replace("/", "-")


class MetricsConfig(Section):
    """The HTTP server: /metrics, /healthz, /readyz and the live page."""

    enabled: bool = True
    host: str = "127.0.0.1"
    port: int = Field(9480, ge=0, le=65535, description="0: any free port, printed at start")
    token_file: Path | None = Field(None, description="what all but health checks must show; null: nothing")
    names: tuple[str, ...] = Field((), description="further names of this host that browsers ask for, without token")
    connections: int = Field(64, ge=2, le=10_000, description="open at once; one address has half of them at most")
    request_rate: float = Field(20.0, gt=0, description="requests a second of one address, on average")


class ServiceConfig(Section):
    """The process."""

    drain: float = Field(5.0, ge=0, le=60, description="s to finish what was read when told to stop")
    state: str = Field("auto", description="directory of outbox, archive and state; '': none, all in memory")
    stuck: float = Field(3.0, ge=0.5, le=600, description="s that one piece of work may take before its stage is stuck")
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_json: bool = False


class Config(Section):
    """The whole of ``gwstream.toml``."""

    source: SourceConfig
    batching: BatchingConfig = BatchingConfig()
    inference: InferenceConfig = InferenceConfig()
    summary: SummaryConfig = SummaryConfig()
    calibration: CalibrationConfig = CalibrationConfig()
    publish: PublishConfig = PublishConfig()
    metrics: MetricsConfig = MetricsConfig()
    service: ServiceConfig = ServiceConfig()


def read_toml(path: Path, error: type[Exception] = ConfigError) -> dict[str, Any]:
    """The table in a TOML file; unreadable or malformed files raise ``error`` with the path and place."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise error(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as problem:
        raise error(f"{path}: cannot be read: {problem}") from problem
    except tomllib.TOMLDecodeError as problem:
        raise error(f"{path}: not valid TOML: {problem}") from problem


def load(path: Path) -> Config:
    """Read and check ``gwstream.toml``; relative paths are taken from the file's own folder.

    Raises `ConfigError` that names file, key, value, and what is allowed or was probably meant.
    """
    table = read_toml(path)
    try:
        config = Config.model_validate(table)
    except ValidationError as problem:
        raise ConfigError(explain(path, problem, Config)) from None
    anchored: Config = _anchored(config, path.resolve().parent)
    return anchored


def explain(path: Path, problem: ValidationError, root: type[BaseModel]) -> str:
    """One line a mistake: file, key, what is wrong, and the nearest known key for an unknown one."""
    lines = []
    for error in problem.errors():
        parts, section = _found(root, error["loc"])
        place = ".".join(parts) or "(top level)"
        if error["type"] == "extra_forbidden":
            known = list(section.model_fields)
            near = difflib.get_close_matches(str(error["loc"][-1]), known, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"known keys: {', '.join(sorted(known))}"
            lines.append(f"{path}: unknown key '{place}'; {hint}")
        elif error["type"] == "missing":
            lines.append(f"{path}: '{place}' is missing")
        elif error["type"] in ("model_type", "dict_type"):
            lines.append(f"{path}: '{place}': must be a section, [{place}] (given: {error['input']!r})")
        elif error["type"] == "string_pattern_mismatch" and (may := _described(section, error["loc"])):
            lines.append(f"{path}: '{place}': may have {may} (given: {error['input']!r})")
        elif error["type"] == "union_tag_invalid":
            told = error["ctx"]
            lines.append(f"{path}: '{place}.kind': must be one of {told['expected_tags']} (given: '{told['tag']}')")
        else:
            message = error["msg"].removeprefix("Value error, ")
            given = "" if isinstance(error["input"], dict) else f" (given: {error['input']!r})"
            lines.append(f"{path}: '{place}': {message}{given}")
    return "\n".join(lines)


def _described(section: type[BaseModel], loc: tuple[int | str, ...]) -> str | None:
    field = section.model_fields.get(str(loc[-1]))
    return None if field is None else field.description


def _found(root: type[BaseModel], loc: tuple[int | str, ...]) -> tuple[list[str], type[BaseModel]]:
    """The names that lead to a place as a user writes them, and the section it lies in."""
    names: list[str] = []
    options: list[type[BaseModel]] = []
    for part in loc:
        tagged = [one for one in options if "kind" in one.model_fields and one.model_fields["kind"].default == part]
        if len(options) > 1 and tagged:  # not a name: which of several sections was meant
            root, options = tagged[0], []
            continue
        names.append(str(part))
        field = root.model_fields.get(str(part))
        if field is None:  # a name the user chose, such as a detector's: same section
            continue
        kinds = (field.annotation, *get_args(field.annotation))
        options = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
        root = options[0] if options else root
    return names, root


def _anchored(value: Any, folder: Path) -> Any:
    """The same settings with ``$VARIABLES`` in paths filled in, and relative paths taken from ``folder``."""
    if isinstance(value, Section):
        fields = {name: _anchored(getattr(value, name), folder) for name in type(value).model_fields}
        if isinstance(value, ServiceConfig) and value.state not in ("", "auto"):
            fields["state"] = str(folder / value.state)
        return value.model_copy(update=fields)
    if isinstance(value, dict):
        return {name: _anchored(one, folder) for name, one in value.items()}
    if isinstance(value, tuple):
        return tuple(_anchored(one, folder) for one in value)
    return folder / os.path.expandvars(value) if isinstance(value, Path) else value
