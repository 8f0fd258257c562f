"""The pictures of a report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import beta

from gwstream.records import PARAMETERS, Floats
from gwstream.training import glance
from gwstream.training.judge import SNR, Verdict

CORNERS = ("exact", "as served", "network alone")
LABELS = ("$m_1$ [M$_\\odot$]", "$m_2$ [M$_\\odot$]", "$D_\\mathrm{eff}$ [Gpc]", "$t_c$ [ms]", "phase [rad]")
COLOURS = ("#20639b", "#3caea3", "#f6a01a", "#ed553b", "#8e5ea2")


def percentile_plot(weighted: Floats, raw: Floats, path: Path) -> None:
    """P-P plots of ranks (n, 5), as served and of the network alone, over the 68 and 99.7 % bands of uniform ranks."""
    figure, plt = _figure(2, (9.6, 5.0))
    axes = figure.axes
    for axis, ranks, title in zip(axes, (weighted, raw), ("as served (weighted)", "network alone"), strict=True):
        n = len(ranks)
        level = np.linspace(0, 1, 201)[1:-1]
        for tail, shade in ((0.0015, 0.10), (0.16, 0.16)):
            low, high = (beta.ppf(q, n * level, n * (1 - level)) for q in (tail, 1 - tail))
            axis.fill_between(level, low, high, color="black", alpha=shade, lw=0)
        for k, name in enumerate(PARAMETERS):
            grid = np.arange(1, n + 1) / n
            axis.plot(np.sort(ranks[:, k]), grid, color=COLOURS[k], lw=1.4, label=name.replace("_", " "))
        axis.set(xlim=(0, 1), ylim=(0, 1), xlabel="credible level", title=title, aspect="equal")
    axes[0].set_ylabel("fraction of injections")
    axes[0].legend(frameon=False, fontsize=9)
    _save(figure, plt, path)


def efficiency_plot(snr: Floats, fraction: Floats, path: Path) -> None:
    """Effective fraction of the network's draws against optimal SNR, both logarithmic."""
    figure, plt = _figure(1, (7.0, 4.0))
    axis = figure.axes[0]
    axis.loglog(snr, fraction, ".", color=COLOURS[0], ms=4, alpha=0.5, mew=0)
    axis.set(xlabel="optimal SNR in the window", ylabel="effective fraction, network alone", ylim=(3e-4, 1.1))
    _save(figure, plt, path)


def divergence_plot(verdicts: list[Verdict], path: Path) -> None:
    """Jensen-Shannon divergence from the exact posterior against SNR: network alone, as served, and the floor."""
    figure, plt = _figure(1, (7.0, 4.0))
    axis = figure.axes[0]
    snr = np.array([one.snr for one in verdicts])
    for k, name in enumerate(PARAMETERS):
        for which, face in (("network", "none"), ("weighted", COLOURS[k])):
            values = [getattr(one, which)[k] for one in verdicts]
            label = name.replace("_", " ") if which == "weighted" else None
            axis.plot(snr, values, "o", color=COLOURS[k], mfc=face, ms=4.5, mew=1, alpha=0.85, label=label)
    axis.plot(snr, [one.weighted_floor.mean() for one in verdicts], color="black", lw=1, label="floor")
    axis.set(xscale="log", yscale="log", xlim=SNR, xlabel="optimal SNR in the window", ylabel="JS divergence (mnat)")
    axis.set_xticks([6, 10, 20, 30, 50], ["6", "10", "20", "30", "50"])
    axis.set_xticks([], minor=True)
    axis.set_title("filled: as served; open: network alone", fontsize=9, loc="left")
    axis.legend(frameon=False, fontsize=8, ncols=2)
    _save(figure, plt, path)


def corner_plot(verdict: Verdict, path: Path) -> None:
    """The five parameters against each other: 50 and 90 % regions of network and of served over the exact ones."""
    from corner import corner

    _, plt = _figure(1, (1.0, 1.0))
    plt.close("all")
    middle = 0.5 * np.angle(np.mean(np.exp(2j * verdict.exact[:, 4])))
    tables = []
    for draws in (verdict.exact, verdict.served, verdict.raw):
        table = draws * np.array([1, 1, 1, 1e3, 1])
        table[:, 4] = middle + np.mod(draws[:, 4] - middle + np.pi / 2, np.pi) - np.pi / 2
        tables.append(table)
    low, high = np.quantile(tables[0], [0.001, 0.999], axis=0)
    reach = 0.15 * (high - low)
    figure: Any = None
    for table, colour, name in zip(tables, ("black", COLOURS[3], COLOURS[0]), CORNERS, strict=True):
        figure = corner(
            table,
            fig=figure,
            color=colour,
            labels=list(LABELS),
            range=list(zip(low - reach, high + reach, strict=True)),
            bins=40,
            smooth=1.2,
            levels=(0.5, 0.9),
            plot_datapoints=False,
            plot_density=False,
            fill_contours=False,
            hist_kwargs={"density": True},
            contour_kwargs={"linewidths": 1.1},
            label_kwargs={"fontsize": 9},
        )
        figure.text(0.62, 0.95 - 0.025 * CORNERS.index(name), name, color=colour, fontsize=12)
    for k in range(len(PARAMETERS)):
        axis = figure.axes[k * (len(PARAMETERS) + 1)]
        axis.set_ylim(0, 1.1 * max(patch.get_path().vertices[:, 1].max() for patch in axis.patches))
    figure.text(0.62, 0.98, f"SNR {verdict.snr:.1f}", fontsize=13)
    _save(figure, plt, path, dpi=75)


def loss_plot(curves: Mapping[str, Floats], path: Path) -> None:
    """Held-out loss (nats) against samples seen: a curve (n, 2) a network."""
    figure, plt = _figure(1, (8.0, 4.5))
    axis = figure.axes[0]
    for k, (name, curve) in enumerate(curves.items()):
        style = ("-", "--", ":", "-.")[k // len(COLOURS) % 4]
        axis.plot(curve[:, 0] / 1e6, curve[:, 1], style, color=COLOURS[k % len(COLOURS)], lw=1.2, label=name)
    axis.set(xlabel="samples (millions)", ylabel="loss on held-out examples (nats)")
    axis.legend(frameon=False, fontsize=8, ncols=2)
    _save(figure, plt, path)


def progress_plot(loss: Floats, held: Floats, distances: Floats, path: Path) -> None:
    """A run so far, by samples seen: loss (n, 2) and held-out loss (m, 2) in nats; distances (m, 6) from uniform ranks.

    Replaced in one move, for whoever looks at it meanwhile.
    """
    figure, plt = _figure(2, (10.0, 4.2))
    left, right = figure.axes
    left.plot(loss[:, 0] / 1e6, loss[:, 1], color="0.75", lw=0.8, label="training")
    left.plot(held[:, 0] / 1e6, held[:, 1], color=COLOURS[0], lw=1.6, marker=".", label="held out")
    if len(held):  # the first steps are far off, and of no interest
        low, high = min([*held[:, 1], *loss[-20:, 1]]), np.quantile(held[:, 1], 0.9)
        left.set_ylim(low - 0.1 * (high - low) - 0.1, high + 0.3 * (high - low) + 0.3)
    left.set(xlabel="samples (millions)", ylabel="loss (nats)")
    for k, name in enumerate(glance.NAMES):
        right.plot(distances[:, 0] / 1e6, distances[:, k + 1], color=COLOURS[k], lw=1.2, marker=".", label=name)
    right.axhline(glance.usual(glance.COUNT), color="black", lw=0.8, ls=":")
    right.set(xlabel="samples (millions)", ylabel="P-P distance, network alone", yscale="log")
    right.set_title("below the line: as good as calibrated", fontsize=9, loc="left")
    for axis in (left, right):
        axis.legend(frameon=False, fontsize=8)
    part = path.with_name(f".{path.name}")
    _save(figure, plt, part)
    part.replace(path)


def _figure(panels: int, size: tuple[float, float]) -> tuple[Any, Any]:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, _ = plt.subplots(1, panels, figsize=size, layout="constrained")
    for axis in figure.axes:
        axis.spines[["top", "right"]].set_visible(False)
    return figure, plt


def _save(figure: Any, plt: Any, path: Path, dpi: int = 110) -> None:
    figure.savefig(path, dpi=dpi, format="png")
    plt.close(figure)
