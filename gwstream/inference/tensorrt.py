"""Of a network, what TensorRT makes: the one place that calls torch-tensorrt.

A network is exported by `torch.export` and converted as one piece: an operator that TensorRT does not know is an error,
never a part that runs elsewhere. TensorRT takes types as they are written, so the network that is exported says what is
calculated in which: in half precision its wide layers (`Residual`, two products and what lies between), all else, from
the features to what densities are made of, in fp32. TF32, which cuts fp32's mantissa to ten bits, is off.
"""

from __future__ import annotations

import copy
import logging
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from gwstream.errors import EngineError
from gwstream.inference import plans
from gwstream.inference.networks import Network
from gwstream.inference.networks.layers import Residual
from gwstream.inference.plans import Plan

if TYPE_CHECKING:
    from types import ModuleType

TYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
FAILURES = (RuntimeError, ValueError, TypeError, AssertionError, OSError, AttributeError, LookupError, ImportError)
"""What torch, CUDA and torch-tensorrt, of another version too, raise: ``torch.cuda.OutOfMemoryError`` is the first."""


class Wide(nn.Module):
    """A `Residual` whose update is calculated in another type than what it is added to."""

    def __init__(self, layer: Residual, dtype: torch.dtype) -> None:
        super().__init__()
        self.norm = layer.norm
        self.first, self.second = layer.first.to(dtype), layer.second.to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        """(…, width) to (…, width)."""
        inner = functional.gelu(self.first(self.norm(x).to(self.first.weight.dtype)))
        update: Tensor = self.second(inner)
        return x + update.to(x.dtype)


def written(net: Network, precision: str) -> Network:
    """The network with the types of a precision written into it; ``net`` stays as it is. Raises `EngineError`."""
    if precision == "fp32":
        return net
    net = copy.deepcopy(net)
    wide = {name: part for name, part in net.named_modules() if isinstance(part, Residual)}
    if not wide:
        raise EngineError(f"this network has no layers that could run in {precision}")
    for name, part in wide.items():
        net.set_submodule(name, Wide(part, TYPES[precision]))
    return net


def compiled(net: Network, example: tuple[Tensor, ...], precision: str) -> Plan:
    """A plan for inputs shaped like ``example``; takes a minute. Raises `EngineError` that names what it cannot do."""
    tensorrt = module()
    try:
        with _quiet(), torch.no_grad(), tempfile.TemporaryDirectory() as folder:
            program = torch.export.export(net, example)
            body = tensorrt.dynamo.convert_exported_program_to_serialized_trt_engine(
                program,
                arg_inputs=example,
                disable_tf32=True,
                use_fp32_acc=precision == "fp16",
                require_full_compilation=True,
                min_block_size=1,
                num_avg_timing_iters=4,
                timing_cache_path=str(Path(folder) / "timing"),  # its default lies where anybody may write
            )
    except FAILURES as problem:
        raise EngineError(f"TensorRT cannot run this network: {said(problem)}") from problem
    spec = program.graph_signature
    outputs = tuple(f"output{k}" for k in range(len(spec.user_outputs)))
    return Plan(bytes(body), tuple(str(name) for name in spec.user_inputs), outputs)


def loaded(plan: Plan, name: str) -> Any:
    """A plan as a module on the card, with CUDA graphs on for good. Raises `EngineError`."""
    tensorrt = module()
    try:
        with _quiet():
            settings = tensorrt.dynamo.CompilationSettings(disable_tf32=True, lazy_engine_init=True)
            found = tensorrt.runtime.TorchTensorRTModule(
                plan.body, list(plan.inputs), list(plan.outputs), name=name, settings=settings
            )
            if tensorrt.ENABLED_FEATURES.tensorrt_rtx:  # which makes its own graphs, and keeps kernels in /tmp
                found.runtime_settings = tensorrt.runtime.RuntimeSettings(
                    cuda_graph_strategy="whole_graph_capture", runtime_cache=None
                )
            found.setup_engine()
            # the process's: its context manager does this as well, and would keep every module that is ever loaded
            tensorrt.runtime.set_cudagraphs_mode(True)
            return found
    except FAILURES as problem:
        raise EngineError(f"TensorRT cannot load what it compiled: {said(problem)}") from problem


def key(net: Network, example: tuple[Tensor, ...], precision: str) -> dict[str, str]:
    """All that a plan of this network on this card depends on; ``net`` in fp32."""
    tensorrt = module()
    major, minor = torch.cuda.get_device_capability()
    return {
        **plans.key(net, example, precision),
        "gpu": torch.cuda.get_device_name(),
        "sm": f"{major}.{minor}",
        "tensorrt": str(tensorrt.tensorrt_package_name) + " " + _version(),
        "torch-tensorrt": str(tensorrt.__version__),
        "cuda": str(torch.version.cuda),
    }


@cache
def module() -> ModuleType:
    """torch-tensorrt. Raises `EngineError` where it is not there or cannot be loaded."""
    try:
        with _quiet():
            import torch_tensorrt
    except Exception as problem:
        raise EngineError(f"torch-tensorrt is installed, but cannot be loaded: {said(problem)}") from problem
    found: ModuleType = torch_tensorrt
    return found


def said(problem: Exception) -> str:
    """What is wrong, in a line: the cause's first, where there is a cause; the rest is a graph, or says where."""
    cause = problem.__cause__ or problem
    return (str(cause).strip() or type(cause).__name__).splitlines()[0]


@contextmanager
def _quiet() -> Iterator[None]:
    """It prints to stdout, which is ours, and logs whole graphs before it raises."""
    names = ("torch_tensorrt", "torch_tensorrt [TensorRT Conversion Context]")
    loggers = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        with redirect_stdout(sys.stderr), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in loggers.items():
            logging.getLogger(name).setLevel(level)


def _version() -> str:
    import tensorrt

    return str(tensorrt.__version__)
