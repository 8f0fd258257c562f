"""Compiled networks on disk, one file each, read only where nobody else can have put them.

A compiler trusts a plan as it would a program: who writes one that is loaded has the process that loads it. So plans
lie in a directory of mode 0700 that belongs to who runs this, and so does each file, which no other may write; where
that is not so nothing is read or written, and the network is compiled anew. The directory is opened once and looked at
as it was opened, so that no other can take its place in between. A plan that was made for anything else than is asked
for is not loaded: its key names the versions, the processor, the precision, the shapes, and digests of weights and
code. A file that was cut or damaged does not pass its own digest (`gwstream.snapshot`, which holds no pickle).
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from gwstream import snapshot, state
from gwstream.config import InferenceConfig
from gwstream.inference.networks import Network

log = logging.getLogger("inference")

KEPT = 32  # plans of some 10 MB; those that were used last
ENDING = ".plan"
UNFINISHED = f"{ENDING}.tmp"
WAIT, POLL = 5.0, 0.05  # s: for another process that is saving, which takes as long as a write; and between two looks

Key = Mapping[str, str]
"""All that a plan depends on; of `key`, and what its compiler adds."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a compiler made of a network: its bytes, and the names of inputs and outputs in their order."""

    body: bytes
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def key(net: Network, example: tuple[Tensor, ...], precision: str) -> dict[str, str]:
    """What any plan of this network for inputs like ``example`` depends on."""
    return {
        "network": type(net).__name__.lower(),
        "precision": precision,
        "windows": str(len(example[0])),
        "shapes": " ".join("x".join(map(str, part.shape)) for part in example),
        "weights": _weights(net),
        "built": _built(net),
        "code": _code(),
        "torch": str(torch.__version__),
    }


def _weights(net: Network) -> str:
    """Digest of all weights that serve, with their names, types and shapes; the others are drawn anew at each load."""
    digest = hashlib.sha256()
    for name, value in sorted(net.state_dict().items()):
        if name.startswith(net.training_only):
            continue
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _built(net: Network) -> str:
    """Digest of what a network was built with beside its weights, all of which may be a constant in its plans: its
    layers, and what they hold that is no tensor, as a rate or a prior."""
    digest = hashlib.sha256(repr(net).encode())
    for name, part in net.named_modules():
        held = {key: value for key, value in vars(part).items() if key not in _OWN}
        digest.update(f"{name} {sorted(held.items())}\n".encode())
    return digest.hexdigest()


_OWN = frozenset(vars(nn.Module()))


@cache
def _code() -> str:
    """Digest of what says how a network is calculated and compiled: all of this stage, whatever reaches it."""
    folder, digest = Path(__file__).parent, hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(f"{path.relative_to(folder)}\n".encode() + path.read_bytes())
    return digest.hexdigest()


class Plans:
    """The plans in a directory, which is made when the first is saved."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._loaded: set[str] = set()

    @classmethod
    def of(cls, config: InferenceConfig) -> Plans:
        """Those where the settings have them; else beside this host's state."""
        return cls(config.cache or state.home() / "engines")

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
            log.warning("compiling again what is kept in %s, for it is not used: %s", self.directory, _said(problem))
            return None
        self._loaded.add(path.name)
        return plan

    def save(self, key: Key, plan: Plan) -> str:
        """Keep a plan in place of any other of this key. Why it is not kept, which is logged as well; empty: it is."""
        tree = {
            "key": dict(key),
            "inputs": plan.inputs,
            "outputs": plan.outputs,
            "plan": np.frombuffer(plan.body, np.uint8),
        }
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self._opened() as place, _alone(place):
                _prune(place)
                snapshot.save(place / _name(key), tree)
        except OSError as problem:
            why = f"what was compiled is not kept in {self.directory}: {_said(problem)}"
            log.warning("%s; every start compiles it again until it can be", why)
            return why
        self._loaded.discard(_name(key))
        return ""

    def forget(self) -> None:
        """Remove what was loaded from here, so that the next start compiles anew; what was just compiled stays."""
        for name in self._loaded:
            log.warning("removing %s from %s: the next start compiles it anew", name, self.directory)
            with suppress(OSError), self._opened() as place:
                (place / name).unlink()
        self._loaded.clear()

    @contextmanager
    def _opened(self) -> Iterator[Path]:
        """A path to the directory that stays the same one, whatever happens to its name. Raises OSError."""
        if self.directory.is_symlink():
            raise PermissionError("it is a link; put a directory in its place, or name another in inference.cache")
        handle = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            _check(os.fstat(handle), stat.S_ISDIR, 0o077)
            yield Path(f"/proc/self/fd/{handle}")
        finally:
            os.close(handle)


@contextmanager
def _alone(place: Path) -> Iterator[None]:
    """Nobody else saves here meanwhile. Raises TimeoutError where another does so for longer than a write can take."""
    handle = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    try:
        until = time.monotonic() + WAIT
        while not _locked(handle):
            if time.monotonic() > until:
                raise TimeoutError(f"another process has kept it locked for {WAIT:g} s; see who has it open (lsof)")
            time.sleep(POLL)
        yield
    finally:
        os.close(handle)


def _locked(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _name(key: Key) -> str:
    """Of its file: what a person asks for, and a digest of all."""
    digest = hashlib.sha256(json.dumps(dict(key), sort_keys=True).encode()).hexdigest()[:24]
    return f"{key['network']}-{key['precision']}-{key['windows']}-{digest}{ENDING}"


def _check(found: os.stat_result, kind: object, others: int) -> None:
    """Raises PermissionError where it is of another kind, not ours, or open to others by the bits ``others``."""
    assert callable(kind)
    if not kind(found.st_mode):
        raise PermissionError("it is not what it should be, but a link or something else; remove it")
    if found.st_uid != os.geteuid():
        raise PermissionError(
            f"it belongs to user {found.st_uid}, and this is user {os.geteuid()}; "
            f"remove it, or name another directory in inference.cache"
        )
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
    """Make room for one more: of the plans those used last stay, and of what was not written to its end nothing."""
    files = [path for path in place.iterdir() if path.name.endswith(ENDING)]
    kept = sorted(files, key=lambda one: one.stat().st_mtime, reverse=True)[: KEPT - 1]
    for path in place.iterdir():
        if path.name.endswith((ENDING, UNFINISHED)) and path not in kept:
            with suppress(OSError):
                path.unlink()


def _said(problem: Exception) -> str:
    return getattr(problem, "strerror", None) or str(problem)
