"""Stage 6: summaries to an MQTT v5 broker, each kept until the broker has acknowledged it.

One connection at a time, a new client for each: `Publisher.run` connects, sends, and when that fails begins again, for
ever, with pauses that grow to ``backoff`` seconds. Messages wait in an `Outbox`. The client identifier is fixed by
prefix and instance, so that a broker which has not yet noticed a dead connection drops it, and tells its last will,
before it lets us in again: never after, when it would hide that we are back.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from typing import Any, Protocol

import aiomqtt

from gwstream import __version__, clock
from gwstream.config import PublishConfig
from gwstream.health import Health
from gwstream.publish import connection, message
from gwstream.publish.connection import check_broker
from gwstream.publish.desk import Desk
from gwstream.publish.outbox import Outbox
from gwstream.publish.rows import Kept
from gwstream.records import NANO, Outgoing, Tally, silent

__all__ = ["Delivered", "Desk", "Observer", "Outbox", "Publisher", "check_broker"]

log = logging.getLogger("publish")

IN_FLIGHT = 8  # messages on the wire at once; brokers allow 20 and more
ATTEMPTS = 20  # connections that may break under a message before it is taken for one the broker cannot stand
STATUS_INTERVAL = 10.0  # s between two statuses
COMPLAINT_INTERVAL = 60.0  # s between two warnings of the same
CONNECTING = 60.0  # s after which an attempt to connect that neither succeeds nor fails is stuck
FAREWELL = 1.0  # s that the broker has to take our farewell, and to close: one that hangs must not keep us
FIRST_PAUSE = 0.1  # s before the second attempt to connect


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivered:
    """A message the broker has acknowledged.

    ``delivery``: that part of it as it was sent. ``latency``: s from the arrival of the frame to the acknowledgement.
    """

    outgoing: Outgoing
    delivery: Mapping[str, Any]
    latency: float


class Observer(Protocol):
    """Who wants to know how delivery goes: metrics, the live page."""

    def delivered(self, delivered: Delivered) -> None:
        """A message was acknowledged."""

    def connection(self, up: bool, reason: str) -> None:
        """The broker took us, or left us for ``reason``."""

    def outbox(self, depth: int) -> None:
        """So many messages wait for their acknowledgement."""


class Publisher:
    """Sends `Outgoing`s to the broker of ``config``.

    ``outbox``: where they wait; None: in memory, dropping none. ``desk``: takes triggers; None: nothing is subscribed
    to. ``health``: hears what is on the wire. ``now_ns``: GPS
    time in ns; ``monotonic_ns``: the clock of `Outgoing.arrived` and its marks.
    """

    def __init__(
        self,
        config: PublishConfig,
        *,
        outbox: Outbox | None = None,
        desk: Desk | None = None,
        tally: Tally = silent,
        observers: Sequence[Observer] = (),
        health: Health | None = None,
        now_ns: Callable[[], int] = clock.gps_now_ns,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._config = config
        self._tally = tally
        self._observers = tuple(observers)
        self._health = health or Health()
        self._outbox = outbox or Outbox(config, tally=tally)
        self._desk = desk
        if desk is not None:
            desk.wake = self._outbox.news.set
        self._now_ns = now_ns
        self._monotonic_ns = monotonic_ns
        self._counts = {"posterior": 0, "unweighted": 0, "event": 0, "network": 0}
        self._facts: dict[str, Any] = {}
        self._status_due = True
        self._said_trouble = ""
        self._complaint = ("", 0)  # the last one logged, and when

    @property
    def depth(self) -> int:
        """Messages not yet acknowledged."""
        return self._outbox.depth

    def tell(self, **facts: object) -> None:
        """Fields of the status message: engine, model, detectors …; it is sent at once if they differ."""
        if any(self._facts.get(name) != fact for name, fact in facts.items()):
            self._facts |= facts
            self._status_due = True
            self._outbox.news.set()

    async def put(self, outgoing: Outgoing) -> None:
        """Take a message on; one whose id is known already is left out."""
        await self._outbox.put(outgoing)
        self._changed()

    async def stored(self) -> None:
        """Wait until what was put so far is on disk, or the disk is in trouble."""
        await self._outbox.written()

    async def run(self) -> None:
        """Connect, send, and begin again when that fails; ends only when it is cancelled. Raises `ConfigError`."""
        credentials = connection.credentials(self._config)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._outbox.run(), name="publish-outbox")
            await self._connect(credentials)

    async def _connect(self, credentials: connection.Credentials) -> None:
        """One connection after the other."""
        pause = FIRST_PAUSE
        while True:
            began = self._monotonic_ns()
            try:
                # in a task of its own: before Python 3.11.4 a failed TaskGroup leaves its task counted as cancelled
                await asyncio.create_task(self._connected(credentials), name="publish-connection")
            except aiomqtt.MqttError as problem:
                if _told_to_stop():  # the connection broke in the middle of our farewell
                    raise asyncio.CancelledError from None
                if kind := connection.fault(problem):
                    self._tally("publish", kind, "")
                self._lost(f"{self._config.host}:{self._config.port}: {connection.why(problem)}")
            if self._monotonic_ns() - began > 2 * self._config.backoff * NANO:
                pause = FIRST_PAUSE
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # daemons must not all come back at once
            pause = min(2 * pause, self._config.backoff)

    async def drain(self, timeout: float) -> int:  # noqa: ASYNC109
        """Wait up to ``timeout`` s until all is acknowledged; returns, and counts where it is lost, what is not."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while self.depth or (self._desk and self._desk.depth):
                    self._outbox.room.clear()
                    await self._outbox.room.wait()
        lost = [] if self._outbox.durable else self._outbox.left()
        for kept in lost:
            self._tally("publish", "undelivered", kept.outgoing.summary.detector)
        if lost:
            log.warning("%d messages are lost: not acknowledged after %g s of draining", len(lost), timeout)
        elif self.depth:
            log.info("%d messages wait in the outbox for the next start", self.depth)
        return self.depth

    def _lost(self, reason: str) -> None:
        """Tell that we are not connected: observers each time, the log when it is news and then once a minute."""
        now = self._monotonic_ns()
        news = reason != self._complaint[0] or now - self._complaint[1] > COMPLAINT_INTERVAL * NANO
        if news:
            self._complaint = (reason, now)
        log.log(logging.WARNING if news else logging.DEBUG, "%s; trying again, %d messages kept", reason, self.depth)
        for observer in self._observers:
            observer.connection(False, reason)

    async def _connected(self, credentials: connection.Credentials) -> None:
        """One connection to its end. Raises `aiomqtt.MqttError`."""
        async with AsyncExitStack() as stack:
            with self._health.work("publish", CONNECTING):
                client = await stack.enter_async_context(connection.client(self._config, credentials))
            log.info("connected to %s:%d", self._config.host, self._config.port)
            self._complaint = ("", 0)
            for observer in self._observers:
                observer.connection(True, "")
            try:
                await self._use(client)
            except asyncio.CancelledError:
                client.timeout = min(client.timeout, FAREWELL)
                with suppress(aiomqtt.MqttError):  # a proper farewell hides the will, so we say it ourselves
                    await self._say(client, "offline", reason="stopped")
                raise

    async def _use(self, client: connection.Client) -> None:
        """Send, and notice when the connection is lost. Raises `aiomqtt.MqttError`."""
        failure: Exception | None = None
        try:
            async with asyncio.TaskGroup() as group:
                listening = self._desk.listen(client) if self._desk else connection.watch(client)
                group.create_task(listening, name="publish-watch")
                group.create_task(self._flow(client), name="publish-flow")
        except* aiomqtt.MqttError as problems:
            failure = problems.exceptions[0]
        if failure is not None:  # not raised above: before Python 3.11.4 it would come out in a group
            raise failure from None

    async def _flow(self, client: connection.Client) -> None:
        """Send what waits and, from time to time, the status."""
        due = 0
        self._status_due = True
        while True:
            trouble = self._outbox.trouble
            if self._status_due or trouble != self._said_trouble or self._monotonic_ns() >= due:
                self._status_due, self._said_trouble = False, trouble
                await self._say(client, "online")
                due = self._monotonic_ns() + round(STATUS_INTERVAL * NANO)
            if self._desk is not None and self._desk.depth:
                await self._desk.send(client)
                self._outbox.room.set()
            if self._outbox.first is not None:
                with self._health.work("publish", self._config.timeout + self._health.limit):
                    await self._fly(client)
                continue
            if self._desk is not None and self._desk.depth:
                continue
            self._outbox.news.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, (due - self._monotonic_ns()) / NANO)):
                    await self._outbox.news.wait()

    async def _fly(self, client: connection.Client) -> None:
        """Send some messages at once; what is not acknowledged goes back to its place."""
        first = self._outbox.first
        number = IN_FLIGHT if first is None or first.attempt < 2 else 1  # alone, to find the one that breaks it
        results: list[BaseException | None] = []
        try:
            flying = self._outbox.depart(number)
            results = await asyncio.gather(*(self._send(client, kept) for kept in flying), return_exceptions=True)
        finally:
            self._outbox.returned()
            first = self._outbox.first
            if first is not None and first.broken >= ATTEMPTS:
                self._outbox.drop(first, "too_many_attempts", f"{ATTEMPTS} connections broke while it was sent")
            self._changed()
        for problem in results:
            if isinstance(problem, BaseException):
                await asyncio.sleep(0.05)  # the watching task says it better, if the connection is lost
                raise problem

    async def _send(self, client: connection.Client, kept: Kept) -> None:
        """Send one message and wait for its acknowledgement."""
        summary = kept.outgoing.summary
        kept.attempt += 1
        now = self._monotonic_ns()
        kept.delivery = message.delivery(
            kept.outgoing, sequence=kept.sequence, attempt=kept.attempt, monotonic_ns=now, gps_ns=self._now_ns()
        )
        properties = connection.of_message(summary, self._config.expiry)
        topic = message.topic(self._config.prefix, summary)
        kept.broken += 1
        try:
            await client.publish(topic, message.compose(summary, kept.delivery), qos=1, properties=properties)
        except aiomqtt.MqttError as problem:
            if connection.late(problem):  # a broker in trouble: what it does not break under waits until it is well
                kept.broken -= 1
            raise
        if why := client.refusal:
            self._outbox.drop(kept, "refused", connection.REFUSED.format(why))
            return
        self._outbox.acknowledged(kept)
        self._counts[summary.kind] += 1
        latency = kept.delivery["latency"]["total"] + (self._monotonic_ns() - now) / NANO
        for observer in self._observers:
            observer.delivered(Delivered(outgoing=kept.outgoing, delivery=kept.delivery, latency=latency))

    async def _say(self, client: connection.Client, state: str, **more: object) -> None:
        """Send the status, which the broker keeps for whoever subscribes later."""
        facts = {
            "instance": self._config.instance,
            "version": __version__,
            "sent_gps": self._now_ns() / NANO,
            "counts": self._counts | {"dropped": self._outbox.dropped},
            "outbox": self.depth,
            "durable": self._outbox.durable,
            **({"trouble": self._outbox.trouble} if self._outbox.trouble else {}),
            **self._facts,
            **more,
        }
        properties = connection.properties(message.STATUS_SCHEMA)
        topic = connection.status_topic(self._config)
        await client.publish(topic, message.status(state, facts), qos=1, retain=True, properties=properties)
        if why := client.refusal:
            self._outbox.lost("", "refused", connection.REFUSED.format(why))

    def _changed(self) -> None:
        for observer in self._observers:
            observer.outbox(self.depth)


def _told_to_stop() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
