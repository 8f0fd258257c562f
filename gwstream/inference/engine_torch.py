"""The reference engine: fp32 torch on the CPU, which every other engine must equal."""

from __future__ import annotations

import torch
from numpy.random import Generator

from gwstream.inference.importance import Proposal
from gwstream.inference.networks import Network
from gwstream.inference.networks.base import Inputs


class TorchEngine:
    """Runs a network for one window at a time."""

    name = "torch"

    def __init__(self, net: Network, latents: int) -> None:
        """``latents``: parts of a proposal that is a mixture over a latent."""
        self._net, self._latents = net, latents

    @torch.inference_mode()
    def propose(self, inputs: Inputs, rng: Generator) -> Proposal:
        """The network's density for ONE window, with whatever it draws from ``rng``."""
        return self._net.propose(inputs, rng, self._latents)
