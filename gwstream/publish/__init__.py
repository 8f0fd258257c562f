"""Stage 6: summaries to an MQTT v5 broker, each kept until the broker has acknowledged it.

One connection at a time, a new client for each: `Publisher.run` connects, sends, and when that fails begins again, for
ever, with pauses that grow to ``backoff`` seconds. Messages wait in an outbox of bounded length. The client identifier
is fixed by prefix and instance, so that a broker which has not yet noticed a dead connection drops it, and tells its
last will, before it lets us in again: never after, when it would hide that we are back.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

import aiomqtt

from gwstream import __version__, clock
from gwstream.config import PublishConfig
from gwstream.publish import connection, message
from gwstream.publish.connection import check_broker
from gwstream.records import NANO, Outgoing, Tally, silent

__all__ = ["Delivered", "Observer", "Publisher", "check_broker"]

log = logging.getLogger("publish")

IN_FLIGHT = 8  # messages on the wire at once; brokers allow 20 and more
ATTEMPTS = 20  # connections a message may cost before it is taken for one the broker cannot stand
STATUS_INTERVAL = 10.0  # s between two statuses
COMPLAINT_INTERVAL = 60.0  # s between two warnings of the same
FIRST_PAUSE = 0.1  # s before the second attempt to connect
REFUSED = "the broker refuses it ({}): has the user the right to write?"


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


@dataclass(slots=True)
class _Kept:
    """A message until it is acknowledged."""

    outgoing: Outgoing
    sequence: int
    attempt: int = 0
    done: bool = False
    delivery: dict[str, Any] = field(default_factory=dict)


class Publisher:
    """Sends `Outgoing`s to the broker of ``config``.

    ``live``: when the outbox is full, True drops the oldest message and counts it, False makes `put` wait.
    ``now_ns``: GPS time in ns; ``monotonic_ns``: the clock of `Outgoing.arrived` and its marks.
    """

    def __init__(
        self,
        config: PublishConfig,
        *,
        tally: Tally = silent,
        observers: Sequence[Observer] = (),
        live: bool = True,
        now_ns: Callable[[], int] = clock.gps_now_ns,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._config = config
        self._tally = tally
        self._observers = tuple(observers)
        self._live = live
        self._now_ns = now_ns
        self._monotonic_ns = monotonic_ns
        self._waiting: deque[_Kept] = deque()
        self._flying: list[_Kept] = []
        self._sequences: dict[str, int] = {}
        self._counts = {"posterior": 0, "event": 0, "network": 0, "dropped": 0}
        self._facts: dict[str, Any] = {}
        self._status_due = True
        self._complaint = ("", 0)  # the last one logged, and when
        self._said: set[str] = set()  # reasons for a loss that the log has
        self._news = asyncio.Event()  # something to send
        self._room = asyncio.Event()  # something left the outbox

    @property
    def depth(self) -> int:
        """Messages not yet acknowledged."""
        return len(self._waiting) + len(self._flying)

    def tell(self, **facts: object) -> None:
        """Fields of the status message: engine, model, detectors …; it is sent at once if they differ."""
        if any(self._facts.get(name) != fact for name, fact in facts.items()):
            self._facts |= facts
            self._status_due = True
            self._news.set()

    async def put(self, outgoing: Outgoing) -> None:
        """Take a message on; its sequence number is fixed now, so that one that is dropped leaves a gap."""
        while not self._live and self.depth >= self._config.queue:
            self._room.clear()
            await self._room.wait()
        detector = outgoing.summary.detector
        sequence = self._sequences[detector] = self._sequences.get(detector, -1) + 1
        self._waiting.append(_Kept(outgoing, sequence))
        if self.depth > self._config.queue:
            lost = self._waiting.popleft().outgoing.summary.detector
            self._drop(lost, "outbox_full", f"{self._config.queue} wait for the broker already")
        self._news.set()
        self._changed()

    async def run(self) -> None:
        """Connect, send, and begin again when that fails; ends only when it is cancelled. Raises `ConfigError`."""
        password = connection.password(self._config)
        pause = FIRST_PAUSE
        while True:
            began = self._monotonic_ns()
            try:
                # in a task of its own: before Python 3.11.4 a failed TaskGroup leaves its task counted as cancelled
                await asyncio.create_task(self._connected(password), name="publish-connection")
            except aiomqtt.MqttError as problem:
                self._lost(f"{self._config.host}:{self._config.port}: {connection.why(problem)}")
            if self._monotonic_ns() - began > 2 * self._config.backoff * NANO:
                pause = FIRST_PAUSE
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # daemons must not all come back at once
            pause = min(2 * pause, self._config.backoff)

    async def drain(self, timeout: float) -> int:  # noqa: ASYNC109
        """Wait up to ``timeout`` s until all is acknowledged; returns, and counts, what is not."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while self.depth:
                    self._room.clear()
                    await self._room.wait()
        for kept in (*self._flying, *self._waiting):
            self._tally("publish", "undelivered", kept.outgoing.summary.detector)
        if self.depth:
            log.warning("%d messages are lost: not acknowledged after %g s of draining", self.depth, timeout)
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

    async def _connected(self, password: str | None) -> None:
        """One connection to its end. Raises `aiomqtt.MqttError`."""
        async with connection.client(self._config, password) as client:
            log.info("connected to %s:%d", self._config.host, self._config.port)
            self._complaint = ("", 0)
            for observer in self._observers:
                observer.connection(True, "")
            try:
                await self._use(client)
            except asyncio.CancelledError:
                with suppress(aiomqtt.MqttError):  # a proper farewell hides the will, so we say it ourselves
                    await self._say(client, "offline", reason="stopped")
                raise

    async def _use(self, client: connection.Client) -> None:
        """Send, and notice when the connection is lost. Raises `aiomqtt.MqttError`."""
        failure: Exception | None = None
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_watch(client), name="publish-watch")
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
            if self._status_due or self._monotonic_ns() >= due:
                self._status_due = False
                await self._say(client, "online")
                due = self._monotonic_ns() + round(STATUS_INTERVAL * NANO)
            if self._waiting:
                await self._fly(client)
                continue
            self._news.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), max(0.0, (due - self._monotonic_ns()) / NANO))

    async def _fly(self, client: connection.Client) -> None:
        """Send some messages at once; what is not acknowledged goes back to its place."""
        number = IN_FLIGHT if self._waiting[0].attempt < 2 else 1  # alone, to find the one that breaks connections
        while self._waiting and len(self._flying) < number:
            self._flying.append(self._waiting.popleft())
        try:
            results = await asyncio.gather(*(self._send(client, kept) for kept in self._flying), return_exceptions=True)
        finally:
            back = [kept for kept in self._flying if not kept.done]
            self._flying.clear()
            self._waiting.extendleft(reversed(back))
            if self._waiting and self._waiting[0].attempt >= ATTEMPTS:
                lost = self._waiting.popleft().outgoing.summary.detector
                self._drop(lost, "too_many_attempts", f"{ATTEMPTS} connections broke while it was sent")
            self._room.set()
            self._changed()
        for problem in results:
            if isinstance(problem, BaseException):
                await asyncio.sleep(0.05)  # the watching task says it better, if the connection is lost
                raise problem

    async def _send(self, client: connection.Client, kept: _Kept) -> None:
        """Send one message and wait for its acknowledgement."""
        summary = kept.outgoing.summary
        kept.attempt += 1
        now = self._monotonic_ns()
        kept.delivery = message.delivery(
            kept.outgoing, sequence=kept.sequence, attempt=kept.attempt, monotonic_ns=now, gps_ns=self._now_ns()
        )
        model = json.loads(summary.posterior).get("model", {})
        properties = connection.properties(
            message.schema_of(summary),
            [("model", str(model.get("name"))), ("model_version", str(model.get("version")))],
            self._config.expiry,
        )
        topic = message.topic(self._config.prefix, summary)
        await client.publish(topic, message.compose(summary, kept.delivery), qos=1, properties=properties)
        kept.done = True
        if client.refused:  # of several on the wire at once it may have been another: the number is right
            self._drop(summary.detector, "refused", REFUSED.format(client.refused.pop()))
            return
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
            "counts": dict(self._counts),
            "outbox": self.depth,
            **self._facts,
            **more,
        }
        properties = connection.properties(message.STATUS_SCHEMA)
        topic = connection.status_topic(self._config)
        await client.publish(topic, message.status(state, facts), qos=1, retain=True, properties=properties)
        if client.refused:
            self._drop("", "refused", REFUSED.format(client.refused.pop()))

    def _drop(self, detector: str, reason: str, text: str) -> None:
        """Count a message that is lost; the log has the first for each reason."""
        self._counts["dropped"] += 1
        self._tally("publish", reason, detector)
        log.log(logging.DEBUG if reason in self._said else logging.WARNING, "dropped a message: %s", text)
        self._said.add(reason)

    def _changed(self) -> None:
        for observer in self._observers:
            observer.outbox(self.depth)


async def _watch(client: aiomqtt.Client) -> None:
    """Notice a lost connection, which publishing alone does not. Raises `aiomqtt.MqttError`."""
    async for _ in client.messages:
        pass
