"""Live strain from directories that receive GWF frames, one directory a detector."""

from __future__ import annotations

import asyncio
import logging
import os
import stat
import time
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from gwstream import clock
from gwstream.config import Detector, SourceConfig
from gwstream.errors import SourceError
from gwstream.health import Health
from gwstream.records import NANO, Gap, Strain, Tally, silent
from gwstream.source import gwf, quality
from gwstream.source.channels import state_channel, strain_channel
from gwstream.source.report import Report
from gwstream.source.sequence import File, Hole, Refused, Sequence
from gwstream.source.watch import RENEW, Watcher, parse
from gwstream.source.worker import Worker

LOG = logging.getLogger("source")
MAX_BYTES = 64 * 2**20  # a file larger than this is not read
PARSE_LIMIT = 2.0  # s
REMEMBERED = 4096  # files read lately, so that a scan does not take them for new
NEW_RATE = 8  # frames in succession of another rate: the stream's rate has changed
DAY = 86_400

# damage that a rewritten or another file may mend: the span is awaited on. After any other fault it is a gap at once.
AWAITED = frozenset({"truncated", "corrupt", "no_channel", "unreadable"})

Print = tuple[int, int, int]
"""Inode, modification time (ns) and size: tells a rewritten file from one that is merely met again."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What of the settings one detector's frames are judged by."""

    detector: str
    strain: str
    state: str
    mask: int
    accept_unknown_dq: bool
    accept_unchecked: bool
    rate: int
    """Hz; strain must come at a whole multiple of it."""


class Frames:
    """The frame directories of several detectors, each independent of the others.

    Use as an async context manager. The records of a detector begin with the earliest frame in its directory; a
    detector without new frames yields nothing, until a later frame shows what was missed.
    """

    live = True
    simulated = False

    def __init__(
        self,
        config: SourceConfig,
        tally: Tally = silent,
        rate: int = quality.MIN_RATE,
        health: Health | None = None,
    ) -> None:
        report, health = Report(tally), health or Health()
        self._feeds = {name: _feed(name, one, config, report, rate, health) for name, one in config.detectors.items()}
        self.detectors = tuple(self._feeds)
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Frames:
        async with AsyncExitStack() as stack:
            for feed in self._feeds.values():
                feed.open()
                stack.callback(feed.close)
            group = await stack.enter_async_context(asyncio.TaskGroup())
            tasks = [group.create_task(feed.watcher.run(), name=f"watch {name}") for name, feed in self._feeds.items()]
            stack.callback(lambda: [task.cancel() for task in tasks])
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *raised: object) -> None:
        await self._stack.__aexit__(*raised)  # type: ignore[arg-type]

    def resume(self, detector: str, second: int, rate: int) -> None:
        """Begin with GPS second ``second``, and take strain of ``rate`` Hz to have come before it."""
        self._feeds[detector].resume(second, rate)

    def stream(self, detector: str) -> AsyncIterator[Strain | Gap]:
        """The contiguous records of one detector; ends when the source is closed."""
        return self._feeds[detector].records()


def _feed(name: str, detector: Detector, config: SourceConfig, report: Report, rate: int, health: Health) -> Feed:
    if detector.directory is None:
        raise SourceError(f"source.detectors.{name}.directory is missing")
    if not detector.directory.is_dir():
        raise SourceError(
            f"{detector.directory}: no such directory: create it, or correct source.detectors.{name}.directory"
        )
    rules = Rules(
        detector=name,
        strain=detector.channel or strain_channel(name),
        state=state_channel(name) if detector.state_channel is None else detector.state_channel,
        mask=config.state_mask,
        accept_unknown_dq=config.accept_unknown_dq,
        accept_unchecked=config.accept_unchecked,
        rate=rate,
    )
    return Feed(rules, detector.directory, Sequence(config.patience), report, health)


class Feed:
    """One detector: what its directory tells goes into the sequence, and comes out as records."""

    def __init__(self, rules: Rules, directory: Path, sequence: Sequence, report: Report, health: Health) -> None:
        self._rules = rules
        self._sequence = sequence
        self._report = report
        self._part = f"source {rules.detector}"
        self._health = health
        alive = partial(health.polled, self._part, RENEW)
        self.watcher = Watcher(directory, self._found, partial(self._count, "notify_lost"), alive)
        self._worker = Worker(f"frames of {rules.detector}")
        self._changed = asyncio.Event()
        self._closed = False
        self._read: OrderedDict[Path, Print] = OrderedDict()
        self._rate: int | None = None
        self._strangers = 0  # frames in succession of another rate
        self._resumed: int | None = None  # GPS second before which another process has read

    def open(self) -> None:
        self.watcher.open()

    def close(self) -> None:
        self._closed = True
        self._changed.set()
        self.watcher.close()
        self._worker.close()
        self._health.ended(self._part)

    def resume(self, second: int, rate: int) -> None:
        self._resumed, self._rate = second, rate
        self._sequence.begin(second)

    async def records(self) -> AsyncIterator[Strain | Gap]:
        while not self._closed:
            self._changed.clear()
            now = time.monotonic_ns()
            match self._sequence.next(now):
                case None:
                    await self._wait(now)
                case Refused(file, reason):
                    self._remember(file.path, _print(file.path))
                    self._count(reason, file.path.name)
                case Hole() as hole:
                    self._count("missing", f"GPS {hole.start} to {hole.end} did not come", hole.end - hole.start)
                    for gap in self._gap(hole.start, hole.end, "missing", hole.arrived):
                        yield gap
                case file:
                    for record in await self._take(file):
                        yield record

    async def _wait(self, now: int) -> None:
        """Until something changed or the sequence is due."""
        due = self._sequence.deadline
        try:
            async with asyncio.timeout(None if due is None else max(due - now, 0) / NANO):
                await self._changed.wait()
        except TimeoutError:
            return

    def _found(self, path: Path, arrived: int) -> None:
        """A completed file: into the sequence, unless it is foreign, misnamed, or one we have."""
        name = parse(path.name)
        if name is None:
            self._count("bad_name", path.name)
            return
        if self._rules.detector[0] not in name.observatory:
            return
        if name.start > clock.gps_now_ns() // NANO + DAY:
            self._count("future", f"{path.name} is dated more than a day after this machine's clock: check both")
            return
        if self._resumed is not None and name.end <= self._resumed:
            return
        if path in self._read and self._read[path] == _print(path):
            return
        self._sequence.offer(File(name.start, name.end, path, arrived))
        self._changed.set()

    async def _take(self, file: File) -> list[Strain | Gap]:
        """The records of a file from the sequence's position on; what cannot be used is counted."""
        try:
            with self._health.work(self._part, PARSE_LIMIT + self._health.limit):
                stretch = await self._worker.run(partial(self._load, file), PARSE_LIMIT)
            self._check_rate(stretch.rate)
        except TimeoutError:
            return self._spoilt(file, "slow", f"took longer than {PARSE_LIMIT:g} s")
        except FileNotFoundError:
            return self._spoilt(file, "vanished", "unlinked before it was read")
        except OSError as problem:
            return self._spoilt(file, "unreadable", str(problem.strerror))
        except gwf.FrameError as problem:
            return self._spoilt(file, problem.reason, str(problem))
        return self._settled(file, stretch)

    def _settled(self, file: File, stretch: quality.Stretch) -> list[Strain | Gap]:
        begin = self._sequence.position
        if begin is None or begin < file.start:
            raise RuntimeError(f"{file.path} was read out of turn")
        if begin > file.start and begin != self._resumed:
            self._count("overlap", f"{file.path.name}: its first {begin - file.start} s were read before")
        self._sequence.settle(file.end, lost=False)
        found = [record for record in quality.records(stretch) if record.start >= begin * stretch.rate]
        for record in found:
            if isinstance(record, Gap):
                self._count(record.reason, f"{file.path.name}: {record.length / record.rate:g} s")
        return found

    def _spoilt(self, file: File, reason: str, text: str) -> list[Strain | Gap]:
        self._count(reason, f"{file.path.name}: {text}")
        if reason in AWAITED:
            return []
        begin = self._sequence.position
        self._sequence.settle(file.end, lost=True)
        return [] if begin is None else self._gap(begin, file.end, reason, file.arrived)

    def _gap(self, begin: int, end: int, reason: str, arrived: int) -> list[Strain | Gap]:
        rate = self._rate
        if rate is None:  # nothing was read yet: there is nothing to be continuous with
            return []
        name = self._rules.detector
        length = (end - begin) * rate
        return [Gap(detector=name, start=begin * rate, rate=rate, length=length, reason=reason, arrived=arrived)]

    def _check_rate(self, rate: int) -> None:
        if self._rate is None or rate == self._rate:
            self._rate, self._strangers = rate, 0
            return
        self._strangers += 1
        if self._strangers < NEW_RATE:
            raise gwf.FrameError("wrong_rate", f"{rate} Hz in a stream of {self._rate} Hz")
        LOG.warning("%s: the sample rate is now %d Hz, was %d Hz", self._rules.detector, rate, self._rate)
        self._rate, self._strangers = rate, 0

    def _count(self, reason: str, text: str, count: int = 1) -> None:
        self._report(reason, self._rules.detector, text, count)

    def _load(self, file: File) -> quality.Stretch:
        """Read, check and parse; in the worker's thread. Raises OSError and `FrameError`."""
        with open(file.path, "rb", opener=_at_once) as opened:
            status = os.fstat(opened.fileno())
            self._remember(file.path, _fingerprint(status))
            if not stat.S_ISREG(status.st_mode):
                raise gwf.FrameError("unreadable", "it is no file but a pipe, or the like")
            content = opened.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise gwf.FrameError("unreadable", f"larger than {MAX_BYTES >> 20} MiB")
        return load(content, file, self._rules)

    def _remember(self, path: Path, fingerprint: Print | None) -> None:
        if fingerprint is not None:
            self._read[path] = fingerprint
        while len(self._read) > REMEMBERED:
            self._read.popitem(last=False)


def _at_once(path: str, flags: int) -> int:
    """Opens what is there without waiting: for a pipe that nobody writes to that would be for ever."""
    return os.open(path, flags | os.O_NONBLOCK)


def _fingerprint(status: os.stat_result) -> Print:
    return status.st_ino, status.st_mtime_ns, status.st_size


def _print(path: Path) -> Print | None:
    try:
        return _fingerprint(path.stat())
    except OSError:
        return None


def load(content: bytes, file: File, rules: Rules) -> quality.Stretch:
    """One detector's stretch in the content of a frame file. Raises `gwf.FrameError`."""
    frames = gwf.check(content, accept_unchecked=rules.accept_unchecked)
    wanted = (rules.strain, rules.state) if rules.state else (rules.strain,)
    found = gwf.read(content, frames, wanted)
    strain, state = found.get(rules.strain), found.get(rules.state)
    if strain is None:
        raise gwf.FrameError("no_channel", f"holds no {rules.strain}: it has {', '.join(gwf.channel_names(content))}")
    if state is not None and not len(state.samples):
        state = None
    if state is None and not rules.accept_unknown_dq:
        what = f"no state vector {rules.state}" if rules.state else "no state vector is configured"
        raise gwf.FrameError("unknown_dq", f"{what} (source.accept_unknown_dq = true accepts it)")
    rate = round(strain.rate)
    if abs(rate - strain.rate) > 1e-6 or rate < rules.rate or rate % rules.rate:
        raise gwf.FrameError("wrong_rate", f"{strain.rate:g} Hz; whole multiples of {rules.rate} Hz are read")
    if len(strain.samples) != rate * (file.end - file.start):
        raise gwf.FrameError("wrong_length", f"{len(strain.samples)} samples in {file.end - file.start} s at {rate} Hz")
    if abs(strain.start - file.start) > 1e-6:
        raise gwf.FrameError("wrong_time", f"starts at GPS {strain.start:.6f}")
    samples = np.asarray(strain.samples, np.float64)
    bits = None if state is None else quality.state_bits(state.samples)
    return quality.Stretch(
        detector=rules.detector,
        start=file.start * rate,
        rate=rate,
        samples=samples,
        state=bits,
        mask=rules.mask,
        arrived=file.arrived,
    )
