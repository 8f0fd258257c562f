"""How soon live calibration finds a fault: known signals until its alarm, for faults of several kinds.

Each row judges windows of white noise, as the likelihood assumes it, with signals from the prior, by the served model,
until the alarm goes up or the signals are used up. The threshold is that of one detector at the default interval.

    python benchmarks/calibration.py --signals 1500
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace

import common
import numpy as np
from drawings import bars

from gwstream.calibration.ledger import Ledger, Report
from gwstream.calibration.score import score
from gwstream.calibration.shadow import Plan, Planned
from gwstream.cli.base import add_engine
from gwstream.conditioning import Conditioner
from gwstream.config import CalibrationConfig, InferenceConfig, SummaryConfig
from gwstream.inference import Inference, load_model
from gwstream.records import Batch, Strain, Window
from gwstream.source.noise import Noise
from gwstream.summary import Summarizer

RATE = 4096
START = 1_400_000_000
SETTINGS = CalibrationConfig()
FAULTS: dict[str, tuple[float, float, float]] = {  # deviation of the noise, amplitude of the signal, s it comes late
    "none": (1.0, 1.0, 0.0),
    "noise 5 % louder than its spectrum": (1.05, 1.0, 0.0),
    "noise 10 % louder": (1.10, 1.0, 0.0),
    "noise 20 % louder": (1.20, 1.0, 0.0),
    "strain 10 % too small": (1.0, 0.9, 0.0),
    "clock 1 ms late": (1.0, 1.0, 1e-3),
}


def window() -> Window:
    """One behind a whitener of full history."""
    conditioner = Conditioner(common.spec(), "H1")
    noise = Noise("aLIGO_O4_high", RATE, 1, "H1")
    found: list[Window] = []
    for second in range(START, START + 67):
        samples = noise.samples(second * RATE, RATE)
        found = conditioner.push(Strain(detector="H1", start=second * RATE, rate=RATE, samples=samples))
    return replace(found[-1], dq=3)


def judged(fault: str, signals: int, inference: Inference, base: Window) -> Iterator[Report]:
    """What is known after each of the signals."""
    deviation, amplitude, late = FAULTS[fault]
    plan = Plan(common.spec(), inference.prior, SETTINGS.interval)
    summarizer = Summarizer(SummaryConfig(), inference.prior)
    ledger = Ledger.new("H1", SETTINGS.last, SETTINGS.false_alarm_days * 86400 / SETTINGS.interval)
    for number in range(signals):
        rng = np.random.default_rng([number, 7])
        noise = deviation * rng.standard_normal(len(base.samples))
        quiet = replace(base, start=base.start + number * base.rate, samples=noise / amplitude)
        truth = inference.prior.draw(rng, 1)[0]
        loud, snr = plan.inject(Planned(quiet, RATE, truth + np.array([0, 0, 0, late, 0]), rng))
        posterior = inference.infer(inference.gate(Batch((replace(loud, samples=amplitude * loud.samples),), 1))[0], 1)
        ledger.add(score(posterior, summarizer.add(posterior)[0], truth, snr, rng))
        yield ledger.report()


def last(fault: str, signals: int, inference: Inference, base: Window) -> Report:
    """What is known when the alarm goes up, or at the end."""
    report = None
    for report in judged(fault, signals, inference, base):
        if report.alarm:
            break
    assert report is not None
    return report


def row(fault: str, report: Report) -> list[str]:
    """The cells of the table."""
    hours = f"{report.total * SETTINGS.interval / 3600:.1f} h, {report.alarm_about}" if report.alarm else "-"
    return [
        fault,
        f"{report.total}" if report.alarm else f"none in {report.total}",
        hours,
        f"{report.coverage_50:.3f} ± {report.coverage_50_error:.3f}",
        f"{report.coverage_90:.3f} ± {report.coverage_90_error:.3f} of {report.injections}",
        f"{min(report.p.values()):.2g}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--signals", type=int, default=1500, help="a row at most (default: %(default)s)")
    parser.add_argument("--fault", choices=list(FAULTS), action="append", help="only these rows")
    add_engine(parser)
    options = parser.parse_args()
    model = load_model(common.MODEL)
    inference = Inference(model, InferenceConfig(model=common.MODEL, engine=options.engine))
    base = window()
    print(f"{common.machine()}; model {model.name} {model.hash[:12]}, engine {inference.engine}\n")
    head = ["fault", "signals until the alarm", f"at one in {SETTINGS.interval:g} s", "50 %", "90 %", "least p"]
    found = {fault: last(fault, options.signals, inference, base) for fault in options.fault or FAULTS}
    print(common.table(head, [row(fault, report) for fault, report in found.items()]))
    labels = [fault if report.alarm else f"{fault}: no alarm" for fault, report in found.items()]
    until = {"": [report.total for report in found.values()]}
    bars(common.picture("calibration"), labels, until, "known signals until the alarm", log=True)


if __name__ == "__main__":
    main()
