"""``gwstream`` whose better engine goes wrong at will: as long as a file ``stray`` lies in the directory ``$HANG``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from torch import Tensor

from gwstream.cli import main
from gwstream.inference import runners
from gwstream.inference.engine_openvino import OpenVinoEngine

PLACE = Path(os.environ["HANG"])
run = OpenVinoEngine.run


def strays(self: OpenVinoEngine, *inputs: Tensor) -> tuple[Tensor, ...]:
    """Numbers like those that are right."""
    first, *rest = run(self, *inputs)
    return (first + 0.1, *rest) if (PLACE / "stray").exists() else (first, *rest)


def prepare() -> None:
    """Let the engine of this process stray when it is told, and be found out soon."""
    OpenVinoEngine.run = strays  # type: ignore[method-assign]
    runners.CHECK_EVERY = 2


if __name__ == "__main__":
    prepare()
    sys.exit(main())
