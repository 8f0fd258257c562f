"""What a run tells while it goes: a bar, a line now and then, tables and a picture in its folder."""

from __future__ import annotations

import csv
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gwstream.records import Floats
from gwstream.training import glance, pictures

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

LOSS, HELD, CALIBRATION, PICTURE = "loss.csv", "held-out.csv", "calibration.csv", "loss.png"
COLUMNS = 7  # at most


@dataclass(frozen=True, slots=True)
class Look:
    """What held-out examples say of the averaged network: loss, and distances (5,) of ``count`` ranks from uniform."""

    loss: float
    distances: Floats
    count: int


class Log:
    """Tables ``loss.csv``, ``held-out.csv`` and ``calibration.csv`` with rows of step, samples and values."""

    def __init__(self, folder: Path, batch: int, bar: tuple[Progress, TaskID]) -> None:
        self._folder, self._batch = folder, batch
        self._bar, self._task = bar
        self._first: tuple[float, int] | None = None

    def step(self, step: int, loss: float, total: int) -> None:
        """After each update."""
        now = time.monotonic()
        if self._first is None:
            self._first = now, step
        spent, done = now - self._first[0], step - self._first[1]
        rate = f", {self._batch * done / spent:.0f} samples/s" if done and spent > 0 else ""
        self._bar.update(self._task, total=total, completed=step, description=f"loss {loss:.2f}{rate}")

    def update(self, step: int, values: Iterable[float]) -> None:
        """Learning rate, loss, reconstruction, KL, beta of one update."""
        self._row(LOSS, step, values)

    def look(self, step: int, found: Look) -> None:
        """A row in either table, a line and the picture."""
        self._row(HELD, step, [found.loss])
        self._row(CALIBRATION, step, found.distances)
        worst = int(found.distances.argmax())
        chance = glance.usual(found.count)
        self._bar.console.print(
            f"{step * self._batch:,} samples: loss {found.loss:.2f} on held-out ones; P-P distance of the network "
            f"alone {found.distances[worst]:.3f}, in {glance.NAMES[worst]} (up to {chance:.3f} is chance)",
            highlight=False,
            soft_wrap=True,
        )
        tables = [table(self._folder / name) for name in (LOSS, HELD, CALIBRATION)]
        pictures.progress_plot(tables[0][:, [1, 3]], tables[1][:, 1:], tables[2][:, 1:], self._folder / PICTURE)

    def _row(self, name: str, step: int, values: Iterable[float]) -> None:
        with (self._folder / name).open("a", newline="") as file:
            csv.writer(file).writerow([step, step * self._batch, *(f"{value:.5g}" for value in values)])


def table(path: Path) -> Floats:
    """A table of the run, (n, columns)."""
    text = path.read_text(encoding="utf-8").splitlines()
    return np.loadtxt(text, delimiter=",", ndmin=2) if text else np.empty((0, COLUMNS))


@contextmanager
def logged(folder: Path, batch: int, step: int, total: int) -> Iterator[Log]:
    """The log of a run that has taken ``step`` of ``total`` steps; rows of steps that come again are left out."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    for name in (LOSS, HELD, CALIBRATION):
        _keep(folder / name, step)
    text = TextColumn("{task.description}")
    with Progress(text, BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn()) as progress:
        yield Log(folder, batch, (progress, progress.add_task("training", total=total, completed=step)))


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Say what takes a while, and before a terminal, how long it has taken so far."""
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TimeElapsedColumn

    console = Console(stderr=True, soft_wrap=True)
    console.print(f"{what} ...", markup=False, highlight=False)
    with Progress(SpinnerColumn(), TimeElapsedColumn(), console=console, transient=True) as progress:
        progress.add_task("", total=None)
        yield


def _keep(path: Path, step: int) -> None:
    """Rows of up to ``step``."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() and step else []
    path.write_text("".join(line for line in lines if int(line.partition(",")[0]) <= step), encoding="utf-8")
