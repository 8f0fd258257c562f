"""The shipped model, members of a detector family and simulated windows, made once and shared by the tests."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from gwstream.config import InferenceConfig
from gwstream.inference import Inference, Model, load_model
from gwstream.inference.likelihood import Templates
from gwstream.model import ModelSpec
from gwstream.records import Floats, Window
from gwstream.training import bank as bank_builder
from gwstream.training.bank import Bank
from gwstream.training.dataset import Member, Simulator, family

FOLDER = Path(__file__).resolve().parents[1] / "models" / "bbh-1det"


@cache
def shipped() -> Model:
    torch.set_num_threads(1)
    threadpool_limits(limits=1, user_api="blas")
    return load_model(FOLDER)


@cache
def members() -> list[Member]:
    """Four detectors of the training family."""
    return family(shipped().spec, shipped().bank, 4, np.random.default_rng(11))


@cache
def templates() -> Templates:
    return Templates(shipped().spec.conditioning, shipped().bank, members()[1].whitener)


@cache
def simulator() -> Simulator:
    return Simulator(shipped().spec, shipped().bank)


@cache
def inference() -> Inference:
    return Inference(shipped(), InferenceConfig())


def window(samples: Floats, number: int = 0, member: Member | None = None) -> Window:
    """Whitened ``samples`` as a window of a member of the family, with a start of its own."""
    one = member or members()[1]
    return Window(
        detector="H1",
        start=(1_400_000_000 + number) * 256,
        rate=256,
        samples=samples,
        whitener=one.whitener,
        context=one.context.numpy(),
    )


def noise(count: int, seed: int) -> Floats:
    """White windows (count, 256): exactly the noise the likelihood assumes."""
    return np.random.default_rng(seed).standard_normal((count, 256))


def signal(mass_1: float, mass_2: float, time: float, phase: float, snr: float) -> tuple[Floats, Floats]:
    """A whitened waveform (256,) of norm ``snr`` and its parameters (5,)."""
    x = np.array([[mass_1, mass_2, 1.0, time, phase]])
    wave = templates().waveforms(x)[0].astype(np.float64)
    x[0, 2] = np.linalg.norm(wave) / snr
    return wave / x[0, 2], x[0]


TINY = """
name = "tiny"
[bank]
components = 16
chirp_nodes = 48
ratio_nodes = 8
gate = 4
[network]
latent = 2
components = 2
width = 32
depth = 1
[training]
samples = {samples}
batch = 64
whiteners = 8
refresh = 0.5
"""


def tiny_recipe(folder: Path, samples: int = 3200) -> Path:
    """``model.toml`` of a network that trains in seconds."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "model.toml"
    path.write_text(TINY.format(samples=samples), encoding="utf-8")
    return path


@cache
def tiny_bank() -> Bank:
    spec = ModelSpec.model_validate(
        {"name": "tiny", "bank": {"components": 16, "chirp_nodes": 48, "ratio_nodes": 8, "gate": 4}}
    )
    return bank_builder.build(spec)
