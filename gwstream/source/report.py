"""Counts what a source drops, and logs it without flooding the log."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from gwstream.records import Tally

LOG = logging.getLogger("source")
REPEAT = 60.0  # s between two log lines of one reason and detector

REASONS = {
    "missing": "a frame did not come within the patience: its time became a gap",
    "late": "a frame came after its time had become a gap",
    "duplicate": "a frame came whose time had been read already",
    "overlap": "a frame covers time that had been read: only the rest is used",
    "vetoed": "the state vector lacks a bit of the mask",
    "unknown_dq": "no state vector, and none was waived",
    "truncated": "a file ends too early",
    "corrupt": "a file is damaged",
    "unsupported": "GWF of another version",
    "unchecked": "a file without checksum",
    "flagged": "the frame marks its own samples invalid",
    "no_channel": "the strain channel is not in the file",
    "wrong_rate": "no whole multiple of the model's, or another than the stream's",
    "wrong_length": "samples, rate and the duration in the name do not agree",
    "wrong_time": "the start in the file is not the one in the name",
    "not_finite": "NaN or infinity in the strain",
    "bad_name": "a .gwf file not named as frames are",
    "future": "dated more than a day after this machine's clock",
    "vanished": "unlinked before it could be read",
    "unreadable": "permissions, I/O errors, or too large",
    "slow": "the parser did not come back within its time limit",
    "overflow": "too many frames waiting: the oldest were given up",
    "notify_lost": "the kernel dropped notifications, or told nothing of a file, or the directory went: it is scanned",
}


class Report:
    """Tells the tally at once and the log once per reason and detector, then at most once a minute."""

    def __init__(self, tally: Tally, clock: Callable[[], float] = time.monotonic) -> None:
        self._tally = tally
        self._clock = clock
        self._last: dict[tuple[str, str], float] = {}
        self._held: dict[tuple[str, str], int] = {}

    def __call__(self, reason: str, detector: str, text: str, count: int = 1) -> None:
        """``reason`` is one of `REASONS`; ``text`` names file and problem."""
        self._tally("source", reason, detector, count)
        key = (reason, detector)
        now = self._clock()
        if key in self._last and now - self._last[key] < REPEAT:
            self._held[key] = self._held.get(key, 0) + 1
            return
        held = self._held.pop(key, 0)
        more = f" ({held} more like it since the last such line)" if held else ""
        self._last[key] = now
        LOG.warning("%s %s: %s%s", detector, reason, text, more)
