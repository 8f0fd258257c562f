"""The daemon for days of strain, faster than real time, while everything around it breaks: is anything lost?

Three detectors of simulated noise and signals in one-second frames, a real broker, and ``gwstream run`` in a process of
its own. By a seed, frames are missing, late, doubled, cut, damaged; the broker is killed, frozen, and loses its state;
the disk is full; the daemon is killed with ``kill -9`` or told to stop, and started again. What must come of each
episode is computed by an oracle from the strain itself (`soak_strain`), and compared with what the daemon's archive
holds as acknowledged and with what a subscriber received. Whoever writes the frames waits for the daemon, so that it
never has reason to shed. A soak that was interrupted goes on at the end of its last whole episode, with a new state
directory. Exit status 1: something was lost or differs.

    python benchmarks/soak.py --background             # 72 detector-hours, 2 hours of two cores, into runs/soak
    python benchmarks/soak.py --report                 # how far it is
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable
from multiprocessing.pool import Pool
from pathlib import Path
from typing import Any

import common
import soak_judge
import soak_plan
import soak_report
import soak_strain
import soak_world
from soak_plan import DETECTORS, PAUSE, RATE, Episode, Fault

from gwstream.clock import gps_now_ns
from gwstream.demo import child
from gwstream.records import NANO, Floats
from gwstream.source.writer import frame_bytes, frame_name, put

LEAD = 6  # s of data that the writer may be ahead of what was read
BATCHES = 24  # and what may wait for the gate,
WINDOWS = 64  # and behind it
KEPT = 900  # s of data after which a frame is unlinked
PATIENCE = 0.5  # s of real time: at this pace, many seconds of data
NOT_LET_IN = 69  # exit status where the broker does not answer at the first start
SAMPLE = 2.0  # s between two looks at memory


class Soak:
    """The world for as many episodes as this process runs."""

    def __init__(self, folder: Path, frames: Path, options: dict[str, Any]) -> None:
        self._folder, self._options = folder, options
        self._directories = {name: frames / name for name in DETECTORS}
        self._log = folder / "daemon.log"
        shutil.rmtree(folder / "broker", ignore_errors=True)
        self._broker = soak_world.Broker(folder / "broker")
        self._disk = soak_world.Disk(folder / "state")
        settings = child.Settings(
            directories=self._directories,
            model=common.MODEL,
            broker_port=self._broker.port,
            http_port=child.free_port(),
            source=f"patience = {PATIENCE}\n",
            more="\n[calibration]\ninterval = 0\n",
            state=str(folder / "state"),
        )
        self._daemon = soak_world.Daemon(folder, settings, self._log)
        self._witness = soak_world.Witness(self._broker.port)
        self._written: deque[tuple[int, Path]] = deque()
        self._held: dict[str, tuple[Path, bytes]] = {}
        self._late: list[tuple[Fault, bytes]] = []
        self._last: dict[str, Floats] = {}
        self._ends: list[tuple[int, Fault]] = []  # of outages, by GPS second
        self._back: dict[str, float] = {}  # what is awaited since when
        self._judge = soak_judge.Judge(folder / "state" / "gwstream-gwstream")
        self._notes = soak_judge.Notes()
        self._sampled = 0.0

    async def run(self, first: int) -> None:
        """All episodes from number ``first`` on."""
        for path in self._directories.values():
            path.mkdir(parents=True)
        await self._broker.start()
        self._witness.start()
        try:
            with multiprocessing.get_context("spawn").Pool(1) as pool:  # which an interruption does not wait for
                await self._daemon.start()
                for index in range(first, self._options["count"]):
                    episode = Episode(index=index, **self._options)
                    result = await self._episode(episode, index > first, pool)
                    path = self._folder / "episodes" / f"{index:04d}.json"
                    put(path, json.dumps(result).encode())
                    print(soak_report.line(index, result), flush=True)
        finally:
            self._witness.stop()
            await self._daemon.close()
            self._broker.kill()
            self._disk.close()

    async def _episode(self, episode: Episode, after: bool, pool: Pool) -> dict[str, Any]:
        began = time.monotonic()
        oracle = _asked(pool, episode, after)
        sky, before = soak_strain.Sky(episode), self._daemon.totals()
        faults = {name: episode.at(name) for name in DETECTORS}
        world = [fault for fault in episode.faults if not fault.detector]
        self._notes = soak_judge.Notes()
        for second in range(episode.start, episode.end):
            await self._world(second, world)
            for name in DETECTORS:
                samples = await asyncio.to_thread(sky.second, name, second)
                await self._write(name, second, samples, faults[name].get(second))
            await self._pace(second, episode.start)
            self._unlink(second)
        await self._settled(episode)
        told = await oracle
        counted = self._daemon.totals()
        counted.subtract(before)
        verdict = await asyncio.to_thread(self._judge.of, episode, after, told, self._witness.fresh(), counted)
        return {**vars(self._notes), **verdict, "wall": time.monotonic() - began, "index": episode.index}

    async def _world(self, second: int, faults: list[Fault]) -> None:
        """End the outages that are over, and begin those that are due."""
        for end, fault in [one for one in self._ends if one[0] <= second]:
            self._ends.remove((end, fault))
            if fault.kind == soak_plan.DISK:
                self._disk.empty()
            else:
                await self._broker.back(fault.kind)
                self._back["broker"] = time.monotonic()
        for fault in [one for one in faults if one.second == second]:
            if (fault.kind == soak_plan.DISK and not self._disk.real) or (
                fault.kind == "broker frozen" and not self._broker.real
            ):
                self._notes.skipped[fault.kind] += 1
                continue
            self._notes.faults[fault.kind] += 1
            if fault.kind in soak_plan.DAEMON:
                await self._restart(fault)
                continue
            self._ends.append((second + fault.length, fault))
            if fault.kind in soak_plan.FORGETFUL:
                self._witness.told.forgot.append(gps_now_ns() / NANO)
            if fault.kind == soak_plan.DISK:
                await asyncio.to_thread(self._disk.fill)
            else:
                await self._broker.end(fault.kind)

    async def _restart(self, fault: Fault) -> None:
        kill = fault.kind == "daemon killed"
        await self._until(lambda: bool(self._daemon.latest), "the daemon")  # its start is no instant of its work
        await self._daemon.ask()
        await asyncio.sleep(random.Random(fault.number).uniform(0, 0.05))
        status = await self._daemon.end(signal.SIGKILL if kill else signal.SIGTERM)
        if not kill and status:
            self._notes.failures.append(f"told to stop, the daemon ended with status {status}")
        self._back["daemon"] = time.monotonic()
        await self._daemon.start()

    async def _write(self, detector: str, second: int, samples: Floats, fault: Fault | None) -> None:
        """The frame of one second, and what its fault does to it."""
        kind = fault.kind if fault is not None else ""
        directory = self._directories[detector]
        final = directory / frame_name(detector, second)
        if fault is not None:
            self._notes.faults[kind] += 1
        if kind == "directory replaced" and fault is not None:
            await self._until(lambda: self._daemon.position(detector) >= second, "the directory to be read")
            await asyncio.to_thread(_replace, directory, fault.number % 2 == 0)
        body = await asyncio.to_thread(soak_strain.frame, detector, second, samples, fault)
        if kind == "late" and fault is not None:
            self._late.append((fault, body))
        elif kind == "out of order":
            self._held[detector] = final, body
        elif kind == "overlapping":
            both = frame_bytes(detector, second - 1, [*self._last[detector], *samples], RATE)  # type: ignore[arg-type]
            self._put(directory / frame_name(detector, second - 1, 2), both, second)
        elif fault is not None and kind in ("truncated", "truncated, then mended", "bit flipped"):
            self._put(final, soak_strain.damaged(body, fault), second)
            if kind == "truncated, then mended":
                await asyncio.sleep(random.Random(fault.number).uniform(0, 0.1))
                self._put(final, body, second)
        elif kind != "missing":
            self._put(final, body, second)
        if kind == "duplicated":
            self._put(directory / final.name.replace("llhoft", "again"), body, second)
        if kind == "misnamed":
            self._put(directory / final.name.replace(str(second), "soon"), body, second)
        if kind != "out of order" and detector in self._held:
            self._put(*self._held.pop(detector), second)
        self._last[detector] = samples
        await self._belated(detector, second)

    async def _belated(self, detector: str, second: int) -> None:
        """Frames that come too late: once the daemon has given them up; it must count and leave them."""
        for fault, body in [one for one in self._late if one[0].detector == detector and second >= one[0].second + 2]:
            self._late.remove((fault, body))
            await self._too_late(fault, body)

    async def _too_late(self, fault: Fault, body: bytes) -> None:
        daemon, key = self._daemon, ("gwstream_dropped_total", fault.detector, "late", "source")
        await self._until(lambda: daemon.position(fault.detector) > fault.second + 1, "a hole to be given up")
        before = daemon.latest.get(key, 0)
        path = put(self._directories[fault.detector] / frame_name(fault.detector, fault.second), body)
        await self._until(lambda: daemon.latest.get(key, 0) > before, "a late frame to be counted")
        path.unlink()  # or a daemon that is restarted would find it in time

    def _put(self, path: Path, body: bytes, second: int) -> None:
        put(path, body)
        self._written.append((second, path))

    def _unlink(self, second: int) -> None:
        while self._written and self._written[0][0] < second - KEPT:
            self._written.popleft()[1].unlink(missing_ok=True)

    async def _pace(self, second: int, start: int) -> None:
        """Wait until the daemon has read and judged all but the newest."""
        if second - LEAD >= start:
            await self._until(
                lambda: (
                    min(self._daemon.position(name) for name in DETECTORS) >= second - LEAD
                    and self._daemon.behind <= BATCHES
                    and self._daemon.pending <= WINDOWS
                ),
                f"GPS {second - LEAD} to be read",
            )

    async def _settled(self, episode: Episode) -> None:
        """All is mended, read, judged, and acknowledged."""
        await self._world(episode.end + episode.length, [])
        for _ in range(2):  # what passes from one stage to the next is in neither for an instant
            await self._daemon.ask()
            await self._until(lambda: self._at_rest(episode.end), "the end of an episode")
            await asyncio.sleep(0.2)

    def _at_rest(self, end: int) -> bool:
        """Whether all up to GPS second ``end`` is judged and acknowledged."""
        at = self._daemon.latest.get
        return (
            all(self._daemon.position(name) == end for name in DETECTORS)
            and self._daemon.idle
            and at(("gwstream_broker_connected",)) == 1
            and at(("gwstream_outbox_used_ratio",)) == 0
            and at(("gwstream_outbox_durable",)) == 1
            and self._witness.connected
        )

    async def _until(self, right: Callable[[], bool], what: str) -> None:
        """Ask the daemon again and again, and look at it now and then."""
        end = time.monotonic() + soak_world.LIMIT
        while not right():
            if time.monotonic() > end:
                put(self._folder / "metrics.txt", self._daemon.exposition.encode())
                raise SystemExit(
                    f"waited {soak_world.LIMIT:g} s for {what}; {self._stand()}\n{child.tail(self._log, 30)}"
                )
            if self._daemon.process is not None and self._daemon.process.returncode == NOT_LET_IN:
                await self._daemon.start()  # as systemd would
            await self._daemon.ask()
            self._look()
            if not right():
                await asyncio.sleep(0.04)

    def _stand(self) -> str:
        """Where everything is, for whoever wonders why it does not go on."""
        figures = ("gwstream_broker_connected", "gwstream_outbox_used_ratio", "gwstream_outbox_durable")
        return ", ".join(
            [
                *(f"{name} at GPS {self._daemon.position(name)}" for name in DETECTORS),
                f"{self._daemon.behind:g} wait to be judged",
                *(f"{name} {self._daemon.latest.get((name,))}" for name in figures),
                f"subscriber connected: {self._witness.connected}",
            ]
        )

    def _look(self) -> None:
        now, at = time.monotonic(), self._daemon.latest.get
        if "daemon" in self._back and any(self._daemon.position(name) for name in DETECTORS):
            self._notes.daemon_back.append(now - self._back.pop("daemon"))
        up = at(("gwstream_broker_connected",)) == 1 and at(("gwstream_outbox_used_ratio",)) == 0
        if "broker" in self._back and up and not self._ends:
            self._notes.broker_back.append(now - self._back.pop("broker"))
        if now - self._sampled > SAMPLE and self._daemon.process is not None:
            self._sampled = now
            at_second = max(self._daemon.position(name) for name in DETECTORS)
            if at_second:
                self._notes.samples.append((self._daemon.process.pid, at_second, *self._daemon.process_figures()))


def _asked(pool: Pool, episode: Episode, after: bool) -> asyncio.Future[soak_judge.Expected]:
    """What the oracle will say."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[soak_judge.Expected] = loop.create_future()

    def tell(done: Callable[[Any], None]) -> Callable[[Any], object]:
        return lambda value: None if loop.is_closed() else loop.call_soon_threadsafe(done, value)

    pool.apply_async(soak_strain.expected, (episode, after), {}, tell(answer.set_result), tell(answer.set_exception))
    return answer


def _replace(directory: Path, removed: bool) -> None:
    """Put another directory with the same files in its place; ``removed``: for an instant there is none."""
    new, old = directory.with_suffix(".new"), directory.with_suffix(".old")
    new.mkdir()
    for path in directory.iterdir():
        os.link(path, new / path.name)
    if removed:
        shutil.rmtree(directory)
    else:
        directory.rename(old)
    new.rename(directory)
    shutil.rmtree(old, ignore_errors=True)


def soak(folder: Path, options: dict[str, Any]) -> None:
    """Run what is left of the soak in ``folder``."""
    episodes, plan = folder / "episodes", folder / "plan.json"
    episodes.mkdir(parents=True, exist_ok=True)
    if plan.exists() and json.loads(plan.read_text()) != options:
        raise SystemExit(f"{folder} holds a soak with other options, {plan.read_text()}: remove it, or say --into")
    plan.write_text(json.dumps(options))
    first = len(list(episodes.glob("[0-9]*.json")))
    if first == options["count"]:
        return
    state = folder / "state"
    if state.is_mount():
        subprocess.run(["umount", "-l", str(state)], check=True)
    shutil.rmtree(state, ignore_errors=True)
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="gwstream-soak-", dir=memory if memory.is_dir() else folder) as frames:
        try:
            asyncio.run(_stoppable(Soak(folder, Path(frames), options), first))
        except (asyncio.CancelledError, KeyboardInterrupt):
            raise SystemExit("interrupted: the same command goes on from the last whole episode") from None


async def _stoppable(one: Soak, first: int) -> None:
    """SIGTERM ends it in good order, as Ctrl-C does."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    await one.run(first)


def _background(folder: Path) -> None:
    """The same command in a session of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, *(word for word in sys.argv if word != "--background")]
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    print(f"running as process {process.pid}; how far it is: {folder}/log; the report: {folder}/report.md")


def main() -> int:
    """Soak, and print the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=72.0, help="of strain, all detectors together (default: 72)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--episode", type=int, default=1200, help="s of strain in one (default: %(default)s)")
    parser.add_argument("--busy", type=float, default=1.0, help="multiplies how often faults come")
    parser.add_argument("--signals", type=float, default=60.0, help="s between two (default: %(default)s)")
    parser.add_argument("--into", type=Path, default=Path("runs/soak"), metavar="FOLDER", help="(default: %(default)s)")
    parser.add_argument("--background", action="store_true", help="return at once")
    parser.add_argument("--report", action="store_true", help="no more than the report of what was done so far")
    chosen = parser.parse_args()
    count = max(1, round(chosen.hours * 3600 / len(DETECTORS) / chosen.episode))
    options = {"seed": chosen.seed, "count": count, "length": chosen.episode}
    options |= {"busy": chosen.busy, "signals": chosen.signals}
    if chosen.background:
        _background(chosen.into)
        return 0
    if not chosen.report:
        soak(chosen.into.resolve(), options)
    return soak_report.report(chosen.into)


if __name__ == "__main__":
    assert PAUSE > 64
    sys.exit(main())
