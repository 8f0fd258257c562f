"""From the gate's SNRs to the network's input and the anchor of its coordinates: for training and serving."""

from __future__ import annotations

import torch
from torch import Tensor

from gwstream.inference.gate import Best
from gwstream.inference.parameters import LEAST_SNR, Anchor, centroid

LEAST_AMPLITUDE = 0.01  # as SNR: a window of nothing has coordinates too


def size(templates: int, context: int) -> int:
    """Length of the network's input."""
    return 8 * templates + context + 5


def assemble(
    near: Tensor, best: Best, norms: Tensor, chirps: Tensor, grid: Tensor, context: Tensor
) -> tuple[Tensor, Anchor]:
    """Input (B, F) float32 and anchor (B,).

    ``near``: SNRs (B, 2, N, 3) around the best lag; ``norms``: (B, N) SNR at 1 Gpc of every template at that lag;
    ``chirps``: (N,) chirp masses of the templates; ``grid``: (lags,) times searched; ``context``: (B, k) PSD context.
    """
    row = torch.arange(len(near))
    snr = best.snr.clamp(min=LEAST_SNR)
    cosine, sine = torch.cos(best.phase)[:, None, None], torch.sin(best.phase)[:, None, None]
    real = near[:, 0] * cosine + near[:, 1] * sine
    imaginary = near[:, 1] * cosine - near[:, 0] * sine
    scaled = torch.stack([real, imaginary], 1).flatten(1) / snr[:, None]
    power = (near[:, 0].square() + near[:, 1].square()).amax(-1)
    deficit = torch.sqrt((best.snr[:, None].square() - power).clamp(min=0.0) + 1e-3)
    sensitivity = torch.log(norms)
    level = sensitivity.mean(1, keepdim=True)
    chirp = chirps[best.template]
    lag_time = grid[best.lag]
    scalars = torch.stack(
        [
            torch.log(snr) - 2.3,
            10.0 / snr,
            torch.log(chirp) - 3.3,
            (best.time - grid.mean()) * 10,
            (best.time - lag_time) * 1000,
        ],
        dim=1,
    )
    shape, mean_level, inverse_averages = context[:, :-2], context[:, -2:-1], context[:, -1:]
    parts = [scaled, deficit / 5.0, (sensitivity - level) * 2.0, scalars, shape, mean_level / 5, inverse_averages * 20]
    anchor = Anchor(
        chirp=chirp.double(),
        time=best.time.double(),
        lag_time=lag_time.double(),
        phase=best.phase.double(),
        amplitude=(best.snr.clamp(min=LEAST_AMPLITUDE) / norms[row, best.template]).double(),
        snr=snr.double(),
        frequency=centroid(chirp).double(),
    )
    return torch.cat(parts, 1).float(), anchor
