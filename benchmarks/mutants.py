"""Damaged frames through the reader: none may crash it, hold it up, or pass with other strain than was written.

Each mutant goes through all that a frame goes through after it was read from disk (`gwstream.source.frames.load`), in
a child process, so that a crash of the parser, or a call that never returns, is seen and counted too. Checksums stay
as they were: damage happens after a file was written.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import gwpy

from gwstream.source import frames, gwf
from gwstream.source.quality import Stretch
from gwstream.source.sequence import File
from gwstream.source.writer import frame_bytes

REAL = Path(gwpy.__file__).parent / "testing" / "data" / "HLV-HW100916-968654552-1.gwf"
GPS = 968_654_552
CHANNEL = "H1:LDAS-STRAIN"
SLOW = 1.0  # s
HUNG = 20  # s, then the child is killed
MADE, BARE, RECORDED = range(3)
OFTEN = (MADE, BARE, *5 * (RECORDED,))  # how often each comes, in relation to the others
SHARD = 5000  # mutants a child


@dataclass(frozen=True)
class Subject:
    """A whole file, and how it is read."""

    body: bytes
    rules: frames.Rules

    def read(self, content: bytes) -> tuple[int, int, bytes, bytes]:
        """What the pipeline would get: start, rate, samples and state."""
        found: Stretch = frames.load(content, File(GPS, GPS + 1, REAL, 0), self.rules)
        state = b"" if found.state is None else found.state.tobytes()
        return found.start, found.rate, found.samples.tobytes(), state


def subjects() -> list[Subject]:
    """A real file of three detectors, the 1-s frame made from its strain, and that frame without file checksum."""
    real = REAL.read_bytes()
    strain = gwf.read(real, gwf.check(real), (CHANNEL,))[CHANNEL].samples
    plain = frame_bytes("H1", GPS, strain[::4].astype(float), 4096, 3)
    fields = list(gwf.TRAILER.unpack(plain[-gwf.TRAILER.size :]))
    fields[0], fields[-1] = 0, 0
    bare = plain[: -gwf.TRAILER.size] + gwf.TRAILER.pack(*fields)
    common = {"detector": "H1", "mask": 3, "rate": 256}
    strict = {"strain": "H1:GDS-CALIB_STRAIN_CLEAN", "state": "H1:GDS-CALIB_STATE_VECTOR", "accept_unknown_dq": False}
    loose = {"strain": CHANNEL, "state": "", "accept_unknown_dq": True}
    return [
        Subject(plain, frames.Rules(**common, **strict, accept_unchecked=False)),  # type: ignore[arg-type]
        Subject(bare, frames.Rules(**common, **strict, accept_unchecked=True)),  # type: ignore[arg-type]
        Subject(real, frames.Rules(**common, **loose, accept_unchecked=False)),  # type: ignore[arg-type]
    ]


def mutate(body: bytes, rng: random.Random) -> bytes:
    """One of eight kinds of damage, anywhere, but more often near the ends, where the lengths are."""
    mutant = bytearray(body)
    size = len(mutant)
    near = rng.choice([size, size, 200])
    at = rng.choice([rng.randrange(near), size - 1 - rng.randrange(near)])
    span = rng.choice([1, 8, 64, 512, 4096])
    match rng.randrange(8):
        case 0:
            mutant[at] ^= 1 << rng.randrange(8)
        case 1:
            del mutant[at:]
        case 2:
            mutant[at : at + span] = rng.randbytes(len(mutant[at : at + span]))
        case 3:
            mutant[at:at] = rng.randbytes(span)
        case 4:
            del mutant[at : at + span]
        case 5:  # a page that never reached the disk
            mutant[at : at + span] = bytes(len(mutant[at : at + span]))
        case 6:  # a part twice
            mutant[at:at] = mutant[at : at + span]
        case _:
            for _ in range(rng.randrange(2, 9)):
                mutant[rng.randrange(size)] ^= 1 << rng.randrange(8)
    return bytes(mutant)


def shard(seed: int, number: int, count: int) -> dict[str, int]:
    """Read ``count`` mutants; what became of them. After `HUNG` s with one, the process dies of SIGALRM."""
    rng = random.Random(f"{seed}-{number}")
    every = subjects()
    right = [one.read(one.body) for one in every]
    found = {"mutants": 0, "recorded": 0, "refused": 0, "same": 0, "wrong": 0, "slow": 0, "raised": 0}
    while found["mutants"] < count:
        index = rng.choice(OFTEN)
        mutant = mutate(every[index].body, rng)
        if mutant == every[index].body:
            continue
        found["mutants"] += 1
        found["recorded"] += index == RECORDED
        signal.setitimer(signal.ITIMER_REAL, HUNG)
        began = time.perf_counter()
        try:
            found["same" if every[index].read(mutant) == right[index] else "wrong"] += 1
        except gwf.FrameError:
            found["refused"] += 1
        except Exception:  # noqa: BLE001 - whatever comes: it would take the daemon down
            found["raised"] += 1
        found["slow"] += time.perf_counter() - began > SLOW
    signal.setitimer(signal.ITIMER_REAL, 0)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--count", type=int, default=150_000, help="mutants (default 150000, of a recorded file five of seven)"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--shard", type=int, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.shard is not None:
        print(json.dumps(shard(chosen.seed, chosen.shard, chosen.count)))
        return 0
    total = {"mutants": 0, "recorded": 0, "refused": 0, "same": 0, "wrong": 0, "slow": 0, "raised": 0, "crashes": 0}
    for number, first in enumerate(range(0, chosen.count, SHARD)):
        wanted = ["--count", str(min(SHARD, chosen.count - first)), "--seed", str(chosen.seed), "--shard", str(number)]
        child = subprocess.run([sys.executable, __file__, *wanted], stdout=subprocess.PIPE, text=True, check=False)
        if child.returncode:
            total["crashes"] += 1
            print(f"shard {number} of seed {chosen.seed} ended with status {child.returncode}", file=sys.stderr)
            continue
        for name, more in json.loads(child.stdout).items():
            total[name] += more
    print(json.dumps(total))
    return int(any(total[name] for name in ("crashes", "raised", "wrong", "slow")))


if __name__ == "__main__":
    sys.exit(main())
