"""The pictures of a report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import beta

from gwstream.records import PARAMETERS, Floats

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


def loss_plot(samples: Floats, loss: Floats, path: Path) -> None:
    """Loss (nats) against samples seen."""
    figure, plt = _figure(1, (7.0, 4.0))
    axis = figure.axes[0]
    axis.plot(samples / 1e6, loss, color=COLOURS[0], lw=0.8)
    axis.set(xlabel="samples (millions)", ylabel="loss (nats)", ylim=(np.min(loss) - 0.3, np.quantile(loss, 0.98)))
    _save(figure, plt, path)


def _figure(panels: int, size: tuple[float, float]) -> tuple[Any, Any]:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, _ = plt.subplots(1, panels, figsize=size, layout="constrained")
    for axis in figure.axes:
        axis.spines[["top", "right"]].set_visible(False)
    return figure, plt


def _save(figure: Any, plt: Any, path: Path) -> None:
    figure.savefig(path, dpi=110)
    plt.close(figure)
