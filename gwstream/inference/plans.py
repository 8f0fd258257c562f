"""Compiled networks on disk, one file each, read only where nobody else can have put them.

TensorRT trusts a plan as it would a program: who writes one that is loaded has the process that loads it. So plans lie
in a directory of mode 0700 that belongs to who runs this, and so does each file; where that is not so nothing is read
or written, and the network is compiled anew. The directory is opened once and looked at as it was opened, so that no
other can take its place in between. A plan that was made for anything else than is asked for is not loaded: its key
names the versions, the graphics processor, the precision, the shapes, and digests of weights and code. A file that was
cut or damaged does not pass its own digest (`gwstream.snapshot`, which holds no pickle).
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gwstream import snapshot

log = logging.getLogger("inference")

KEPT = 32  # plans of some 10 MB; those that were used last
ENDING = ".plan"

Key = Mapping[str, str]
"""All that a plan depends on."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What TensorRT made of a network: its bytes, and the names of inputs and outputs in their order."""

    body: bytes
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


class Plans:
    """The plans in a directory, which is made when the first is saved."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def load(self, key: Key) -> Plan | None:
        """The plan of this key; None where there is none that can be trusted and is whole."""
        try:
            with self._opened() as place:
                path = place / _name(key)
                _check(path.lstat(), stat.S_ISREG, 0o022)
                plan = _read(path, key)
                with suppress(OSError):  # a cache that may only be read
                    os.utime(path)
        except FileNotFoundError:
            return None
        except (OSError, snapshot.SnapshotError) as problem:
            log.warning("a compiled network in %s is not used: %s", self.directory, _said(problem))
            return None
        return plan

    def save(self, key: Key, plan: Plan) -> None:
        """Keep a plan in place of any other of this key. What cannot be kept is compiled again at the next start."""
        tree = {
            "key": dict(key),
            "inputs": plan.inputs,
            "outputs": plan.outputs,
            "plan": np.frombuffer(plan.body, np.uint8),
        }
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self._opened() as place:
                snapshot.save(place / _name(key), tree)
                _prune(place)
        except OSError as problem:
            log.warning("the compiled network is not kept in %s: %s", self.directory, _said(problem))

    @contextmanager
    def _opened(self) -> Iterator[Path]:
        """A path to the directory that stays the same one, whatever happens to its name. Raises OSError."""
        handle = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            _check(os.fstat(handle), stat.S_ISDIR, 0o077)
            yield Path(f"/proc/self/fd/{handle}")
        finally:
            os.close(handle)


def _name(key: Key) -> str:
    """Of its file: what a person asks for, and a digest of all."""
    digest = hashlib.sha256(json.dumps(dict(key), sort_keys=True).encode()).hexdigest()[:24]
    return f"{key['network']}-{key['precision']}-{key['windows']}-{digest}{ENDING}"


def _check(found: os.stat_result, kind: object, others: int) -> None:
    """Raises PermissionError where it is of another kind, not ours, or open to others by the bits ``others``."""
    assert callable(kind)
    if not kind(found.st_mode):
        raise PermissionError("it is not what it should be, but a link or something else")
    if found.st_uid != os.geteuid():
        raise PermissionError(f"it belongs to user {found.st_uid}, and this is user {os.geteuid()}")
    if found.st_mode & others:
        mode = stat.S_IMODE(found.st_mode)
        raise PermissionError(f"others may get at it (mode {mode:04o}); remove it, or see what it holds and chmod 0700")


def _read(path: Path, key: Key) -> Plan:
    """Raises OSError, and `SnapshotError` for what is not the plan of this key."""
    tree = snapshot.load(path)
    if tree.get("key") != dict(key):
        raise snapshot.SnapshotError("it was made for something else")
    return Plan(tree["plan"].tobytes(), tuple(tree["inputs"]), tuple(tree["outputs"]))


def _prune(place: Path) -> None:
    """Remove all but the last `KEPT`, by the time of their use."""
    files = [path for path in place.iterdir() if path.name.endswith(ENDING)]
    for path in sorted(files, key=lambda one: one.stat().st_mtime, reverse=True)[KEPT:]:
        with suppress(OSError):
            path.unlink()


def _said(problem: Exception) -> str:
    return getattr(problem, "strerror", None) or str(problem)
