"""The window's exact density at a few fixed points of its coordinates: where the ridge is off, and how it bends.

The ridge is near; the likelihood is exact. Looked at around the middle of the coordinates, it gives slopes, curvatures
and the Newton step to the top, from which the network reads what is left between the ridge and the posterior.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from gwstream.inference.likelihood import Templates, log_ratio
from gwstream.inference.parameters import Anchor
from gwstream.records import Floats

AXES = 5
LEAST_BEND = 0.1  # a curvature counts for at least so much in the Newton step
PAIRS = tuple(combinations(range(AXES), 2))
SOFT = 0.5  # of ln density, where the inputs pass from linear to logarithmic


def _points() -> Floats:
    """Middle, one width up and down each axis, two axes up at once, and some further out, (P, AXES)."""
    one = np.eye(AXES)
    chirp, ratio = one[0], one[1]
    further = [2 * ratio, -2 * ratio, 2 * chirp, -2 * chirp]
    further += [a * ratio + b * chirp for a in (1.5, -1.5) for b in (1.0, -1.0)]
    return np.concatenate([np.zeros((1, AXES)), one, -one, [one[i] + one[k] for i, k in PAIRS], further])


POINTS = _points()
SIZE = len(POINTS) + 4 * AXES


def look(templates: Templates, anchor: Anchor, windows: Tensor) -> Tensor:
    """What the likelihood says at `POINTS` of the anchors' coordinates, (B, SIZE) float32, of windows (B, n)."""
    log_p = torch.from_numpy(_log_density(templates, anchor, windows))
    middle, relative = log_p[:, :1], log_p[:, 1:] - log_p[:, :1]
    up, down = relative[:, :AXES], relative[:, AXES : 2 * AXES]
    slope, bend = 0.5 * (up - down), up + down
    hessian = torch.diag_embed(bend)
    for k, (i, j) in enumerate(PAIRS):
        mixed = relative[:, 2 * AXES + k] - up[:, i] - up[:, j]
        hessian[:, i, j] = hessian[:, j, i] = mixed
    curvature, axes = torch.linalg.eigh(-hessian)
    curvature = curvature.clamp(min=LEAST_BEND)
    newton = (axes @ ((axes.mT @ slope[..., None]) / curvature[..., None]))[..., 0]
    level = torch.asinh(middle / 100)
    parts = [level, *(torch.asinh(SOFT * part) for part in (relative, slope, bend, newton)), torch.log(curvature)]
    return torch.cat(parts, 1).float()


def _log_density(templates: Templates, anchor: Anchor, windows: Tensor) -> Floats:
    """ln of likelihood ratio and prior in the coordinates, (B, P), but for the prior's constant."""
    count = len(windows)
    x, log_jacobian = anchor.repeated(len(POINTS)).decode(np.tile(POINTS, (count, 1)))
    each = templates.waveforms(x, count).reshape(count, len(POINTS), -1)
    log_l = [log_ratio(window, waveforms) for window, waveforms in zip(windows.numpy(), each, strict=True)]
    return np.asarray(np.stack(log_l) - log_jacobian.reshape(count, -1))
