"""torch-tensorrt with TensorRT-RTX on a machine without a GPU: it converts and builds, and cannot run what it built.

It asks CUDA a few things on its way, which are answered here; and what it builds it loads at once, which takes a
driver: so what would load it keeps the bytes instead.
"""

from __future__ import annotations

import os
import warnings
from functools import cache
from types import ModuleType
from typing import Any
from unittest import mock

import torch

CAPABILITY = (8, 9)


@cache
def prepared() -> ModuleType:
    """The module. It changes ``torch.cuda`` for the rest of the process."""
    torch.cuda.get_device_capability = lambda *_: CAPABILITY
    torch.cuda.get_device_name = lambda *_: "none"
    torch.cuda.current_device = lambda: 0
    torch.cuda.mem_get_info = lambda *_: (1 << 33, 1 << 33)
    if not hasattr(torch._C, "_CudaDeviceProperties"):  # PyTorch's CPU build
        torch._C._CudaDeviceProperties = type("_CudaDeviceProperties", (), {})
    isfile = os.path.isfile
    # its own runtime is linked to CUDA
    hidden = mock.patch("os.path.isfile", lambda path: "libtorchtrt" not in str(path) and isfile(path))
    with hidden, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torch_tensorrt
        from torch_tensorrt.dynamo.conversion import _TRTInterpreter as interpreter
    interpreter.trt = _Instead(interpreter.trt)
    found: ModuleType = torch_tensorrt
    return found


class _Built:
    """An engine that is its bytes."""

    def __init__(self, body: Any) -> None:
        self.body = body

    def serialize(self) -> Any:
        return self.body


class _Runtime:
    def __init__(self, logger: object) -> None:
        pass

    def deserialize_cuda_engine(self, body: Any) -> _Built:
        return _Built(body)


class _Instead:
    """TensorRT, but for what loads an engine."""

    Runtime = _Runtime

    def __init__(self, tensorrt: ModuleType) -> None:
        self._tensorrt = tensorrt

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tensorrt, name)
