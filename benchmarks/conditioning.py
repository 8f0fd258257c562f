"""What it costs to whiten a second of one detector's strain, and how far ahead of a window each way must look.

Side by side on the same strain, in turn, second by second, each way with everything it does for one second:

- gwstream: ``Conditioner.push`` of one-second records, spectrum, filter and the 16 windows included;
- gwpy, as an analyst writes it: a buffer of the last seconds, ``TimeSeries.resample``, ``whiten``, and the windows that
  the filter's edges leave;
- ml4gw, as its online searches do: decimated strain in a state of spectrum + kernel + filter length, `SpectralDensity`
  of the past, `Whiten` of the present, once a second for 16 windows or once a window; and its minimum-phase filter.

Processor time of all threads, in ms, with one thread each. A way that whitens must give windows of unit deviation: the
last column shows that of noise alone. gwpy is a dependency of gwstream; ml4gw has an environment of its own:

    python benchmarks/conditioning.py
    make bench-peers
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import common
import numpy as np
import peers
import torch
from drawings import COLOURS, panels
from scipy.signal import resample_poly
from threadpoolctl import threadpool_limits

from gwstream.conditioning import Conditioner
from gwstream.conditioning.resample import Decimator
from gwstream.model import ConditioningSpec
from gwstream.records import Floats, Strain

CURVE = "aLIGO_O4_high"
WARM_UP = 68  # s: every history is full
GPS = 1_400_000_000
WINDOW, HOP = 1.0, 1 / 16  # s
FILTER = 2.0  # s of gwpy's whitening filter, its default
KERNEL_FILTER = 1.0  # s of ml4gw's, as Aframe and amplfi have it


class Way(Protocol):
    """``push`` takes a second of strain (rate,) and gives the windows (n, 256) that it completes.

    ``ahead``: s of strain after a window's end that whitening it needs, and that decimating it needs.
    """

    name: str
    ahead: tuple[float, float]

    def push(self, strain: Floats) -> Floats: ...


class Ours:
    """gwstream."""

    def __init__(self, rate: int) -> None:
        spec = common.spec()
        self.name = "gwstream"
        self.ahead = 0.0, Decimator(spec.conditioning, rate).reach / rate
        self._conditioner = Conditioner(spec, "H1")
        self._next = GPS * rate
        self._rate = rate

    def push(self, strain: Floats) -> Floats:
        record = Strain(detector="H1", start=self._next, rate=self._rate, samples=strain, dq=3)
        self._next = record.end
        windows = self._conditioner.push(record)
        return np.stack([one.samples for one in windows]) if windows else np.empty((0, 256))


class Gwpy:
    """A buffer, resampled and whitened every second."""

    def __init__(self, rate: int, seconds: int) -> None:
        from gwpy.timeseries import TimeSeries

        self.name = f"gwpy, buffer of {seconds} s"
        self._make, self._rate = TimeSeries, rate
        self._spec: ConditioningSpec = common.spec().conditioning
        self._size = seconds * rate
        self._buffer = np.empty(0)
        factor = rate // self._spec.rate
        self.ahead = FILTER / 2, 30 / rate if factor > 1 else 0.0  # gwpy's anti-alias filter has 61 taps

    def push(self, strain: Floats) -> Floats:
        self._buffer = np.concatenate([self._buffer, strain])[-self._size :]
        if len(self._buffer) < self._size:
            return np.empty((0, 256))
        series = self._make(self._buffer, sample_rate=self._rate)
        small = series.resample(self._spec.rate)
        white = small.whiten(fftlength=2, overlap=1, method="median", fduration=FILTER, highpass=self._spec.floor_hz)
        good = np.asarray(white.value)[: len(white) - round(FILTER / 2 * self._spec.rate)]
        return cut(good, self._spec)


class Ml4gw:
    """A state of past and present; ``batch``: windows an update; ``minimum_phase``: ml4gw's causal filter."""

    def __init__(self, rate: int, seconds: int, batch: int, minimum_phase: bool = False) -> None:
        peers.stand_in_for_torchaudio()
        from ml4gw.transforms import MinimumPhaseWhiten, SpectralDensity, Whiten

        self._spec: ConditioningSpec = common.spec().conditioning
        to = self._spec.rate
        kind = "minimum phase" if minimum_phase else "Whiten"
        self.name = f"ml4gw, {kind}, {seconds} s, {'once a second' if batch == 16 else 'every window'}"
        self.ahead = 0.0 if minimum_phase else KERNEL_FILTER / 2, 10 / to
        self._rate, self._batch, self._stride = rate, batch, self._spec.hop
        self._density = SpectralDensity(to, fftlength=2, overlap=1, average="median")
        make = MinimumPhaseWhiten if minimum_phase else Whiten
        self._whiten = make(KERNEL_FILTER, to, highpass=self._spec.floor_hz)
        self._past = seconds * to
        self._present = round((WINDOW + KERNEL_FILTER) * to)
        self._raw = np.zeros(2 * rate)
        self._state = torch.zeros(1, self._past + self._present - self._stride)

    def push(self, strain: Floats) -> Floats:
        """Decimation by scipy's polyphase filter, from strain before and a margin behind, as ml4gw has none for it."""
        self._raw = np.concatenate([self._raw, strain])[-2 * self._rate :]
        small = resample_poly(self._raw, self._spec.rate, self._rate)
        margin = self._spec.rate // 8
        new = torch.from_numpy(small[-self._spec.rate - margin : len(small) - margin] * 1e22).float()[None]
        out = [self._update(part) for part in torch.split(new, self._batch * self._stride, dim=1)]
        return np.concatenate(out)

    @torch.no_grad()
    def _update(self, new: torch.Tensor) -> Floats:
        state = torch.cat([self._state, new], dim=1)
        self._state = state[:, -self._state.shape[1] :]
        psd = self._density(state[:, : self._past].double())
        windows = state[:, self._past :].unfold(1, self._present, self._stride).movedim(1, 0)
        return np.asarray(self._whiten(windows, psd)[:, 0].double().numpy())


def cut(stream: Floats, spec: ConditioningSpec) -> Floats:
    """The last 16 windows (16, window) of a stream."""
    starts = len(stream) - spec.window - spec.hop * np.arange(16)[::-1]
    return np.stack([stream[start : start + spec.window] for start in starts])


@dataclass
class Timed:
    """One way; ms of each second, and its windows' deviations."""

    way: Way
    times: list[float] = field(default_factory=list)
    deviations: list[float] = field(default_factory=list)

    def take(self, strain: Floats, counts: bool) -> None:
        begin = time.process_time()
        windows = self.way.push(strain)
        spent = 1e3 * (time.process_time() - begin)
        if counts:
            self.times.append(spent)
            self.deviations.append(float(windows.std()))

    @property
    def median(self) -> float:
        return float(np.median(self.times))

    def row(self, ours: Timed) -> list[object]:
        whitening, decimation = self.way.ahead
        return [
            self.way.name,
            common.spread(self.times),
            f"{self.median / ours.median:.1f}",
            f"{1e3 * whitening:.0f} + {1e3 * decimation:.0f}",
            f"{np.median(self.deviations):.2f}",
        ]


def ways(rate: int, everything: bool) -> list[Way]:
    """Ours first; ``everything``: with ml4gw."""
    found: list[Way] = [Ours(rate), Gwpy(rate, 8), Gwpy(rate, 32), Gwpy(rate, 64)]
    if everything:
        found += [Ml4gw(rate, 64, 16), Ml4gw(rate, 64, 1), Ml4gw(rate, 8, 16), Ml4gw(rate, 64, 16, True)]
    return found


def measure(rate: int, seconds: int, everything: bool) -> list[Timed]:
    """Every way through the same strain, in turn."""
    made = [Timed(way) for way in ways(rate, everything)]
    strain = common.noise(np.random.default_rng(1), CURVE, rate, WARM_UP + seconds)
    for second in range(WARM_UP + seconds):
        piece = strain[second * rate : (second + 1) * rate]
        for one in made:
            one.take(piece, counts=second >= WARM_UP)
    return made


def draw(found: Sequence[Timed]) -> None:
    with panels(common.picture("conditioning"), 1, (9, 0.45 * len(found) + 1)) as axes:
        names = [one.way.name for one in found]
        colours = [COLOURS[0 if one is found[0] else 3 if "gwpy" in one.way.name else 2] for one in found]
        axes[0].barh(names, [one.median for one in found], color=colours)
        axes[0].invert_yaxis()
        axes[0].set(xscale="log", xlabel="processor time a second of strain and detector, ms")
        for row, one in enumerate(found):
            ahead = sum(one.way.ahead)
            axes[0].annotate(f" {one.median:.1f} ms, looks {1e3 * ahead:.0f} ms ahead", (one.median, row), va="center")
        axes[0].set_xlim(0.3 * min(one.median for one in found), 30 * max(one.median for one in found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=30, help="measured, after the warm-up (default: %(default)s)")
    parser.add_argument("--rate", type=int, default=16384, help="Hz (default: %(default)s)")
    args = parser.parse_args()
    warnings.simplefilter("ignore", FutureWarning)
    torch.set_num_threads(1)
    threadpool_limits(limits=1, user_api="blas")
    everything = peers.have("ml4gw")
    found = measure(args.rate, args.seconds, everything)
    print(common.machine("scipy", "gwpy", "ml4gw"))
    print(f"one detector at {args.rate} Hz, {args.seconds} s after {WARM_UP} s of warm-up: median (quartiles)")
    print(peers.NOTE if everything else "ml4gw is not installed here: make bench-peers has it")
    head = ("way", "ms a second", "times ours", "ms ahead: whitening + decimation", "deviation")
    print("\n" + common.table(head, [one.row(found[0]) for one in found]))
    draw(found)


if __name__ == "__main__":
    main()
