"""What the cost grows with: streams, windows a second, draws, latents; straight lines in log-log of slope 1 or less.

Processor time of all threads, one thread each, in this process, with the code of the daemon:

- streams: a second of strain of so many detectors through conditioning, the bank behind each new filter, and the gate;
- windows: so many windows of one filter through the gate, as a finer or coarser hop brings them;
- posteriors: so many windows behind the gate;
- draws, latents: one posterior with so many.

Every number is measured in turn, round after round. The slope is that of the medians over the top half of the range (of
its logarithm), with the interval that holds 95 % of the slopes of rounds drawn anew.

    python benchmarks/scaling.py
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import common
import numpy as np
import torch
from drawings import COLOURS, panels
from threadpoolctl import threadpool_limits

from gwstream.conditioning import Conditioner
from gwstream.config import InferenceConfig
from gwstream.inference import Inference, Model, load_model
from gwstream.records import Batch, Floats, Strain, Trigger, Window
from gwstream.training.population import Population

RATE, GPS = 4096, 1_400_000_000
CURVE = "aLIGO_O4_high"
BEFORE = 14  # s: the first window comes after 12
BOOTSTRAPS = 2000
SNRS = (8.0, 30.0)
STREAMS = (1, 2, 4, 8, 16, 32)
WINDOWS = (4, 8, 16, 32, 64, 128, 256)
POSTERIORS = (1, 2, 4, 8, 16)
DRAWS = (500, 1000, 2000, 4000, 8000, 16000)
LATENTS = (250, 500, 1000, 2000, 4000, 8000)


@dataclass(frozen=True, slots=True)
class Line:
    """Cost against one number. ``work``: what is done once for each of ``numbers``; ``times``: (rounds, numbers) ms."""

    name: str
    numbers: tuple[int, ...]
    times: Floats

    @property
    def median(self) -> Floats:
        return np.median(self.times, axis=0)

    @property
    def top(self) -> slice:
        """The top half of the range, of the logarithm, three numbers at least."""
        x = np.log(self.numbers)
        first = int(np.searchsorted(x, 0.5 * (x[0] + x[-1]) - 1e-9))
        return slice(min(first, max(len(x) - 3, 0)), None)

    def slope(self, times: Floats) -> float:
        chosen = self.top
        return float(np.polyfit(np.log(self.numbers[chosen]), np.log(np.median(times, axis=0)[chosen]), 1)[0])

    def interval(self, rng: np.random.Generator) -> tuple[float, float]:
        """95 % of the slopes of rounds drawn anew."""
        n = len(self.times)
        slopes = [self.slope(self.times[rng.integers(n, size=n)]) for _ in range(BOOTSTRAPS)]
        low, high = np.percentile(slopes, [2.5, 97.5])
        return float(low), float(high)

    def row(self, rng: np.random.Generator) -> list[object]:
        low, high = self.interval(rng)
        least, most = self.numbers[0], self.numbers[-1]
        return [
            self.name,
            f"{least} to {most}",
            common.spread(list(self.times[:, 0] / least)),
            common.spread(list(self.times[:, -1] / most)),
            f"{self.numbers[self.top][0]} to {most}",
            f"{self.slope(self.times):.3f} ({low:.3f} to {high:.3f})",
        ]


def measured(name: str, numbers: Sequence[int], work: Callable[[int], Callable[[], object]], rounds: int) -> Line:
    """``work(n)`` gives what is timed; the first round, which pays for what is done once, does not count."""
    jobs = [work(number) for number in numbers]
    times = np.empty((rounds + 1, len(jobs)))
    for round_number in range(rounds + 1):
        for index, job in enumerate(jobs):
            begin = time.process_time()
            job()
            times[round_number, index] = 1e3 * (time.process_time() - begin)
    return Line(name, tuple(numbers), times[1:])


class Streams:
    """Detectors with strain of their own: each call takes the next second of them all."""

    def __init__(self, model: Model, inference: Inference, count: int) -> None:
        self._inference = inference
        rng = np.random.default_rng(count)
        self._conditioners = [Conditioner(model.spec, f"{chr(65 + k % 26)}{k // 26}") for k in range(count)]
        self._strain = common.noise(rng, CURVE, RATE, 16)
        self._second = 0
        for _ in range(BEFORE):
            self._windows()

    def _windows(self) -> list[Window]:
        at = self._second % 16 * RATE
        out: list[Window] = []
        for number, conditioner in enumerate(self._conditioners):
            samples = np.roll(self._strain, number * 997)[at : at + RATE]
            start = (GPS + self._second) * RATE
            out += conditioner.push(Strain(detector="H1", start=start, rate=RATE, samples=samples, dq=3))
        self._second += 1
        return out

    def __call__(self) -> None:
        windows = self._windows()
        for begin in range(0, len(windows), 16):
            self._inference.gate(Batch(tuple(windows[begin : begin + 16]), 16))


def triggers(model: Model, inference: Inference, count: int) -> list[Trigger]:
    """Windows behind the gate with signals from the prior."""
    population = Population(model, inference.prior, 1)
    found: list[Trigger] = []
    number = 0
    while len(found) < count:
        case = population.case(number)
        number += 1
        if SNRS[0] < case.optimal_snr < SNRS[1]:
            found += inference.gate(Batch((case.window,), 1))
    return found


def lines(rounds: int) -> list[Line]:
    model = load_model(common.MODEL)
    inference = Inference(model, InferenceConfig())
    behind = triggers(model, inference, max(POSTERIORS))
    one = behind[0].window

    def gate(number: int) -> Callable[[], object]:
        batch = Batch((one,) * number, number)
        return lambda: inference.gate(batch)

    def posteriors(number: int) -> Callable[[], object]:
        return lambda: [inference.infer(trigger) for trigger in behind[:number]]

    def posterior(settings: InferenceConfig) -> Callable[[], object]:
        other = Inference(model, settings)
        return lambda: other.infer(behind[0])

    return [
        measured("streams", STREAMS, lambda n: Streams(model, inference, n), rounds),
        measured("windows at the gate", WINDOWS, gate, rounds),
        measured("posteriors", POSTERIORS, posteriors, rounds),
        measured("draws", DRAWS, lambda n: posterior(InferenceConfig(draws=n)), rounds),
        measured("latents", LATENTS, lambda n: posterior(InferenceConfig(latents=n)), rounds),
    ]


def draw(found: Sequence[Line]) -> None:
    with panels(common.picture("scaling"), len(found), (3.4 * len(found), 3.4)) as axes:
        for axis, line, colour in zip(axes, found, COLOURS, strict=False):
            low, high = np.percentile(line.times, [25, 75], axis=0)
            axis.errorbar(line.numbers, line.median, (line.median - low, high - line.median), fmt="o", color=colour)
            top = np.array(line.numbers[line.top], float)
            slope = line.slope(line.times)
            fitted = np.exp(np.mean(np.log(line.median[line.top]) - slope * np.log(top)))
            axis.plot(line.numbers, fitted * np.array(line.numbers) ** slope, color=colour, label=f"slope {slope:.2f}")
            axis.set(xscale="log", yscale="log", xlabel=line.name, ylabel="processor time, ms")
            axis.minorticks_off()
            axis.legend()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="(default: %(default)s)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    threadpool_limits(limits=1, user_api="blas")
    found = lines(args.rounds)
    rng = np.random.default_rng(1)
    print(common.machine("openvino"))
    print(f"{args.rounds} rounds: median (quartiles); slopes with their 95 % intervals\n")
    head = ("cost against", "range", "ms each, at the least", "ms each, at the most", "top half", "slope")
    print(common.table(head, [line.row(rng) for line in found]))
    draw(found)


if __name__ == "__main__":
    main()
