"""OpenVINO on the CPU: the network exported by `torch.export`, compiled for this processor.

Its frontend is called directly: the converter around it, ``openvino.convert_model``, reports to its makers' statistics.
Importing OpenVINO alone already loads what does so, which makes an identifier in the user's home: it is kept out.
"""

from __future__ import annotations

import gc
import sys
import warnings
from importlib.util import find_spec
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from gwstream.config import InferenceConfig
from gwstream.errors import EngineError
from gwstream.inference.engines import Buckets, Example, named
from gwstream.inference.networks import Network

if TYPE_CHECKING:
    from openvino import InferRequest, Model

HINTS = {"fp32": "f32", "bf16": "bf16"}


class OpenVinoEngine:
    """Runs the compiled network in ``inference.threads`` threads, in fp32 unless told otherwise."""

    kind: ClassVar = "openvino"
    rank: ClassVar = 10
    precisions: ClassVar = tuple(HINTS)
    slow: ClassVar = False

    def __init__(self, net: Network, example: Example, config: InferenceConfig) -> None:
        self.name = named(self.kind, config.precision)
        self._net, self._config = net, config
        self._programs = Buckets(self._program, example)

    @classmethod
    def missing(cls) -> str:
        """The package, where it is not there."""
        return "" if find_spec("openvino") else "pip install 'gwstream[cpu]'"

    @property
    def buckets(self) -> tuple[int, ...]:
        """See `Engine`."""
        return self._programs.made

    def run(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """See `Engine`."""
        return self._programs.run(*inputs)

    def _program(self, example: tuple[Tensor, ...]) -> _Program:
        foreign: tuple[type[Exception], ...] = (RuntimeError, ValueError, *_failures())
        try:
            return _Program(self._net, example, self._config)
        except foreign as problem:
            raise EngineError(f"OpenVINO cannot run this network: {_said(problem)}") from problem


class _Program:
    """The network compiled for inputs of one shape."""

    def __init__(self, net: Network, example: tuple[Tensor, ...], config: InferenceConfig) -> None:
        self._decoder, graph = _graph(net, example)  # held as long as the graph lives: it owns the weights
        self.request = _compiled(graph, config)
        taken = {name for one in graph.inputs for name in one.get_names()}
        self._names = {number: name for number, name in enumerate(_names(len(example))) if name in taken}

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        given = {name: inputs[number].numpy() for number, name in self._names.items()}
        try:
            found = self.request.infer(given, share_inputs=True)  # results are copied
        except RuntimeError as problem:
            raise EngineError(f"OpenVINO failed: {_said(problem)}") from problem
        return tuple(torch.from_numpy(found[k]) for k in range(len(found)))


ENGINE = OpenVinoEngine


def _failures() -> tuple[type[Exception], ...]:
    """What OpenVINO's frontend raises. Raises `EngineError` where OpenVINO cannot be loaded."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # not to be imported: see the top
    try:
        from openvino import frontend
    except (ImportError, OSError) as problem:
        raise EngineError(f"OpenVINO is installed, but cannot be loaded: {_said(problem)}") from problem
    return (
        frontend.GeneralFailure,
        frontend.InitializationFailure,
        frontend.NotImplementedFailure,
        frontend.OpConversionFailure,
        frontend.OpValidationFailure,
    )


def _said(problem: Exception) -> str:
    """The last line of an error, which says what is wrong; those before it say where."""
    return (str(problem).strip() or type(problem).__name__).splitlines()[-1]


def _names(count: int) -> list[str]:
    """What `torch.export` calls the parameters of `Network.forward`. A network need not use them all."""
    return ["y", "windows", *(f"noise_{k}" for k in range(count - 2))]


def _graph(net: Network, example: tuple[Tensor, ...]) -> tuple[object, Model]:
    """The network as OpenVINO's graph, and what owns the memory of its weights."""
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.fx_decoder import TorchFXPythonDecoder

    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's about its own
        module = torch.export.export(net, example).run_decompositions().module()
    gc.collect()  # what is exported refers to itself: at every reload of a model another 100 MB, until somebody looks
    decoder = TorchFXPythonDecoder(module, dynamic_shapes=False)
    frontend = FrontEndManager().load_by_framework("pytorch")
    return decoder, frontend.convert(frontend.load(decoder))


def _compiled(graph: Model, config: InferenceConfig) -> InferRequest:
    from openvino import Core

    options = {
        "INFERENCE_NUM_THREADS": config.threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": HINTS[config.precision],  # left alone, it takes bf16 wherever that is fast
        "ENABLE_CPU_PINNING": False,
        "SNIPPETS_MODE": "DISABLE",  # its own kernels: slower here, and crash for networks some 50 wide (2026.4)
    }
    compiled = Core().compile_model(graph, "CPU", options)
    if config.precision == "bf16" and compiled.get_property("INFERENCE_PRECISION_HINT").to_string() != "bf16":
        raise EngineError("this processor does not calculate in bf16")
    return compiled.create_infer_request()
