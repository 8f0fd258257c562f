"""The reference engine: fp32 torch on the CPU, which every other engine must equal, and which is always there."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from gwstream.config import InferenceConfig
from gwstream.inference.engines import Example
from gwstream.inference.networks import Network


class TorchEngine:
    """Runs the network as it is."""

    kind: ClassVar = "torch"
    rank: ClassVar = 0
    precisions: ClassVar = ("fp32",)
    slow: ClassVar = False
    name = "torch"
    buckets = (1,)

    def __init__(self, net: Network, example: Example, config: InferenceConfig) -> None:
        self._net = net

    @classmethod
    def missing(cls) -> str:
        """Nothing: gwstream does not install without torch."""
        return ""

    @torch.inference_mode()
    def run(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """See `Engine`."""
        found: tuple[Tensor, ...] = self._net(*inputs)
        return found

    def forget(self) -> None:
        """Nothing: it is made from nothing that is kept."""


ENGINE = TorchEngine
