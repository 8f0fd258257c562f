"""The look of the pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

COLOURS = ("#20639b", "#3caea3", "#f6a01a", "#ed553b", "#8e5ea2", "#555555")


@contextmanager
def panels(path: Path, count: int, size: tuple[float, float], **more: Any) -> Iterator[list[Any]]:
    """Axes of ``count`` panels beside each other, saved to ``path`` at the end."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, count, figsize=size, layout="constrained", squeeze=False, **more)
    for axis in axes[0]:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(visible=False)  # gwpy, once imported, draws one
    yield list(axes[0])
    figure.savefig(path, dpi=100)
    plt.close(figure)


def bars(
    path: Path, labels: Sequence[str], values: Mapping[str, Sequence[float]], unit: str, *, log: bool = False
) -> None:
    """Lying bars, the first at the top: for each label one of every kind in ``values``."""
    height = 0.8 / len(values)
    with panels(path, 1, (8.0, 1.0 + 0.32 * len(labels) * max(1.0, len(values) / 2))) as (axis,):
        for k, (kind, lengths) in enumerate(values.items()):
            places = np.arange(len(labels)) + (k - (len(values) - 1) / 2) * height
            axis.barh(places, lengths, height, color=COLOURS[k], label=kind)
        axis.set(yticks=range(len(labels)), xlabel=unit, xscale="log" if log else "linear")
        axis.set_yticklabels(labels)
        axis.invert_yaxis()
        if len(values) > 1:
            axis.legend()
