"""A mixture of multivariate normals with weights: the second network of Chua & Vallisneri (arXiv:1909.05966)."""

from __future__ import annotations

from gwstream.inference.networks.gaussian import Gaussian
from gwstream.model import MixtureSpec


class GaussianMixture(Gaussian):
    """`Gaussian` with several of them."""

    def __init__(self, spec: MixtureSpec, features: int) -> None:
        super().__init__(spec, features, spec.components)
