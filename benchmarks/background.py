"""Real noise through the daemon's stages: what it takes for signals, the loud glitches, and the spectrum after them.

Every stretch of the data, with the history a daemon has that starts with it. Events within 2 s of the candidate a
folder is named after are that candidate's; all others are false, and none is to be good. Then signals of SNR 9 and more
are added to the same noise: 19 of 20 are to be told as good.

    python benchmarks/background.py

Ends with status 1 where a false event is good, fewer signals are kept, or a glitch moves the range by over a tenth.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import clusters
import common
import drawings
import intervals
import kept
import numpy as np
import sections
import slides
import strain as real
from rich.progress import track

from gwstream.conditioning import Conditioner, whitening
from gwstream.config import InferenceConfig, SummaryConfig
from gwstream.inference import Inference, load_model
from gwstream.model import ModelSpec
from gwstream.prior import Prior
from gwstream.records import NANO, Gap, Posterior, Strain, Whitener, Window
from gwstream.summary import Summarizer

TITLE = "Events from real noise"
PICTURE = "![Events from real strain](background.png)"
KEPT = Path("runs") / "quality-background.jsonl"
NEAR = 0.5  # s around an event within which posteriors are taken for its own
EVERY = 9.0  # s between signals
BEFORE_AFTER = 1.0  # s around a glitch's stated times that are left out for comparison
RANGE_MOVED = 0.1  # largest part by which a glitch may move the range of the filters after it


@dataclass(frozen=True, slots=True)
class Told:
    """An event and where it is from: ``kind`` is candidate, loud glitch or noise."""

    stretch: real.Stretch
    event: clusters.Event
    kind: str


def kind(stretch: real.Stretch, gps: float) -> str:
    if stretch.candidate is not None and abs(gps - stretch.candidate) < real.CUT:
        return "candidate"
    for detector, low, high in real.GLITCHES:
        if detector == stretch.detector and low - real.MARGIN < gps < high + real.MARGIN:
            return "loud glitch"
    return "noise"


def live(stretch: real.Stretch, spec: ModelSpec, window: Window) -> bool:
    """Whether a good event could come of the window, and would be false: the time that counts."""
    begin = window.gps_ns / NANO + spec.prior.time[0]
    held = window.whitener.history >= SummaryConfig().short_history
    return held and kind(stretch, begin) != "candidate"


def false_ones(told: list[Told]) -> list[Told]:
    return [one for one in told if one.event.good and one.kind != "candidate"]


@dataclass(frozen=True, slots=True)
class After:
    """The filters after a glitch beside those of the same strain without it, the glitch being a gap.

    ``ratio``: of ranges, farthest from 1; ``spread``: largest abs ln ratio of the spectra in eight bands.
    """

    detector: str
    gps: float
    filters: int
    ratio: float
    spread: float


def after_glitch(spec: ModelSpec, stretch: real.Stretch, low: float, high: float) -> After | None:
    """None where too little strain is left to make a spectrum without the glitch."""
    edges = low - BEFORE_AFTER, high + BEFORE_AFTER
    with_it = dict(_whiteners(spec, stretch.strain, None))
    without = dict(_whiteners(spec, stretch.strain, edges))
    both = [end for end in with_it if end in without and end / spec.rate > edges[1]]
    if not both:
        return None
    bands = whitening.bands(spec.conditioning, whitening.DRIFT_BANDS)
    ratios = [with_it[end].range_mpc / without[end].range_mpc for end in both]
    spread = max(float(np.abs(bands @ np.log(with_it[end].psd / without[end].psd)).max()) for end in both)
    return After(stretch.detector, low, len(both), max(ratios, key=lambda r: abs(np.log(r))), spread)


def _whiteners(spec: ModelSpec, strain: Strain, gap: tuple[float, float] | None) -> Iterator[tuple[int, Whitener]]:
    """Filters by the count at which they stand."""
    conditioner = Conditioner(spec, strain.detector)
    for second in real.seconds(strain):
        begin = second.start / second.rate
        if gap and begin + 1 > gap[0] and begin < gap[1]:
            length = len(second.samples)
            record = Gap(detector=strain.detector, start=second.start, rate=second.rate, length=length, reason="glitch")
            conditioner.push(record)
        else:
            conditioner.push(replace(second))
        if conditioner.whitener is not None:
            yield conditioner.whitener.end, conditioner.whitener


def tables(told: list[Told], after: list[After]) -> str:
    rows = [
        (
            one.stretch.name,
            f"{one.event.gps:.2f}",
            one.kind,
            f"{one.event.snr:.1f}",
            f"{one.event.log_bayes:.1f}",
            " + ".join(f"{mass:.0f}" for mass in one.event.masses),
            "**good**" if one.event.good else ", ".join(one.event.reasons),
        )
        for one in told
    ]
    head = ("stretch", "GPS", "what it is", "SNR", "ln Bayes factor", "masses", "verdict")
    glitches = [(one.detector, f"{one.gps:.2f}", one.filters, f"{one.ratio:.3f}", f"{one.spread:.2f}") for one in after]
    second = common.table(
        ("glitch in", "GPS", "filters after it", "range, with / without", "largest ln ratio"), glitches
    )
    return f"{common.table(head, rows)}\n\n{second}"


def picture(told: list[Told], path: Path) -> None:
    """Every event by SNR and ln Bayes factor."""
    with drawings.panels(path, 1, (7.0, 4.0)) as (axis,):
        for colour, what in zip(drawings.COLOURS, ("candidate", "loud glitch", "noise"), strict=False):
            for good, fill in ((True, colour), (False, "none")):
                these = [one.event for one in told if one.kind == what and one.event.good == good]
                label = f"{what}, {'good' if good else 'suspect'}: {len(these)}"
                style = {"mfc": fill, "mec": colour, "label": label}
                axis.loglog([one.snr for one in these], [max(one.log_bayes, 1.0) for one in these], "o", **style)
        axis.set(xlabel="SNR", ylabel="ln Bayes factor")
        axis.legend(frameon=False, fontsize=8)


@dataclass(slots=True)
class Seen:
    """All that came of the stretches; ``seconds``: of one detector, from which false good events could have come."""

    told: list[Told] = field(default_factory=list)
    tried: list[kept.Kept] = field(default_factory=list)
    judged: list[slides.Judged] = field(default_factory=list)
    seconds: float = 0.0


def look(inference: Inference, found: list[real.Stretch], seed: int) -> Seen:
    """Every stretch through the daemon's stages, and signals in its noise."""
    spec = inference.model.spec
    seen = Seen()
    for stretch in track(found, description="stretches"):
        windows = list(real.windows(spec, stretch.strain))
        seen.seconds += sum(live(stretch, spec, window) for window in windows) * spec.hop / spec.rate
        posteriors = list(clusters.judged(inference, windows))
        events = clusters.events(Summarizer(SummaryConfig(), inference.prior), posteriors)
        seen.told += [Told(stretch, event, kind(stretch, event.gps)) for event in events]
        tried = _tried(inference, stretch, windows, seed)
        seen.tried += tried
        seen.judged.append(_noise_of(stretch, spec, windows, posteriors))
        _keep(stretch, events, posteriors, tried)
    return seen


def alone(seen: Seen) -> tuple[str, bool]:
    """What single detectors said, and whether none of it was a false good event."""
    false = false_ones(seen.told)
    loud = [one for one in false if one.kind == "loud glitch"]
    text = (
        f"Single detectors: {len(false)} false good events, {len(loud)} of them at the four loud glitches, in "
        f"{seen.seconds:.0f} s of detector time with a history of {SummaryConfig().short_history:g} s or more; with "
        f"95 % confidence fewer than {intervals.rate_limit(len(false), seen.seconds / 3600):.1f} an hour and detector."
    )
    return text, not false


def together(seen: Seen, prior: Prior) -> tuple[str, bool]:
    """What pairs of detectors said, as they were and slid, and whether none of it was a false good event."""
    pairs = list(slides.pairs(seen.judged))
    events = [event for a, b in pairs for event in slides.network(prior, [*a.posteriors, *b.posteriors])]
    chance = sum((slides.chance(prior, *pair) for pair in pairs), slides.Chance())
    good = sum(event.good for event in events)
    hours = chance.seconds / 3600
    text = (
        f"Two detectors: {len(events)} network events outside the candidates, {good} of them good; slid against each "
        f"other by 2 to 30 s, {chance.told} in {hours:.1f} hours, {chance.good} good: with 95 % confidence fewer than "
        f"{intervals.rate_limit(chance.good, hours):.2f} an hour."
    )
    return text, not good and not chance.good


def spectra(spec: ModelSpec, found: list[real.Stretch]) -> tuple[list[After], str, bool]:
    """The filters after each loud glitch, in words, and whether they are as without it."""
    after = [
        one
        for stretch in found
        for detector, low, high in real.GLITCHES
        if detector == stretch.detector
        and 0 < low - stretch.strain.gps_ns / NANO < stretch.seconds
        and (one := after_glitch(spec, stretch, low, high))
    ]
    moved = max(abs(one.ratio - 1) for one in after)
    text = (
        f"Beside the same strain with a gap for the glitch, filters made after a loud glitch change the range by "
        f"{moved:.1%} at most; allowed {RANGE_MOVED:.0%}."
    )
    return after, text, moved <= RANGE_MOVED


def main() -> None:
    parser = real.arguments(__doc__)
    args = parser.parse_args()
    real.needed(args.data)
    inference = Inference(load_model(args.model), InferenceConfig(model=args.model))
    run = sections.Run("background.py", inference.model.hash)
    KEPT.unlink(missing_ok=True)
    found = real.stretches(args.data)
    seen = look(inference, found, args.seed)
    single, no_single = alone(seen)
    double, no_double = together(seen, inference.prior)
    after, glitches, clean = spectra(inference.model.spec, found)
    passed = no_single and no_double and clean and kept.enough(seen.tried)
    verdict = f"**{'Passed' if passed else 'Failed'}**. {single} {kept.sentence(seen.tried)}"
    body = "\n\n".join([f"{run}", verdict, double, glitches, tables(seen.told, after), PICTURE])
    folder = args.output or args.model
    picture(seen.told, folder / "background.png")
    sections.put(folder / "real.md", TITLE, body)
    print(body)
    sys.exit(not passed)


def _noise_of(
    stretch: real.Stretch, spec: ModelSpec, windows: list[Window], posteriors: list[Posterior]
) -> slides.Judged:
    """The stretch without its candidate, for coincidences."""
    kept_ones = [
        one for one in posteriors if stretch.candidate is None or not slides.near(one, stretch.candidate, real.CUT)
    ]
    able = [window.gps_ns / NANO for window in windows if live(stretch, spec, window)] or [0.0]
    return slides.Judged(stretch.folder, stretch.detector, tuple(kept_ones), able[0], able[-1])


def _keep(
    stretch: real.Stretch, events: list[clusters.Event], posteriors: list[Posterior], tried: list[kept.Kept]
) -> None:
    """For the choice of thresholds; a group is a folder."""
    for one in events:
        near = [p for p in posteriors if abs(p.window.gps_ns / NANO + p.trigger.time - one.gps) < NEAR]
        clusters.keep(KEPT, stretch.folder, kind(stretch, one.gps), stretch.name, near)
    for signal in tried:
        clusters.keep(KEPT, stretch.folder, "signal", stretch.name, signal.posteriors)


def _tried(inference: Inference, stretch: real.Stretch, windows: list[Window], seed: int) -> list[kept.Kept]:
    """Signals in the quiet part of a stretch that has the history."""
    spec = inference.model.spec
    quiet = [one for one in windows if live(stretch, spec, one) and real.quiet(stretch, spec, one)]
    tried, last = [], -np.inf
    for window in quiet:
        gps = window.gps_ns / NANO + spec.prior.middle
        if gps >= last + EVERY:
            last = gps
            tried.append(kept.try_one(inference, quiet, gps, np.random.default_rng([seed, window.start])))
    return tried


if __name__ == "__main__":
    main()
