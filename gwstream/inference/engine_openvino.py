"""OpenVINO on the CPU: the network exported by `torch.export`, compiled for this processor and kept for the next start.

Exporting takes seconds, loading what was made of it a tenth of one. What runs is always loaded, in the process that
made it too, so that the same bytes come of it before and after a restart.

Its frontend is called directly: the converter around it, ``openvino.convert_model``, reports to its makers' statistics.
Importing OpenVINO alone already loads what does so, which makes an identifier in the user's home: it is kept out.
"""

from __future__ import annotations

import gc
import io
import logging
import sys
import warnings
from importlib.util import find_spec
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from gwstream.config import InferenceConfig
from gwstream.errors import EngineError
from gwstream.inference import plans
from gwstream.inference.engines import Buckets, Example, named
from gwstream.inference.networks import Network
from gwstream.inference.plans import Plan, Plans

if TYPE_CHECKING:
    from openvino import CompiledModel, Core

log = logging.getLogger("inference")

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
        self._plans = Plans.of(config)
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

    def forget(self) -> None:
        """See `Engine`."""
        self._plans.forget()

    def _program(self, example: tuple[Tensor, ...]) -> _Program:
        """That for inputs shaped like these: kept, or compiled and kept."""
        foreign: tuple[type[Exception], ...] = (RuntimeError, ValueError, *_failures())
        try:
            key = _key(self._net, example, self._config)
            plan = self._plans.load(key)
            if plan is not None:
                try:
                    return _Program(plan, self._config)
                except foreign as problem:
                    log.warning("compiling again what OpenVINO does not take as it was kept: %s", _said(problem))
            plan = _made(self._net, example, self._config)
            self._plans.save(key, plan)
            return _Program(plan, self._config)
        except foreign as problem:
            raise EngineError(f"OpenVINO cannot run this network: {_said(problem)}") from problem


class _Program:
    """The network compiled for inputs of one shape."""

    def __init__(self, plan: Plan, config: InferenceConfig) -> None:
        compiled = _core().import_model(io.BytesIO(plan.body), "CPU", _options(config))
        if config.precision == "bf16" and compiled.get_property("INFERENCE_PRECISION_HINT").to_string() != "bf16":
            raise EngineError("this processor does not calculate in bf16")
        self.request = compiled.create_infer_request()
        self._names = {k: name for k, name in enumerate(plan.inputs) if name in _taken(compiled)}

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
    """What `torch.export` calls the parameters of `Network.forward`."""
    return ["y", "windows", *(f"noise_{k}" for k in range(count - 2))]


def _taken(compiled: CompiledModel) -> set[str]:
    """The names of its inputs. A network need not use all it is given."""
    return {name for one in compiled.inputs for name in one.get_names()}


def _core() -> Core:
    from openvino import Core

    return Core()


def _key(net: Network, example: tuple[Tensor, ...], config: InferenceConfig) -> plans.Key:
    """All that a plan of this network on this processor depends on."""
    import openvino

    core = _core()
    return {
        **plans.key(net, example, config.precision),
        "openvino": str(openvino.get_version()),
        "cpu": str(core.get_property("CPU", "FULL_DEVICE_NAME")),
        "able": " ".join(sorted(core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"))),
        "threads": str(config.threads),
    }


def _made(net: Network, example: tuple[Tensor, ...], config: InferenceConfig) -> Plan:
    """The network as a plan for inputs shaped like ``example``; takes some seconds."""
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.fx_decoder import TorchFXPythonDecoder

    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's about its own
        module = torch.export.export(net, example).run_decompositions().module()
    gc.collect()  # what is exported refers to itself: at every reload of a model another 100 MB, until somebody looks
    decoder = TorchFXPythonDecoder(module, dynamic_shapes=False)  # owns the weights as long as the graph lives
    frontend = FrontEndManager().load_by_framework("pytorch")
    graph = frontend.convert(frontend.load(decoder))
    compiled = _core().compile_model(graph, "CPU", _options(config))
    return Plan(compiled.export_model().getvalue(), tuple(_names(len(example))), ())


def _options(config: InferenceConfig) -> dict[str, object]:
    return {
        "INFERENCE_NUM_THREADS": config.threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": HINTS[config.precision],  # left alone, it takes bf16 wherever that is fast
        "ENABLE_CPU_PINNING": False,
        "SNIPPETS_MODE": "DISABLE",  # its own kernels: slower here, and crash for networks some 50 wide (2026.4)
    }
