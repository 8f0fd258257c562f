"""The life of the process: start, run, drain, stop. It knows no stage; the work is passed in.

The first SIGTERM or SIGINT lets the work finish what it has taken in, the second ends the process at once. systemd is
told what goes on (`sd_notify(3)`), and its watchdog is told so as long as the event loop turns and no part is stuck.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from gwstream.config import MetricsConfig, ServiceConfig
from gwstream.errors import GwstreamError
from gwstream.health import Health, Stuck
from gwstream.metrics import Metrics
from gwstream.web import Feed, serving

log = logging.getLogger("service")

GRACE = 1.0  # s beyond the drain limit before the work is cancelled
CANCEL_LIMIT = 4.0  # s for cancelled work to clean up; then the process ends as it stands
LAST = 2.0  # s after all of these, or after work that has finished, in which the process waits for a thread that hangs
TOGETHER = 0.1  # s between signals that are one
BEAT = 0.5  # s between two looks at the event loop's delay and at what is stuck
SIGNALS = (signal.SIGTERM, signal.SIGINT)


@dataclass(slots=True)
class Life:
    """What the work is given: the signal to stop, and a way to say how far it is."""

    stop: asyncio.Event = field(default_factory=asyncio.Event)
    said: str = "starting"
    """One line for ``systemctl status``, of a process that is well."""

    def ready(self, status: str = "running") -> None:
        """All is up; units that wait for the daemon may go on."""
        log.info("ready: %s", status)
        self._up(status)

    def reloading(self) -> None:
        """Settings are read again."""
        notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def reloaded(self, status: str = "") -> None:
        """That is over, for better or worse; ``status``: what is said from here on, where that has changed."""
        self._up(status or self.said)

    def _up(self, status: str) -> None:
        self.said = status
        notify(f"READY=1\nSTATUS={status}")


Work = Callable[[Life], Coroutine[Any, Any, None]]
"""Runs to its end, or until ``life.stop`` is set and it has then finished what it has taken in."""


async def serve(
    work: Work,
    *,
    service: ServiceConfig,
    http: MetricsConfig,
    metrics: Metrics,
    feed: Feed,
    health: Health,
    samples: Callable[[str], bytes | None] = lambda _: None,
) -> None:
    """Run ``work``, which tells ``health`` what it has in hand, with the HTTP server beside it, to its end or a signal.

    ``samples``: draws by id, for the HTTP server.

    Raises `GwstreamError`: the work's own; `ConfigError` if the HTTP port is taken; anything else that killed the work
    comes as a `GwstreamError` that names the place.
    """
    life = Life()
    async with AsyncExitStack() as stack:
        finished = stack.enter_context(_signals(life.stop, service.drain + GRACE + CANCEL_LIMIT + LAST))
        if http.enabled:
            server = serving(
                http, feed=feed, exposition=metrics.exposition, health=health, tally=metrics.tally, samples=samples
            )
            port = await stack.enter_async_context(server)
            log.info("live page and metrics at http://%s:%d/", http.host, port)
        health.listen(metrics.stuck)
        health.listen(_Reporter(life))
        beat = asyncio.create_task(_beat(metrics, health), name="service-beat")
        stack.callback(beat.cancel)
        await _live(work, life, service.drain)
        finished()


async def _live(work: Work, life: Life, drain: float) -> None:
    """The work, from its first moment to its last."""
    task = asyncio.create_task(work(life), name="work")
    stopped = asyncio.create_task(life.stop.wait(), name="service-stop")
    try:
        await asyncio.wait((task, stopped), return_when=asyncio.FIRST_COMPLETED)
        notify("STOPPING=1")
        if not task.done():
            log.info("told to stop: finishing what has been read, for %g s at most", drain)
            await asyncio.wait((task,), timeout=drain + GRACE)
        if not task.done():
            log.warning("not finished after %g s: stopping all the same", drain)
            await _cancel(task)
    finally:
        stopped.cancel()
        task.cancel()
    if not task.cancelled() and (problem := task.exception()) is not None:
        raise _told(problem)
    log.info("stopped")


async def _cancel(task: asyncio.Future[None]) -> None:
    task.cancel()
    await asyncio.wait((task,), timeout=CANCEL_LIMIT)
    if not task.done():
        log.error("a part does not stop: the process ends without it")
        _leave(GwstreamError.exit_code)


def _told(problem: BaseException) -> BaseException:
    """The error to show for what killed the work: the first of a group, foreign ones with their place."""
    while isinstance(problem, BaseExceptionGroup):
        problem = problem.exceptions[0]
    if isinstance(problem, GwstreamError) or not isinstance(problem, Exception):
        return problem
    frames = [frame for frame in traceback.extract_tb(problem.__traceback__) if "gwstream" in frame.filename]
    place = f" in {Path(frames[-1].filename).name}, line {frames[-1].lineno}" if frames else ""
    log.error("this is a defect of gwstream; please report what follows", exc_info=problem)
    told = GwstreamError(f"the daemon failed{place}: {type(problem).__name__}: {problem}")
    told.__cause__ = problem
    return told


@contextmanager
def _signals(stop: asyncio.Event, limit: float) -> Iterator[Callable[[], None]]:
    """First signal: ``stop``, and the end after ``limit`` s at the latest. Second: the end at once, unless it comes
    with the first: `timeout(1)` signals a process, and then the group in which it is.

    What is given is to be called once all is in good order: a thread that hangs then, as where a disk does, keeps the
    process for `LAST` s at most, and is no failure of it.

    Python's handlers, for they work while the loop is busy or blocked by a thread that hangs.
    """
    loop = asyncio.get_running_loop()

    seen: list[float] = []  # when
    status = GwstreamError.exit_code  # of a process that is overdue

    def handle(number: int, _: FrameType | None) -> None:
        if seen and time.monotonic() - seen[0] < TOGETHER:
            return
        if seen:
            os.write(2, b"second signal: stopped at once, what was on its way is lost\n")
            _leave(128 + number)
        seen.append(time.monotonic())
        signal.signal(signal.SIGALRM, overdue)
        _arm(seen[0] + limit)  # never disarmed: the interpreter's own end can hang as well
        loop.call_soon_threadsafe(stop.set)

    def overdue(*_: object) -> None:
        os.write(2, b"a part hangs: the process ends without it\n")
        _leave(status)

    def finished() -> None:
        nonlocal status
        if seen:
            status = 0
            _arm(time.monotonic() + LAST)
            atexit.register(_arm, seen[0] + limit)  # no thread hangs: the interpreter may take its time

    before = {number: signal.signal(number, handle) for number in SIGNALS}
    try:
        yield finished
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _arm(end: float) -> None:
    """Let the process be overdue at ``end``, in s of the monotonic clock."""
    signal.setitimer(signal.ITIMER_REAL, max(end - time.monotonic(), 0.001))


def _leave(status: int) -> NoReturn:
    """End the process without waiting for threads."""
    with suppress(OSError, ValueError):
        sys.stderr.flush()
    os._exit(status)


async def _beat(metrics: Metrics, health: Health) -> None:
    """Measure the event loop's delay, see what is stuck, and tell systemd's watchdog if nothing is."""
    loop = asyncio.get_running_loop()
    watched = watchdog_interval()
    told = loop.time()
    while True:
        due = loop.time() + BEAT
        await asyncio.sleep(BEAT)
        lag = max(0.0, loop.time() - due)
        metrics.loop_lag(lag)
        if lag > BEAT:  # all that polls is late with it: look again when it has had its turn
            continue
        stuck = health.look()
        if watched and not stuck and loop.time() - told >= watched / 3:
            notify("WATCHDOG=1")
            told = loop.time()


class _Reporter:
    """Tells systemd and the log what is stuck, and when it goes on."""

    def __init__(self, life: Life) -> None:
        self._life = life
        self._before: dict[str, Stuck] = {}
        self._status = ""

    def __call__(self, stuck: Sequence[Stuck]) -> None:
        now = {one.part: one for one in stuck}
        for part in now.keys() - self._before.keys():
            log.error("%s; %s", now[part], _remedy())
        for part in self._before.keys() - now.keys():
            log.warning("%s: goes on, after %.0f s or more", part, self._before[part].seconds)
        status = "; ".join(map(str, stuck))
        if status != self._status:
            notify(f"STATUS={status or self._life.said}")
        self._before, self._status = now, status


def _remedy() -> str:
    """What becomes of a process that is stuck."""
    watched = watchdog_interval()
    return f"systemd restarts us if that lasts {watched:g} s more" if watched else "nobody restarts us: see /healthz"


def watchdog_interval() -> float:
    """Seconds after which systemd restarts a silent process; 0: it does not watch."""
    mine = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
    text = os.environ.get("WATCHDOG_USEC", "0")
    return int(text) / 1e6 if mine and text.isdecimal() else 0.0


def notify(message: str) -> None:
    """Tell systemd (`sd_notify(3)`); without it, nothing happens."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address:
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
            out.sendto(message.encode(), "\0" + address[1:] if address.startswith("@") else address)
