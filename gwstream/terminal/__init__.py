"""``gwstream watch``: what the daemons say, live in a terminal, or as JSON lines for other programs.

It is a subscriber as anybody's: all it knows comes from `gwstream.client`.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import aclosing, contextmanager, suppress

from gwstream.client import Broker, Filters, Message, Posterior, Status, everything
from gwstream.config import ServiceConfig
from gwstream.terminal.known import Known

REFRESH = 1.0  # s between two drawings without news: ages go on
SHORTEST = 0.2  # s between two drawings without a key: a busy broker must not fill a slow line


def watch(broker: Broker, filters: Filters, *, events_only: bool = False, json_lines: bool = False) -> int:
    """Show what ``broker`` tells until told to stop; returns the exit status. Raises `SubscribeError`.

    ``json_lines``: even where stdout is a terminal.
    """
    if json_lines or not sys.stdout.isatty():
        return asyncio.run(_lines(broker, filters, events_only))
    return asyncio.run(_live(broker, filters, events_only))


async def _lines(broker: Broker, filters: Filters, events_only: bool) -> int:
    """Each message on a line, as it was published; warnings on stderr."""
    from gwstream import logs

    logs.configure(ServiceConfig(log_level="warning"))
    async with aclosing(everything(broker, **filters)) as stream:
        async for message in stream:
            if isinstance(message, Status) or (events_only and type(message) is Posterior):
                continue
            try:
                sys.stdout.buffer.write(line(message))
                sys.stdout.buffer.flush()
            except BrokenPipeError:  # `| head` has what it wanted
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that the exit's own flush is quiet
                break
    return 0


def line(message: Message) -> bytes:
    """The message as it was published, with a line's end: the SHA-256 of what it holds is that of these bytes."""
    return json.dumps(message.body, separators=(",", ":")).encode("ascii") + b"\n"


async def _live(broker: Broker, filters: Filters, events_only: bool) -> int:
    """The live view; its keys are those of `Known.press`."""
    from rich.console import Console

    from gwstream.terminal import view
    from gwstream.terminal.keys import keys

    known = Known(where=broker.address, events_only=events_only)
    due, loop = asyncio.Event(), asyncio.get_running_loop()
    timer: asyncio.TimerHandle | None = None

    def press(key: str) -> None:
        known.press(key, page=max(1, view.rows(console.size, known) - 1))
        due.set()

    def news() -> None:
        nonlocal timer
        timer = timer or loop.call_later(SHORTEST, due.set)

    def link(reason: str) -> None:
        known.link = reason
        due.set()

    console = Console(highlight=False, markup=False)
    hooks: Filters = {"on_gap": known.gap, "on_link": link}
    with (
        view.screen(console, known) as draw,
        _signals(due.set, lambda: press("q")),
        keys(sys.stdin, press),
        view.notes(known),
    ):
        async with asyncio.TaskGroup() as group:
            reader = group.create_task(_collect(broker, filters | hooks, known, news), name="subscriber")
            while not known.over:
                due.clear()
                if timer is not None:
                    timer.cancel()
                    timer = None
                draw()
                with suppress(TimeoutError):
                    async with asyncio.timeout(REFRESH):
                        await due.wait()
            reader.cancel()
    return 0


async def _collect(broker: Broker, filters: Filters, known: Known, news: Callable[[], None]) -> None:
    async with aclosing(everything(broker, **filters)) as stream:
        async for message in stream:
            known.take(message)
            news()


@contextmanager
def _signals(resized: Callable[[], None], stop: Callable[[], None]) -> Iterator[None]:
    """While the block lasts, Ctrl-C, SIGTERM and a line that is hung up call ``stop``."""
    loop = asyncio.get_running_loop()
    calls = {signal.SIGINT: stop, signal.SIGTERM: stop, signal.SIGHUP: stop, signal.SIGWINCH: resized}
    for number, call in calls.items():
        loop.add_signal_handler(number, call)
    try:
        yield
    finally:
        for number in calls:
            loop.remove_signal_handler(number)
