"""``gwstream`` with faults that no frame can bring.

Known signals get into the windows at three times their size, parts hang as `hanging` says, and the engine goes wrong as
`straying` says.
"""

from __future__ import annotations

import sys
from dataclasses import replace

import hanging
import straying

from gwstream.calibration.shadow import Plan, Planned
from gwstream.cli import main
from gwstream.records import Window

right = Plan.inject


def wrong(self: Plan, planned: Planned) -> tuple[Window, float]:
    window, snr = right(self, planned)
    signal = window.samples - planned.window.samples
    return replace(window, samples=planned.window.samples + 3 * signal), snr


if __name__ == "__main__":
    Plan.inject = wrong  # type: ignore[method-assign]
    hanging.prepare()
    straying.prepare()
    sys.exit(main())
