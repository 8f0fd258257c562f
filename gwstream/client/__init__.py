"""Subscribe to what gwstream publishes, in Python.

    async for event in events("broker.example.org", good=True):
        print(event.detector, event.gps, event.chirp_mass)

`posteriors`, `events`, `network_events` and `everything` connect when they are first asked, come back by themselves
when the connection is lost, leave out what came before (QoS 1 may deliver twice), and say when messages are missing.
`blocking` makes an ordinary iterator of any of them. `draws` asks the daemon for the draws behind a posterior or event,
and `ask` for the posterior at any time of the last minute.
"""

from __future__ import annotations

import asyncio
import logging
import random
import uuid
from collections.abc import AsyncGenerator, Callable, Collection, Iterator
from contextlib import suppress
from threading import Thread
from typing import Any, TypedDict, TypeVar, Unpack, cast

import aiomqtt
from paho.mqtt.reasoncodes import ReasonCode

from gwstream.client.asking import ask
from gwstream.client.connection import NOBODY, Broker, broker_at, connect
from gwstream.client.fetch import Daemon, Draws, draws
from gwstream.client.messages import Answer, Event, Interval, Message, NetworkEvent, NotOurs, Posterior, Status, parse
from gwstream.client.track import Gap, Track
from gwstream.errors import SubscribeError

__all__ = [
    "Answer",
    "Broker",
    "Daemon",
    "Draws",
    "Event",
    "Filters",
    "Gap",
    "Interval",
    "Message",
    "NetworkEvent",
    "Posterior",
    "Status",
    "ask",
    "blocking",
    "draws",
    "events",
    "everything",
    "network_events",
    "posteriors",
]

log = logging.getLogger("client")
T = TypeVar("T")
M = TypeVar("M", bound=Message | Status)

FIRST_PAUSE = 0.1  # s before the second attempt to connect
LONGEST_PAUSE = 5.0
ALL: tuple[type[Message | Status], ...] = (Posterior, Event, NetworkEvent, Status)
REPEAT = ("repeat", "true")  # user property of what `gwstream publish` sends again


def _warn(gap: Gap) -> None:
    log.warning("%s", gap)


def _silent(reason: str) -> None:
    """Nobody wants to know how the connection does."""


class Filters(TypedDict, total=False):
    """What to leave out. ``detectors``: only these. ``good``: only what is not suspect. ``snr``, ``log_bayes``: only
    from there on. ``unweighted``: True lets those in, too, that a daemon with ``publish.every_window`` sends of all
    windows. ``on_gap``: called with what did not come; left out: the log has it. ``on_link``: called with "" once
    subscribed, and with the reason when the connection is lost."""

    detectors: Collection[str]
    good: bool
    snr: float
    log_bayes: float
    unweighted: bool
    on_gap: Callable[[Gap], None]
    on_link: Callable[[str], None]


def posteriors(broker: Broker | str = "127.0.0.1", **filters: Unpack[Filters]) -> AsyncGenerator[Posterior, None]:
    """Posteriors of windows behind the gate, as they come; ``broker`` may be a host's name.

    Raises `SubscribeError` where the first connection fails, or the broker does not let us read.
    """
    return _stream(broker, (Posterior,), filters)


def events(broker: Broker | str = "127.0.0.1", **filters: Unpack[Filters]) -> AsyncGenerator[Event, None]:
    """Events and their updates: the best posterior of each signal. Otherwise as `posteriors`."""
    return _stream(broker, (Event,), filters)


def network_events(
    broker: Broker | str = "127.0.0.1", **filters: Unpack[Filters]
) -> AsyncGenerator[NetworkEvent, None]:
    """Events of several detectors, with updates and withdrawals; ``detectors``: all of these are members.

    Otherwise as `posteriors`.
    """
    return _stream(broker, (NetworkEvent,), filters)


def everything(
    broker: Broker | str = "127.0.0.1", **filters: Unpack[Filters]
) -> AsyncGenerator[Message | Status, None]:
    """Posteriors, events, network events, and what the daemons say of themselves, which no filter leaves out.

    Otherwise as `posteriors`.
    """
    return _stream(broker, ALL, filters)


def blocking(stream: AsyncGenerator[T, None]) -> Iterator[T]:
    """What ``stream`` gives, for programs without an event loop: it runs in a thread, while you do other things too."""
    loop = asyncio.new_event_loop()
    thread = Thread(target=loop.run_forever, name="gwstream-client", daemon=True)
    thread.start()
    try:
        with suppress(StopAsyncIteration):
            while True:
                yield asyncio.run_coroutine_threadsafe(anext(stream), loop).result()
    finally:
        asyncio.run_coroutine_threadsafe(_end(stream), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _end(stream: AsyncGenerator[T, None]) -> None:
    """Close it, and whatever a request that was broken off has left."""
    mine = asyncio.current_task()
    left = [task for task in asyncio.all_tasks() if task is not mine]
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)
    await stream.aclose()


async def _stream(broker: Broker | str, kinds: tuple[type[M], ...], filters: Filters) -> AsyncGenerator[M, None]:
    """Messages of exactly these ``kinds``, over as many connections as it takes."""
    where = broker_at(broker)
    name = where.identifier or f"gwstream-client-{uuid.uuid4().hex[:12]}"
    on_link = filters.get("on_link", _silent)
    track, pause, once = Track(), FIRST_PAUSE, False
    while True:
        try:
            async with connect(where, name, clean=not (once or where.identifier)) as client:
                await _subscribe(client, where, kinds, filters)
                once, pause = True, FIRST_PAUSE
                log.info("subscribed at %s", where.address)
                on_link("")
                async for raw in client.messages:
                    message = _new(raw, track, filters.get("on_gap", _warn))
                    if message is not None and type(message) in kinds and _wanted(message, filters):
                        yield cast(M, message)
        except aiomqtt.MqttError as problem:
            text = f"{where.address}: {problem}"
            if not once:
                raise SubscribeError(f"cannot subscribe at {text}; {NOBODY}") from problem
            log.warning("%s; connecting again", text)
            on_link(str(problem))
        await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # subscribers must not all come back at once
        pause = min(2 * pause, LONGEST_PAUSE)


async def _subscribe(client: aiomqtt.Client, broker: Broker, kinds: tuple[type[Any], ...], filters: Filters) -> None:
    """To both kinds of a detector, for they share its sequence numbers. Raises `SubscribeError`."""
    levels = sorted(filters.get("detectors", ())) or ["+"]
    topics = [f"{broker.prefix}/+/status"] if Status in kinds else []
    if Posterior in kinds or Event in kinds:
        topics += [f"{broker.prefix}/{level}/{what}" for level in levels for what in ("posterior", "event")]
    if NetworkEvent in kinds and f"{broker.prefix}/+/event" not in topics:  # overlapping ones would come twice
        topics.append(f"{broker.prefix}/network/event")
    codes = await client.subscribe([(topic, 1) for topic in topics])
    for topic, code in zip(topics, codes, strict=True):
        if isinstance(code, ReasonCode) and code.is_failure:
            raise SubscribeError(f"the broker at {broker.address} does not let us read {topic}: {code}")


def _new(raw: aiomqtt.Message, track: Track, on_gap: Callable[[Gap], None]) -> Message | Status | None:
    """The message, unless it is none of ours or has come before; what is missing before it is told."""
    try:
        message = parse(raw.payload if isinstance(raw.payload, bytes) else b"")
    except NotOurs as problem:
        log.warning("%s: left out: %s", raw.topic, problem)
        return None
    if isinstance(message, Status):
        return message
    new, gap = track.new(message, repeat=REPEAT in getattr(raw.properties, "UserProperty", ()))
    if gap is not None:
        on_gap(gap)
    return message if new else None


def _wanted(message: Message | Status, filters: Filters) -> bool:
    """What is not a number passes no limit."""
    if isinstance(message, Status):
        return True
    if isinstance(message, NetworkEvent) and not set(filters.get("detectors", ())) <= set(message.members):
        return False
    if isinstance(message, Posterior) and not (message.weighted or filters.get("unweighted", False)):
        return False
    return (
        (message.good or not filters.get("good", False))
        and ("snr" not in filters or message.snr >= filters["snr"])
        and ("log_bayes" not in filters or message.log_bayes >= filters["log_bayes"])
    )
