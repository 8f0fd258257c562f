"""TensorRT on an NVIDIA GPU: one plan a bucket of windows, compiled where it runs and kept for the next start.

Everything is made ready at the start: all plans compiled or loaded, a CUDA graph of each recorded, buffers pinned. One
stream and one thread; an engine that fails is given up (`parity`), for CUDA's errors last as long as the process.
"""

from __future__ import annotations

import logging
import time
from importlib.util import find_spec
from typing import Any, ClassVar

import torch
from torch import Tensor

from gwstream.config import InferenceConfig
from gwstream.errors import EngineError
from gwstream.inference import tensorrt
from gwstream.inference.engines import Buckets, Example, named
from gwstream.inference.networks import Network
from gwstream.inference.plans import Key, Plans
from gwstream.records import BUCKETS

log = logging.getLogger("inference")

DEVICE = torch.device("cuda")
WARM = 3  # runs of a plan before it counts: the first loads kernels, the second records the graph


class TensorRtEngine:
    """Runs the compiled network on the current CUDA device."""

    kind: ClassVar = "tensorrt"
    rank: ClassVar = 20
    precisions: ClassVar = tuple(tensorrt.TYPES)
    slow: ClassVar = True

    def __init__(self, net: Network, example: Example, config: InferenceConfig) -> None:
        self.name = named(self.kind, config.precision)
        self._net, self._precision = net, config.precision
        self._written = tensorrt.written(net, config.precision)
        self._plans = Plans.of(config)
        self.unkept = ""
        """Why the next start will compile again; empty: it need not."""
        try:
            self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            self._programs = Buckets(self._program, example)
            for size in BUCKETS:
                self._programs.program(size)
        except tensorrt.FAILURES as problem:
            raise EngineError(f"TensorRT cannot start: {tensorrt.said(problem)}") from problem

    @classmethod
    def missing(cls) -> str:
        """Package or GPU, where one is not there."""
        if not find_spec("torch_tensorrt"):
            return "pip install 'gwstream[tensorrt]'"
        if torch.cuda.is_available():
            return ""
        if not torch.version.cuda:
            return "this PyTorch is built without CUDA; install PyTorch's CUDA build of 2.13 (docs/engines.md)"
        return f"no NVIDIA GPU can be reached; nvidia-smi must list one, with a driver for CUDA {torch.version.cuda}"

    @property
    def buckets(self) -> tuple[int, ...]:
        """See `Engine`."""
        return self._programs.made

    def run(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """See `Engine`."""
        try:
            return self._programs.run(*inputs)
        except tensorrt.FAILURES as problem:
            raise EngineError(f"TensorRT failed: {tensorrt.said(problem)}") from problem

    def forget(self) -> None:
        """See `Engine`."""
        self._plans.forget()

    def _program(self, example: tuple[Tensor, ...]) -> _Program:
        """That for inputs shaped like these: kept, or compiled and kept."""
        key = tensorrt.key(self._net, example, self._precision)
        return _Program(self._kept(key) or self._compiled(key, example), example, self._stream)

    def _kept(self, key: Key) -> Any:
        """The module on the card, if it was compiled before and can be loaded; else None."""
        plan = self._plans.load(key)
        if plan is None:
            return None
        try:
            return tensorrt.loaded(plan, _label(key))
        except EngineError as problem:
            log.warning("compiling again what was kept: %s", problem)
            return None

    def _compiled(self, key: Key, example: tuple[Tensor, ...]) -> Any:
        """The module on the card, compiled and kept."""
        what = f"{key['network']} in {self._precision} for {key['windows']} windows at a time"
        log.info("compiling the %s for %s, once: up to some minutes", what, key["gpu"])
        begin = time.monotonic()
        plan = tensorrt.compiled(self._written, example, self._precision)
        log.info("compiled the %s in %.0f s: %.1f MB", what, time.monotonic() - begin, len(plan.body) / 1e6)
        self.unkept = self._plans.save(key, plan) or self.unkept
        return tensorrt.loaded(plan, _label(key))


ENGINE = TensorRtEngine


def _label(key: Key) -> str:
    """A plan's name, as TensorRT's own logs have it."""
    return f"{key['network']}_{key['windows']}"


class _Program:
    """A module on the card with its buffers: pinned ones here, and the same there, whose place a CUDA graph knows."""

    def __init__(self, module: Any, example: tuple[Tensor, ...], stream: torch.cuda.Stream) -> None:
        self._module, self._stream = module, stream
        self._given = [_pinned(part) for part in example]
        self._there = [torch.zeros_like(part, device=DEVICE) for part in example]
        self._made: list[Tensor] = []
        for _ in range(WARM):
            self(*example)

    @torch.no_grad()
    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        with torch.cuda.stream(self._stream):
            for here, there, part in zip(self._given, self._there, inputs, strict=True):
                if here.shape != part.shape:
                    raise EngineError(f"an input is {tuple(part.shape)} and should be {tuple(here.shape)}")
                there.copy_(here.copy_(part), non_blocking=True)
            found = self._module(*self._there)
            found = found if isinstance(found, (tuple, list)) else (found,)
            self._made = self._made or [_pinned(part) for part in found]
            for here, part in zip(self._made, found, strict=True):
                here.copy_(part, non_blocking=True)
        self._stream.synchronize()
        return tuple(here.clone() for here in self._made)


def _pinned(like: Tensor) -> Tensor:
    """Memory of this host that the card reads and writes by itself, float32."""
    return torch.zeros(like.shape, pin_memory=DEVICE.type == "cuda")
