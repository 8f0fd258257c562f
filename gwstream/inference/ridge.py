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

from functools import lru_cache

import numpy as np
import torch
from scipy import fft
from scipy.interpolate import CubicSpline
from torch import Tensor
from torch.nn import functional

from gwstream.inference.bank import Bank, both_phases
from gwstream.inference.likelihood import SHIFTS, Templates
from gwstream.inference.moments import CHIRPS, FINER, RATIOS, Grid, Ridge, measure
from gwstream.inference.squares import Squares
from gwstream.prior import Prior
from gwstream.records import Floats
from gwstream.waveforms import component_masses

COMPONENTS = 32
SPACING = -0.5  # the power of the chirp mass in which nodes lie evenly: close where signals last longest
COARSE = 4  # every so manieth chirp mass, every second ratio, and every CRUDE-th lag, for the first look
PARTS = SHIFTS  # lags a sample, 0.5 ms apart at LOW Hz: those between half samples are interpolated
CRUDE = 4
FORMS = 4  # parts of a sample at which norms are computed: aliasing makes them nearly a sine of the part
STENCIL = 12  # half samples that a lag between them is interpolated from; fewer near the ends
FAR = 5  # whole samples on either side at the first look, at LOW Hz, and in proportion at other rates
LOW = 256
NEAR = 9  # lags on either side at the second, every one above CLOSE_SNR and every other below
CLOSE_SNR = 15.0
NORM_TIMES = 3
SINES = fft.irfft(fft.rfft(np.eye(FORMS), axis=0)[:2] * PARTS / FORMS, PARTS, axis=0)
"""(PARTS, FORMS): mean and sine through values at FORMS parts of a sample, at all PARTS."""


@lru_cache(maxsize=4)
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
    mix = torch.from_numpy(both_phases(bank.coefficients(mass_1, mass_2)[:, :COMPONENTS])).float()
    return Grid(
        mix=mix,
        squares=Squares.of(mix),
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
        self.scale = max(1, round(self.rate / LOW))  # lags this much further apart are as long as at the LOW rate
        self.far = FAR * self.scale
        self._interpolation = _quarters(self.far)
        half, size = nodes.mix.shape[1] // 2, templates.bank.size
        kept = np.r_[:half, size : size + half]
        self._components = torch.from_numpy(np.ascontiguousarray(templates.components[:, kept]))
        self._times = torch.linspace(*time_range, NORM_TIMES)
        pp, ps, ss = self._norms()
        inverse = 0.5 / (pp * ss - ps**2)
        self._forms = torch.from_numpy(np.stack([ss, -2 * ps, pp]) * inverse).float()
        self._log_norms = torch.from_numpy(np.log((pp + ss).mean(1) / 2)).float()

    def _norms(self) -> Floats:
        """h+.h+, h+.hx, hx.hx (3, times, PARTS, N) at each part of a sample: aliasing sets them apart."""
        begins = [self._origin - round(float(time) * self.rate) for time in self._times]
        some = self._components[:: PARTS // FORMS]
        pieces = torch.stack([some[:, :, begin : begin + self._length] for begin in begins]).flatten(0, 1)
        return np.asarray(SINES @ self.nodes.squares(pieces).reshape(3, NORM_TIMES, FORMS, -1).numpy())

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
        """(B, lags, 2 K): windows (B, n) times components at 2 PARTS `far` + 1 lags around whole samples (B,)."""
        far = self.far
        strip = self._length + 2 * far
        view = self._components[:: PARTS // 2].unfold(2, strip, 1)  # (2, 2 K, begins, strip)
        strips = view[:, :, self._origin - whole - far].permute(2, 0, 1, 3).reshape(len(windows), -1, strip)
        # column j is the window moved down by 2 far - j samples: a template j samples later
        moved = functional.pad(windows, (2 * far, 2 * far)).unfold(1, strip, 1).transpose(1, 2)
        products = torch.bmm(strips, moved).reshape(len(windows), 2, -1, 2 * far + 1)
        halves = products.permute(0, 3, 1, 2).reshape(len(windows), 2 * (2 * far + 1), -1)
        return self._interpolation @ halves


@lru_cache(maxsize=4)
def _quarters(far: int) -> Tensor:
    """(2 PARTS far + 1, 2 (2 far + 1)): values at every lag by Lagrange interpolation of those at half samples."""
    given = np.arange(2 * (2 * far + 1)) * (PARTS // 2)
    out = np.zeros((2 * far * PARTS + 1, len(given)))
    for row in range(len(out)):
        before = row // (PARTS // 2)
        room = min(before + 1, len(given) - 1 - before)  # as many on either side, or the polynomial swings
        half = int(np.clip(room, 2, STENCIL // 2))
        first = int(np.clip(before - half + 1, 0, len(given) - 2 * half))
        nodes = given[first : first + 2 * half]
        for k, node in enumerate(nodes):
            others = np.delete(nodes, k)
            out[row, first + k] = np.prod((row - others) / (node - others))
    return torch.from_numpy(out).float()


def ridge(projector: Projector, windows: Tensor, times: Tensor) -> Ridge:
    """The ridge of each of windows (B, n), sought around the gate's best times (B,)."""
    whole = torch.round(times * projector.rate).long()
    products = projector.project(windows, whole)
    centre, snr = _best_lag(projector, products, times)
    stride = projector.scale * torch.where(snr > CLOSE_SNR, 1, 2)
    index = centre[:, None] + torch.arange(-NEAR, NEAR + 1) * stride[:, None]
    chosen = products.gather(1, index[..., None].expand(-1, -1, products.shape[2]))
    origin = (whole * PARTS + centre - projector.far * PARTS).float() / (PARTS * projector.rate)
    log_l, a, b = _log_likelihood(projector.nodes.mix, chosen, projector.forms(times, index % PARTS))
    offsets = (index - centre[:, None]).float() / (PARTS * projector.rate)
    return measure(projector.nodes, (log_l, a, b), projector.log_norms(times), origin, offsets)


def _log_likelihood(mix: Tensor, products: Tensor, forms: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Largest ln likelihood ratio over amplitude and phase, (B, lags, N), and the products with either phase."""
    a, b = (products @ mix.T).chunk(2, dim=-1)
    return a * (forms[0] * a + forms[1] * b) + forms[2] * b.square(), a, b


def _best_lag(projector: Projector, products: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
    """Index (B,) of the lag with the best node of a coarser grid, with room for the second look, and its SNR (B,)."""
    nodes, margin, crude = projector.nodes, 2 * NEAR * projector.scale, CRUDE * projector.scale
    keep = torch.arange(CHIRPS * RATIOS).reshape(RATIOS, CHIRPS)[1::2, COARSE // 2 :: COARSE].flatten()
    keep = keep[nodes.inside[keep]]
    mix = torch.cat([nodes.mix[keep], nodes.mix[len(nodes.log_measure) + keep]])
    lags = torch.arange(margin, products.shape[1] - margin, crude)
    forms = projector.forms(times, (lags % PARTS).expand(len(times), -1))[..., keep]
    log_l, _, _ = _log_likelihood(mix, products[:, lags], forms)
    power, best = log_l.amax(2).max(1)
    return best * crude + margin, torch.sqrt(2 * power)
