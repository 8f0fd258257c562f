"""The likelihood around a window's best template, ratio by ratio: where it lies, how wide it is, how it leans.

The window is projected once onto the bank's components at a few lags; every node of a grid of chirp masses and ratios
is then a short product. For each ratio the weighted mean, width and slopes over chirp mass and time make the *ridge*,
from which `parameters` counts its coordinates and `features` makes the network's input. Chirp masses a little beyond
the prior are looked at too: a ridge that the prior cuts keeps its shape, and how much of it lies inside is known in
closed form, where a cell of the grid is in or out as a whole. Nothing here needs to be exact:
the ridge is a function of window and whitener alone, so a density in coordinates counted from it is exact whatever it
is; the better the ridge, the closer they are to a standard normal (Laplace's approximation as a change of variables).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy import fft
from scipy.interpolate import CubicSpline
from torch import Tensor
from torch.nn import functional

from gwstream.inference.bank import Bank
from gwstream.inference.likelihood import SHIFTS, Templates
from gwstream.prior import Prior
from gwstream.records import Floats
from gwstream.waveforms import component_masses

COMPONENTS = 32
CHIRPS, RATIOS = 112, 9
SPACING = -0.5  # the power of the chirp mass in which nodes lie evenly: close where signals last longest
COARSE = 4  # every so manieth chirp mass, every second ratio, and every CRUDE-th lag, for the first look
PARTS = SHIFTS  # lags a sample, 0.5 ms apart: those between half samples are interpolated
CRUDE = 4
FORMS = 4  # parts of a sample at which norms are computed: aliasing makes them nearly a sine of the part
STENCIL = 12  # half samples that a lag between them is interpolated from; fewer near the ends
FAR = 5  # whole samples on either side at the first look
NEAR = 9  # lags on either side at the second, every one above CLOSE_SNR and every other below
CLOSE_SNR = 15.0
LAGS = 2 * FAR * PARTS + 1
CLEAR_SNR = 20.0  # above it the likelihood is flattened to the width it has here, so that the grid resolves it
LEAST_SNR = 4.0
EXCLUDED = -40.0  # ln marginal likelihood at which a ratio is as good as excluded: splines swing around greater depths
NORM_TIMES = 3
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

    ``mix`` (2 N, 2 K): the two phases as mixtures of real components; ``log_chirp`` (CHIRPS,); ``ratios`` (RATIOS,);
    ``log_measure`` (N,): ln of the prior mass of a node's cell, were there no limits of the masses; ``inside`` (N,):
    whether some of the cell lies within them; ``limits`` (RATIOS, 2): those of ln chirp mass; ``blur`` (CHIRPS,):
    variance of ln chirp mass in a cell; ``finer`` (FINER, RATIOS): values between the ratios by a cubic spline.
    """

    mix: Tensor
    log_chirp: Tensor
    ratios: Tensor
    log_measure: Tensor
    inside: Tensor
    limits: Tensor
    blur: Tensor
    finer: Tensor


def grid(bank: Bank, prior: Prior) -> Grid:
    """The nodes for a bank and a prior, over all chirp masses of the bank."""
    first, last = np.array(bank.chirp_range) ** SPACING
    step = (last - first) / CHIRPS
    positions = first + step * (np.arange(CHIRPS) + 0.5)
    chirps = positions ** (1 / SPACING)
    cells = step / (SPACING * positions)  # in ln chirp mass
    ratios = np.linspace(prior.least_ratio, 1.0, RATIOS)
    q, chirp = (part.ravel() for part in np.meshgrid(ratios, chirps, indexing="ij"))
    mass_1, mass_2 = component_masses(chirp, q)
    limits = np.stack(prior.log_chirp_limits(ratios), axis=1)
    half = 0.5 * cells
    inside = (np.log(chirps) + half > limits[:, :1]) & (np.log(chirps) - half < limits[:, 1:])
    c = bank.coefficients(mass_1, mass_2)[:, :COMPONENTS]
    mix = np.concatenate([np.hstack([c.real, c.imag]), np.hstack([-c.imag, c.real])])
    return Grid(
        mix=torch.from_numpy(mix).float(),
        log_chirp=torch.from_numpy(np.log(chirps)).float(),
        ratios=torch.from_numpy(ratios).float(),
        log_measure=torch.from_numpy(2 * np.log(mass_1) + np.log(np.tile(cells, RATIOS))).float(),
        inside=torch.from_numpy(inside.ravel()),
        limits=torch.from_numpy(limits),
        blur=torch.from_numpy(cells**2 / 12).float(),
        finer=torch.from_numpy(CubicSpline(ratios, np.eye(RATIOS))(np.linspace(ratios[0], 1.0, FINER))).float(),
    )


class Projector:
    """A grid behind one whitener."""

    def __init__(self, nodes: Grid, templates: Templates, time_range: tuple[float, float]) -> None:
        self.nodes = nodes
        self.rate, self._length, self._origin = templates.rate, templates.length, templates.origin
        half, size = nodes.mix.shape[1] // 2, templates.bank.size
        kept = np.r_[:half, size : size + half]
        self._components = torch.from_numpy(np.ascontiguousarray(templates.components[:, kept]))
        self._times = torch.linspace(*time_range, NORM_TIMES)
        lags = [round(float(time) * self.rate) for time in self._times]
        some = range(0, PARTS, PARTS // FORMS)
        table = np.stack([[self._norms(lag, part) for part in some] for lag in lags])  # (times, FORMS, 3, N)
        harmonics = fft.rfft(table, axis=1)[:, :2] * PARTS / FORMS
        pp, ps, ss = np.moveaxis(fft.irfft(harmonics, PARTS, axis=1), 2, 0)
        inverse = 0.5 / (pp * ss - ps**2)
        self._forms = torch.from_numpy(np.stack([ss, -2 * ps, pp]) * inverse).float()
        self._log_norms = torch.from_numpy(np.log((pp + ss).mean(1) / 2)).float()

    def _norms(self, lag: int, part: int) -> Floats:
        """h+.h+, h+.hx, hx.hx (3, N) at a lag in samples and parts of a sample: aliasing sets them apart."""
        begin = self._origin - lag
        pieces = self._components[part, :, begin : begin + self._length].double().numpy()
        first, second = self.nodes.mix.double().numpy().reshape(2, -1, len(pieces))
        gram = pieces @ pieces.T
        left = first @ gram
        return np.stack([(left * first).sum(1), (left * second).sum(1), ((second @ gram) * second).sum(1)])

    def forms(self, times: Tensor, parts: Tensor) -> Tensor:
        """(3, B, lags, N): ln of the largest likelihood ratio as a quadratic form of the products with either phase.

        ``times`` (B,); ``parts`` (B, lags): the part of a sample of each lag.
        """
        return self._forms[:, self._nearest(times)[:, None], parts]

    def log_norms(self, times: Tensor) -> Tensor:
        """ln of the squared SNR at 1 Gpc, (B, N)."""
        return self._log_norms[self._nearest(times)]

    def _nearest(self, times: Tensor) -> Tensor:
        position = (times - self._times[0]) / (self._times[1] - self._times[0])
        return torch.round(position).clamp(0, NORM_TIMES - 1).long()

    def project(self, windows: Tensor, whole: Tensor) -> Tensor:
        """(B, lags, 2 K): windows (B, n) times components at LAGS lags around whole samples (B,)."""
        strip = self._length + 2 * FAR
        view = self._components[:: PARTS // 2].unfold(2, strip, 1)  # (2, 2 K, begins, strip)
        strips = view[:, :, self._origin - whole - FAR].permute(2, 0, 1, 3).reshape(len(windows), -1, strip)
        # column j is the window moved down by 2 FAR - j samples: a template j samples later
        moved = functional.pad(windows, (2 * FAR, 2 * FAR)).unfold(1, strip, 1).transpose(1, 2)
        products = torch.bmm(strips, moved).reshape(len(windows), 2, -1, 2 * FAR + 1)
        halves = products.permute(0, 3, 1, 2).reshape(len(windows), 2 * (2 * FAR + 1), -1)
        return _QUARTERS @ halves


def _quarters() -> Tensor:
    """(LAGS, 2 (2 FAR + 1)): values at every lag by Lagrange interpolation of those at half samples."""
    given = np.arange(2 * (2 * FAR + 1)) * (PARTS // 2)
    out = np.zeros((LAGS, len(given)))
    for row in range(LAGS):
        before = row // (PARTS // 2)
        room = min(before + 1, len(given) - 1 - before)  # as many on either side, or the polynomial swings
        half = int(np.clip(room, 2, STENCIL // 2))
        first = int(np.clip(before - half + 1, 0, len(given) - 2 * half))
        nodes = given[first : first + 2 * half]
        for k, node in enumerate(nodes):
            others = np.delete(nodes, k)
            out[row, first + k] = np.prod((row - others) / (node - others))
    return torch.from_numpy(out).float()


_QUARTERS = _quarters()


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


def ridge(projector: Projector, windows: Tensor, times: Tensor) -> Ridge:
    """The ridge of each of windows (B, n), sought around the gate's best times (B,)."""
    whole = torch.round(times * projector.rate).long()
    products = projector.project(windows, whole)
    centre, snr = _best_lag(projector, products, times)
    stride = torch.where(snr > CLOSE_SNR, 1, 2)
    index = centre[:, None] + torch.arange(-NEAR, NEAR + 1) * stride[:, None]
    chosen = products.gather(1, index[..., None].expand(-1, -1, products.shape[2]))
    origin = (whole * PARTS + centre - FAR * PARTS).float() / (PARTS * projector.rate)
    log_l, a, b = _log_likelihood(projector.nodes.mix, chosen, projector.forms(times, index % PARTS))
    offsets = (index - centre[:, None]).float() / (PARTS * projector.rate)
    return _measure(projector.nodes, (log_l, a, b), projector.log_norms(times), origin, offsets)


def _log_likelihood(mix: Tensor, products: Tensor, forms: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Largest ln likelihood ratio over amplitude and phase, (B, lags, N), and the products with either phase."""
    a, b = (products @ mix.T).chunk(2, dim=-1)
    return a * (forms[0] * a + forms[1] * b) + forms[2] * b.square(), a, b


def _best_lag(projector: Projector, products: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
    """Index (B,) of the lag with the best node of a coarser grid, with room for the second look, and its SNR (B,)."""
    nodes, margin = projector.nodes, 2 * NEAR
    keep = torch.arange(CHIRPS * RATIOS).reshape(RATIOS, CHIRPS)[1::2, COARSE // 2 :: COARSE].flatten()
    keep = keep[nodes.inside[keep]]
    mix = torch.cat([nodes.mix[keep], nodes.mix[len(nodes.log_measure) + keep]])
    lags = torch.arange(margin, products.shape[1] - margin, CRUDE)
    forms = projector.forms(times, (lags % PARTS).expand(len(times), -1))[..., keep]
    log_l, _, _ = _log_likelihood(mix, products[:, lags], forms)
    power, best = log_l.amax(2).max(1)
    return best * CRUDE + margin, torch.sqrt(2 * power)


def _measure(
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
