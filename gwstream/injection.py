"""Known signals for simulated strain, shadow streams and tests."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from gwstream import waveforms
from gwstream.errors import ConfigError
from gwstream.records import NANO, Floats
from gwstream.waveforms import inspiral

DURATION, LONGEST = 8.0, 64.0  # s: of most signals, and of any
BEFORE_END = 1.0
LOWEST, TAPER = 14.0, 0.5  # Hz and s: where a signal begins, and how long it takes to come in


@dataclass(frozen=True, slots=True, kw_only=True)
class Injection:
    """One signal in one detector: coalescence in GPS ns, masses in Msun, effective distance in Gpc, phase in rad."""

    detector: str
    gps_ns: int
    mass_1: float
    mass_2: float
    effective_distance: float
    phase: float

    @property
    def duration(self) -> float:
        """s of strain: 8, or doubled until the inspiral from 14 Hz has room; the lightest begin higher up."""
        seconds = DURATION
        while seconds < LONGEST and inspiral(self.mass_1, self.mass_2, LOWEST) > seconds - BEFORE_END - TAPER:
            seconds *= 2
        return seconds

    def strain(self, rate: int) -> tuple[int, Floats]:
        """First sample (count since GPS 0 at ``rate``) and the strain, (`duration` * rate,)."""
        duration, lowest = self.duration, LOWEST
        while inspiral(self.mass_1, self.mass_2, lowest) > duration - BEFORE_END - TAPER:
            lowest *= 1.1
        start = (self.gps_ns * rate) // NANO - round((duration - BEFORE_END) * rate)
        time = (self.gps_ns * rate - start * NANO) / (NANO * rate)  # integers until the last division
        x = np.array([self.mass_1, self.mass_2, self.effective_distance, time, self.phase])
        return start, waveforms.time_domain(x, rate, duration=duration, f_min=lowest)


def read(path: Path) -> tuple[Injection, ...]:
    """Injections from a file of JSON lines with the fields of `Injection`. Raises `ConfigError` naming the line."""
    found = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as problem:
        raise ConfigError(f"{path}: cannot be read: {problem}") from problem
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                found.append(_parse(line))
            except ValueError as problem:
                raise ConfigError(f"{path}:{number}: not an injection: {problem}") from None
    return tuple(found)


def _parse(line: str) -> Injection:
    """An injection from a JSON object; ValueError says which field is missing, unknown or of the wrong kind."""
    table = json.loads(line)
    names = [field.name for field in fields(Injection)]
    if not isinstance(table, dict) or set(table) != set(names):
        raise ValueError(f"needs an object with exactly the fields {', '.join(names)}")
    for name in names:
        wanted = {"detector": str, "gps_ns": int}.get(name, (int, float))
        if isinstance(table[name], bool) or not isinstance(table[name], wanted):
            raise ValueError(f"{name} = {table[name]!r} is of the wrong kind")
    return Injection(**table)


def write(path: Path, injections: Iterable[Injection]) -> None:
    """Write injections as JSON lines, readable by `read`."""
    path.write_text("".join(json.dumps(asdict(one)) + "\n" for one in injections), encoding="utf-8")
