"""Where triggers come in and replies go out, over whichever connection there is; see `gwstream.asked`.

Replies are of no use to anybody but who asked, and not for long: they are neither stored nor numbered, wait in memory
for at most `PATIENCE` s, and are never in the outbox's way: between two of its flights one reply is sent.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import aiomqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from gwstream import clock
from gwstream.asked import Address, Refused, Reply, Request, parse
from gwstream.config import PublishConfig
from gwstream.publish import connection, message
from gwstream.records import NANO, Tally, silent

log = logging.getLogger("publish")

BURST = 8  # triggers at once; on average publish.triggers.per_second
REFUSALS = 10.0  # a second that are told, on average; more are counted and no more
REPLIES = 64  # that wait
PATIENCE = 60.0  # s


@dataclass(slots=True)
class Bucket:
    """Lets ``rate`` a second through, ``burst`` at once."""

    rate: float
    burst: float
    left: float
    at: float = 0.0

    def take(self, now: float) -> bool:
        """Whether another may pass at ``now`` s."""
        self.left = min(self.burst, self.left + (now - self.at) * self.rate)
        self.at = now
        if self.left < 1:
            return False
        self.left -= 1
        return True


class Desk:
    """Takes triggers of ``<prefix>/trigger`` to who serves them, and their replies to who asked.

    ``answered``: hears of each answer that was sent, by detector. ``monotonic_ns``: the clock of the replies' marks.
    """

    def __init__(
        self,
        config: PublishConfig,
        *,
        tally: Tally = silent,
        answered: Callable[[str], None] = lambda _: None,
        now_ns: Callable[[], int] = clock.gps_now_ns,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._config = config
        self._tally = tally
        self._answered = answered
        self._now_ns = now_ns
        self._monotonic_ns = monotonic_ns
        self._receive: Callable[[Request], None] | None = None
        self._replies: deque[tuple[int, Reply]] = deque()  # since when, what
        self._triggers = Bucket(config.triggers.per_second, BURST, BURST)
        self._refusals = Bucket(REFUSALS, BURST, BURST)
        self.wake: Callable[[], None] = lambda: None
        """Called when there is a reply to send."""

    @property
    def depth(self) -> int:
        """Replies that wait."""
        return len(self._replies)

    def serve(self, receive: Callable[[Request], None]) -> None:
        """From here on let ``receive`` have the triggers."""
        self._receive = receive

    def reply(self, reply: Reply) -> None:
        """Send it, soon; what is refused is counted, and told as long as not too many are."""
        if reply.reason:
            self._tally("trigger", reply.reason, "")
            if not self._refusals.take(self._now()):
                return
        if len(self._replies) >= REPLIES:
            self._tally("trigger", "unsent", "")
            return
        self._replies.append((self._monotonic_ns(), reply))
        self.wake()

    async def listen(self, client: connection.Client) -> None:
        """Take triggers until the connection is lost. Raises `aiomqtt.MqttError`."""
        options = SubscribeOptions(qos=1, noLocal=True)
        topic = f"{self._config.prefix}/trigger"
        (code,) = await client.subscribe(topic, options=options)
        if isinstance(code, ReasonCode) and code.is_failure:
            self._tally("trigger", "refused", "")
            log.warning("%s: the broker does not let us read it (%s): no triggers", topic, code)
        async for one in client.messages:
            if client.missed:
                self._tally("trigger", "too_many", "", client.missed)
                client.missed = 0
            if not one.retain:  # a trigger is for now
                self.take(one)

    def take(self, one: aiomqtt.Message) -> None:
        """A message has come: a trigger, or something that is none."""
        payload = one.payload if isinstance(one.payload, bytes) else b""
        response = getattr(one.properties, "ResponseTopic", None)
        correlation = getattr(one.properties, "CorrelationData", b"")
        in_time = self._triggers.take(self._now())
        try:
            request = parse(payload, self._config.prefix, response, correlation)
            if not in_time:
                raise Refused("too_many", "triggers come too fast: ask again later", request.to, request.name)
        except Refused as problem:
            if problem.to is None:
                self._tally("trigger", problem.reason, "")
            else:
                self.reply(Reply(to=problem.to, name=problem.name, reason=problem.reason, text=problem.text))
            return
        if self._receive is None:
            self.reply(Reply(to=request.to, name=request.name, reason="stopping", text="the daemon does not serve yet"))
        else:
            self._receive(request)

    async def send(self, client: connection.Client) -> None:
        """Send the oldest reply, if there is one. Raises `aiomqtt.MqttError`; then it is kept."""
        while self._replies and self._monotonic_ns() - self._replies[0][0] > PATIENCE * NANO:
            self._replies.popleft()
            self._tally("trigger", "unsent", "")
        if not self._replies:
            return
        _, reply = self._replies[0]
        now, gps, instance = self._monotonic_ns(), self._now_ns(), self._config.instance
        payload = message.reply(reply, instance=instance, monotonic_ns=now, gps_ns=gps)
        properties = _properties(reply.to, answered=reply.summary is not None)
        await client.publish(reply.to.topic, payload, qos=1, properties=properties)
        self._replies.popleft()
        if client.refusal:
            self._tally("trigger", "unsent", "")
        elif reply.summary is not None:
            self._answered(reply.detector)

    def _now(self) -> float:
        return self._monotonic_ns() / NANO


def _properties(to: Address, *, answered: bool) -> Properties:
    schema = message.ANSWER_SCHEMA if answered else message.ERROR_SCHEMA
    out = connection.properties(schema, expiry=round(PATIENCE), of=PacketTypes.PUBLISH)
    if to.correlation:
        out.CorrelationData = to.correlation
    return out
