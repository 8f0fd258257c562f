"""What an argument's text may be, with errors that say so."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable


def seconds(text: str) -> float:
    """``90``, ``90s``, ``30m``, ``1h30m`` in seconds."""
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    match = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", text)
    if not text or match is None:
        raise argparse.ArgumentTypeError(f"'{text}' is not a duration; write it as 90s, 30m or 1h30m")
    hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return 3600.0 * hours + 60.0 * minutes + seconds


def whole_from(least: int) -> Callable[[str], int]:
    """A whole number from ``least``."""

    def whole(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"'{text}' is not a whole number from {least}")
        return int(text)

    return whole


def number(text: str) -> float:
    """A number: a limit that is none would let nothing pass."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"'{text}' is not a number")
    return value


def positive(text: str) -> float:
    """A number above zero."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not value > 0:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number above zero")
    return value


def gps(text: str) -> int:
    """GPS seconds, with up to nine decimals, in ns."""
    match = re.fullmatch(r"(\d{1,10})(?:\.(\d{1,9}))?", text)
    if match is None:
        raise argparse.ArgumentTypeError(
            f"'{text}' is not a time in GPS seconds; write it as 1126259462 or 1126259462.4"
        )
    return int(match[1]) * 10**9 + int((match[2] or "").ljust(9, "0"))
