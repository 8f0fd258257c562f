"""The training loop: plain, resumable, seeded; nothing is stored but the network.

Step k draws its windows from a generator seeded by (seed, k), so a run that was stopped goes on as if it had not been.
"""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gwstream.errors import ModelError
from gwstream.inference import checkpoint
from gwstream.inference.bank import Bank
from gwstream.inference.cvae import Cvae, objective
from gwstream.inference.features import size
from gwstream.model import ModelSpec, TrainingSpec, read_spec
from gwstream.training import bank as bank_builder
from gwstream.training.dataset import Examples, Member, Simulator, family

GROUPS = 8  # members of the family in a batch
FAINT_SNR, FAINT_KEPT = 5.5, 0.5  # windows with nothing above the noise teach little: half of them are skipped
OVERDRAW = 1.25
AVERAGE = 0.999
SAVE_EVERY = 500
WINDOWS_FOR_SCALE = 4096


@dataclass
class Run:
    """What a checkpoint holds."""

    net: Cvae
    average: dict[str, Tensor]
    optimiser: torch.optim.AdamW
    step: int = 0


def train(
    recipe: Path,
    *,
    output: Path | None = None,
    budget: float | None = None,
    resume: bool = False,
    seed: int | None = None,
) -> Path:
    """Train the model of ``recipe`` (model.toml) and write its weights beside it; returns the weights' path.

    ``output``: folder of checkpoint and loss log (default ``runs/<name>``). ``budget``: seconds of training, in place
    of ``training.samples``. ``resume``: go on from the last checkpoint. Raises `ModelError` for an unusable recipe.
    """
    spec = read_spec(recipe)
    if seed is not None:
        spec = spec.model_copy(update={"training": spec.training.model_copy(update={"seed": seed})})
    folder = output or Path("runs") / spec.name
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(spec.training.seed)
    bank = bank_builder.build(spec)
    simulator = Simulator(spec, bank)
    run = _start(spec, bank, simulator)
    if resume:
        _restore(run, folder / "checkpoint.safetensors")
    _loop(spec, simulator, bank, run, folder, budget)
    run.net.load_state_dict(run.average)
    weights = recipe.parent / checkpoint.WEIGHTS
    checkpoint.save(weights, spec, bank, run.net)
    return weights


def _start(spec: ModelSpec, bank: Bank, simulator: Simulator) -> Run:
    """A fresh network with its inputs scaled to unit variance."""
    rng = np.random.default_rng([spec.training.seed, 0])
    members = family(spec, bank, GROUPS * 2, rng)
    net = Cvae(spec.network, size(len(bank.gate), len(members[0].context)))
    examples = [_draw(spec, simulator, one, WINDOWS_FOR_SCALE // len(members), rng) for one in members]
    y = torch.cat([part.y for part in examples])
    net.shift.copy_(y.mean(0))
    net.scale.copy_(1 / y.std(0).clamp(min=1e-3))
    optimiser = torch.optim.AdamW(net.parameters(), lr=spec.training.rate, betas=(0.9, 0.98), weight_decay=1e-3)
    average = {name: value.clone() for name, value in net.state_dict().items()}
    return Run(net, average, optimiser)


def _draw(spec: ModelSpec, simulator: Simulator, one: Member, count: int, rng: np.random.Generator) -> Examples:
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    x = spec.prior.draw(rng, count)
    return simulator.examples(one, x, simulator.windows(one, x, count, generator))


def batch(spec: ModelSpec, simulator: Simulator, members: list[Member], rng: np.random.Generator) -> Examples:
    """One batch from a few random members; which windows are skipped depends on the window alone."""
    chosen = rng.choice(len(members), size=min(GROUPS, len(members)), replace=False)
    each = round(OVERDRAW * spec.training.batch / len(chosen))
    parts = [_draw(spec, simulator, members[index], each, rng) for index in chosen]
    y, e, low, high, x, snr = (
        torch.cat([getattr(p, name) for p in parts]) for name in ("y", "e", "low", "high", "x", "snr")
    )
    optimal = torch.from_numpy(rng.random(len(snr))).float()
    kept = torch.nonzero((snr > FAINT_SNR) | (optimal < FAINT_KEPT))[:, 0]
    kept = kept[torch.from_numpy(rng.permutation(len(kept)))][: spec.training.batch]
    return Examples(y[kept], e[kept], low[kept], high[kept], x[kept], snr[kept])


def schedule(spec: TrainingSpec, fraction: float) -> tuple[float, float, int]:
    """Learning rate, beta of the KL term and number of importance draws at a fraction of the run."""
    warm = min(1.0, fraction / 0.02)
    rate = spec.rate * warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * fraction)))
    beta = min(1.0, max(0.0, (fraction - spec.warm_up) / spec.ramp)) if spec.ramp else float(fraction >= spec.warm_up)
    return rate, beta, spec.importance if fraction >= spec.importance_from else 1


def _loop(spec: ModelSpec, simulator: Simulator, bank: Bank, run: Run, folder: Path, budget: float | None) -> None:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    training = spec.training
    total = -(-training.samples // training.batch)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns) as progress, (folder / "loss.csv").open("a" if run.step else "w", newline="") as log:
        task = progress.add_task("training", total=total, completed=run.step)
        writer = csv.writer(log)
        began, first = time.monotonic(), run.step
        for step, members in _families(spec, bank, run.step, total):
            if budget is not None and step == first + 50:
                total = max(step + 1, first + int(50 * budget / (time.monotonic() - began)))
                progress.update(task, total=total)
            if step >= total:
                break
            row = _step(spec, simulator, members, run, step / total)
            progress.update(task, completed=run.step, description=f"loss {row[1]:.2f}")
            if run.step % 20 == 0:
                writer.writerow([run.step, run.step * training.batch, *(f"{value:.5g}" for value in row)])
                log.flush()
            if run.step % SAVE_EVERY == 0:
                _save(run, folder / "checkpoint.safetensors")
    _save(run, folder / "checkpoint.safetensors")


def _families(spec: ModelSpec, bank: Bank, first: int, total: int) -> Iterator[tuple[int, list[Member]]]:
    """Steps without end, each with the family that is current then."""
    length = max(1, round(spec.training.refresh * total))
    step, era, members = first, -1, []
    while True:
        if step // length != era:
            era = step // length
            members = family(spec, bank, spec.training.whiteners, np.random.default_rng([spec.training.seed, 1, era]))
        yield step, members
        step += 1


def _step(
    spec: ModelSpec, simulator: Simulator, members: list[Member], run: Run, fraction: float
) -> tuple[float, float, float, float, float]:
    """One update; returns learning rate, loss, reconstruction, KL, beta."""
    rng = np.random.default_rng([spec.training.seed, 2, run.step])
    torch.manual_seed(int(rng.integers(2**62)))
    rate, beta, draws = schedule(spec.training, fraction)
    data = batch(spec, simulator, members, rng)
    found = objective(run.net, data.y, data.e, (data.low, data.high), beta=beta, draws=draws)
    for group in run.optimiser.param_groups:
        group["lr"] = rate
    run.optimiser.zero_grad(set_to_none=True)
    torch.autograd.backward(found.loss)
    norm = torch.nn.utils.clip_grad_norm_(run.net.parameters(), 5.0)
    if torch.isfinite(norm):
        run.optimiser.step()
    keep = min(AVERAGE, (run.step + 1) / (run.step + 10))
    for name, value in run.net.state_dict().items():
        run.average[name].lerp_(value, 1 - keep)
    run.step += 1
    return rate, float(found.loss.detach()), found.reconstruction, found.kl, beta


def _save(run: Run, path: Path) -> None:
    """Network, average and optimiser as one safetensors file, replaced in one move."""
    from safetensors.torch import save_file

    tensors = {f"net.{name}": value for name, value in run.net.state_dict().items()}
    tensors |= {f"average.{name}": value for name, value in run.average.items()}
    for index, state in run.optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{index}.{name}": value for name, value in state.items()}
    part = path.with_suffix(".part")
    save_file({name: value.contiguous() for name, value in tensors.items()}, part, {"step": str(run.step)})
    part.replace(path)


def _restore(run: Run, path: Path) -> None:
    from safetensors import safe_open

    if not path.exists():
        raise ModelError(f"{path}: no checkpoint to resume from; leave out --resume to start afresh")
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        run.step = int(file.metadata()["step"])
    run.net.load_state_dict({name[4:]: value for name, value in tensors.items() if name.startswith("net.")})
    run.average = {name[8:]: value for name, value in tensors.items() if name.startswith("average.")}
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimiser."):
            _, index, key = name.split(".")
            state.setdefault(int(index), {})[key] = value
    run.optimiser.load_state_dict(run.optimiser.state_dict() | {"state": state})
