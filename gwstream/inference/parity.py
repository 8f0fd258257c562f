"""Every engine is held to fp32 torch: at the start, from time to time, and whenever it fails or gives no numbers.

Golden windows, made from a seed, go through the engine; the density that comes of them is asked at draws from torch's.
The root mean square of the difference of the two ln densities is how far off the engine is: a proposal that lies s
standard deviations beside another of its shape differs from it by s. So it is a distance in standard deviations of the
network's posterior. It says how much a proposal is spoilt; what is served differs by less, for weights make up for it.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from gwstream.errors import EngineError
from gwstream.inference.engine_torch import TorchEngine
from gwstream.inference.engines import Candidate, Engine, padded
from gwstream.inference.networks import Network
from gwstream.inference.networks.base import Inputs
from gwstream.records import Floats

log = logging.getLogger("inference")

TOLERANCE = {"fp32": 1e-3, "fp16": 2e-2, "bf16": 5e-2}
"""By precision, in standard deviations. Rounding makes some 1e-6 of it in fp32, and where the wide layers alone are in
half precision (TensorRT) up to 6e-3 and 2e-2. OpenVINO's bf16 makes 2e-2, but 5e-2 of the default network, which may
thus be given up (`make bench-engines`, docs/numbers.md)."""

DRAWS = 500  # of a golden window, at which densities are compared
KEY = 20_150_914  # seeds the golden windows' random numbers
BUSY = 8  # times as long between two checks while there is no pause for one


@dataclass(frozen=True, slots=True)
class GivenUp:
    """An engine that does not serve any more, and why."""

    engine: str
    why: str


@dataclass(frozen=True, slots=True)
class Serving:
    """The engine that serves, how far it is from torch (0 for torch itself) and may be, and those given up for it."""

    engine: str
    distance: float
    tolerance: float
    given_up: tuple[GivenUp, ...] = ()

    def part(self) -> dict[str, object]:
        """As the status says it."""
        given_up = [{"engine": one.engine, "why": one.why} for one in self.given_up]
        return {"distance": self.distance, "tolerance": self.tolerance, "given_up": given_up}


@dataclass(frozen=True, slots=True)
class Golden:
    """Inputs of the network for one window; what torch draws for it, (n, 5), and its ln density there, (n,)."""

    inputs: tuple[Tensor, ...]
    e: Floats
    log_density: Floats

    @classmethod
    def of(cls, net: Network, inputs: Inputs, latents: int) -> Golden:
        """What torch says of a window."""
        rng = np.random.default_rng(KEY)
        given = (inputs.y, inputs.windows, *net.noise(rng, latents))
        with torch.inference_mode():
            density = net.density(*net(*given))
        e = density.draw(rng, DRAWS)
        return cls(given, e, density.log_density(e.copy()))

    def distance(self, net: Network, engine: Engine) -> float:
        """Of an engine, in standard deviations; infinite where it makes no density. Raises `EngineError`."""
        return self._distance(net, engine.run(*self.inputs))

    def _distance(self, net: Network, made: tuple[Tensor, ...]) -> float:
        """Of what was made for this window, (1, …) each."""
        try:
            with np.errstate(all="ignore"):
                found = net.density(*made).log_density(self.e.copy())
                distance = math.sqrt(np.mean((found - self.log_density) ** 2))
        except (RuntimeError, ValueError, IndexError, TypeError):  # numbers of another shape, or none
            return math.inf
        return distance if math.isfinite(distance) else math.inf

    @staticmethod
    def farthest(net: Network, engine: Engine, golden: Sequence[Golden], size: int) -> float:
        """The largest of the distances of windows, ``size`` at a time, the last as often as that takes.

        Raises `EngineError`.
        """
        found = 0.0
        for low in range(0, len(golden), size):
            some = golden[low : low + size]
            rows = [*some, *[some[-1]] * (size - len(some))]
            made = engine.run(*map(torch.cat, zip(*(one.inputs for one in rows), strict=True)))
            distances = (one._distance(net, tuple(part[k : k + 1] for part in made)) for k, one in enumerate(some))
            found = max(found, *distances)
        return found


class Guarded:
    """The best of several engines that is as good as torch; a worse one is given up for good, and the next one serves.

    ``told`` hears of every check and change, in the thread that calls. Engines' errors end here, but for torch's.
    """

    def __init__(
        self,
        net: Network,
        candidates: Sequence[Candidate],
        golden: Callable[[int], Sequence[Golden]],
        told: Callable[[Serving], None],
        every: int,
    ) -> None:
        """``candidates``: best first, torch last; ``golden``: windows for a bucket of so many; ``every``: calls of
        `recheck` from one check to the next."""
        self._net, self._golden, self._told, self._every = net, golden, told, every
        self._left = list(candidates)
        self._given_up: tuple[GivenUp, ...] = ()
        self._calls = self._checks = 0
        self._next()

    @property
    def name(self) -> str:
        """Of the engine that serves."""
        return self._engine.name

    @property
    def serving(self) -> Serving:
        """Where things stand."""
        return Serving(self.name, self._distance, self._tolerance, self._given_up)

    def run(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """What the engine in use makes of `Network.forward`'s inputs, or the next one where it fails."""
        while not self._is_torch:
            try:
                found = self._engine.run(*inputs)
            except EngineError as problem:
                self._abandon(str(problem))
                continue
            if not _finite(found):
                if not _finite(inputs):  # no engine can help that
                    return found
                self._abandon("it gave numbers that are not finite")
            elif fault := self._fault(self._new()):
                self._abandon(fault)
            else:
                return found
        return self._engine.run(*inputs)

    def recheck(self, *, busy: bool) -> None:
        """Called now and then: every so many calls, of more while there is no pause, compares one golden window.

        In a pause the engine's buckets take their turn, and those of several windows get as many.
        """
        self._calls += 1
        if self._is_torch or self._calls < self._every * (BUSY if busy else 1):
            return
        self._calls = 0
        self._checks += 1
        buckets = self._engine.buckets[:1] if busy else self._engine.buckets
        turn, place = divmod(self._checks, len(buckets))
        size = buckets[place]
        golden = self._golden(size)
        first = turn % len(golden)
        if fault := self._fault({size: (*golden[first:], *golden[:first])[:size]}):
            self._abandon(fault)
        else:
            self._told(self.serving)

    @property
    def _is_torch(self) -> bool:
        return self._engine.kind == TorchEngine.kind

    def _abandon(self, why: str) -> None:
        self._note(self.name, why)
        self._next(serving=True)

    def _next(self, *, serving: bool = False) -> None:
        """Take the next engine that can be made and has no fault; ``serving``: windows wait for it."""
        while True:
            candidate = self._left.pop(0)
            if serving and candidate.engine.slow:
                self._note(candidate.name, "it is made at a start alone, for that may take minutes")
                continue
            self._tolerance = TOLERANCE[candidate.config.precision]
            try:
                self._engine: Engine = candidate.build(self._net, partial(_example, self._golden))
            except EngineError as problem:
                self._note(candidate.name, str(problem))
                continue
            self._compared: set[int] = set()
            fault = self._fault(self._new())
            if not fault:
                break
            self._note(self.name, fault)
        if self._given_up:
            log.warning("engine %s serves", self.name)
        self._told(self.serving)

    def _note(self, engine: str, why: str) -> None:
        log.warning("engine %s is given up: %s", engine, why)
        self._given_up = (*self._given_up, GivenUp(engine, why))

    def _new(self) -> dict[int, Sequence[Golden]]:
        """The golden windows for buckets that the engine has made since it was last asked."""
        found = set(self._engine.buckets) - self._compared
        self._compared |= found
        return {size: self._golden(size) for size in found}

    def _fault(self, golden: Mapping[int, Sequence[Golden]]) -> str:
        """What is wrong with the engine by windows, so many at a time as the key says; empty: nothing."""
        if self._is_torch:
            self._distance = 0.0
        if self._is_torch or not golden:
            return ""
        try:
            self._distance = max(Golden.farthest(self._net, self._engine, some, size) for size, some in golden.items())
        except EngineError as problem:
            return str(problem)
        if self._distance <= self._tolerance:
            return ""
        self._engine.forget()
        if self._distance == math.inf:
            return "what it gives makes no density"
        return f"it is {self._distance:.2g} standard deviations from torch, where {self._tolerance:g} may be"


def _example(golden: Callable[[int], Sequence[Golden]], size: int) -> tuple[Tensor, ...]:
    """See `Example`."""
    return tuple(padded(part, size) for part in golden(size)[0].inputs)


def _finite(parts: Sequence[Tensor]) -> bool:
    return all(bool(torch.isfinite(part).all()) for part in parts)
