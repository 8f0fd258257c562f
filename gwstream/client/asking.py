"""Ask a daemon for the posterior at a time, whether or not its own gate opened there."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any, Literal

import aiomqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from gwstream.client.connection import NOBODY, Broker, broker_at, connect
from gwstream.client.messages import Answer, NotOurs, parse
from gwstream.errors import AskError, SubscribeError

ERROR = "gwstream.trigger_error/1"
ELSEWHERE = 1.0  # s in which another daemon of the prefix may have a detector that one has not


async def ask(
    gps: float,
    detectors: Collection[str] | str,
    broker: Broker | str = "127.0.0.1",
    *,
    distance_prior: Literal["uniform", "volume"] | None = None,
    timeout: float = 30.0,  # noqa: ASYNC109
) -> dict[str, Answer]:
    """The posteriors of the windows that hold GPS s ``gps``, by detector, from a daemon with ``publish.triggers``.

    ``distance_prior``: density of the effective distance; None: the daemon's. Raises `SubscribeError` where the broker
    cannot be reached or does not let us ask, `AskError` where a detector has no answer within ``timeout`` s: its text
    says why, and its ``answers`` are those of the others.
    """
    where = broker_at(broker)
    asked = (detectors,) if isinstance(detectors, str) else tuple(detectors)
    name = f"ask-{uuid.uuid4().hex[:16]}"
    trigger: dict[str, Any] = {"id": name, "gps": gps, "detectors": list(asked)}
    if distance_prior is not None:
        trigger["distance_prior"] = distance_prior
    replies = _Replies(asked, name)
    try:
        async with connect(replace(where, keep=0), f"gwstream-client-{name}", clean=True) as client:
            await _send(client, where, name, json.dumps(trigger).encode())
            async with asyncio.timeout(timeout) as limit:
                await replies.collect(client, limit)
    except TimeoutError:
        about = f"is a daemon there, with publish.triggers enabled, and may you write {where.prefix}/trigger?"
        replies.late(f"no answer within {timeout:g} s: {about}")
    except aiomqtt.MqttError as problem:
        raise SubscribeError(f"cannot ask at {where.address}: {problem}; {NOBODY}") from problem
    return replies.result()


async def _send(client: aiomqtt.Client, where: Broker, name: str, trigger: bytes) -> None:
    """Listen to the reply's topic, and publish. Raises `SubscribeError`."""
    topic = f"{where.prefix}/reply/{name}"
    (code,) = await client.subscribe(topic, qos=1)
    if isinstance(code, ReasonCode) and code.is_failure:
        raise SubscribeError(f"the broker at {where.address} does not let us read {topic}: {code}")
    properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    properties.ResponseTopic = topic
    properties.ContentType = "application/json"
    await client.publish(f"{where.prefix}/trigger", trigger, qos=1, properties=properties)


class _Replies:
    """What came for each detector, from one daemon or several of a prefix."""

    def __init__(self, detectors: tuple[str, ...], name: str) -> None:
        self._detectors = detectors
        self._name = name
        self._answers: dict[str, Answer] = {}
        self._refusals: dict[str, Mapping[str, Any]] = {}

    async def collect(self, client: aiomqtt.Client, limit: asyncio.Timeout) -> None:
        """Until all is said."""
        async for message in client.messages:
            self._take(message.payload if isinstance(message.payload, bytes) else b"")
            open_ = [one for one in self._detectors if one not in self._answers]
            if all(one in self._refusals for one in open_):
                if all(self._refusals[one]["reason"] != "unknown_detector" for one in open_):
                    return
                soon = asyncio.get_running_loop().time() + ELSEWHERE
                limit.reschedule(min(soon, limit.when() or soon))

    def _take(self, payload: bytes) -> None:
        try:
            body = json.loads(payload)
            if body["schema"] == ERROR and body["trigger"] in (self._name, None):
                for one in self._detectors if body["detector"] is None else (str(body["detector"]),):
                    self._refusals[one] = {"reason": str(body["reason"]), "text": str(body["text"])}
                return
            found = parse(payload)
        except (NotOurs, ValueError, LookupError, TypeError):
            return  # who may write there may write anything
        if isinstance(found, Answer) and found.trigger == self._name and found.detector in self._detectors:
            self._answers[found.detector] = found

    def late(self, text: str) -> None:
        """No more will be waited for."""
        for one in self._detectors:
            self._refusals.setdefault(one, {"reason": "no_answer", "text": text})

    def result(self) -> dict[str, Answer]:
        """The answers in the order asked. Raises `AskError`."""
        missing = [one for one in self._detectors if one not in self._answers]
        answers = {one: self._answers[one] for one in self._detectors if one in self._answers}
        if missing:
            said = (f"{one}: {self._refusals[one]['reason']}: {self._refusals[one]['text']}" for one in missing)
            raise AskError("; ".join(said), answers)
        return answers
