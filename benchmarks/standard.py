"""A whole posterior the standard way and ours, core-seconds against core-seconds: one detector, one signal.

The standard way: bilby's `GravitationalWaveTransient` with lalsimulation's IMRPhenomD, sampled by dynesty as bilby sets
it up, with 1000 live points. It is told the spectrum that the noise was made with. Ours: ``gwstream``'s conditioning of
the same strain, which measures the spectrum itself, the bank behind the new whitener, the network, and 2000 weighted
draws: all that a first posterior of a second takes. Both have the same prior over the same five parameters: sky,
inclination, polarisation and spins are fixed for bilby. Beside them dynesty samples our own likelihood of the same
window.

The problems differ in this: bilby sees 4 s from 20 Hz to ``--f-max``, ours one second up to 108 Hz, fading to 128 Hz;
the less bilby sees the cheaper it is, so the default is the band of ours. SNR and ln Bayes factor of each tell.

bilby has an environment of its own, which also sees ours:

    make bench-dynesty
    .venv-peers/bin/python benchmarks/standard.py --f-max 224 --case 2
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bilby
import common
import numpy as np
import sampler
import torch
from drawings import COLOURS, panels
from numpy.random import Generator
from threadpoolctl import threadpool_limits

from gwstream import spectra
from gwstream.conditioning import Conditioner
from gwstream.config import InferenceConfig
from gwstream.inference import Inference, load_model
from gwstream.inference.likelihood import Templates
from gwstream.injection import Injection
from gwstream.prior import Prior
from gwstream.records import NANO, Batch, Floats, Posterior, Strain, Trigger
from gwstream.waveforms import chirp_mass

DETECTOR, CURVE, RATE = "H1", "aLIGO_O4_high", 4096
GPS, SECONDS = 1_400_000_000, 84
MERGED = GPS + 80  # between two windows' last samples; the 16 s of history before it are never near the signal
LENGTH, AFTER, LOWEST = 4, 1.0, 20.0  # s that bilby sees, of them after the merger; Hz
CASES = ((36.0, 29.0, 12.0), (60.0, 45.0, 9.0), (28.0, 22.0, 20.0))  # masses in Msun, SNR from 18 to 128 Hz
NAMES = ("chirp mass", "mass ratio", "distance", "time", "phase")
FIXED = {"chi_1": 0.0, "chi_2": 0.0, "theta_jn": 0.0, "psi": 0.3, "ra": 1.0, "dec": 0.5}
ROUNDS = 21
CHECKPOINTS = common.OUTPUT / "dynesty"  # what a run that was stopped goes on from; removed at the end
FEWEST = 1000  # likelihoods of this process, from which the time of all of them is told


@dataclass(frozen=True, slots=True)
class Way:
    """One way to the posterior. ``draws`` (n, 5): chirp mass, ratio, effective distance, time in the window, phase."""

    name: str
    draws: Floats
    weights: Floats
    log_bayes: str
    seconds: float
    evaluations: str
    seen: str

    def row(self, ours: Way) -> list[object]:
        shift = (self.quantile(ours, 0.5) - ours.quantile(ours, 0.5)) / ours.deviation()
        width = (self.quantile(ours, 0.95) - self.quantile(ours, 0.05)) / (
            ours.quantile(ours, 0.95) - ours.quantile(ours, 0.05)
        )
        return [
            self.name,
            self.seen,
            self.log_bayes,
            self.evaluations,
            f"{self.seconds:.3g}",
            "1" if self is ours else f"{self.seconds / ours.seconds:,.0f}",
            ", ".join(f"{value:+.2f}" for value in shift),
            ", ".join(f"{value:.2f}" for value in width),
        ]

    def near(self, ours: Way) -> Floats:
        """The draws with phases of period pi within half a turn of our circular mean."""
        phase = ours.draws[:, 4]
        middle = 0.5 * np.angle(np.sum(ours.weights * np.exp(2j * phase)))
        out = self.draws.copy()
        out[:, 4] = middle + np.mod(out[:, 4] - middle + np.pi / 2, np.pi) - np.pi / 2
        return out

    def quantile(self, ours: Way, level: float) -> Floats:
        draws = self.near(ours)
        order = np.argsort(draws, axis=0)
        total = np.cumsum(self.weights[order], axis=0)
        at = (total < level * total[-1]).sum(axis=0)
        return np.asarray(np.take_along_axis(draws, order, axis=0)[at, np.arange(5)])

    def deviation(self) -> Floats:
        draws = self.near(self)
        mean = np.average(draws, axis=0, weights=self.weights)
        return np.sqrt(np.average((draws - mean) ** 2, axis=0, weights=self.weights))


def signal(case: int) -> Injection:
    mass_1, mass_2, snr = CASES[case]
    distance = common.optimal_snr(mass_1, mass_2, 1.0, CURVE) / snr
    return Injection(
        detector=DETECTOR,
        gps_ns=MERGED * NANO + 5_000_000,
        mass_1=mass_1,
        mass_2=mass_2,
        effective_distance=distance,
        phase=0.9,
    )


def made(injection: Injection, rng: Generator) -> Floats:
    """The strain, (SECONDS * RATE,): noise and the signal."""
    strain = common.noise(rng, CURVE, RATE, SECONDS)
    start, wave = injection.strain(RATE)
    offset = start - GPS * RATE
    strain[offset : offset + len(wave)] += wave
    return strain


def window_of(strain: Floats, inference: Inference, injection: Injection) -> tuple[Trigger, float]:
    """The window with the merger nearest to the middle of the prior's times; core-s a second of conditioning."""
    model = inference.model
    conditioner = Conditioner(model.spec, DETECTOR)
    windows = []
    spent = []
    for second in range(SECONDS):
        piece = strain[second * RATE : (second + 1) * RATE]
        record = Strain(detector=DETECTOR, start=(GPS + second) * RATE, rate=RATE, samples=piece, dq=3)
        begin = time.process_time()
        windows += conditioner.push(record)
        spent.append(time.process_time() - begin)
    chosen = min(windows, key=lambda one: abs(injection.gps_ns - one.gps_ns - model.spec.prior.middle * NANO))
    return inference.gate(Batch((chosen,), 1))[0], float(np.median(spent[20:]))


def ours(trigger: Trigger, inference: Inference, conditioning: float) -> Way:
    """Posterior of a window, timed: the bank behind its whitener, the gate, the proposal, draws, weights, tests of what
    is left over."""
    batch = Batch((trigger.window,), 1)
    found: list[Posterior] = []

    def whole() -> None:
        inference._live.clear()  # a whitener has a posterior or two, so its preparation is part of their cost
        found.append(inference.infer(inference.gate(batch)[0]))

    times = common.timed(whole, ROUNDS)
    one = found[-1]
    seconds = float(np.median(times)) / 1e3 + conditioning
    draws = np.column_stack([as_sampled(one.samples), one.samples[:, 2:]])
    return Way(
        f"gwstream, {one.engine}, ESS {one.ess:.0f}",
        draws,
        one.weights,
        f"{one.log_bayes:.2f} ± {one.log_bayes_error:.2f}",
        seconds,
        f"{one.rounds * len(one.samples)}",
        f"1 s, to 108 Hz, SNR {one.snr:.1f}",
    )


def as_sampled(samples: Floats) -> Floats:
    """Chirp mass and ratio (n, 2) of masses in the first two columns."""
    return np.column_stack([chirp_mass(samples[:, 0], samples[:, 1]), samples[:, 1] / samples[:, 0]])


class Counting(bilby.gw.likelihood.GravitationalWaveTransient):  # type: ignore[misc]
    """bilby's likelihood that knows how often it was asked."""

    calls = 0

    def log_likelihood_ratio(self, parameters: dict[str, float]) -> Any:
        self.calls += 1
        return super().log_likelihood_ratio(parameters)


class CountingOurs(sampler.WindowLikelihood):
    """Ours, likewise."""

    calls = 0

    def log_likelihood(self, parameters: dict[str, float]) -> float:
        self.calls += 1
        return super().log_likelihood(parameters)


class Standard:
    """bilby's likelihood and prior of this strain."""

    def __init__(self, strain: Floats, prior: Prior, trigger: Trigger, f_max: float) -> None:
        self.prior = prior
        self.window_start = trigger.window.gps_ns / NANO
        start = MERGED + AFTER - LENGTH
        piece = strain[round((start - GPS) * RATE) :][: LENGTH * RATE]
        ifo = bilby.gw.detector.get_empty_interferometer(DETECTOR)
        ifo.minimum_frequency, ifo.maximum_frequency = LOWEST, f_max
        f = np.linspace(0, RATE / 2, LENGTH * RATE // 2 + 1)
        ifo.power_spectral_density = bilby.gw.detector.PowerSpectralDensity(
            frequency_array=f, psd_array=spectra.asd(CURVE, np.maximum(f, 5.0)) ** 2
        )
        whole = bilby.gw.detector.strain_data.InterferometerStrainData(roll_off=0.2)
        whole.set_from_time_domain_strain(piece, sampling_frequency=RATE, duration=LENGTH, start_time=start)
        bins = round(f_max * LENGTH) + 1  # what is never looked at need not be computed: cheaper for bilby
        ifo.set_strain_data_from_frequency_domain_strain(
            whole.frequency_domain_strain[:bins], sampling_frequency=2 * f_max, duration=LENGTH, start_time=start
        )
        generator = bilby.gw.WaveformGenerator(
            duration=LENGTH,
            sampling_frequency=2 * f_max,
            start_time=start,
            frequency_domain_source_model=bilby.gw.source.lal_binary_black_hole,
            parameter_conversion=bilby.gw.conversion.convert_to_lal_binary_black_hole_parameters,
            waveform_arguments={
                "waveform_approximant": "IMRPhenomD",
                "reference_frequency": 70.0,
                "minimum_frequency": LOWEST,
                "maximum_frequency": f_max,
            },
        )
        self.likelihood = Counting(bilby.gw.detector.InterferometerList([ifo]), generator, time_reference=DETECTOR)
        self.ifo, self.generator = ifo, generator
        plus, cross = (
            ifo.antenna_response(FIXED["ra"], FIXED["dec"], MERGED, FIXED["psi"], m) for m in ("plus", "cross")
        )
        self.antenna = float(np.hypot(plus, cross))  # face on: luminosity distance = antenna * effective distance
        self.turn = self._turn(plus, cross)

    def _turn(self, plus: float, cross: float) -> tuple[float, float]:
        """(a, b) with our phase = a * bilby's + b: seen in two waveforms at 70 Hz, where ours are real at phase 0."""
        angles = []
        for phase in (0.0, 0.4):
            modes = self.generator.frequency_domain_strain(
                {**FIXED, "chirp_mass": 28.0, "mass_ratio": 0.8, "luminosity_distance": 1000.0, "phase": phase}
            )
            at = round(70 * LENGTH)
            angles.append(0.5 * float(np.angle(plus * modes["plus"][at] + cross * modes["cross"][at])))
        slope = np.mod(angles[1] - angles[0] + np.pi / 2, np.pi) - np.pi / 2
        return round(slope / 0.4), angles[0]

    def priors(self) -> Any:
        low, high = self.prior.chirp_mass
        begin, end = (self.window_start + edge for edge in self.prior.time)
        gw, core = bilby.gw.prior, bilby.core.prior
        near, far = (edge * 1000 * self.antenna for edge in self.prior.distance)
        return gw.BBHPriorDict(
            {
                "chirp_mass": gw.UniformInComponentsChirpMass(low, high, "chirp_mass"),
                "mass_ratio": gw.UniformInComponentsMassRatio(self.prior.min_ratio, 1.0, "mass_ratio"),
                "mass_1": gw.Constraint(*self.prior.mass, "mass_1"),
                "mass_2": gw.Constraint(*self.prior.mass, "mass_2"),
                "luminosity_distance": core.Uniform(near, far, "luminosity_distance"),
                f"{DETECTOR}_time": core.Uniform(begin, end, f"{DETECTOR}_time"),
                "phase": core.Uniform(0.0, 2 * np.pi, "phase", boundary="periodic"),
                **FIXED,
            }
        )

    def allowed(self, n: int = 1_000_000) -> float:
        """The part of the box that the component masses allow: what the sampler's evidence has too little."""
        drawn = self.priors()
        mc, q = drawn["chirp_mass"].sample(n), drawn["mass_ratio"].sample(n)
        mass_1 = mc * (1 + q) ** 0.2 / q**0.6
        return float(np.mean((mass_1 <= self.prior.mass[1]) & (mass_1 * q >= self.prior.mass[0])))

    def snr(self, draws: Floats) -> float:
        """Median optimal SNR of some posterior draws (bilby's parameters)."""
        return float(np.median([self._snr(row) for row in draws]))

    def _snr(self, row: Floats) -> float:
        modes = self.generator.frequency_domain_strain(
            {**FIXED, "chirp_mass": row[0], "mass_ratio": row[1], "luminosity_distance": row[2], "phase": 0.0}
        )
        seen = self.ifo.get_detector_response(modes, {**FIXED, "geocent_time": MERGED})
        return float(np.sqrt(np.abs(self.ifo.optimal_snr_squared(seen))))

    def way(self, result: Any, seconds: float, f_max: float) -> Way:
        raw = result.posterior[
            ["chirp_mass", "mass_ratio", "luminosity_distance", f"{DETECTOR}_time", "phase"]
        ].to_numpy()
        draws = raw.copy()
        draws[:, 2] /= 1000 * self.antenna
        draws[:, 3] -= self.window_start
        draws[:, 4] = self.turn[0] * draws[:, 4] + self.turn[1]
        log_bayes = result.log_bayes_factor - np.log(self.allowed())
        return Way(
            f"bilby {bilby.__version__}, lalsimulation, dynesty",
            draws,
            np.full(len(draws), 1 / len(draws)),
            f"{log_bayes:.2f} ± {result.log_evidence_err:.2f}",
            seconds,
            f"{result.num_likelihood_evaluations:,}",
            f"{LENGTH} s, {LOWEST:g} to {f_max:g} Hz, SNR {self.snr(raw[:: len(raw) // 100 + 1]):.1f}",
        )


def sampled(likelihood: Any, priors: Any, label: str, live: int) -> tuple[Any, float]:
    """bilby's result and its core-seconds; those of this process are carried over to what a checkpoint brought."""
    begin = time.process_time()
    result = bilby.run_sampler(
        likelihood,
        priors,
        sampler="dynesty",
        nlive=live,
        outdir=str(CHECKPOINTS),
        label=label,
        seed=1,
        resume=True,
        check_point_delta_t=300,
        check_point_plot=False,
        print_method="interval-60",
        save=False,
    )
    spent = time.process_time() - begin
    told = CHECKPOINTS / f"{label}.json"
    if likelihood.calls < FEWEST:  # it had ended before another part of the run was stopped
        if not told.exists():
            raise SystemExit(f"{CHECKPOINTS}: {label} was as good as done: remove it to measure anew")
        return result, float(json.loads(told.read_text(encoding="utf-8"))["core_s"])
    total = int(result.num_likelihood_evaluations)
    seconds = spent * max(total / likelihood.calls, 1.0)
    told.write_text(json.dumps({"core_s": seconds}) + "\n", encoding="utf-8")
    return result, seconds


def main() -> None:
    arguments = parser().parse_args()
    torch.set_num_threads(1)
    threadpool_limits(limits=1, user_api="blas")
    bilby.core.utils.logger.setLevel("WARNING")
    inference = Inference(load_model(common.MODEL), InferenceConfig())
    injection = signal(arguments.case)
    strain = made(injection, np.random.default_rng(arguments.case + 1))
    trigger, conditioning = window_of(strain, inference, injection)
    one = ours(trigger, inference, conditioning)
    print(common.machine("bilby", "dynesty", "lalsuite", "openvino"))
    mass_1, mass_2, snr = CASES[arguments.case]
    print(
        f"{mass_1:g} + {mass_2:g} Msun, SNR {snr:g}; {arguments.live} live points; core-s of one thread\n", flush=True
    )
    label = f"{arguments.case}-{arguments.f_max:g}-{arguments.live}"
    ways = [one, *others(arguments, strain, trigger, inference, label)]
    head = (
        "way",
        "sees",
        "ln Bayes factor",
        "likelihoods",
        "core-s",
        "times ours",
        *(f"{what}: {', '.join(NAMES)}" for what in ("median - ours, in sd", "90 % width / ours")),
    )
    print(common.table(head, [way.row(one) for way in ways]))
    draw(ways, common.picture(f"standard-{label}"))
    for path in (*CHECKPOINTS.glob(f"bilby-{label}*"), *CHECKPOINTS.glob(f"fast-{label}*")):
        path.unlink()


def others(
    arguments: argparse.Namespace, strain: Floats, trigger: Trigger, inference: Inference, label: str
) -> list[Way]:
    """dynesty with bilby's likelihood, and with ours."""
    standard = Standard(strain, inference.prior, trigger, arguments.f_max)
    out = []
    if not arguments.only_fast:
        result, seconds = sampled(standard.likelihood, standard.priors(), f"bilby-{label}", arguments.live)
        out.append(standard.way(result, seconds, arguments.f_max))
    templates = Templates(inference.model.spec.conditioning, inference.model.bank, trigger.window.whitener)
    fast = CountingOurs(trigger.window.samples, templates, inference.prior)
    result, seconds = sampled(fast, sampler.priors(inference.prior), f"fast-{label}", arguments.live)
    draws = result.posterior[list(sampler.NAMES)].to_numpy()
    log_bayes = result.log_evidence + sampler.volume(inference.prior)
    out.append(
        Way(
            "dynesty, gwstream's likelihood",
            draws,
            np.full(len(draws), 1 / len(draws)),
            f"{log_bayes:.2f} ± {result.log_evidence_err:.2f}",
            seconds,
            f"{result.num_likelihood_evaluations:,}",
            "as ours",
        )
    )
    return out


def draw(ways: list[Way], path: Path) -> None:
    """The five marginals of every way."""
    with panels(path, 5, (15, 3)) as axes:
        for column, axis in enumerate(axes):
            edges = np.linspace(ways[0].quantile(ways[0], 0.001)[column], ways[0].quantile(ways[0], 0.999)[column], 41)
            for way, colour in zip(ways, COLOURS, strict=False):
                values = way.near(ways[0])[:, column]
                axis.hist(
                    values, edges, weights=way.weights, density=True, histtype="step", color=colour, label=way.name
                )
            axis.set(xlabel=NAMES[column], yticks=[])
        axes[0].legend(fontsize=6)


def parser() -> argparse.ArgumentParser:
    out = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    out.add_argument("--live", type=int, default=1000, help="live points (default: %(default)s)")
    out.add_argument("--f-max", type=float, default=128.0, help="Hz that bilby sees up to (default: %(default)g)")
    out.add_argument("--case", type=int, choices=range(len(CASES)), default=0, help="which signal (default: 0)")
    out.add_argument("--only-fast", action="store_true", help="dynesty with our own likelihood alone")
    return out


if __name__ == "__main__":
    main()
