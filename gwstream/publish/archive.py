"""Stored messages once more, each the bytes that were sent: for subscribers that missed some.

The store is only read, and the broker is told by a client of our own, so that a daemon may run beside it. A message is
marked as a repeat by the user property `REPEAT`, not in its bytes.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import aiomqtt

from gwstream import clock
from gwstream.config import PublishConfig
from gwstream.errors import PublishError
from gwstream.publish import connection, message, store
from gwstream.publish.rows import WAITING, Row
from gwstream.records import Summary

REPEAT = ("repeat", "true")
AT_ONCE = 8  # messages on the wire
AGAIN = 2  # the attempt of a message that was given up: it may have been delivered before


@dataclass(frozen=True, slots=True)
class Message:
    """A stored message: what it is about, and the whole of its bytes."""

    summary: Summary
    payload: bytes


@dataclass(slots=True)
class Archive:
    """The messages in ``directory`` whose coalescence lies in [begin, end) GPS ns, ``detectors``: of these alone.

    Those that still wait for the broker are left out and counted in ``waiting``: the daemon sends them. Iterating, and
    `samples`, raise `ConfigError` where there is nothing to read.
    """

    directory: Path
    begin_ns: int
    end_ns: int
    detectors: frozenset[str] = frozenset()
    waiting: int = 0

    def samples(self) -> Iterator[tuple[str, bytes]]:
        """The ids of posteriors, waiting ones included, and their draws (`gwstream.summary.draws`) where still kept."""
        for row in self._rows(samples=True):
            summary = row.outgoing.summary
            if summary.samples:
                yield summary.id, summary.samples

    def _rows(self, *, samples: bool) -> Iterator[Row]:
        for row in store.read(self.directory, self.begin_ns, self.end_ns, samples=samples):
            if not self.detectors or row.outgoing.summary.detector in self.detectors:
                yield row

    def __iter__(self) -> Iterator[Message]:
        self.waiting = 0
        for row in self._rows(samples=False):
            summary = row.outgoing.summary
            if row.state == WAITING:
                self.waiting += 1
            else:
                yield Message(summary, message.compose(summary, _delivery(row)))


def _delivery(row: Row) -> dict[str, object]:
    """As it was acknowledged; of a message that was given up, how it gets there now."""
    if row.delivery is not None:
        found: dict[str, object] = json.loads(row.delivery)
        return found
    now = clock.gps_now_ns()  # stored times begin with GPS time, and count on
    return message.delivery(row.outgoing, sequence=row.sequence, attempt=AGAIN, monotonic_ns=now, gps_ns=now)


async def send(
    config: PublishConfig, messages: Iterable[Message], *, rate: float, told: Callable[[int], None] = lambda _: None
) -> int:
    """Publish ``messages`` in order, ``rate`` a second at most; returns how many the broker has acknowledged.

    ``told`` hears of that number as it grows. Raises `PublishError` where the broker is away, goes away or refuses one,
    and `ConfigError` for the files of secrets.
    """
    left, sent, loop = iter(messages), 0, asyncio.get_running_loop()
    some = list(islice(left, AT_ONCE))
    if not some:
        return 0
    await connection.check_broker(config, connection.visitor(config))
    try:
        async with connection.client(config, connection.credentials(config), connection.visitor(config)) as client:
            began = loop.time()
            while some:
                await asyncio.gather(*(_publish(client, config, one) for one in some))
                sent += len(some)
                told(sent)
                await asyncio.sleep(max(0.0, began + sent / rate - loop.time()))
                some = list(islice(left, AT_ONCE))
    except aiomqtt.MqttError as problem:
        where = f"{config.host}:{config.port}"
        raise PublishError(
            f"the MQTT broker at {where} left us after {sent} messages: {connection.why(problem)}; run it again"
        ) from None
    return sent


async def _publish(client: connection.Client, config: PublishConfig, one: Message) -> None:
    properties = connection.of_message(one.summary, config.expiry, REPEAT)
    await client.publish(message.topic(config.prefix, one.summary), one.payload, qos=1, properties=properties)
    if why := client.refusal:
        raise PublishError(connection.REFUSED.format(why))
