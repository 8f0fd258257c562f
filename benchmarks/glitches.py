"""Real glitches in simulated noise: how many pass as `good` events.

The 30 whitened glitches of the data (five classes of Gravity Spy, reconstructed without their noise) are coloured with
a shipped spectrum of O3, scaled to a signal-to-noise ratio of 8 to 20 in the model's own stream, and placed in Gaussian
noise of that spectrum. The ratio is the length of the whole whitened glitch; what the matched filter sees of it is
less. Windows around each placement go through gate, inference and summary as the daemon has them.

    python benchmarks/glitches.py

Ends with status 1 where more than a tenth of the placements of Light_Modulation, Scattered_Light and Whistle is good.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import clusters
import common
import drawings
import h5py
import intervals
import numpy as np
import sections
import strain as real
from rich.progress import track

from gwstream import spectra
from gwstream.conditioning.response import Spectrum, decimate, response
from gwstream.config import InferenceConfig, SummaryConfig
from gwstream.inference import Inference, load_model
from gwstream.model import ConditioningSpec
from gwstream.records import NANO, Floats, Strain, Window
from gwstream.source.noise import Noise
from gwstream.summary import Summarizer

TITLE = "Glitches in noise"
FILE = "glitches/gravityspy_O3a_whitened_4096Hz.hdf5"
RATE = 4096  # Hz, of the file
NOISE_RATE = 1024  # Hz
SNR = (8.0, 20.0)
EVERY = 3  # s between placements
HISTORY = 66  # s of noise before the first
AROUND = (-0.2, 1.4)  # s from a window's first sample to the glitch
CENTRE = 6.0  # s at which the middle of a glitch stands in its series
HIGH_PASS = 12.0  # Hz: a whitened glitch says nothing of what lies below
OTHER = {"H1": "L1", "L1": "H1"}
RESEMBLING = ("Blip", "Tomte")  # they look like heavy mergers, and are judged apart
BAR, AIM = 0.10, 0.02
GPS = 1_000_000_000
Noises = Callable[[], list[Window]]
KEPT = Path("runs") / "quality-glitches.jsonl"


@dataclass(frozen=True, slots=True)
class Glitch:
    """A whitened glitch (n,) of unit noise variance, and where it is from."""

    detector: str
    label: str
    number: str
    samples: Floats


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one placement: matched-filter ``seen`` (0: not behind the gate), whether good, and if not why.

    ``network``: whether it made a good event with a second detector, which holds noise alone.
    """

    glitch: Glitch
    snr: float
    seen: float
    good: bool
    reasons: tuple[str, ...]
    network: bool


def glitches(path: Path) -> Iterator[Glitch]:
    """All of the file."""
    with h5py.File(path) as file:
        for detector, classes in file.items():
            for label, members in classes.items():
                for number, one in members.items():
                    samples = np.asarray(one["glitch"][:], np.float64) / np.sqrt(RATE / 2)
                    yield Glitch(detector, label, number, samples)


def coloured(spec: ConditioningSpec, whitened: Floats, curve: str) -> Spectrum:
    """Decimated spectrum (1/Hz) of a whitened glitch (n,) at 4096 Hz coloured with a shipped curve; ends are faded."""
    edge = len(whitened) // 20
    fade = np.ones(len(whitened))
    fade[:edge] = np.sin(0.5 * np.pi * np.arange(edge) / edge) ** 2
    fade[-edge:] = fade[edge - 1 :: -1]
    series = np.zeros(real.PERIOD * RATE)
    first = round(CENTRE * RATE) - len(whitened) // 2
    series[first : first + len(whitened)] = whitened * fade
    spectrum = np.fft.rfft(series)[: real.PERIOD * spec.rate + 1] / RATE
    f = np.arange(len(spectrum)) / real.PERIOD
    passed = 1 / (1 + (HIGH_PASS / np.maximum(f, 1e-3)) ** 8)
    return decimate(spec, spectrum * spectra.asd(curve, np.maximum(f, 5.0)) * passed * np.sqrt(RATE / 2))


def seen(spec: ConditioningSpec, spectrum: Spectrum, window: Window, gps: float, snr: float) -> Floats:
    """What a window (n,) sees of a glitch whose middle is at ``gps``, its whole whitened length scaled to ``snr``."""
    series = response(spec, spectrum, window.whitener.taps)
    first = round((CENTRE - gps + window.gps_ns / NANO) * spec.rate)
    return np.asarray(series[first : first + len(window.samples)] * snr / np.linalg.norm(series))


def curve(detector: str) -> str:
    return f"O3_{detector}"


def noise(inference: Inference, detector: str, seconds: int, seed: int) -> list[Window]:
    """Windows of Gaussian noise with the spectrum of a detector in O3."""
    samples = Noise(curve(detector), NOISE_RATE, seed, detector).samples(GPS * NOISE_RATE, seconds * NOISE_RATE)
    strain = Strain(detector=detector, start=GPS * NOISE_RATE, rate=NOISE_RATE, samples=samples, dq=real.GOOD)
    return list(real.windows(inference.model.spec, strain))


def placed(inference: Inference, glitch: Glitch, noises: tuple[Noises, Noises], gps: float, snr: float) -> Outcome:
    """One placement through gate, inference and summary; ``noises``: of its own detector and of another.

    The other is asked only where the glitch is good: a network event is good by two good members.
    """
    spec = inference.model.spec
    spectrum = coloured(spec.conditioning, glitch.samples, curve(glitch.detector))
    near = around(noises[0](), gps)
    with_glitch = [real.added(window, seen(spec.conditioning, spectrum, window, gps, snr)) for window in near]
    posteriors = list(clusters.judged(inference, with_glitch))
    clusters.keep(KEPT, f"glitch {glitch.detector} {glitch.label} {glitch.number}", "glitch", glitch.label, posteriors)
    events = clusters.events(Summarizer(SummaryConfig(), inference.prior), posteriors)
    best = max(events, key=lambda one: (one.good, one.log_bayes), default=None)
    if best is None:
        return Outcome(glitch, snr, 0.0, good=False, reasons=("not behind the gate",), network=False)
    network = False
    if best.good:
        both = [*posteriors, *clusters.judged(inference, around(noises[1](), gps))]
        together = clusters.told(Summarizer(SummaryConfig(), inference.prior), both)[1]
        network = any(one.good for one in together)
    return Outcome(glitch, snr, best.snr, best.good, best.reasons, network)


def around(windows: list[Window], gps: float) -> list[Window]:
    """Those that may see what is at ``gps``."""
    return [one for one in windows if AROUND[0] < gps - one.gps_ns / NANO < AROUND[1]]


def outcomes(inference: Inference, data: Path, placements: int, seed: int) -> list[Outcome]:
    """Every placement of every glitch, noise of its own for each glitch."""
    found = []
    for number, glitch in enumerate(track(list(glitches(data / FILE)), description="glitches")):
        rng = np.random.default_rng([seed, number])
        detectors = glitch.detector, OTHER[glitch.detector]
        length = HISTORY + EVERY * placements
        here, there = (cache(partial(noise, inference, name, length, 1000 * seed + number)) for name in detectors)
        for place in range(placements):
            gps = GPS + HISTORY + EVERY * place + rng.uniform(0.5, 1.5)
            found.append(placed(inference, glitch, (here, there), gps, rng.uniform(*SNR)))
    return found


def row(label: str, these: list[Outcome]) -> list[str]:
    good = sum(one.good for one in these)
    low, high = intervals.fraction(good, len(these))
    behind = [one.seen for one in these if one.seen]
    why = Counter(reason for one in these for reason in one.reasons if not one.good)
    return [
        label,
        str(len(these)),
        str(len(behind)),
        f"{np.median(behind):.1f}" if behind else "",
        str(good),
        f"{good / len(these):.1%} ({low:.1%} to {high:.1%})",
        _network(these),
        ", ".join(f"{reason} {count}" for reason, count in why.most_common(4)),
    ]


def _network(these: list[Outcome]) -> str:
    both = sum(one.network for one in these)
    return f"{both} (below {intervals.fraction(both, len(these))[1]:.1%})"


def pooled(found: list[Outcome]) -> list[Outcome]:
    """Those the bar is for."""
    return [one for one in found if one.glitch.label not in RESEMBLING]


def report(found: list[Outcome]) -> str:
    head = (
        "class",
        "placements",
        "behind the gate",
        "median SNR there",
        "good",
        "90 % interval",
        "good with a second detector",
        "why not good",
    )
    labels = sorted({one.glitch.label for one in found})
    rows = [row(label, [one for one in found if one.glitch.label == label]) for label in labels]
    return common.table(head, [*rows, row("**all but Blip and Tomte**", pooled(found))])


def picture(found: list[Outcome], path: Path) -> None:
    """Good and not, by what the matched filter saw and what was put in."""
    labels = sorted({one.glitch.label for one in found})
    with drawings.panels(path, len(labels), (12.0, 3.0), sharey=True) as axes:
        for axis, label in zip(axes, labels, strict=True):
            for good, colour in ((False, "#b0b0b0"), (True, drawings.COLOURS[3])):
                these = [one for one in found if one.glitch.label == label and one.seen and one.good == good]
                axis.plot([one.snr for one in these], [one.seen for one in these], ".", color=colour)
            axis.set(title=label.replace("_", " "), xlabel="SNR put in", xlim=(7, 21), ylim=(5, 21))
        axes[0].set_ylabel("SNR of the best signal\n(red: a good event)")


def main() -> None:
    parser = real.arguments(__doc__)
    parser.add_argument("--placements", type=int, default=20, help="of each glitch (default: %(default)s)")
    args = parser.parse_args()
    real.needed(args.data)
    inference = Inference(load_model(args.model), InferenceConfig(model=args.model))
    run = sections.Run("glitches.py", inference.model.hash)
    KEPT.unlink(missing_ok=True)
    found = outcomes(inference, args.data, args.placements, args.seed)
    judged = pooled(found)
    share = sum(one.good for one in judged) / len(judged)
    folder = args.output or args.model
    picture(found, folder / "glitches.png")
    body = "\n\n".join(
        [
            f"{run}",
            f"**{'Passed' if share <= BAR else 'Failed'}**: of the placements of all classes but Blip and Tomte "
            f"{share:.1%} became a good event; allowed {BAR:.0%}, aimed at {AIM:.0%}. 30 glitches of O3a, each "
            f"{args.placements} times in Gaussian noise, coloured like it with the spectra O3_H1 and O3_L1 that ship "
            f"with gwstream, their whitened length in the model's stream uniform in {SNR[0]:g} to {SNR[1]:g}.",
            report(found),
            "![Glitches in noise](glitches.png)",
        ]
    )
    sections.put(folder / "real.md", TITLE, body)
    print(body)
    sys.exit(share > BAR)


if __name__ == "__main__":
    main()
