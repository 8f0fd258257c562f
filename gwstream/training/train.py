"""The training loop: plain, resumable, seeded. Examples come from `batches`, or from `store` and then again and again.

All that step k draws comes from a generator seeded by (seed, k): a run that was stopped goes on as if it had not been.
"""

from __future__ import annotations

import copy
import json
import math
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gwstream.errors import ModelError
from gwstream.inference import checkpoint
from gwstream.inference.bank import Bank
from gwstream.inference.networks import Network, build
from gwstream.inference.networks.base import Inputs, Objective, Pace
from gwstream.model import ModelSpec, TrainingSpec, read_spec
from gwstream.training import bank as bank_builder
from gwstream.training import glance, leftover
from gwstream.training.aggregate import gather
from gwstream.training.batches import Fresh, held_out, pieces
from gwstream.training.dataset import Examples, Simulator
from gwstream.training.log import CALIBRATION, HELD, Look, logged, waiting
from gwstream.training.store import Store

AVERAGE = 0.999
SAVE_EVERY = 500  # steps, or so many that there are LOOKS in a run, but for LEAST_EVERY
LOOKS, LEAST_EVERY = 20, 50


@dataclass(frozen=True, slots=True)
class Data:
    """Stored examples: their folder, and how many (None: as many as the recipe trains on)."""

    folder: Path
    count: int | None = None


@dataclass
class Run:
    """What a checkpoint holds, and the examples kept aside."""

    net: Network
    average: dict[str, Tensor]
    optimiser: torch.optim.AdamW
    held: Examples
    step: int = 0
    fraction: float = 0.0
    """How much of the run is done: of its steps, or of its time where that was given."""


def train(
    recipe: Path,
    *,
    output: Path | None = None,
    budget: float | None = None,
    samples: int | None = None,
    resume: bool = False,
    seed: int | None = None,
    data: Data | None = None,
) -> Path:
    """Train the model of ``recipe`` (model.toml) and write its weights beside it; returns the weights' path.

    ``output``: folder of checkpoint, log and picture (default ``runs/<name>``). ``samples``: instead of the recipe's;
    ``budget``: seconds of training, in place of either. ``resume``: go on from the last checkpoint. ``data``: stored
    examples to learn from, made where they are missing; without it they are drawn on the fly. Raises
    `ModelError` for an unusable recipe, or a folder of examples made for another.
    """
    spec = read_spec(recipe)
    if samples is not None:
        spec = spec.model_copy(update={"training": spec.training.model_copy(update={"samples": samples})})
    with waiting("making the template bank"):
        bank = bank_builder.build(spec)  # of the recipe's seed: networks of all seeds share bank and examples
        advice = bank_builder.shortfall(spec, bank).advice
    if advice:
        print(f"{recipe}: {advice}; going on all the same", file=sys.stderr, flush=True)
    simulator = Simulator(spec, bank)
    if seed is not None:
        spec = spec.model_copy(update={"training": spec.training.model_copy(update={"seed": seed})})
    folder = output or Path("runs") / spec.name
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(spec.training.seed)
    source = Fresh(spec, bank, simulator) if data is None else _store(data, spec, bank, simulator)
    with waiting("making noise spectra, and the examples that are kept aside; training begins in some minutes"):
        run = _start(spec, source, held_out(spec, bank, simulator))
    if resume:
        _restore(run, folder / "checkpoint.safetensors")
    began = time.monotonic()
    first = run.step
    _loop(spec, source, run, folder, budget)
    _tell(folder / "training.json", spec, source, run, (run.step - first, time.monotonic() - began))
    run.net.load_state_dict(run.average)
    weights = recipe.parent / checkpoint.WEIGHTS
    with waiting("measuring how far windows of the training lie apart, and what signals leave over"):
        measured = gather(spec, bank, simulator), leftover.measure(spec, bank, simulator)
    checkpoint.save(weights, spec, bank, run.net, *measured)
    for name in ("training.json", HELD, CALIBRATION):  # what comparisons tell of the run
        if folder != recipe.parent:
            shutil.copy(folder / name, recipe.parent / name)
    return weights


def prepare(recipe: Path, data: Data) -> int:
    """Make what is missing of stored examples; returns their number. Several processes may do so side by side."""
    spec = read_spec(recipe)
    bank = bank_builder.build(spec)
    return _store(data, spec, bank, Simulator(spec, bank)).stored


def _store(data: Data, spec: ModelSpec, bank: Bank, simulator: Simulator) -> Store:
    store = Store(data.folder, spec, bank, simulator, data.count or spec.training.samples)
    store.fill()
    return store


def _start(spec: ModelSpec, source: Fresh | Store, held: Examples) -> Run:
    """A fresh network with its inputs scaled to unit variance."""
    y = source.sample().y
    net = build(spec, y.shape[1])
    net.fit_scale(y)
    rate = spec.training.rate
    optimiser = torch.optim.AdamW(net.parameters(), rate, betas=(0.9, 0.98), weight_decay=1e-3, fused=True)
    average = {name: value.clone() for name, value in net.state_dict().items()}
    return Run(net, average, optimiser, held)


def _tell(path: Path, spec: ModelSpec, source: Fresh | Store, run: Run, spent: tuple[int, float]) -> None:
    """What the run was, for reports."""
    steps, seconds = spent
    samples = run.step * spec.training.batch
    told = {
        "kind": spec.network.kind,
        "parameters": sum(value.numel() for value in run.net.parameters()),
        "seed": spec.training.seed,
        "samples": samples,
        "stored": source.stored,
        "held_out_loss": _judge(spec, run),
        "epochs": samples / source.stored if source.stored else 1.0,
        "samples_per_second": round(steps * spec.training.batch / max(seconds, 1e-9)),
    }
    path.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


def schedule(spec: TrainingSpec, fraction: float) -> tuple[float, Pace]:
    """Learning rate, and beta of the KL term with the number of importance draws, at a fraction of the run."""
    warm = min(1.0, fraction / 0.02)
    rate = spec.rate * warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * fraction)))
    beta = min(1.0, max(0.0, (fraction - spec.warm_up) / spec.ramp)) if spec.ramp else float(fraction >= spec.warm_up)
    return rate, Pace(beta, spec.importance if fraction >= spec.importance_from else 1)


def _loop(spec: ModelSpec, source: Fresh | Store, run: Run, folder: Path, budget: float | None) -> None:
    training = spec.training
    total = -(-training.samples // training.batch)
    with logged(folder, training.batch, run.step, total) as log:
        began, first, started = time.monotonic(), run.step, run.fraction
        while run.fraction < 1 and (budget is not None or run.step < total):
            row = _step(spec, source.at(run.step, run.fraction), run, run.fraction)
            run.fraction = run.step / total
            if budget is not None:
                spent = time.monotonic() - began
                run.fraction = min(1.0, started + (1 - started) * spent / budget)
                total = run.step + math.ceil((run.step - first) * max(0.0, budget - spent) / spent)
            log.step(run.step, row[1], total)
            if run.step % 20 == 0:
                log.update(run.step, row)
            if run.step % min(SAVE_EVERY, max(LEAST_EVERY, total // LOOKS)) == 0:
                log.look(run.step, _look(spec, run))
                _save(run, folder / "checkpoint.safetensors")
    _save(run, folder / "checkpoint.safetensors")


def objective(net: Network, data: Examples, pace: Pace) -> Objective:
    """The network's loss on examples, in its own coordinates."""
    e = data.e
    if net.fixed is not None:
        e = torch.from_numpy(net.fixed.encode(data.x.double().numpy())).float()
    return net.loss(Inputs(data.y, data.windows), e, pace)


def _step(spec: ModelSpec, data: Examples, run: Run, fraction: float) -> tuple[float, float, float, float, float]:
    """One update; returns learning rate, loss, reconstruction, KL, beta."""
    rng = np.random.default_rng([spec.training.seed, 5, run.step])
    torch.manual_seed(int(rng.integers(2**62)))
    rate, pace = schedule(spec.training, fraction)
    found = objective(run.net, data, pace)
    for group in run.optimiser.param_groups:
        group["lr"] = rate
    run.optimiser.zero_grad(set_to_none=True)
    torch.autograd.backward(found.loss)
    norm = torch.nn.utils.clip_grad_norm_(run.net.parameters(), 5.0)
    if torch.isfinite(norm):
        run.optimiser.step()
    keep = min(AVERAGE, (run.step + 1) / (run.step + 10))
    torch._foreach_lerp_(list(run.average.values()), list(run.net.state_dict().values()), 1 - keep)
    run.step += 1
    return rate, float(found.loss.detach()), found.reconstruction, found.kl, pace.beta


@torch.no_grad()
def _judge(spec: ModelSpec, run: Run) -> float:
    """Loss of the averaged network, as at the end of the run, on the examples kept aside."""
    averaged = copy.deepcopy(run.net)
    averaged.load_state_dict(run.average)
    _, pace = schedule(spec.training, 1.0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        losses = [objective(averaged, part, pace).loss for part in pieces(run.held, 512)]
    return float(torch.stack(losses).mean())


def _look(spec: ModelSpec, run: Run) -> Look:
    """Where the run stands; what it will draw is untouched."""
    averaged = copy.deepcopy(run.net)
    averaged.load_state_dict(run.average)
    found = glance.ranks(averaged, run.held)
    return Look(_judge(spec, run), glance.distances(found), len(found))


def _save(run: Run, path: Path) -> None:
    """Network, average and optimiser as one safetensors file, replaced in one move."""
    from safetensors.torch import save_file

    tensors = {f"net.{name}": value for name, value in run.net.state_dict().items()}
    tensors |= {f"average.{name}": value for name, value in run.average.items()}
    for index, state in run.optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{index}.{name}": value for name, value in state.items()}
    part = path.with_suffix(".part")
    save_file(
        {name: value.contiguous() for name, value in tensors.items()},
        part,
        {"step": str(run.step), "fraction": repr(run.fraction)},
    )
    part.replace(path)


def _restore(run: Run, path: Path) -> None:
    from safetensors import safe_open

    if not path.exists():
        raise ModelError(f"{path}: no checkpoint to resume from; leave out --resume to start afresh")
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        told = file.metadata()
    run.step, run.fraction = int(told["step"]), float(told.get("fraction", 0.0))
    run.net.load_state_dict({name[4:]: value for name, value in tensors.items() if name.startswith("net.")})
    run.average = {name: tensors[f"average.{name}"] for name in run.net.state_dict()}
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimiser."):
            _, index, key = name.split(".")
            state.setdefault(int(index), {})[key] = value
    run.optimiser.load_state_dict(run.optimiser.state_dict() | {"state": state})
