"""What one core of this machine does in a second: the rates that floors are reckoned with."""

from __future__ import annotations

import json
import os
import tempfile
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import fastcrc
import numpy as np
import torch

RATE = 16384


def timed(work: Callable[[], object], times: int = 20) -> float:
    """Least wall time of one call, s."""
    work()
    best = np.inf
    for _ in range(times):
        begin = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - begin)
    return float(best)


@dataclass(frozen=True)
class Machine:
    """Rates of one core: operations, exponentials, bytes or numbers a second; seconds a call or write."""

    sgemm: float
    dgemm: float
    exponentials: float
    memory: float
    checksum: float
    inflate: float
    normals: float
    floats: float
    sort: float
    call: float
    write: float

    @classmethod
    def measured(cls) -> Machine:
        a, b = torch.randn(2000, 320), torch.randn(320, 256)
        c, d = a.double(), b.double()
        cache = torch.randn(64, 1000)
        large = np.ones(32 * 2**20, np.float32)
        other = np.empty_like(large)
        noise = np.random.default_rng(1).standard_normal(RATE)
        packed = zlib.compress(noise.tobytes(), 1)
        rng, some = np.random.default_rng(1), np.round(noise, 4).tolist()
        tiny = torch.zeros(1)
        flop = 2 * 2000 * 320 * 256
        return cls(
            sgemm=flop / timed(lambda: a @ b),
            dgemm=flop / timed(lambda: c @ d),
            exponentials=64_000 / timed(lambda: torch.exp(cache), 200),
            memory=2 * large.nbytes / timed(lambda: np.copyto(other, large)),
            checksum=len(packed) / timed(lambda: fastcrc.crc32.cksum(packed)),
            inflate=noise.nbytes / timed(lambda: zlib.decompress(packed)),
            normals=10_000 / timed(lambda: rng.standard_normal(10_000)),
            floats=len(some) / timed(lambda: json.dumps(some)),
            sort=2000 / timed(lambda: np.argsort(noise[:2000], kind="stable"), 200),
            call=timed(lambda: tiny + tiny, 1000),
            write=_write(),
        )

    def rows(self) -> list[list[str]]:
        giga = {"product, fp32": self.sgemm, "product, fp64": self.dgemm}
        rows = [[name, f"{rate / 1e9:.0f} GFLOP/s"] for name, rate in giga.items()]
        rows += [["exponentials, fp32", f"{self.exponentials / 1e9:.1f} G/s"]]
        for name, rate in {"memory, copied": self.memory, "checksum": self.checksum, "inflate": self.inflate}.items():
            rows += [[name, f"{rate / 1e9:.2f} GB/s"]]
        rows += [
            ["normal numbers", f"{self.normals / 1e6:.0f} M/s"],
            ["floats as JSON", f"{self.floats / 1e6:.1f} M/s"],
        ]
        rows += [["floats sorted", f"{self.sort / 1e6:.0f} M/s"], ["call of torch", f"{self.call * 1e6:.1f} us"]]
        return [*rows, ["16 kB to the disk", f"{self.write * 1e3:.2f} ms"]]


def _write() -> float:
    """Seconds to write 16 kB so that they are on the disk."""
    with tempfile.TemporaryFile() as file:

        def once() -> None:
            file.write(b"x" * 16_384)
            file.flush()
            os.fdatasync(file.fileno())

        return timed(once, 10)
