"""A model on disk: ``model.toml`` and ``weights.safetensors`` (network and bank), never a pickle.

The weights carry the hashes of conditioning, prior and network they were made for; a mismatch is refused by name.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from gwstream.errors import ModelError
from gwstream.inference.aggregate import Aggregate
from gwstream.inference.bank import Bank
from gwstream.inference.features import size
from gwstream.inference.networks import Network, build
from gwstream.inference.residual import FIRST, Leftover
from gwstream.model import CONTEXT, ModelSpec, read_spec

WEIGHTS = "weights.safetensors"
DOUBLE = ("bank.limits", "bank.gate", "bank.first_bin", "bank.delta_f")


@dataclass(frozen=True, slots=True)
class Model:
    """A trained network, the bank it was trained with, and what they are good for.

    ``aggregate``: of the windows it was trained on; older weights have none. ``leftover``: of its noise.
    """

    spec: ModelSpec
    net: Network
    bank: Bank
    hash: str
    aggregate: Aggregate | None = None
    leftover: Leftover = FIRST

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def version(self) -> str:
        return self.spec.version

    @property
    def conditioning_hash(self) -> str:
        return self.spec.conditioning.hash()

    @property
    def identity(self) -> dict[str, str]:
        """What a message says of the model."""
        return {
            "name": self.name,
            "version": self.version,
            "hash": self.hash,
            "conditioning_hash": self.conditioning_hash,
        }


def section_hashes(spec: ModelSpec) -> dict[str, str]:
    """Hashes of everything that weights depend on."""

    def digest(table: object) -> str:
        return hashlib.sha256(json.dumps(table, sort_keys=True).encode()).hexdigest()

    return {
        "conditioning": spec.conditioning.hash(),
        "prior": digest(spec.prior_.model_dump()),
        "bank": digest(spec.bank.model_dump()),
        "network": digest(spec.network.model_dump()),
    }


def save(
    path: Path,
    spec: ModelSpec,
    bank: Bank,
    net: Network,
    aggregate: Aggregate | None = None,
    leftover: Leftover | None = None,
) -> None:
    """Write network, bank and what was measured, with the hashes of the sections they belong to, in one move."""
    state = {name: value for name, value in net.state_dict().items() if not name.startswith(net.training_only)}
    tensors: dict[str, Tensor] = {f"net.{name}": value.contiguous() for name, value in state.items()}
    arrays = bank.tensors() | ({} if aggregate is None else aggregate.tensors())
    arrays |= {} if leftover is None else leftover.tensors()
    for name, array in arrays.items():
        kept = array if name in DOUBLE else array.astype(np.float32)
        tensors[name] = torch.from_numpy(np.ascontiguousarray(kept))
    part = path.with_suffix(".part")
    save_file(tensors, part, {**section_hashes(spec), "inputs": str(net.features)})
    part.chmod(0o644)  # safetensors makes it private, but a daemon under another user must read it
    part.replace(path)


def load_model(folder: Path) -> Model:
    """The model in ``folder``. Raises `ModelError` that says what is missing, broken or does not match."""
    if folder.is_file():
        raise ModelError(f"{folder}: is a file; name the folder it lies in: {folder.parent}")
    if not folder.is_dir():
        raise ModelError(f"{folder}: no such model folder; inference.model must name one that holds model.toml")
    spec = read_spec(folder / "model.toml")
    path = folder / WEIGHTS
    if not path.exists():
        raise ModelError(f"{path}: no weights; make them with: gwstream train {folder / 'model.toml'}")
    try:
        with safe_open(path, "pt") as file:
            metadata = dict(file.metadata() or {})
            # copied, not mapped: a file that is overwritten in place would end the process (SIGBUS)
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError) as problem:
        raise ModelError(f"{path}: not a readable safetensors file: {problem}") from problem
    for section, expected in section_hashes(spec).items():
        if metadata.get(section) != expected:
            raise ModelError(
                f"{path}: was made for another [{section}] than {folder / 'model.toml'} says; "
                f"restore model.toml or train anew with: gwstream train {folder / 'model.toml'}"
            )
    try:
        bank = Bank.from_tensors({name: value.double().numpy() for name, value in tensors.items() if "bank" in name})
        inputs = int(metadata["inputs"])
        if inputs != size(bank, CONTEXT):
            raise ModelError(
                f"{path}: its network reads {inputs} numbers of a window, where this version of gwstream makes "
                f"{size(bank, CONTEXT)}; train anew with: gwstream train {folder / 'model.toml'}"
            )
        arrays = {name: value.double().numpy() for name, value in tensors.items()}
        aggregate, leftover = Aggregate.from_tensors(arrays), Leftover.from_tensors(arrays)
        net = build(spec, inputs)
        state = {name[4:]: value for name, value in tensors.items() if name.startswith("net.")}
        spare = {name: value for name, value in net.state_dict().items() if name.startswith(net.training_only)}
        net.load_state_dict(spare | state)
    except (KeyError, RuntimeError, ValueError) as problem:
        raise ModelError(f"{path}: does not fit the network of model.toml: {problem}") from problem
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Model(spec, net.eval().requires_grad_(False), bank, digest, aggregate, leftover)
