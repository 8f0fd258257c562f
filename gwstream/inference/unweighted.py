"""The network's word alone, on many windows at a time: draws that no likelihood has weighted.

Each window is seen once, at its best time: what may lie at others (`modes`) is left to the weighted posterior.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.random import Generator

from gwstream.inference.engines import Runner, latents
from gwstream.inference.features import Live, see
from gwstream.inference.gate import Best
from gwstream.inference.networks import Network
from gwstream.prior import Prior
from gwstream.records import BUCKETS, Floats, Window

Drawn = tuple[Floats, Floats]
"""Parameters (S, 5) in the order of `gwstream.records.PARAMETERS`, and the window's code (F,)."""


def generator(name: str) -> Generator:
    """The random numbers of a posterior with this id."""
    return Generator(np.random.Philox(key=int(hashlib.sha256(name.encode()).hexdigest()[:32], 16)))


def groups(windows: Sequence[Window]) -> list[list[int]]:
    """Places of the windows by whitener, in order, at most as many together as the largest bucket holds."""
    found: dict[str, list[int]] = {}
    for place, window in enumerate(windows):
        found.setdefault(window.whitener.id, []).append(place)
    most = BUCKETS[-1]
    return [places[low : low + most] for places in found.values() for low in range(0, len(places), most)]


def draws(
    net: Network,
    engine: Runner,
    live: Live,
    prior: Prior,
    windows: Sequence[Window],
    rngs: Mapping[int, Generator],
    n: int,
) -> tuple[list[Drawn], Best]:
    """Of windows behind one whitener, a bucket full, ``n`` draws for each whose place has a generator in ``rngs``.

    The others are padding, from the first step on, for a product's rounding depends on its shape. Beside the draws, in
    the order of ``rngs``: what the gate finds, by place.
    """
    samples = torch.from_numpy(np.stack([window.samples for window in windows])).float()
    context = torch.from_numpy(np.stack([window.context for window in windows]))
    with torch.inference_mode():
        seen = see(live, samples, live.gate(samples), context, prior)
    own = {k: net.noise(rng, latents(n, len(windows))) for k, rng in rngs.items()}
    some = next(iter(own.values()))
    noise = [own.get(k, some) for k in range(len(windows))]
    made = engine.run(seen.y, samples, *map(torch.cat, zip(*noise, strict=True)))
    found = []
    for k, rng in rngs.items():
        density = net.density(*(part[k : k + 1] for part in made))
        anchor = net.fixed or seen.anchor.alone(k)
        found.append((anchor.parameters(density.draw(rng, n)), seen.y[k].double().numpy()))
    return found, seen.best


def places(windows: Sequence[Window], hop: int, size: int) -> list[int]:
    """Where in a bucket each of several windows is put: by its time, for rounding differs from row to row.

    In turn where that would put two into one place.
    """
    found = [window.start // hop % size for window in windows]
    return found if len(set(found)) == len(found) else list(range(len(found)))
