"""``gwstream compare``: one table over networks, of the same injections and the same exact posteriors.

A network that was measured before is measured again only if its weights have changed; its figures lie in
``figures.json`` beside them, and what its training was in ``training.json`` and ``held-out.csv``.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gwstream.inference import load_model
from gwstream.records import Floats
from gwstream.training import figures, judge, pictures
from gwstream.training.figures import Efficiency, Figures
from gwstream.training.population import FIXED, STATED
from gwstream.training.validate import Plan, measure

PICTURE = "loss.png"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A network in the table; ``samples`` it was trained on, 0 where not known; ``curve`` (n, 2): samples and loss."""

    name: str
    kind: str
    seed: int
    parameters: int
    samples: float
    curve: Floats
    figures: Figures


def compare(models: list[Path], plan: Plan, folder: Path) -> Path:
    """Measure ``models``, write table and loss curves into ``folder``; returns the table's path.

    Raises `ModelError` for a model that cannot be loaded, before any is measured.
    """
    models = [model.resolve() for model in models]
    hashes = [load_model(model).hash for model in models]
    rows = []
    for model, weights in zip(models, hashes, strict=True):
        found = figures.read(model)
        if found is None or (found.weights, found.plan) != (weights, plan.options):
            found = measure(model, plan)
            figures.write(model, found)
        rows.append(_row(model, found))
    folder.mkdir(parents=True, exist_ok=True)
    curves = {row.name: row.curve for row in rows if len(row.curve)}
    if curves:
        pictures.loss_plot(curves, folder / PICTURE)
    path = folder / "README.md"
    path.write_text(_text(rows, models, plan, folder), encoding="utf-8")
    return path


def _row(model: Path, found: Figures) -> Row:
    loaded = load_model(model)
    training, curve = model / "training.json", model / "held-out.csv"
    told: dict[str, Any] = json.loads(training.read_text(encoding="utf-8")) if training.exists() else {}
    known = curve.exists() and curve.stat().st_size
    return Row(
        name=model.name,
        kind=loaded.spec.network.kind,
        seed=int(told.get("seed", loaded.spec.training.seed)),
        parameters=sum(value.numel() for value in loaded.net.parameters()),
        samples=float(told.get("samples", 0)),
        curve=np.loadtxt(curve, delimiter=",", ndmin=2)[:, 1:3] if known else np.empty((0, 2)),
        figures=found,
    )


def _text(rows: list[Row], models: list[Path], plan: Plan, folder: Path) -> str:
    beside = {model.name for model in models if model.parent == folder.resolve()}
    stated = f"{STATED[0]:g} to {STATED[1]:g}"
    names = " ".join(f"models/{model.name}" for model in models)
    lines = [
        "# Networks compared",
        "",
        f"`gwstream compare {names} {plan.options}`: the same "
        f"windows for all. Those of {plan.injections} injections from the prior whose optimal SNR is {stated}, into "
        f"noise of the training family drawn anew; of {plan.fixed}, into that of one fixed spectrum ({FIXED}, 64 s of "
        "history); and "
        f"{plan.exact} signals of SNR {judge.SNR[0]:g} to {judge.SNR[1]:g} with their exact posteriors.",
        "",
        "- ESS: effective fraction of 2000 draws of the network alone: median / 10th percentile.",
        "- KL: mean of ln p - ln q at the truth, in nats, with its standard error, over the family.",
        "- JS: Jensen-Shannon divergence of a parameter's marginal from the exact one, in mnat, of the network alone "
        "(median over signals and parameters without the distance / of the distance / largest) and as served, "
        f"weighted, with {judge.ENOUGH} effective draws or more (largest; where fewer could be had, their number).",
        f"- ln Z: largest distance of ln evidence from {judge.BLOCK} draws to the exact one.",
        "- ms: of a served posterior of 2000 draws on one core, median.",
        "",
        "| network | kind | seed | parameters | samples | ESS, family | ESS, fixed | KL | JS, network | JS, weighted "
        "| ln Z | ms |",
        "|" + "---|" * 12,
        *(_line(row, row.name in beside) for row in rows),
    ]
    if len(beside) < len(rows):
        lines += ["", "Networks without a link are not shipped; those of another seed come of `gwstream train --seed`."]
    if any(len(row.curve) for row in rows):
        lines += ["", f"![Loss on held-out examples against samples]({PICTURE})"]
    return "\n".join(lines) + "\n"


def _line(row: Row, linked: bool) -> str:
    found = row.figures
    cells = [
        f"[{row.name}]({row.name})" if linked else row.name,
        row.kind,
        str(row.seed),
        f"{row.parameters / 1e6:.2f} M",
        f"{row.samples / 1e6:.1f} M" if row.samples else "?",
        _efficiency(found.family),
        _efficiency(found.fixed),
        f"{found.divergence[0]:.2f} ± {found.divergence[1]:.2f}",
        *_against(found),
        f"{found.milliseconds:.0f}",
    ]
    return "| " + " | ".join(cells) + " |"


def _efficiency(one: Efficiency | None) -> str:
    return "" if one is None or math.isnan(one.median) else f"{one.median:.2f} / {one.tenth:.2f}"


def _against(found: Figures) -> tuple[str, str, str]:
    one = found.against
    if one is None:
        return "", "", ""
    few = f" ({one.least_effective:.0f})" if one.least_effective < judge.ENOUGH else ""
    raw = f"{one.raw_median:.1f} / {one.raw_distance:.1f} / {one.raw_max:.0f}"
    return raw, f"{one.weighted_max:.1f}{few}", f"{one.log_bayes:.3f}"
