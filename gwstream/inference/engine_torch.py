"""The reference engine: fp32 torch on the CPU, which every other engine must equal."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from gwstream.inference.cvae import Cvae
from gwstream.inference.mixture import Mixture
from gwstream.records import Floats


class TorchEngine:
    """Runs E1 and the decoder of a CVAE for one window at a time."""

    name = "torch"

    def __init__(self, net: Cvae) -> None:
        self._net = net

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """Of one latent's noise: a standard normal vector."""
        return (self._net.latent,)

    @torch.inference_mode()
    def propose(self, y: Tensor, noise: Floats, uniform: Floats) -> Mixture:
        """The decoder over L latents drawn from E1, as one mixture.

        ``y``: (1, F); ``noise``: (L, latent) standard normal; ``uniform``: (L,) in [0, 1), which picks E1's component.
        """
        window = self._net.embed(y)
        latent = self._net.prior_latent(window)
        steps = torch.cumsum(latent.log_weights[0].double().exp(), 0)
        chosen = torch.searchsorted(steps, torch.from_numpy(uniform)).clamp(max=len(steps) - 1)
        sigma = torch.exp(latent.log_sigma[0, chosen])
        z = latent.mean[0, chosen] + sigma * torch.from_numpy(noise.astype(np.float32))
        found = self._net.decode(window, z[None])
        return Mixture(
            mean=found.mean[0].double().numpy(),
            sigma=found.sigma[0].double().numpy(),
            angle=found.angle[0].double().numpy(),
            kappa=found.log_kappa[0].double().exp().numpy(),
        )
