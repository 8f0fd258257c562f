"""The networks of the literature, one file each, behind one interface: `base.Network`."""

from __future__ import annotations

from gwstream import model
from gwstream.inference.networks.base import Network
from gwstream.inference.networks.cvae import Cvae
from gwstream.inference.networks.cvae_flow import CvaeFlow
from gwstream.inference.networks.gaussian import Gaussian
from gwstream.inference.networks.maf import Maf
from gwstream.inference.networks.mixture import GaussianMixture
from gwstream.inference.networks.nsf import Nsf
from gwstream.inference.networks.seed import Seed
from gwstream.inference.networks.wavenet import Wavenet

__all__ = ["Network", "build"]


def build(spec: model.ModelSpec, features: int) -> Network:
    """An untrained network of the kind that ``model.toml`` names, for ``features`` numbers a window."""
    match spec.network:
        case model.CvaeSpec() as network:
            return Cvae(network, features)
        case model.GaussianSpec() as network:
            return Gaussian(network, features)
        case model.MixtureSpec() as network:
            return GaussianMixture(network, features)
        case model.MafSpec() as network:
            return Maf(network, features)
        case model.NsfSpec() as network:
            return Nsf(network, features)
        case model.CvaeFlowSpec() as network:
            return CvaeFlow(network, features)
        case model.WavenetSpec() as network:
            return Wavenet(network, features, spec.rate, spec.prior)
        case model.SeedSpec() as network:
            return Seed(network, features, spec.window, spec.prior)
