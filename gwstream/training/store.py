"""A stored data set: examples drawn once, as training on the fly draws them, for several networks to learn from.

    FOLDER/data.json         what they were made for
    FOLDER/probe.safetensors a few examples that are made anew at each start: other code, other features, no match
    FOLDER/shard-0007/       65536 examples of a family of their own: an array a field of `dataset.Examples`

Several processes may fill one folder side by side: each takes the next shard on whose file nobody holds a lock.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file, save_file

from gwstream.errors import ModelError
from gwstream.inference.bank import Bank
from gwstream.inference.checkpoint import section_hashes
from gwstream.model import ModelSpec
from gwstream.training.batches import SAMPLE, batch, columns, each
from gwstream.training.dataset import Examples, Simulator, family

SHARD = 65536
SEED = 20203  # of the data, whatever the seed of the training: all networks see the same
PIECE = 512  # examples drawn at a time
HALF = ("windows",)  # fields of order one, kept in half precision
PROBES, AGREE = 128, 0.9  # rounding may make another template the best one in a few rows


class Store:
    """Shuffled batches of stored examples, epoch after epoch."""

    def __init__(self, folder: Path, spec: ModelSpec, bank: Bank, simulator: Simulator, count: int) -> None:
        """``count``: examples wanted, rounded up to whole shards. Raises `ModelError` if FOLDER holds others."""
        self._folder, self._spec, self._bank, self._simulator = folder, spec, bank, simulator
        self._shards = -(-count // SHARD)
        self._loaded: tuple[int, Examples] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        self._agree()

    @property
    def stored(self) -> int:
        """Number of examples."""
        return self._shards * SHARD

    def fill(self) -> None:
        """Make the shards that are missing; returns when all are there. Progress on the terminal."""
        from rich.progress import track

        missing = [index for index in range(self._shards) if not self._path(index).exists()]
        for index in track(missing, description="examples", disable=not missing):
            self._fill(index, wait=False)
        for index in missing:  # those that another process held then
            self._fill(index, wait=True)

    def sample(self) -> Examples:
        """What the scale of the network's inputs is read from."""
        shard = self._load(0)
        return each(lambda value: value[:SAMPLE], shard)

    def at(self, step: int, fraction: float) -> Examples:
        """The batch of one step: shards, and examples in a shard, in another order each epoch."""
        training = self._spec.training
        steps = SHARD // training.batch
        epoch, within = divmod(step, steps * self._shards)
        order = np.random.default_rng([training.seed, 3, epoch]).permutation(self._shards)
        index = int(order[within // steps])
        rows = np.random.default_rng([training.seed, 4, epoch, index]).permutation(SHARD)
        first = within % steps * training.batch
        chosen = torch.from_numpy(np.sort(rows[first : first + training.batch]))
        return each(lambda value: value[chosen], self._load(index))

    def _path(self, index: int) -> Path:
        return self._folder / f"shard-{index:04d}"

    def _load(self, index: int) -> Examples:
        if self._loaded is None or self._loaded[0] != index:
            arrays = {path.stem: np.load(path, mmap_mode="r") for path in self._path(index).glob("*.npy")}
            tensors = {name: torch.from_numpy(np.array(value, np.float32)) for name, value in arrays.items()}
            self._loaded = (index, Examples(**tensors))
        return self._loaded[1]

    def _fill(self, index: int, wait: bool) -> None:
        with _lock(self._path(index).with_suffix(".lock"), wait) as held:
            if held and not self._path(index).exists():
                self._make(index)

    def _make(self, index: int) -> None:
        """One shard, put in its place in one move."""
        part = self._path(index).with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        rng = np.random.default_rng([SEED, index])
        members = family(self._spec, self._bank, self._spec.training.whiteners, rng)
        arrays: dict[str, np.memmap[tuple[int, ...], np.dtype[np.floating]]] = {}
        done = 0
        while done < SHARD:
            piece = columns(batch(self._spec, self._simulator, members, rng, min(PIECE, SHARD - done)))
            rows = len(next(iter(piece.values())))
            for name, value in piece.items():
                if name not in arrays:
                    kind = np.float16 if name in HALF else np.float32
                    shape = (SHARD, *value.shape[1:])
                    arrays[name] = np.lib.format.open_memmap(part / f"{name}.npy", "w+", kind, shape)
                arrays[name][done : done + rows] = value.numpy()
            done += rows
        for array in arrays.values():
            array.flush()
        part.rename(self._path(index))

    def _agree(self) -> None:
        """Refuse a folder whose examples were made for another model, or by other code."""
        wanted = {"shard": SHARD, "whiteners": self._spec.training.whiteners, **section_hashes(self._spec)}
        del wanted["network"]
        path, probe = self._folder / "data.json", self._folder / "probe.safetensors"
        rng = np.random.default_rng([SEED, 2**31])
        members = family(self._spec, self._bank, 2, rng)
        mine = {k: v.numpy() for k, v in columns(batch(self._spec, self._simulator, members, rng, PROBES)).items()}
        with _lock(self._folder / "data.lock", wait=True):
            if not path.exists():
                save_file(mine, probe)
                path.write_text(json.dumps(wanted, indent=1), encoding="utf-8")
                return
        found = json.loads(path.read_text(encoding="utf-8"))
        for section, value in wanted.items():
            if found.get(section) != value:
                raise ModelError(f"{self._folder}: holds examples for another [{section}]; delete it or name another")
        if not _alike(mine, load_file(probe)):
            raise ModelError(f"{self._folder}: its examples were made by other code; delete it or name another")


def _alike(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    """Whether nearly all rows of two sets of examples are equal but for rounding."""
    if {name: value.shape for name, value in one.items()} != {name: value.shape for name, value in other.items()}:
        return False
    close = [
        np.isclose(value, other[name], rtol=1e-3, atol=1e-3).reshape(len(value), -1).all(axis=1)
        for name, value in one.items()
    ]
    return bool(np.mean(np.logical_and.reduce(close)) >= AGREE)


@contextmanager
def _lock(path: Path, wait: bool) -> Iterator[bool]:
    """Hold the lock of a file, which goes with the process; False if another has it and we do not wait."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True
        if path.exists():
            os.unlink(path)  # noqa: PTH108
