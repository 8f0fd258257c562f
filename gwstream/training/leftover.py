"""What noise leaves over once the true signal is taken out: the measure of the residual test, for a model's own chain.

Filters come from estimated spectra, and the stream is empty below its floor, so the chi-squares of `residual` are not
quite those of white noise. Their mean and variance depend on conditioning and prior alone, not on the network.
"""

from __future__ import annotations

import numpy as np
import torch

from gwstream.inference.bank import Bank
from gwstream.inference.residual import Leftover, Power, Stretch, leftover
from gwstream.model import ModelSpec
from gwstream.records import Floats
from gwstream.training.dataset import Simulator, family

SEED = 20206
DETECTORS, EACH = 240, 20  # of the family, and signals in the noise of each
LEAST, SHARE = 16, 4000  # detectors at least, and one for so many samples of a short training


def measure(spec: ModelSpec, bank: Bank, simulator: Simulator, most: int = DETECTORS) -> Leftover:
    """Mean and variance over signals of the prior at their true parameters, behind filters of ``most`` detectors.

    10 s at 256 Hz for 240 detectors, 30 s at 512; a short training has fewer.
    """
    rng = np.random.default_rng(SEED)
    generator = torch.Generator().manual_seed(SEED)
    averages: list[int] = []
    found: list[Power] = []
    for one in family(spec, bank, min(most, max(LEAST, spec.training.samples // SHARE)), rng):
        truths = spec.prior.draw(rng, EACH)
        windows = simulator.windows(one, truths, EACH, generator).double().numpy()
        found += [leftover(window, one.live.templates, x) for window, x in zip(windows, truths, strict=True)]
        averages += [one.whitener.averages] * EACH
    inverse = 1 / np.array(averages)
    whole, peak = (np.array([getattr(one, name) for one in found]) for name in ("whole", "peak"))
    return Leftover(_fitted(whole, inverse), _fitted(peak, inverse))


def _fitted(found: Floats, inverse: Floats) -> Stretch:
    """Of power and degrees of freedom (n, 2) at 1 / averages (n,): a straight line through the scaled squares."""
    power, freedom = found.T
    mean = float(power.sum() / freedom.sum())
    squares = (power - mean * freedom) ** 2 / (2 * freedom)
    slope, level = np.polyfit(inverse, squares, 1)
    if slope <= 0 or level <= 0:  # nothing that goes with averages stands out of the scatter
        slope, level = 0.0, squares.mean()
    return Stretch(mean, float(level), by_averages=float(slope))
