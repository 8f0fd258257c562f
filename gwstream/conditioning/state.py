"""All that a `Conditioner` knows, apart from its settings: taken in no time, put into plain values when it is saved."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gwstream.records import Floats, Whitener

Quality = tuple[int, int, int | None, bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """References into a conditioner, which replaces what it holds and never changes it.

    ``input_rate``: of the strain, Hz; ``expected``: count, at that rate, of the next sample; ``kept`` and
    ``kept_start`` of the decimator. ``segments``: start and power of each periodogram. The others as in `Conditioner`.
    """

    input_rate: int
    expected: int
    kept: Floats
    kept_start: int
    segments: tuple[tuple[int, Floats], ...]
    stream: Floats
    start: int
    next_window: int
    next_update: int
    whiteners: tuple[tuple[Whitener, NDArray[np.float32]], ...]
    quality: tuple[Quality, ...]
    last_gap: int | None

    @property
    def whole(self) -> bool:
        """Whether it ends on a whole GPS second, from which a source can go on."""
        return self.expected % self.input_rate == 0

    @property
    def second(self) -> int:
        """GPS second of the next sample."""
        return self.expected // self.input_rate

    def tree(self) -> dict[str, Any]:
        """As plain values and arrays, for a `gwstream.snapshot`."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        values["segments"] = {
            "starts": np.array([start for start, _ in self.segments], np.int64),
            "powers": np.array([power for _, power in self.segments], np.float64),
        }
        values["whiteners"] = [
            {field.name: getattr(one, field.name) for field in dataclasses.fields(one)} | {"context": context}
            for one, context in self.whiteners
        ]
        return values

    @classmethod
    def of(cls, tree: dict[str, Any]) -> State:
        """The state that gave ``tree``. Raises LookupError, TypeError or ValueError where it is none."""
        values = dict(tree)
        starts, powers = values["segments"]["starts"], values["segments"]["powers"]
        values["segments"] = tuple(zip(map(int, starts), powers, strict=True))
        values["whiteners"] = tuple(
            (Whitener(**{name: one for name, one in fields.items() if name != "context"}), fields["context"])
            for fields in values["whiteners"]
        )
        values["quality"] = tuple(map(tuple, values["quality"]))
        return cls(**values)
