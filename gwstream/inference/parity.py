"""Every engine is held to fp32 torch: at the start, from time to time, and whenever it fails or gives no numbers.

Golden windows, made from a seed, go through the engine; the density that comes of them is asked at draws from torch's.
The root mean square of the difference of the two ln densities is how far off the engine is: a proposal that lies s
standard deviations beside another of its shape differs from it by s. So it is a distance in standard deviations of the
network's posterior. It says how much a proposal is spoilt; what is served differs by less, for weights make up for it.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gwstream.errors import EngineError
from gwstream.inference.engine_torch import TorchEngine
from gwstream.inference.engines import Candidate, Engine
from gwstream.inference.networks import Network
from gwstream.inference.networks.base import Inputs
from gwstream.records import Floats

log = logging.getLogger("inference")

TOLERANCE = {"fp32": 1e-3, "bf16": 5e-2}
"""By precision, in standard deviations. Rounding makes some 1e-6 and 1e-2 of it (`make bench-engines`)."""

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
        try:
            with np.errstate(all="ignore"):
                found = net.density(*engine.run(*self.inputs)).log_density(self.e.copy())
                distance = math.sqrt(np.mean((found - self.log_density) ** 2))
        except (RuntimeError, ValueError, IndexError, TypeError):  # numbers of another shape, or none
            return math.inf
        return distance if math.isfinite(distance) else math.inf


class Guarded:
    """The best of several engines that is as good as torch; a worse one is given up for good, and the next one serves.

    ``told`` hears of every check and change, in the thread that calls. Engines' errors end here, but for torch's.
    """

    def __init__(
        self,
        net: Network,
        candidates: Sequence[Candidate],
        golden: Sequence[Golden],
        told: Callable[[Serving], None],
        every: int,
    ) -> None:
        """``candidates``: best first, torch last; ``every``: calls of `recheck` from one check to the next."""
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
            if all(bool(torch.isfinite(part).all()) for part in found):
                return found
            self._abandon("it gave numbers that are not finite")
        return self._engine.run(*inputs)

    def recheck(self, *, busy: bool) -> None:
        """Called now and then: compares one golden window every so many calls, of more while there is no pause."""
        self._calls += 1
        if self._is_torch or self._calls < self._every * (BUSY if busy else 1):
            return
        self._calls = 0
        self._checks += 1
        if fault := self._fault(self._golden[self._checks % len(self._golden)]):
            self._abandon(fault)
        else:
            self._told(self.serving)

    @property
    def _is_torch(self) -> bool:
        return self._engine.kind == TorchEngine.kind

    def _abandon(self, why: str) -> None:
        self._note(self.name, why)
        self._next()

    def _next(self) -> None:
        """Take the next engine that can be made and has no fault."""
        while True:
            candidate = self._left.pop(0)
            self._tolerance = TOLERANCE[candidate.config.precision]
            try:
                self._engine: Engine = candidate.build(self._net, self._golden[0].inputs)
            except EngineError as problem:
                self._note(candidate.name, str(problem))
                continue
            fault = self._fault(*self._golden)
            if not fault:
                break
            self._note(self.name, fault)
        if self._given_up:
            log.warning("engine %s serves", self.name)
        self._told(self.serving)

    def _note(self, engine: str, why: str) -> None:
        log.warning("engine %s is given up: %s", engine, why)
        self._given_up = (*self._given_up, GivenUp(engine, why))

    def _fault(self, *golden: Golden) -> str:
        """What is wrong with the engine by these windows; empty: nothing."""
        self._distance = 0.0
        if self._is_torch:
            return ""
        try:
            self._distance = max(one.distance(self._net, self._engine) for one in golden)
        except EngineError as problem:
            return str(problem)
        if self._distance <= self._tolerance:
            return ""
        if self._distance == math.inf:
            return "what it gives makes no density"
        return f"it is {self._distance:.2g} standard deviations from torch, where {self._tolerance:g} may be"
