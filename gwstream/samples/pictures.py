"""Pictures of posteriors: whitened window under the reconstructed waveform, corner plot, spectra."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gwstream.records import NANO, PARAMETERS, Floats
from gwstream.samples import Drawn
from gwstream.terminal.tables import text

INK, ACCENT, PALE = "#22303c", "#c8452b", "#8fa3b3"
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.edgecolor": PALE,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}
BEFORE, AFTER = 0.14, 0.06  # s around the merger that the close-up shows
LABELS = {
    "mass_1": "$m_1$ [M$_\\odot$]",
    "mass_2": "$m_2$ [M$_\\odot$]",
    "effective_distance": "$D_\\mathrm{eff}$ [Gpc]",
    "coalescence_time": "$t_c$ [ms]",
    "phase": "phase [rad]",
}


def draw(posterior: Drawn, what: str, path: Path) -> Path:
    """One picture, ``what`` of corner, waveform and spectrum, in the format of ``path``'s suffix; returns ``path``."""
    snr, chirp = posterior.body["snr"], posterior.body["parameters"]["chirp_mass"]
    gps = posterior.body["coalescence"]["gps"]
    if what == "waveform":
        return waveforms([posterior], f"{posterior.detector}, GPS {gps:.4f}", path)
    if what == "spectrum":
        return spectrum(posterior, f"{posterior.detector}, GPS {gps:.4f}", path)
    interval = f"{text(chirp['median'], 1)} ({text(chirp['p5'], 1)} to {text(chirp['p95'], 1)})"
    title = f"{posterior.detector}\nSNR {text(snr, 1)}\nchirp mass {interval} M$_\\odot$\nGPS {gps:.4f}"
    return corner(posterior, f"{title}\n50 and 90 % regions", path)


def waveforms(posteriors: list[Drawn], title: str, path: Path) -> Path:
    """Draw the window of each posterior (at least one) under its median waveform and 90 % band; returns ``path``."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure = Figure(figsize=(9.0, 0.7 + 2.1 * len(posteriors)), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(len(posteriors), 2, sharex="col", sharey="row", squeeze=False, width_ratios=(3, 2))
        epoch = min(p.gps_ns for p in posteriors) // NANO
        for (whole, close), posterior in zip(axes, posteriors, strict=True):
            start = (posterior.gps_ns - epoch * NANO) / NANO
            merger = start + _coalescence(posterior)
            for axis in (whole, close):
                _waveform(axis, posterior, start, merger)
            whole.set_xlim(start, start + len(posterior.strain) / posterior.rate)
            whole.set_ylabel(f"{posterior.detector}: strain [noise sd]")
            close.set_title(_loud(posterior), loc="right", size=9)
            close.set_xlim(merger - BEFORE, merger + AFTER)
        axes[0, 0].legend(loc="upper left", ncols=3, fontsize=8)
        for axis in axes[-1]:
            axis.set_xlabel(f"seconds after GPS {epoch}")
        figure.suptitle(title, fontsize=11, color=INK)
        figure.savefig(path, dpi=150)
    return path


def _loud(posterior: Drawn) -> str:
    snr, log_bayes = posterior.body["snr"], posterior.body["log_bayes"]
    return f"SNR {text(snr, 1)}   ln Bayes factor {text(log_bayes, 0)}"


def _coalescence(posterior: Drawn) -> float:
    """Median, in seconds into the window."""
    drawn = posterior.weights > 0
    return _quantiles(posterior.samples[drawn, 3], posterior.weights[drawn])[1]


def _waveform(axis: Any, posterior: Drawn, start: float, merger: float) -> None:
    strain, waveform = posterior.strain, posterior.waveform
    time = start + np.arange(len(strain)) / posterior.rate
    axis.axhline(0, color=PALE, lw=0.5)
    axis.plot(time, strain, color=PALE, lw=0.9, label="whitened strain")
    axis.fill_between(time, waveform.lower, waveform.upper, color=ACCENT, alpha=0.35, lw=0, label="90 % band")
    axis.plot(time, waveform.median, color=ACCENT, lw=1.0, label="median waveform")
    axis.axvline(merger, color=INK, lw=0.8, ls=":")
    reach = 1.25 * max(np.abs(curve).max() for curve in (strain, waveform.upper, waveform.lower))
    axis.set_ylim(-reach, reach)


def spectrum(posterior: Drawn, title: str, path: Path) -> Path:
    """Draw the noise the window was whitened with, and the whitened window over frequency; returns ``path``.

    In the lower picture, the mean square of white noise is one at each frequency.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure = Figure(figsize=(8.0, 6.4), layout="constrained")
        FigureCanvasAgg(figure)
        noise, white = figure.subplots(2, 1, sharex=True)
        frequency = np.linspace(0, posterior.rate / 2, len(posterior.psd))
        noise.semilogy(frequency[1:], np.sqrt(posterior.psd[1:]), color=INK, lw=1.0)
        noise.set_ylabel("noise [1/√Hz]")
        psd = posterior.body["psd"]
        said = f"{psd['averages']} averages in {text(psd['history'], 0)} s, drift {text(psd['drift'], 2)}"
        noise.set_title(f"{said}, range {text(psd['range_mpc'], 0)} Mpc", loc="right", size=9)
        n = len(posterior.strain)
        bins = np.fft.rfftfreq(n, 1 / posterior.rate)
        for curve, color, width, label in (
            (posterior.strain, PALE, 1.0, "whitened strain"),
            (posterior.waveform.median, ACCENT, 1.3, "median waveform"),
        ):
            white.plot(bins, np.abs(np.fft.rfft(curve)) / np.sqrt(n), color=color, lw=width, label=label)
        white.axhline(1.0, color=INK, lw=0.8, ls=":", label="noise, rms")
        white.set_ylim(0)
        white.set_xlim(0, posterior.rate / 2)
        white.set_ylabel("whitened amplitude [noise rms]")
        white.set_xlabel("frequency [Hz]")
        white.legend(loc="upper right", fontsize=8)
        figure.suptitle(title, fontsize=11, color=INK)
        figure.savefig(path, dpi=150)
    return path


@dataclass(frozen=True, slots=True)
class _Column:
    """One parameter of the corner: label, values (S,), weights (S,), limits of its axis."""

    label: str
    values: Floats
    weights: Floats
    limits: tuple[float, float]


def corner(posterior: Drawn, title: str, path: Path) -> Path:
    """Draw the five parameters against each other, 50 and 90 % regions and 90 % intervals; returns ``path``."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = [_column(posterior, index) for index in range(len(PARAMETERS))]
    n = len(columns)
    with rc_context(STYLE):
        figure = Figure(figsize=(8.0, 8.0))
        FigureCanvasAgg(figure)
        grid = figure.subplots(
            n, n, gridspec_kw={"hspace": 0.08, "wspace": 0.08, "left": 0.09, "right": 0.98, "top": 0.93, "bottom": 0.07}
        )
        for row in range(n):
            for column in range(n):
                axis = grid[row, column]
                if column > row:
                    axis.remove()
                elif column == row:
                    _histogram(axis, columns[row])
                else:
                    _regions(axis, columns[column], columns[row])
                _labels(axis, columns, row, column)
        figure.suptitle(title, x=0.98, y=0.96, ha="right", va="top", fontsize=11, color=INK, linespacing=1.5)
        figure.align_ylabels(grid[1:, 0])
        figure.savefig(path, dpi=150)
    return path


def _column(posterior: Drawn, index: int) -> _Column:
    """Values fit for an axis: times in ms about the median, phases unwrapped about their circular mean."""
    name = PARAMETERS[index]
    drawn = posterior.weights > 0  # a draw without weight may be anything, NaN included
    values, weights = posterior.samples[drawn, index], posterior.weights[drawn]
    label = LABELS[name]
    if name == "coalescence_time":
        middle = _quantiles(values, weights)[1]
        gps = posterior.gps_ns + round(middle * NANO)
        epoch = gps // 1_000_000 * 1_000_000  # a whole ms, so that the label can name it
        label = f"$t_c -$ …{gps // NANO % 1000:03d}.{gps % NANO // 1_000_000:03d} [ms]"
        values = 1e3 * (values - (epoch - posterior.gps_ns) / NANO)
    elif name == "phase":
        mean = 0.5 * (np.angle(np.sum(weights * np.exp(2j * values))) % (2 * math.pi))
        values = mean + (values - mean + math.pi / 2) % math.pi - math.pi / 2
    low, _, high = _quantiles(values, weights, (0.002, 0.5, 0.998))
    margin = 0.12 * (high - low)  # room for regions, whose smoothing widens them
    return _Column(label, values, weights, (low - margin, high + margin))


def _histogram(axis: Any, column: _Column) -> None:
    low, middle, high = _quantiles(column.values, column.weights)
    heights, *_ = axis.hist(column.values, bins=40, range=column.limits, weights=column.weights, color=PALE, alpha=0.6)
    axis.set_ylim(0, 1.1 * max(heights))
    for place, style in ((low, ":"), (middle, "-"), (high, ":")):
        axis.axvline(place, color=ACCENT, lw=1.1, ls=style)
    digits = max(0, 1 - math.floor(math.log10(max(high - low, 1e-9))))
    said = f"${middle:.{digits}f}_{{-{middle - low:.{digits}f}}}^{{+{high - middle:.{digits}f}}}$"
    axis.set_title(said, fontsize=10, pad=6)


def _regions(axis: Any, x: _Column, y: _Column) -> None:
    """Smallest regions that hold 50 and 90 %, from a smoothed histogram."""
    from scipy.ndimage import gaussian_filter

    limits = [x.limits, y.limits]
    density, x_edges, y_edges = np.histogram2d(x.values, y.values, bins=60, range=limits, weights=x.weights)
    density = gaussian_filter(density, 2.8)
    ordered = np.sort(density, axis=None)[::-1]
    held = np.cumsum(ordered) / ordered.sum()
    levels = [float(ordered[np.searchsorted(held, part)]) for part in (0.9, 0.5)]
    centres = [0.5 * (edges[1:] + edges[:-1]) for edges in (x_edges, y_edges)]
    axis.contourf(*centres, density.T, [*levels, float(ordered[0]) * 1.01], colors=["#f0cfc7", "#dd8c7a"])
    axis.contour(*centres, density.T, levels, colors=[ACCENT], linewidths=[0.8, 1.1])


def _labels(axis: Any, columns: list[_Column], row: int, column: int) -> None:
    if column > row:
        return
    axis.set_xlim(*columns[column].limits)
    axis.tick_params(labelsize=7.5, length=2.5)
    if row != column:
        axis.set_ylim(*columns[row].limits)
    if row == len(columns) - 1:
        axis.set_xlabel(columns[column].label, fontsize=8.5)
    else:
        axis.set_xticklabels([])
    if column == 0 and row > 0:
        axis.set_ylabel(columns[row].label, fontsize=8)
    else:
        axis.set_yticks([]) if row == column else axis.set_yticklabels([])


def _quantiles(values: Floats, weights: Floats, at: tuple[float, ...] = (0.05, 0.5, 0.95)) -> list[float]:
    """Weighted quantiles."""
    order = np.argsort(values)
    held = np.cumsum(weights[order]) - 0.5 * weights[order]
    return [float(np.interp(part, held, values[order])) for part in at]
