"""A tree of plain values and arrays in one file, written whole or not at all, and read without executing anything.

The file is the SHA-256 of the rest, and then safetensors: the arrays, and the tree as JSON with the arrays' names in
their places. A file that was cut, damaged or made by something else does not pass the digest.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

Tree = Mapping[str, Any]
"""Of mappings with text keys, sequences, text, numbers, booleans, None, and arrays of numbers."""

_TREE, _ARRAY = "tree", "array:"


class SnapshotError(Exception):
    """The file is not what was written."""


def save(path: Path, tree: Tree) -> None:
    """Replace the file at ``path``; it is on the platter when this returns. Raises OSError."""
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    text = json.dumps(_planted(tree, arrays))
    body = save_tensors({_TREE: np.frombuffer(text.encode(), np.uint8), **arrays})
    partial = path.with_name(f".{path.name}.tmp")
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(hashlib.sha256(body).digest() + body)
        file.flush()
        os.fsync(file.fileno())
    partial.rename(path)


def load(path: Path) -> dict[str, Any]:
    """The tree that was saved; tuples come back as lists. Raises OSError, and `SnapshotError` for anything else."""
    content = path.read_bytes()
    body = content[32:]
    if hashlib.sha256(body).digest() != content[:32]:
        raise SnapshotError("it is damaged, or no state of gwstream")
    try:
        arrays = load_tensors(body)
        tree: dict[str, Any] = _harvested(json.loads(arrays[_TREE].tobytes()), arrays)
    except (SafetensorError, LookupError, ValueError) as problem:
        raise SnapshotError(f"it is no state of gwstream: {problem}") from problem
    return tree


def _planted(value: object, arrays: dict[str, np.ndarray[Any, Any]]) -> object:
    """The same with each array put aside, and its name in its place."""
    if isinstance(value, np.ndarray):
        name = f"{_ARRAY}{len(arrays)}"
        arrays[name] = np.ascontiguousarray(value)
        return name
    if isinstance(value, Mapping):
        return {key: _planted(one, arrays) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_planted(one, arrays) for one in value]
    if isinstance(value, str) and value.startswith(_ARRAY):
        raise ValueError(f"a text must not look like the name of an array: {value!r}")
    return value


def _harvested(value: Any, arrays: Mapping[str, np.ndarray[Any, Any]]) -> Any:
    if isinstance(value, str) and value.startswith(_ARRAY):
        return arrays[value]
    if isinstance(value, dict):
        return {key: _harvested(one, arrays) for key, one in value.items()}
    if isinstance(value, list):
        return [_harvested(one, arrays) for one in value]
    return value
