"""The look of the pictures."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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
