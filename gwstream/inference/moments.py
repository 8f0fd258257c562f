"""What the likelihood on a ridge's grid sums up to: moments over chirp mass and time, ratio by ratio."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gwstream.inference.squares import Squares

CHIRPS, RATIOS = 112, 9
CLEAR_SNR = 20.0  # above it the likelihood is flattened to the width it has here, so that the grid resolves it
LEAST_SNR = 4.0
EXCLUDED = -40.0  # ln marginal likelihood at which a ratio is as good as excluded: splines swing around greater depths
FINER, LEAST_SPREAD = 49, 0.04  # nodes of the ratio's own mean and width
TURN = 2 * math.pi * 60.0  # rad / s: the wave's phase follows the time at about this frequency
FIELDS = (
    "chirp",
    "width",
    "time",
    "time_width",
    "slant",
    "amplitude",
    "gain",
    "phase",
    "turn",
    "twist",
    "mass",
    "skew",
    "tail",
)


@dataclass(frozen=True, slots=True)
class Grid:
    """Nodes of a bank over the prior, N = RATIOS * CHIRPS, ratio by ratio.

    ``mix`` (2 N, 2 K): the two phases as mixtures of real components; ``squares``: what gives their squared norms;
    ``log_chirp`` (CHIRPS,); ``ratios`` (RATIOS,);
    ``log_measure`` (N,): ln of the prior mass of a node's cell, were there no limits of the masses; ``inside`` (N,):
    whether some of the cell lies within them; ``limits`` (RATIOS, 2): those of ln chirp mass; ``blur`` (CHIRPS,):
    variance of ln chirp mass in a cell; ``finer`` (FINER, RATIOS): values between the ratios by a cubic spline.
    """

    mix: Tensor
    squares: Squares
    log_chirp: Tensor
    ratios: Tensor
    log_measure: Tensor
    inside: Tensor
    limits: Tensor
    blur: Tensor
    finer: Tensor


@dataclass(frozen=True, slots=True)
class Ridge:
    """The likelihood by mass ratio, and as a whole. Tensors float32; B windows, R ratios.

    ``table`` (B, R, fields) in the order of `FIELDS`: conditional mean and width of ln chirp mass; time (s) at that
    mean, its width at fixed chirp mass and its slope on ln chirp mass; ln of the likeliest inverse distance (1/Gpc) and
    its slope on ln chirp mass; the doubled phase (rad), its slopes on time and on ln chirp mass; ln of the marginal
    likelihood within the prior relative to the largest; skewness and excess kurtosis of ln chirp mass. ``profile``
    (B, CHIRPS): ln likelihood of the best ratio and lag, at most 0.
    ``ratio``, ``spread`` (B,): mean and width of the ratio; ``snr`` (B,) of the best node; ``level`` (B,): ln of all of
    the likelihood, but for a constant; ``ratios`` (R,).
    """

    table: Tensor
    profile: Tensor
    ratio: Tensor
    spread: Tensor
    snr: Tensor
    level: Tensor
    ratios: Tensor


def measure(
    nodes: Grid, likelihood: tuple[Tensor, Tensor, Tensor], log_norm: Tensor, origin: Tensor, offsets: Tensor
) -> Ridge:
    """Moments over chirp mass and time (B, lags, N) at times ``origin`` (B,) + ``offsets`` (B, lags)."""
    log_l, a, b = likelihood
    count, lags = log_l.shape[:2]
    tick = (offsets[:, 1] - offsets[:, 0])[:, None]
    loudest = log_l.amax(1)
    peak = loudest[:, nodes.inside].amax(1)
    snr = torch.sqrt(2 * peak).clamp(min=LEAST_SNR)
    flat = (CLEAR_SNR / snr).square().clamp(max=1.0)[:, None]
    log_power = torch.log((2 * log_l).clamp(min=LEAST_SNR**2))
    # distance integrated out: its prior is flat, so in u = 1 / D the mass is sqrt(norm) / power
    constant = nodes.log_measure + 0.5 * log_norm - flat * peak[:, None]
    log_w = flat[..., None] * log_l - log_power + constant[:, None]
    shape = (count, lags, RATIOS, CHIRPS)
    top = log_w.reshape(shape).amax((1, 3))
    weights = torch.exp(log_w.reshape(shape) - top[:, None, :, None])
    total = weights.sum((1, 3))
    powers = torch.stack([torch.ones(CHIRPS), nodes.log_chirp - nodes.log_chirp.mean()], 1)

    def over_chirp(values: Tensor) -> Tensor:
        """Sums over chirp mass of values and of values times it: (B, lags, R, 2)."""
        return (values.reshape(shape) @ powers) / total[:, None, :, None]

    plain, away = over_chirp(weights), offsets[..., None]
    mean_m, mean_t = plain[..., 1].sum(1), (plain[..., 0] * away).sum(1)
    # from the mean: where one node has all the weight, a difference of squares may be less than nothing
    m = powers[:, 1] - mean_m[..., None]
    by_chirp = weights.sum(1) / total[..., None]
    var_m, third, fourth = ((by_chirp * m**k).sum(-1) for k in (2, 3, 4))
    var_m = var_m + 1e-7
    cov = (plain[..., 1] * away).sum(1) - mean_m * mean_t
    slant = cov / var_m
    var_t = (plain[..., 0] * away.square()).sum(1) - mean_t.square() - cov * slant
    var_t = var_t.clamp(min=1e-8)
    loud = over_chirp(weights * (0.5 * log_power - 0.5 * log_norm[:, None]).reshape(shape)).sum(1)
    amplitude, gain = loud[..., 0], (loud[..., 1] - loud[..., 0] * mean_m) / var_m
    phase, turn, twist = _phases(
        over_chirp(weights * a.reshape(shape)),
        over_chirp(weights * b.reshape(shape)),
        offsets,
        (mean_m, mean_t, var_m, var_t, slant),
    )
    half = 0.5 * torch.log(var_m * var_t)
    width = torch.sqrt(var_m * flat + by_chirp @ nodes.blur)  # at least that of a cell, if one has all the weight
    share = log_share(nodes.limits - nodes.log_chirp.mean(), mean_m, width)
    mass = (top + torch.log(total) - half) / flat + half + share
    level = torch.logsumexp(mass, 1) + peak + torch.log(tick[:, 0])
    mass = (mass - mass.amax(1, keepdim=True)).clamp(min=EXCLUDED)
    fields = (
        mean_m + nodes.log_chirp.mean(),
        width,
        mean_t + origin[:, None],
        torch.sqrt(var_t * flat + tick.square() / 12),
        slant,
        amplitude,
        gain,
        phase,
        turn,
        twist,
        mass,
        third / var_m**1.5,
        fourth / var_m.square() - 3,
    )
    ratio, spread = _ratio(nodes, mass)
    profile = loudest.reshape(count, RATIOS, CHIRPS).amax(1)
    profile = profile - profile.amax(1, keepdim=True)
    return Ridge(torch.stack(fields, -1), profile, ratio, spread, snr, level, nodes.ratios)


def log_share(limits: Tensor, mean: Tensor, width: Tensor) -> Tensor:
    """ln of the share (B, R) of normal densities with mean and width (B, R) that lies within limits (R, 2)."""
    low, high = ((limits - mean.double()[..., None]) / width.double()[..., None]).unbind(-1)
    low, high = torch.where(low > 0, -high, low), torch.where(low > 0, -low, high)  # so that the tail is the lower one
    below, above = torch.special.log_ndtr(low), torch.special.log_ndtr(high)
    share: Tensor = above + torch.log(-torch.expm1((below - above).clamp(max=-1e-12)))
    return share.float()


def _ratio(nodes: Grid, mass: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and width (B,) of the ratio, of the likelihood interpolated between the nodes."""
    fine = torch.softmax(mass @ nodes.finer.T, 1)
    ratios = torch.linspace(float(nodes.ratios[0]), float(nodes.ratios[-1]), fine.shape[1])
    ratio = (fine * ratios).sum(1)
    return ratio, torch.sqrt((fine * (ratios - ratio[:, None]).square()).sum(1) + LEAST_SPREAD**2)


def _phases(a: Tensor, b: Tensor, offsets: Tensor, moments: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """Doubled phase at the mean, its slopes on time and ln chirp mass, from sums over chirp mass (B, lags, R, 2)."""
    mean_m, mean_t, var_m, var_t, slant = moments
    angle = TURN * offsets[..., None, None]
    cosine, sine = torch.cos(angle), torch.sin(angle)
    real, imaginary = a * cosine + b * sine, b * cosine - a * sine
    time = offsets[..., None, None]
    # Fourier-like sums of z' = z exp(-i TURN t): of 1, m and t
    sums = torch.stack([real.sum(1)[..., 0], imaginary.sum(1)[..., 0]])
    by_m = torch.stack([real.sum(1)[..., 1], imaginary.sum(1)[..., 1]]) - sums * mean_m
    by_t = torch.stack([(real * time).sum(1)[..., 0], (imaginary * time).sum(1)[..., 0]]) - sums * mean_t
    by_t = by_t - by_m * slant
    size = sums.square().sum(0).clamp(min=1e-12)
    twist = (by_m[1] * sums[0] - by_m[0] * sums[1]) / size / var_m
    turn = (by_t[1] * sums[0] - by_t[0] * sums[1]) / size / var_t
    # numpy's is the same for a number wherever it stands in an array; torch's is not
    phase = torch.from_numpy(np.arctan2(sums[1].numpy(), sums[0].numpy())) + TURN * mean_t
    return phase, turn + TURN, twist + TURN * slant
