"""False `good` events in a day of Gaussian noise, one detector, events as the daemon makes them.

Noise with the spectrum of H1 in O3 goes through the daemon's conditioning at 1024 Hz, every window through the gate.
To save time windows are first looked at through the gate of a filter up to 16 s old; the few that come within 1 of the
threshold are then judged as served. Posteriors are made behind the gate alone. Then signals of SNR 9 and more are added
to the same noise: 19 of 20 are to be told as good.

    python benchmarks/alarms.py --hours 24

Hours that are done are kept in runs/, and not done again. Ends with status 1 above one false good event an hour, or
where fewer signals are kept.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import clusters
import common
import intervals
import kept
import numpy as np
import sections
import strain as real
import torch
from rich.progress import track

from gwstream.conditioning import Conditioner
from gwstream.config import InferenceConfig, SummaryConfig
from gwstream.inference import Inference, load_model
from gwstream.inference.gate import MatchedFilter
from gwstream.inference.likelihood import Templates
from gwstream.records import Strain, Window
from gwstream.source.noise import Noise
from gwstream.summary import Summarizer

TITLE = "False events in Gaussian noise"
RATE = 1024
CURVE, DETECTOR = "O3_H1", "H1"
START = 1_000_000_000  # GPS s
HOUR = 3600
LEAD = 66  # s before an hour, for its history
LOOK = 16  # s of windows looked at through one filter
NEAR = 1.0  # SNR below the threshold from which a window is judged as served
ALLOWED = 1.0  # an hour
PLACES = (2, 5, 8, 11)  # s into a piece from which signals are placed


def windows(inference: Inference, begin: int, seconds: int, seed: int) -> Iterator[list[Window]]:
    """Windows with a full history of ``seconds`` of noise, in pieces of `LOOK` s."""
    noise = Noise(CURVE, RATE, seed, DETECTOR)
    conditioner = Conditioner(inference.model.spec, DETECTOR)
    piece: list[Window] = []
    for second in range(begin - LEAD, begin + seconds):
        samples = noise.samples(second * RATE, RATE)
        record = Strain(detector=DETECTOR, start=second * RATE, rate=RATE, samples=samples, dq=real.GOOD)
        found = conditioner.push(record)
        if second >= begin:
            piece += found
        if second >= begin and (second - begin) % LOOK == LOOK - 1:
            yield piece
            piece = []
    yield piece


def worth_judging(inference: Inference, piece: list[Window], threshold: float) -> list[Window]:
    """Those windows that come near the threshold through the first one's filter."""
    if not piece:
        return []
    spec = inference.model.spec
    look = MatchedFilter(Templates(spec.conditioning, inference.model.bank, piece[0].whitener), spec.prior.time)
    rho = look(torch.from_numpy(np.stack([window.samples for window in piece])).float())
    loudest = (rho[:, 0].square() + rho[:, 1].square()).flatten(1).amax(1).sqrt().numpy()
    return [window for window, snr in zip(piece, loudest, strict=True) if snr >= threshold - NEAR]


def hour(inference: Inference, number: int, seed: int) -> dict:
    """Events in one hour of noise, and how many windows it had."""
    summarizer = Summarizer(SummaryConfig(), inference.prior)
    threshold = InferenceConfig().gate_snr
    count = judged = 0
    posteriors = []
    for piece in windows(inference, START + number * HOUR, HOUR, seed):
        near = worth_judging(inference, piece, threshold)
        count += len(piece)
        judged += len(near)
        posteriors += list(clusters.judged(inference, near))
    events = [asdict(one) for one in clusters.events(summarizer, posteriors)]
    known = {"hour": number, "model": inference.model.hash, "windows": count, "judged": judged}
    return known | {"posteriors": len(posteriors), "events": events}


def gate(inference: Inference) -> str:
    """Digest of what decides which windows pass."""
    model, threshold = inference.model, InferenceConfig().gate_snr
    said = f"{model.conditioning_hash} {model.spec.prior.time} {threshold}".encode()
    return hashlib.sha256(model.bank.gate.tobytes() + said).hexdigest()[:8]


def hours(inference: Inference, wanted: int, seed: int) -> list[dict]:
    """All of them, those of an earlier run from its file: of any network where none was asked, the gate being equal."""
    path = Path("runs") / f"alarms-{gate(inference)}-{seed}.jsonl"
    path.parent.mkdir(exist_ok=True)
    kept_rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    done = [one for one in kept_rows if not one["posteriors"] or one["model"] == inference.model.hash]
    have = {one["hour"] for one in done}
    with path.open("a", encoding="utf-8") as file:
        for number in track(range(wanted), description="hours"):
            if number not in have:
                done.append(hour(inference, number, seed))
                file.write(json.dumps(done[-1]) + "\n")
                file.flush()
    return [one for one in done if one["hour"] < wanted]


def signals(inference: Inference, count: int, seed: int) -> list[kept.Kept]:
    """Signals in noise that was not used for the hours, four in a piece of it."""
    rng = np.random.default_rng([seed, 2])
    pieces = -(-count // len(PLACES))
    tried: list[kept.Kept] = []
    for piece in track(
        windows(inference, START - (pieces + 1) * LOOK, pieces * LOOK, seed), description="signals", total=pieces
    ):
        places = [piece[0].start / piece[0].rate + place + rng.random() for place in PLACES] if piece else []
        tried += [kept.try_one(inference, piece, gps, rng) for gps in places[: count - len(tried)]]
    return tried


def report(done: list[dict], tried: list[kept.Kept]) -> tuple[str, bool]:
    count = len(done)
    events = [event for one in done for event in one["events"]]
    good = sum(event["good"] for event in events)
    passed = good <= ALLOWED * count and kept.enough(tried)
    limit = intervals.rate_limit(good, count)
    text = (
        f"**{'Passed' if passed else 'Failed'}**: {good} false good events in {count} hours of one detector, "
        f"{sum(one['windows'] for one in done)} windows; allowed {ALLOWED:g} an hour. With 95 % confidence fewer than "
        f"{limit:.3f} an hour, {24 * limit:.1f} a day. Behind the gate were {sum(one['posteriors'] for one in done)} "
        f"windows, which made {len(events)} events. {kept.sentence(tried)}"
    )
    rows = [
        (
            f"{event['gps']:.2f}",
            f"{event['snr']:.1f}",
            f"{event['log_bayes']:.1f}",
            " + ".join(f"{mass:.0f}" for mass in event["masses"]),
            "**good**" if event["good"] else ", ".join(event["reasons"]),
        )
        for event in events
    ]
    head = ("GPS", "SNR", "ln Bayes factor", "masses", "verdict")
    return f"{text}\n\n{common.table(head, rows)}" if rows else text, passed


def main() -> None:
    parser = real.arguments(__doc__)
    parser.add_argument("--hours", type=int, default=24, help="of noise (default: %(default)s)")
    parser.add_argument("--signals", type=int, default=300, help="(default: %(default)s)")
    args = parser.parse_args()
    inference = Inference(load_model(args.model), InferenceConfig(model=args.model))
    run = sections.Run("alarms.py", inference.model.hash)
    done = hours(inference, args.hours, args.seed)
    text, passed = report(done, signals(inference, args.signals, args.seed))
    sections.put((args.output or args.model) / "real.md", TITLE, f"{run}\n\n{text}")
    print(text)
    sys.exit(not passed)


if __name__ == "__main__":
    main()
