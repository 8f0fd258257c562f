"""Engines run `Network.forward`, each its own way; density, draws and weights are the same behind all of them.

An engine is one file, ``engine_NAME.py`` beside this one, with a class called ``ENGINE`` that keeps to `Engine`. It is
found by its file's name, and imported where it is asked for: nothing else needs to know of it.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from gwstream.config import InferenceConfig
from gwstream.errors import ConfigError
from gwstream.inference.networks import Network
from gwstream.records import BUCKETS, bucket

PREFIX = "engine_"

Example = Callable[[int], tuple[Tensor, ...]]
"""Inputs of `Network.forward` for so many windows, one of `BUCKETS`, shaped as they will be: a bucket of several has
fewer latents a window (`latents`)."""


def latents(whole: int, size: int) -> int:
    """How many each of ``size`` windows has where one alone has ``whole``: in a bucket of several two draws share one,
    as they do in a weighted posterior."""
    return whole if size == 1 else (whole + 1) // 2


class Runner(Protocol):
    """What runs the network for an `Inference`; see `runners`."""

    @property
    def name(self) -> str:
        """Of the engine that serves."""
        ...

    def run(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """See `Engine`."""
        ...

    def recheck(self, *, busy: bool) -> None:
        """Called now and then, before a posterior (``busy``) or in a pause: is the engine still as good as it was?"""
        ...


class Engine(Protocol):
    """Runs one network on any number of windows, always the same way: equal inputs give equal bytes.

    An engine whose programs have fixed shapes keeps them in `Buckets`.

    ``kind``: the file's name without `PREFIX`; ``rank``: of several that are installed, "auto" takes the highest;
    ``precisions``: the values of ``inference.precision`` it knows; ``slow``: it may take minutes to make, so it is made
    at a start, and never in the place of one that fails while it serves.
    """

    kind: ClassVar[str]
    rank: ClassVar[int]
    precisions: ClassVar[tuple[str, ...]]
    slow: ClassVar[bool]

    def __init__(self, net: Network, example: Example, config: InferenceConfig) -> None:
        """Make ``net`` ready for inputs like ``example``. Raises `EngineError` where that fails."""

    @property
    def name(self) -> str:
        """As messages say it: the kind, and the precision where it is not fp32."""
        ...

    def run(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """What ``net(*inputs)`` gives, float32 on the CPU, in memory of its own. Raises `EngineError`."""
        ...

    def forget(self) -> None:
        """It is farther from torch than it may be: what it was loaded from must not be loaded by the next start."""
        ...

    @classmethod
    def missing(cls) -> str:
        """What has to be installed before it can run here, as a sentence's end; empty: nothing."""
        ...

    @property
    def buckets(self) -> tuple[int, ...]:
        """Of windows, for which it has programs of their own by now; (1,) where one program takes any number."""
        ...


Program = Callable[..., tuple[Tensor, ...]]
"""Takes the inputs of a fixed number of windows, and gives outputs in memory of its own."""


class Buckets:
    """The programs of an engine that wants fixed shapes: one a bucket of windows, made when it is first asked for.

    Windows are padded, with copies of the last, to the smallest bucket that holds them; more than the largest holds go
    through it in turn.
    """

    def __init__(self, make: Callable[[tuple[Tensor, ...]], Program], example: Example) -> None:
        """``make``: a program for inputs shaped like its argument. The first is made here.

        What ``make`` raises passes through, here and in `run`.
        """
        self._make, self._example = make, example
        self._programs: dict[int, Program] = {}
        self.program(1)

    @property
    def made(self) -> tuple[int, ...]:
        """The buckets whose programs are there."""
        return tuple(sorted(self._programs))

    def program(self, size: int) -> Program:
        """That for ``size`` windows, one of `BUCKETS`."""
        if size not in self._programs:
            self._programs[size] = self._make(self._example(size))
        return self._programs[size]

    def run(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """What the programs make of any number of windows, (B, …) each."""
        count, most = len(inputs[0]), BUCKETS[-1]
        if count > most:
            parts = [self.run(*(part[low : low + most] for part in inputs)) for low in range(0, count, most)]
            return tuple(torch.cat(made) for made in zip(*parts, strict=True))
        size = bucket(count)
        made = self.program(size)(*(padded(part, size) for part in inputs))
        return made if size == count else tuple(part[:count] for part in made)


def padded(part: Tensor, size: int) -> Tensor:
    """(B, …) to (size, …), by copies of the last."""
    missing = size - len(part)
    return part if not missing else torch.cat([part, part[-1:].expand(missing, *part.shape[1:])])


@dataclass(frozen=True, slots=True)
class Candidate:
    """An engine to try, and the settings to try it with."""

    engine: type[Engine]
    config: InferenceConfig

    @property
    def name(self) -> str:
        """Of the engine that `build` makes."""
        return named(self.engine.kind, self.config.precision)

    def build(self, net: Network, example: Example) -> Engine:
        """The engine. Raises `EngineError`."""
        return self.engine(net, example, self.config)


def named(kind: str, precision: str) -> str:
    """An engine as messages say it: the kind, and the precision where it is not fp32."""
    return kind if precision == "fp32" else f"{kind}-{precision}"


def kinds() -> list[str]:
    """All engines there are, installed or not, in alphabetical order."""
    return sorted(file.stem.removeprefix(PREFIX) for file in Path(__file__).parent.glob(f"{PREFIX}*.py"))


def chosen(config: InferenceConfig) -> list[Candidate]:
    """The engines to try, best first, torch always last. Raises `ConfigError` that says what to install or write.

    With "auto" those that are installed, by rank; else the one that is named, and behind it torch. Those that know the
    precision that is asked for come first, then all in fp32.
    """
    engines = _wanted(config)
    precise = [engine for engine in engines if config.precision in engine.precisions]
    if not precise:
        able = [engine.kind for engine in _all() if config.precision in engine.precisions]
        raise ConfigError(
            f"inference.precision is '{config.precision}', which no engine to be had here knows; "
            f"install or choose {' or '.join(able)}"
        )
    fp32 = config.model_copy(update={"precision": "fp32"})
    first = [Candidate(engine, config) for engine in precise]
    return first + [Candidate(engine, fp32) for engine in engines if config.precision != "fp32"]


def _wanted(config: InferenceConfig) -> list[type[Engine]]:
    """The engines that may be tried, best first."""
    wanted = config.engine
    if wanted != "auto" and wanted not in kinds():
        names = ["auto", *kinds()]
        near = difflib.get_close_matches(wanted, names, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"there are: {', '.join(names)}"
        raise ConfigError(f"inference.engine: there is no engine '{wanted}'; {hint}")
    if wanted == "auto":
        found = [engine for engine in _all() if not engine.missing()]
        return sorted(found, key=lambda engine: -engine.rank)
    engine = _load(wanted)
    if missing := engine.missing():
        raise ConfigError(
            f"inference.engine is '{wanted}', but it cannot run here: {missing}; "
            f'or write engine = "auto" to have the best that is installed'
        )
    return [engine] if wanted == "torch" else [engine, _load("torch")]


def _all() -> Iterator[type[Engine]]:
    return map(_load, kinds())


def _load(kind: str) -> type[Engine]:
    engine: type[Engine] = importlib.import_module(f"gwstream.inference.{PREFIX}{kind}").ENGINE
    return engine
