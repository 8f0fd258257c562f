"""What a model is: ``model.toml``, read by training and serving alike.

Conditioning, prior and network are said here once. The hash of the conditioning travels with the weights, so that a
network can only ever be served the windows it was trained on.
"""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError, model_validator

from gwstream.config import Section, explain, read_toml
from gwstream.errors import ModelError
from gwstream.prior import Prior
from gwstream.waveforms import inspiral

SHORTEST, LONGEST = 4, 16  # s that templates may last
ROOM = 0.5  # s beside two windows

CONTEXT_BANDS = 24
CONTEXT = CONTEXT_BANDS + 2
"""Numbers that tell a network of the PSD: its shape in bands, its level, and 1 / averages."""


class ConditioningSpec(Section):
    """From strain to windows. Frequencies in Hz, times in s, the rest in samples at ``rate``."""

    rate: int = Field(256, ge=64, le=4096)
    window: int = Field(256, ge=64)
    hop: int = Field(16, ge=1)
    pass_hz: float = Field(108.0, gt=0, description="the anti-alias filter is flat up to here")
    stop_hz: float = Field(148.0, gt=0, description="and 80 dB down from here")
    floor_hz: float = Field(18.0, gt=0, description="the stream is empty below")
    taps: int = Field(512, ge=32, description="of the whitening filter; also the Welch segment")
    update: int = Field(256, ge=1, description="samples between two PSDs; also the stride of Welch segments")
    ready: float = Field(12.0, gt=0, description="clean seconds before the first window")
    full: float = Field(64.0, gt=0, description="seconds the running median spans at most")

    @model_validator(mode="after")
    def _possible(self) -> ConditioningSpec:
        if not self.pass_hz < self.rate / 2 < self.stop_hz < self.rate:
            raise ValueError(
                f"need pass_hz < rate / 2 < stop_hz < rate, got {self.pass_hz}, {self.rate / 2}, {self.stop_hz}"
            )
        if not self.floor_hz < self.pass_hz:
            raise ValueError(f"floor_hz ({self.floor_hz}) must be below pass_hz ({self.pass_hz})")
        if self.window % self.hop or self.rate % self.hop:
            raise ValueError(f"hop ({self.hop}) must divide window ({self.window}) and rate ({self.rate})")
        if not self.ready <= self.full:
            raise ValueError(f"ready ({self.ready} s) must not exceed full ({self.full} s)")
        return self

    @property
    def band_hz(self) -> tuple[float, float]:
        """The stretch of the band where the stream is white, whatever the detector: clear of the floor and of Nyquist.

        20 and 110 Hz for the default model.
        """
        return self.floor_hz * 10 / 9, self.pass_hz + 0.1 * (self.rate / 2 - self.pass_hz)

    def hash(self) -> str:
        """SHA-256 over the canonical JSON of these settings and the version of the code's recipe."""
        body = json.dumps({"recipe": 1, **self.model_dump()}, sort_keys=True)
        return hashlib.sha256(body.encode()).hexdigest()


class PriorSpec(Section):
    """Limits of the prior: Msun (detector frame), Gpc, seconds after the window's first sample."""

    mass: tuple[float, float] = (20.0, 100.0)
    min_ratio: float = 0.25
    distance: tuple[float, float] = (0.1, 5.0)
    time: tuple[float, float] = (0.65, 0.85)


class BankSpec(Section):
    """The template bank of gate and likelihood."""

    components: int = Field(40, ge=4, le=128, description="complex singular vectors kept")
    chirp_nodes: int = Field(256, ge=16)
    ratio_nodes: int = Field(40, ge=8)
    gate: int = Field(32, ge=1, le=256, description="templates of the gate")


class CvaeSpec(Section):
    """Conditional variational autoencoder."""

    kind: Literal["cvae"] = "cvae"
    latent: int = Field(8, ge=1)
    components: int = Field(8, ge=1, description="of the Gaussian mixture E1")
    width: int = Field(368, ge=8)
    depth: int = Field(3, ge=1)


class GaussianSpec(Section):
    """One multivariate normal."""

    kind: Literal["gaussian"] = "gaussian"
    width: int = Field(320, ge=8)
    depth: int = Field(3, ge=1)


class MixtureSpec(Section):
    """A mixture of multivariate normals."""

    kind: Literal["mixture"] = "mixture"
    components: int = Field(16, ge=1)
    width: int = Field(320, ge=8)
    depth: int = Field(3, ge=1)


class FlowSpec(Section):
    """What flows have in common."""

    width: int = Field(320, ge=8)
    depth: int = Field(2, ge=1)
    hidden: int = Field(96, ge=4, description="of the small network of each coordinate")
    layers: int = Field(2, ge=1, description="of the small network")


class MafSpec(FlowSpec):
    """Masked autoregressive flow of affine steps."""

    kind: Literal["maf"] = "maf"
    hidden: int = Field(64, ge=4, description="of the small network of each coordinate")
    layers: int = Field(1, ge=1, description="of the small network")
    steps: int = Field(5, ge=1)


class SplineSpec(FlowSpec):
    """What spline flows have in common."""

    bins: int = Field(8, ge=2, description="of a spline")


class NsfSpec(SplineSpec):
    """Neural spline flow."""

    kind: Literal["nsf"] = "nsf"


class WavenetSpec(SplineSpec):
    """Dilated causal convolutions over the window, and a spline flow."""

    kind: Literal["wavenet"] = "wavenet"
    channels: int = Field(48, ge=1)
    levels: int = Field(7, ge=1, le=8, description="of convolutions: 2^levels samples are seen")


class CvaeFlowSpec(FlowSpec):
    """Conditional variational autoencoder of flows."""

    kind: Literal["cvae-flow"] = "cvae-flow"
    latent: int = Field(8, ge=1)
    hidden: int = Field(32, ge=4, description="of the small network of each latent coordinate")
    layers: int = Field(1, ge=1, description="of the small network")
    steps: int = Field(3, ge=1, description="of the flow E1")


class SeedSpec(Section):
    """The recipe this project grew from: fully connected networks on bare windows."""

    kind: Literal["seed"] = "seed"
    latent: int = Field(8, ge=1)
    components: int = Field(16, ge=1, description="of the Gaussian mixture E1")
    width: int = Field(384, ge=8)
    depth: int = Field(3, ge=1)


NetworkSpec = Annotated[
    CvaeSpec | GaussianSpec | MixtureSpec | MafSpec | NsfSpec | CvaeFlowSpec | WavenetSpec | SeedSpec,
    Field(discriminator="kind"),
]
"""Architecture of the proposal: `gwstream.inference.networks` has a file for each kind."""


class TrainingSpec(Section):
    """How the network is trained; everything is drawn on the fly from ``seed``."""

    seed: int = 1
    samples: int = Field(6_000_000, ge=1000)
    batch: int = Field(512, ge=8)
    rate: float = Field(1e-3, gt=0, description="peak learning rate")
    warm_up: float = Field(0.05, ge=0, le=0.5, description="fraction of the steps with no KL term")
    ramp: float = Field(0.25, ge=0, le=0.9, description="fraction over which the KL term comes in")
    importance: int = Field(4, ge=1, description="IWAE draws in the last stretch")
    importance_from: float = Field(0.5, ge=0, le=1)

    whiteners: int = Field(96, ge=1, description="PSDs of the family held at a time")
    refresh: float = Field(0.05, gt=0, le=1, description="fraction of the run after which the family is drawn anew")


class ModelSpec(Section):
    """The whole of ``model.toml``."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$", description="small letters and digits, and '-' behind them")
    version: str = "1"
    description: str = ""
    conditioning: ConditioningSpec = ConditioningSpec()
    prior_: PriorSpec = Field(PriorSpec(), alias="prior")
    bank: BankSpec = BankSpec()
    network: NetworkSpec = CvaeSpec()
    training: TrainingSpec = TrainingSpec()

    @property
    def prior(self) -> Prior:
        return Prior(**self.prior_.model_dump())

    @property
    def period(self) -> int:
        """s after which templates repeat: 4, or doubled until the longest signal and a window have room in it."""
        return template_length(self.prior_.mass[0], self.seconds, self.conditioning.floor_hz)

    @property
    def seconds(self) -> float:
        """Length of a window, s."""
        return self.window / self.rate

    @property
    def rate(self) -> int:
        return self.conditioning.rate

    @property
    def window(self) -> int:
        return self.conditioning.window

    @property
    def hop(self) -> int:
        return self.conditioning.hop

    @model_validator(mode="before")
    @classmethod
    def _kind(cls, table: Any) -> Any:
        """A [network] that names no kind is a CVAE."""
        network = table.get("network") if isinstance(table, dict) else None
        if isinstance(network, dict) and "kind" not in network:
            return {**table, "network": {"kind": "cvae", **network}}
        return table

    @model_validator(mode="after")
    def _fits(self) -> ModelSpec:
        if self.prior.time[1] >= self.seconds:
            raise ValueError(f"prior.time ends at {self.prior.time[1]} s, but a window is {self.seconds} s long")
        if self.period > LONGEST:
            raise ValueError(
                f"templates would have to be {self.period} s long, and {LONGEST} s is the most: raise prior.mass from "
                f"{self.prior.mass[0]:g} Msun or conditioning.floor_hz from {self.conditioning.floor_hz:g} Hz, or take "
                f"windows shorter than {self.seconds:g} s"
            )
        return self


def template_length(mass: float, seconds: float, floor_hz: float) -> int:
    """s that templates need for two of the lightest ``mass`` (Msun) from ``floor_hz``, and windows of ``seconds``."""
    needed = max(seconds + inspiral(mass, mass, floor_hz), 2 * seconds + ROOM)
    return max(SHORTEST, 1 << math.ceil(math.log2(needed)))


def read_spec(path: Path) -> ModelSpec:
    """Read and check ``model.toml``; raises `ModelError` naming file, key and what is allowed."""
    table: dict[str, Any] = read_toml(path, ModelError)
    try:
        return ModelSpec.model_validate(table)
    except ValidationError as problem:
        root: type[BaseModel] = ModelSpec
        raise ModelError(explain(path, problem, root)) from None
