"""How far each hot path is from its floor: what its operations, bytes and calls would take at this machine's own rates.

First the machine: products in single and double precision, exponentials, memory, checksums, inflating, random numbers,
a call, a write that reaches the disk. Then each path: its floor by arithmetic with these rates, and what it takes.
Times are of one core: wall time (median and quartiles) and processor time (median). Paths are taken in turn.

    python benchmarks/floors.py
    python benchmarks/floors.py --rounds 50
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path

import common
import numpy as np
import torch
from drawings import bars
from engines import signals
from rates import RATE, Machine
from torch.utils.flop_counter import FlopCounterMode

from gwstream.conditioning import Conditioner, whitening
from gwstream.conditioning.psd import RunningPsd
from gwstream.conditioning.resample import Decimator
from gwstream.config import InferenceConfig, SummaryConfig
from gwstream.inference import Inference, load_model
from gwstream.inference.features import Live
from gwstream.inference.likelihood import Templates
from gwstream.inference.networks.base import Inputs
from gwstream.inference.networks.cvae import Cvae
from gwstream.inference.ridge import NEAR
from gwstream.inference.runners import example
from gwstream.inference.unweighted import generator
from gwstream.publish.rows import Row
from gwstream.publish.store import Limits, Store
from gwstream.records import Batch, Outgoing, Strain
from gwstream.source import gwf
from gwstream.source.writer import frame_bytes
from gwstream.summary import Summarizer, canonical
from gwstream.summary.message import part

DETECTOR, GPS = "H1", 1_400_000_000
HISTORY = 70  # s before what is timed
BATCH = 16


@dataclass
class Hot:
    """A hot path: ``floor`` in s, by the arithmetic that ``why`` spells out; ``work`` does it ``per`` times."""

    name: str
    why: str
    floor: float
    work: Callable[[], object]
    per: int = 1
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def take(self, *, counts: bool) -> None:
        wall, cpu = time.perf_counter(), time.process_time()
        self.work()
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        if counts:
            self.wall.append(1e3 * wall / self.per)
            self.cpu.append(1e3 * cpu / self.per)

    def row(self) -> list[object]:
        low, middle, high = np.percentile(self.wall, [25, 50, 75])
        floor = 1e3 * self.floor
        cpu = float(np.median(self.cpu))
        spread = f"{middle:.3g} ({low:.3g} to {high:.3g})"
        return [self.name, self.why, f"{floor:.3g}", spread, f"{cpu:.3g}", f"{middle / floor:.1f}"]


def fft(n: int) -> float:
    """Operations of a real Fourier transform."""
    return 2.5 * n * float(np.log2(n))


def of_strain(m: Machine) -> list[Hot]:
    """Frames and conditioning, per second of one detector's strain."""
    spec = common.spec()
    c = spec.conditioning
    noise = common.noise(np.random.default_rng(1), "Aplus", RATE, HISTORY + 400)
    second = noise[:RATE]
    frame = frame_bytes(DETECTOR, GPS, second, RATE)
    names = (f"{DETECTOR}:GDS-CALIB_STRAIN_CLEAN", f"{DETECTOR}:GDS-CALIB_STATE_VECTOR")
    decimator, psd = Decimator(c, RATE), RunningPsd(c)
    conditioner = Conditioner(spec, DETECTOR)
    at = 0

    def strain() -> Strain:
        nonlocal at
        at += 1
        samples = noise[(at - 1) * RATE : at * RATE]
        return Strain(detector=DETECTOR, start=(GPS + at) * RATE, rate=RATE, samples=samples, dq=3)

    for _ in range(HISTORY):
        conditioner.push(strain())
    stream = decimator.push(GPS * RATE, noise[: HISTORY * RATE])[1]
    for k in range(64):
        psd.add(k * c.update, stream[k * c.update : k * c.update + c.taps])
    found = psd.at(65 * c.update)
    assert found is not None
    spectrum, averages = found[:2]
    taps, piece = whitening.minimum_phase(c, spectrum, averages), stream[: c.window + c.taps - 1]
    filters = 2 * decimator.reach + 1
    place = (HISTORY + GPS) * RATE

    def decimate() -> None:
        nonlocal place
        decimator.push(place, second)
        place += RATE

    def update() -> None:
        psd.add(65 * c.update, stream[: c.taps])
        psd.segments = psd.segments[:63]
        told = psd.at(65 * c.update)
        assert told is not None
        whitening.minimum_phase(c, told[0], told[1])

    white = c.rate // c.hop
    fine = whitening.OVERSAMPLE * c.taps
    decimating = 2 * c.rate * filters / m.dgemm
    whitening_all = 2 * (c.rate + c.window) * c.taps / m.dgemm
    spectrum_and_filter = (fft(c.taps) + 4 * fft(fine)) / m.dgemm + 63 * len(spectrum) / m.sort
    return [
        Hot(
            "frame: check and parse",
            f"{len(frame)} bytes checksummed, {second.nbytes} inflated",
            len(frame) / m.checksum + second.nbytes / m.inflate,
            lambda: gwf.read(frame, gwf.check(frame), names),
        ),
        Hot(
            "decimation",
            f"2 x {c.rate} outputs x {filters} taps, fp64",
            decimating,
            decimate,
        ),
        Hot(
            "whitening, 16 windows",
            f"2 x {c.rate + c.window} samples x {c.taps} taps, fp64: each once a whitener",
            whitening_all,
            lambda: [np.convolve(piece, taps, mode="valid") for _ in range(white)],
        ),
        Hot(
            "PSD and filter",
            f"transforms of {c.taps} and 4 of {fine}, {len(spectrum)} medians of 63",
            spectrum_and_filter,
            update,
        ),
        Hot(
            "conditioning, whole second",
            "the three above",
            decimating + whitening_all + spectrum_and_filter,
            lambda: conditioner.push(strain()),
        ),
    ]


def gating(live: Live, window: int) -> tuple[float, str]:
    """Operations of the gate on one window, and how they come about."""
    long, columns = live.gate._series.shape
    room = long - window + 1
    return 2.0 * room * long * columns, f"2 x {room} moves x {long} x {columns} series"


def of_windows(m: Machine, inference: Inference, config: InferenceConfig) -> list[Hot]:
    """Gate and what is done once a whitener."""
    model = inference.model
    spec, bank = model.spec.conditioning, model.bank
    windows = [one.window for one in signals(model, inference)]
    whitener, first = windows[0].whitener, windows[0]
    live = inference._filters(whitener)
    batch = Batch(tuple([first] * BATCH), BATCH)
    triggers = inference.gate(batch)
    gate, gate_why = gating(live, spec.window)
    bins = live.templates.components.shape[-1]
    series = live.templates.components.shape[0] * live.templates.components.shape[1]
    squares = inference._nodes.squares
    norms = 2 * 12 * (squares.alike.numel() + 2 * squares.apart.numel())
    read = 4 * (squares.alike.numel() + squares.apart.numel())
    flop = _flop(inference, BATCH) / BATCH
    return [
        Hot(
            "preparation for a whitener",
            f"{series} transforms of {bins}; products of {norms / 1e6:.0f} MFLOP with {read / 1e6:.1f} MB read",
            series * fft(bins) / m.sgemm + max(norms / m.sgemm, read / m.memory),
            lambda: Live.of(Templates(spec, bank, whitener), inference._nodes, model.spec.prior).projector,
        ),
        Hot(
            "gate, per window of 16",
            gate_why,
            gate / m.sgemm,
            lambda: inference.gate(batch),
            BATCH,
        ),
        Hot(
            "unweighted posterior, per window of 16",
            f"network {flop / 1e6:.0f} MFLOP, {5 * config.latents} random numbers",
            flop / m.sgemm + 5 * config.latents / m.normals,
            lambda: inference.unweighted(triggers),
            BATCH,
        ),
    ]


def _flop(inference: Inference, windows: int) -> float:
    """Operations of the network's products."""
    return _counted(lambda: inference.model.net(*example(inference.model, inference._config.latents, windows)))


def _counted(work: Callable[[], object]) -> float:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        work()
    return float(counter.get_total_flops())


def of_posteriors(m: Machine, inference: Inference, config: InferenceConfig, store: Store) -> list[Hot]:
    """What a window behind the gate costs, from the network's input to the disk."""
    model = inference.model
    trigger = signals(model, inference)[0]
    window, n, latents = trigger.window, config.draws, config.latents
    proposed = inference.propose(window)
    live = inference._filters(window.whitener)
    samples = torch.from_numpy(window.samples).float()[None]
    rho, inputs = live.gate(samples), example(inference.model, inference._config.latents, 1)
    flop, drawn = _flop(inference, 1), proposed.proposal.draw(generator("x"), n)
    length, half = model.spec.window, inference._nodes.mix.shape[1]
    mixing = 2 * n * 4 * 2 * model.bank.size * length + 2 * 16 * n * 2 * model.bank.size
    seeing = 2 * 2 * NEAR * len(inference._nodes.mix) * half
    see, network, drawing = seeing / m.sgemm + 200 * m.call, flop / m.sgemm, 8 * n / m.normals
    density = 2 * 11 * n * latents / m.dgemm + n * latents / m.exponentials
    likelihood = mixing / m.sgemm + 12 * n * length / m.memory
    whole = gating(live, length)[0] / m.sgemm + see + network + drawing + density + likelihood
    posterior, summary = inference.infer(trigger), SummaryConfig()
    body = part(posterior, inference.prior, summary)
    text = canonical(body)
    told = Summarizer(summary, inference.prior).add(posterior)[0]
    numbers = 3 * length + 120
    rows = count()

    net = model.net
    assert isinstance(net, Cvae)
    weights = 4 * sum(one.numel() for part in (net.trunk, net.e1) for one in part.parameters())

    @torch.inference_mode()
    def encode() -> None:
        net.prior(net.embed(Inputs(*inputs[:2])))

    def publish() -> None:
        n = next(rows)
        outgoing = Outgoing(summary=replace(told, id=f"x-{n}"), arrived=0, marks=(), data_end_ns=0)
        store.write((Row(n=n, at=n, outgoing=outgoing, sequence=n),), (), n)

    return [
        Hot(
            "see, one window",
            f"{seeing / 1e6:.0f} MFLOP on the grid, 200 calls",
            see,
            lambda: inference._see(window, samples, live, rho),
        ),
        Hot(
            f"network, {latents} latents",
            f"{flop / 1e6:.0f} MFLOP",
            network,
            lambda: inference._runner.run(*inputs),
        ),
        Hot(
            "of it E1, by torch",
            f"{_counted(encode) / 1e6:.1f} MFLOP, {weights / 1e6:.1f} MB of weights read",
            _counted(encode) / m.sgemm + weights / m.memory,
            encode,
        ),
        Hot(
            f"{n} draws",
            f"{4 * n} normal, {4 * n} uniform numbers",
            drawing,
            lambda: proposed.proposal.draw(generator("x"), n),
        ),
        Hot(
            "their density",
            f"{n} x {latents}: 22 flop in fp64 and an exponential each",
            density,
            lambda: proposed.proposal.log_density(drawn),
        ),
        Hot(
            "their likelihood",
            f"{mixing / 1e6:.0f} MFLOP, {4 * n * length / 1e6:.1f} MB read in fp64",
            likelihood,
            lambda: proposed.log_target(drawn.copy()),
        ),
        Hot(
            "weighted posterior, whole",
            "gate, see, network, draws, density, likelihood: their floors' sum",
            whole,
            lambda: inference.infer(trigger),
        ),
        Hot(
            "summary",
            f"8 sorts of {n}, {numbers} numbers written",
            8 * n / m.sort + numbers / m.floats,
            lambda: Summarizer(summary, inference.prior).own(posterior),
        ),
        Hot("of it JSON", f"{numbers} numbers, {len(text)} bytes", numbers / m.floats, lambda: canonical(body)),
        Hot("publish: to the disk", "one write of 16 kB", m.write, publish),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30, help="a round takes each path once")
    args = parser.parse_args()
    config = InferenceConfig()
    inference = Inference(load_model(common.MODEL), config)  # sets the number of threads: one
    machine = Machine.measured()
    print(f"{common.machine()}, engine {inference.engine}\n{args.rounds} rounds\n")
    print(common.table(["this machine, one core", "rate"], machine.rows()), "\n")
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder), Limits(age=10**18, size=10**9, samples=10**8), 0)
        paths = of_strain(machine) + of_windows(machine, inference, config)
        paths += of_posteriors(machine, inference, config, store)
        for number in range(-1, args.rounds):  # the first, which pays for what is done once, does not count
            for path in paths:
                path.take(counts=number >= 0)
        store.close()
    head = ["path", "floor's arithmetic", "floor, ms", "wall, ms (quartiles)", "processor, ms", "wall / floor"]
    print(common.table(head, [path.row() for path in paths]))
    took = {"floor": [1e3 * path.floor for path in paths], "wall": [float(np.median(path.wall)) for path in paths]}
    bars(common.picture("floors"), [path.name for path in paths], took, "ms", log=True)


if __name__ == "__main__":
    main()
