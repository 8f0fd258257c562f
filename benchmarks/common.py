"""What the benchmarks share: signals of known SNR, coloured noise, the machine's name, and tables."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
from numpy.random import Generator

from gwstream import waveforms
from gwstream.injection import Injection
from gwstream.model import ModelSpec, read_spec
from gwstream.records import Floats
from gwstream.spectra import asd

MODEL = Path(__file__).resolve().parent.parent / "models" / "bbh-1det"
OUTPUT = Path(__file__).resolve().parent.parent / "build" / "bench"  # of figures and logs


def spec() -> ModelSpec:
    return read_spec(MODEL / "model.toml")


def machine(*others: str) -> str:
    """Processor, cores, Python and the versions that matter; ``others``: further packages, where installed."""
    cpu = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            cpu = line.partition(":")[2].strip()
            break
    names = ("gwstream", "torch", "numpy", "aiomqtt", "gwframe")
    versions = ", ".join(f"{name} {version(name)}" for name in (*names, *filter(_installed, others)))
    return f"{cpu}, {os.cpu_count()} cores, Linux {platform.release()}, Python {platform.python_version()}, {versions}"


def _installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


def picture(name: str) -> Path:
    """Where the figure ``name``.png goes."""
    OUTPUT.mkdir(parents=True, exist_ok=True)
    return OUTPUT / f"{name}.png"


def timed(work: Callable[[], object], rounds: int) -> list[float]:
    """Processor time of each of ``rounds`` calls, in ms, all threads together; one more goes before, uncounted."""
    work()
    times = []
    for _ in range(rounds):
        begin = time.process_time()
        work()
        times.append(1e3 * (time.process_time() - begin))
    return times


def spread(times: Sequence[float]) -> str:
    """Median and quartiles."""
    low, middle, high = np.percentile(times, [25, 50, 75])
    return f"{middle:.3g} ({low:.3g} to {high:.3g})"


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def rss(pid: int) -> float:
    """Resident memory of a process in MB; NaN when it is gone."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="utf-8").split()[1])
    except (OSError, IndexError):
        return float("nan")
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def optimal_snr(mass_1: float, mass_2: float, distance: float, curve: str) -> float:
    """Optimal SNR between 18 and 128 Hz, the band of the shipped model's stream, in noise of a shipped spectrum."""
    delta_f = 1 / 8
    f = np.arange(0, 128 + delta_f, delta_f)
    h = np.abs(waveforms.frequency_domain(mass_1, mass_2, delta_f=delta_f, f_min=15.0, f_max=128.0)) / distance
    seen = f >= 18
    power = 4 * delta_f * np.sum((h[seen] / asd(curve, f[seen])) ** 2)
    return float(np.sqrt(power))


def draw(rng: Generator, detector: str, gps_ns: int, snr: tuple[float, float], curve: str) -> tuple[Injection, float]:
    """A signal with masses and phase from the model's prior and an SNR uniform in ``snr``; with that SNR."""
    prior = spec().prior
    while True:
        mass_1, mass_2, _, _, phase = (float(value) for value in prior.draw(rng, 1)[0])
        wanted = float(rng.uniform(*snr))
        distance = optimal_snr(mass_1, mass_2, 1.0, curve) / wanted
        if prior.distance[0] < distance < prior.distance[1]:
            return Injection(
                detector=detector,
                gps_ns=gps_ns,
                mass_1=mass_1,
                mass_2=mass_2,
                effective_distance=distance,
                phase=phase,
            ), wanted


def noise(rng: Generator, curve: str, rate: int, seconds: int) -> Floats:
    """Gaussian noise coloured by a shipped spectrum, (seconds * rate,)."""
    n = rate * seconds
    spectrum = np.fft.rfft(rng.standard_normal(n))
    f = np.asarray(np.fft.rfftfreq(n, 1 / rate), np.float64)
    shape = asd(curve, f) * np.sqrt(rate / 2)
    shape[f < 5] = 0.0
    return np.fft.irfft(spectrum * shape, n)
