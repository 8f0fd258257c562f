"""What a short PSD history costs: ln Bayes factors, matched-filter noise and coverage, by the number of averages.

Signals from the model's prior in simulated noise of a family of detectors. Each window is judged with the filter that
the chain makes of so many seconds of that noise, taken for Gaussian and for Student-t, and once more with the filter of
the true spectrum, which is what the others would have liked to know.

    python benchmarks/averages.py
"""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence

import common
import numpy as np
import torch
from drawings import COLOURS, panels

from gwstream.cli.base import add_engine
from gwstream.conditioning import whitening
from gwstream.conditioning.psd import RunningPsd
from gwstream.config import InferenceConfig
from gwstream.inference import Inference, load_model
from gwstream.inference.noise import noise_model
from gwstream.model import ConditioningSpec
from gwstream.records import Batch, Floats, Posterior, Window
from gwstream.summary.statistics import ranks
from gwstream.training.dataset import Member, Simulator, member, random_psd

HISTORIES = (12, 16, 24, 32, 64)
EACH = 10  # injections a whitener
SNR = (6.0, 30.0)  # of those whose Bayes factors are compared
NOISE_WINDOWS = 20  # an injection


@dataclasses.dataclass(frozen=True)
class Row:
    """One injection: optimal SNR behind the true filter; ln Bayes factors and ranks (5,) of Gaussian, Student-t, true.

    ``noise``: (n,) matched-filter outputs of pure noise behind the same estimated filter.
    """

    snr: float
    log_bayes: tuple[float, float, float]
    ranks: tuple[Floats, Floats, Floats]
    noise: Floats


def expected_periodogram(spec: ConditioningSpec, psd: Floats) -> Floats:
    """What the mean of endless segments makes of a true PSD at the 4-s bins: smoothed by the segments' window."""
    lags = np.fft.irfft(psd)
    window = RunningPsd(spec).window
    own = np.fft.irfft(np.abs(np.fft.rfft(window, 2 * spec.taps)) ** 2)
    tapered = np.zeros(spec.taps)
    reach = np.arange(-spec.taps + 1, spec.taps)
    np.add.at(tapered, reach % spec.taps, lags[reach] * own[reach] / own[0])
    return np.asarray(np.maximum(np.fft.rfft(tapered).real, psd.min()))


def true_filter(one: Member, spec: ConditioningSpec) -> Member:
    """The same detector with the filter of its true spectrum."""
    psd = expected_periodogram(spec, one.psd)
    endless = 10**9
    taps = whitening.minimum_phase(spec, psd, endless)
    whitener = dataclasses.replace(one.whitener, id=one.whitener.id + "-true", taps=taps, psd=psd)
    context = whitening.context(spec, psd, one.whitener.averages)
    return dataclasses.replace(
        one,
        whitener=whitener,
        context=torch.from_numpy(context).float(),
        transfer=torch.from_numpy(np.fft.rfft(taps, 2 * (len(one.psd) - 1))),
    )


class Trial:
    """The model served three ways, and one history's injections."""

    def __init__(self, seed: int, engine: str) -> None:
        self.model = load_model(common.MODEL)
        self.simulator = Simulator(self.model.spec, self.model.bank)
        normal = InferenceConfig(model=common.MODEL, engine=engine)
        self.normal = Inference(self.model, normal)
        self.student = Inference(self.model, normal.model_copy(update={"likelihood": "student"}))
        self.seed = seed

    def rows(self, seconds: int, injections: int) -> Iterator[Row]:
        """One `Row` an injection."""
        spec = self.model.spec
        rng = np.random.default_rng([self.seed, seconds])
        for index in range(injections):
            if index % EACH == 0:
                psd = random_psd(spec.conditioning, rng)
                one = member(spec, self.model.bank, psd, seconds, rng)
                true = true_filter(one, spec.conditioning)
            yield self._row(one, true, index, rng)

    def _row(self, one: Member, true: Member, index: int, rng: np.random.Generator) -> Row:
        x = self.normal.prior.draw(rng, 1)
        seed = int(rng.integers(2**62))
        windows = [self._window(which, x, seed, index) for which in (one, true)]
        runs = ((self.normal, windows[0]), (self.student, windows[0]), (self.normal, windows[1]))
        found = [_infer(by, window) for by, window in runs]
        quiet = self.simulator.windows(one, None, NOISE_WINDOWS, torch.Generator().manual_seed(seed + 1))
        template = self.normal.propose(windows[0]).templates.waveforms(x)[0].astype(np.float64)
        known = self.normal.propose(windows[1]).templates.waveforms(x)[0]
        place = (ranks(p.samples, p.weights, x[0], rng) for p in found)
        return Row(
            snr=float(np.linalg.norm(known)),
            log_bayes=(found[0].log_bayes, found[1].log_bayes, found[2].log_bayes),
            ranks=(next(place), next(place), next(place)),
            noise=quiet.double().numpy() @ template / np.linalg.norm(template),
        )

    def _window(self, one: Member, x: Floats, seed: int, index: int) -> Window:
        """The same noise and signal behind the filter of ``one``."""
        samples = self.simulator.windows(one, x, 1, torch.Generator().manual_seed(seed))[0]
        return self.simulator.window(one, samples.double().numpy(), index)


def _infer(by: Inference, window: Window) -> Posterior:
    return by.infer(by.gate(Batch((window,), 1))[0])


def figures(seconds: int, rows: Sequence[Row]) -> list[tuple[object, ...]]:
    """Lines of the table: Gaussian, Student-t, and the true filter."""
    heard = [row for row in rows if SNR[0] <= row.snr <= SNR[1]]
    noise = np.concatenate([row.noise for row in rows])
    averages = seconds - 1
    freedom = f"{noise_model('student', averages).freedom:.0f}"
    lines: list[tuple[object, ...]] = []
    for k, (name, dof) in enumerate((("Gaussian", ""), ("Student-t", freedom), ("true spectrum", ""))):
        bias = np.array([row.log_bayes[k] - row.log_bayes[2] for row in heard])
        inside = np.array([np.abs(row.ranks[k] - 0.5) < 0.45 for row in rows])
        error = math.sqrt(0.09 / len(rows))
        lines.append(
            (
                f"{seconds} s, {averages}" if k == 0 else "",
                name,
                dof,
                f"{bias.mean():+.2f} ± {bias.std() / math.sqrt(len(bias)):.2f}" if k < 2 else "",
                f"{bias.std():.2f}" if k < 2 else "",
                f"{noise.std():.3f}" if k == 0 else "",
                f"{100 * inside.mean():.1f}",
                f"{100 * inside.mean(0).min():.1f} ± {100 * error:.1f}",
            )
        )
    return lines


def draw(rows: Mapping[int, Sequence[Row]]) -> None:
    """What each history costs in ln Bayes factors, in the mean."""
    with panels(common.picture("averages"), 1, (4.8, 3.6)) as (axis,):
        for k, name in enumerate(("Gaussian", "Student-t")):
            bias = [
                np.mean([one.log_bayes[k] - one.log_bayes[2] for one in some if SNR[0] <= one.snr <= SNR[1]])
                for some in rows.values()
            ]
            axis.plot(list(rows), bias, "o-", color=COLOURS[k], label=name)
        axis.set(xlabel="history, s", ylabel="ln B - ln B with the true spectrum")
        axis.legend()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--injections", type=int, default=300, help="a history (default: %(default)s)")
    parser.add_argument("--histories", type=int, nargs="+", default=HISTORIES, metavar="S", help="seconds")
    parser.add_argument("--seed", type=int, default=1, help="(default: %(default)s)")
    add_engine(parser)
    args = parser.parse_args()
    trial = Trial(args.seed, args.engine)
    head = ("history, averages", "noise", "degrees of freedom", "ln B - ln B known", "its sd", "filtered noise sd")
    lines: list[tuple[object, ...]] = []
    rows: dict[int, list[Row]] = {}
    for seconds in args.histories:
        rows[seconds] = list(trial.rows(seconds, args.injections))
        lines += figures(seconds, rows[seconds])
    print(f"{common.machine()}, engine {trial.normal.engine}")
    print(
        f"\n{args.injections} injections a history; Bayes factors of SNR {SNR[0]:g} to {SNR[1]:g}, all for coverage\n"
    )
    print(common.table((*head, "within 90 %, mean", "least of five"), lines))
    draw(rows)


if __name__ == "__main__":
    main()
