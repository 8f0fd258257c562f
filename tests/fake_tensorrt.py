"""A torch-tensorrt without TensorRT: a plan stands for an exported program, and the card is this processor.

Its functions take what `gwstream.inference.tensorrt` gives them and nothing else; `test_tensorrt_build` holds their
signatures against the real ones.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import cache
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gwstream.inference import engine_tensorrt, tensorrt

PROGRAMS: list[torch.export.ExportedProgram] = []
"""Plans are their numbers."""


@cache
def runs(number: int) -> nn.Module:
    """What a plan calculates."""
    return PROGRAMS[number].module()


class Fake(ModuleType):
    """The module, and what it was asked to do."""

    __version__ = "2.13.0"
    tensorrt_package_name = "tensorrt"

    def __init__(self) -> None:
        super().__init__("torch_tensorrt")
        self.__spec__ = ModuleSpec("torch_tensorrt", None)
        self.ENABLED_FEATURES = SimpleNamespace(tensorrt_rtx=False)
        self.dynamo = SimpleNamespace(
            convert_exported_program_to_serialized_trt_engine=self.convert, CompilationSettings=CompilationSettings
        )
        self.runtime = SimpleNamespace(
            TorchTensorRTModule=self.load,
            RuntimeSettings=RuntimeSettings,
            set_cudagraphs_mode=self.set_cudagraphs_mode,
        )
        self.compiled: list[int] = []  # windows of each
        self.timing: list[str] = []
        self.loaded: list[TorchTensorRTModule] = []
        self.graphs = False
        self.refuses: Exception | None = None  # to compile
        self.spoilt: set[bytes] = set()  # plans that cannot be loaded

    def convert(
        self,
        exported_program: torch.export.ExportedProgram,
        *,
        arg_inputs: Any,
        disable_tf32: bool,
        use_fp32_acc: bool,
        require_full_compilation: bool,
        min_block_size: int,
        num_avg_timing_iters: int,
        timing_cache_path: str,
    ) -> bytes:
        print("it prints what it likes")
        assert disable_tf32
        assert require_full_compilation
        self.timing.append(timing_cache_path)
        if self.refuses is not None:
            raise self.refuses
        self.compiled.append(len(arg_inputs[0]))
        PROGRAMS.append(exported_program)
        return f"plan {len(PROGRAMS) - 1}".encode()

    def load(
        self,
        serialized_engine: bytes,
        input_binding_names: list[str],
        output_binding_names: list[str],
        *,
        name: str,
        settings: CompilationSettings,
    ) -> TorchTensorRTModule:
        assert settings.lazy_engine_init
        if serialized_engine in self.spoilt:
            raise RuntimeError("IRuntime::deserializeCudaEngine: magic tag does not match\nand more")
        names = input_binding_names, output_binding_names
        found = TorchTensorRTModule(serialized_engine, names, name, lambda: self.graphs)
        self.loaded.append(found)
        return found

    def set_cudagraphs_mode(self, mode: bool) -> None:
        self.graphs = mode


class CompilationSettings:
    def __init__(self, *, disable_tf32: bool, lazy_engine_init: bool) -> None:
        self.lazy_engine_init = lazy_engine_init


class RuntimeSettings:
    def __init__(self, *, cuda_graph_strategy: str, runtime_cache: str | None) -> None:
        self.cuda_graph_strategy, self.runtime_cache = cuda_graph_strategy, runtime_cache


class TorchTensorRTModule(nn.Module):
    """Gives its results in the same memory each time, as a CUDA graph does."""

    def __init__(self, body: bytes, names: tuple[list[str], list[str]], name: str, graphs: Callable[[], bool]) -> None:
        super().__init__()
        self.graphs = graphs
        self.body, self.names, self.label = body, names, name
        self.runtime_settings: RuntimeSettings | None = None
        self.program: nn.Module | None = None
        self.kept: tuple[Tensor, ...] = ()
        self.runs = self.recorded = 0  # the latter: while CUDA graphs were on
        self.harm: Any = None

    def setup_engine(self) -> None:
        number = int(self.body.split()[1])
        program = PROGRAMS[number]
        assert self.names[0] == list(program.graph_signature.user_inputs)
        assert len(self.names[1]) == len(program.graph_signature.user_outputs)
        self.program = runs(number)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...] | Tensor:
        assert self.program is not None
        self.runs += 1
        self.recorded += self.graphs()
        made = tuple(self.program(*inputs))
        if self.harm is not None:
            made = self.harm(made)
        if not self.kept:
            self.kept = tuple(part.clone() for part in made)
        for kept, part in zip(self.kept, made, strict=True):
            kept.copy_(part)
        return self.kept if len(self.kept) > 1 else self.kept[0]


def library(version: str) -> ModuleType:
    """TensorRT itself, of which only the version is asked."""
    found = ModuleType("tensorrt")
    found.__spec__ = ModuleSpec("tensorrt", None)
    found.__version__ = version  # type: ignore[attr-defined]
    return found


class Stream:
    """Of the card, on which nothing waits."""

    def synchronize(self) -> None:
        pass


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[Fake]:
    """torch-tensorrt with a card, where there is neither."""
    found = Fake()
    monkeypatch.setitem(sys.modules, "torch_tensorrt", found)
    monkeypatch.setitem(sys.modules, "tensorrt", library("10.16.1"))
    monkeypatch.setattr(engine_tensorrt, "DEVICE", torch.device("cpu"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "NVIDIA H100")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (9, 0))
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda _: nullcontext())
    tensorrt.module.cache_clear()
    yield found
    tensorrt.module.cache_clear()
