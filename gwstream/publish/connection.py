"""Connections to the broker: clients, their will, the properties of messages, and what can go wrong in plain words."""

from __future__ import annotations

import asyncio
import json
import os
import re
import ssl
from collections.abc import Iterable
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import aiomqtt
from aiomqtt.exceptions import MqttConnectError
from paho.mqtt.client import MQTT_CLEAN_START_FIRST_ONLY
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from gwstream import mqtt
from gwstream.config import PublishConfig
from gwstream.errors import ConfigError, PublishError
from gwstream.publish import message
from gwstream.records import Summary
from gwstream.secrets import secret, tls

_REFUSED_USER = {134, 135}  # bad user name or password, not authorized
CONTENT = "application/json"
IN_HAND = 64  # messages for us that are looked at one after the other
LARGEST_PACKET = 16384  # bytes of one: eight times what a trigger may have
REFUSED = "the broker refuses it ({}): has the user the right to write?"


class Client(mqtt.Client):
    """An MQTT v5 client that keeps what the broker refused although it acknowledged it: quota, rights."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.refused: dict[int, str] = {}
        """Why, by packet identifier."""
        self._last: ContextVar[int] = ContextVar("last")  # identifier, of each task's own
        self._publish = self._client.publish
        self._client.publish = self._noted  # type: ignore[method-assign]  # aiomqtt keeps the identifier to itself
        self.missed = 0
        """Messages for us that came faster than they were looked at."""

    @property
    def refusal(self) -> str:
        """Why the broker refuses what this task has just published, told once; "": it does not."""
        return self.refused.pop(self._last.get(0), "")

    def _noted(self, *args: Any, **options: Any) -> Any:
        sent = self._publish(*args, **options)
        self._last.set(sent.mid)
        return sent

    def _on_message(self, client: Any, userdata: Any, message: Any) -> None:
        if self._queue.full():
            self.missed += 1
        else:
            super()._on_message(client, userdata, message)

    def _on_disconnect(self, *args: Any, **options: Any) -> None:
        super()._on_disconnect(*args, **options)
        if self._disconnected.done() and not self._disconnected.cancelled():
            self._disconnected.exception()  # asked for, or asyncio logs it where we learn of it by another way

    def _on_socket_register_write(self, client: Any, userdata: Any, sock: Any) -> None:
        """As aiomqtt has it, but for a socket that is closed before the loop's next turn, which asyncio would log."""

        def write() -> None:
            try:
                client.loop_write()
            except (OSError, ValueError) as problem:
                if not self._disconnected.done():
                    self._disconnected.set_exception(problem)

        def register() -> None:
            with suppress(OSError, ValueError):
                self._loop.add_writer(sock.fileno(), write)

        self._loop.call_soon_threadsafe(register)

    def _on_publish(self, client: Any, userdata: Any, mid: int, reason_code: ReasonCode, properties: Any) -> None:
        if reason_code.is_failure:
            self.refused[mid] = str(reason_code)
        super()._on_publish(client, userdata, mid, reason_code, properties)


@dataclass(frozen=True, slots=True)
class Credentials:
    """What shows the broker who we are, and us who the broker is; ``tls`` None: nothing is encrypted."""

    password: str | None = field(repr=False)
    tls: ssl.SSLContext | None


def client(config: PublishConfig, credentials: Credentials, visitor: str = "") -> Client:
    """A new client, to be entered once; when we vanish the broker says for us that we are offline.

    ``visitor``: the identifier of one that is not the daemon, and leaves no such will.
    """
    will = (
        None
        if visitor
        else aiomqtt.Will(
            status_topic(config),
            message.status("offline", {"instance": config.instance, "reason": "connection lost"}),
            qos=1,
            retain=True,
            properties=properties(message.STATUS_SCHEMA, of=PacketTypes.WILLMESSAGE),
        )
    )
    return Client(
        config.host,
        config.port,
        username=config.username,
        password=credentials.password,
        tls_context=credentials.tls,
        identifier=visitor or config.identity,
        protocol=aiomqtt.ProtocolVersion.V5,
        will=will,
        timeout=config.timeout,
        keepalive=config.keepalive,
        clean_start=MQTT_CLEAN_START_FIRST_ONLY,
        properties=_limits() if config.triggers.enabled else None,
        max_queued_incoming_messages=IN_HAND if config.triggers.enabled else 1,
    )


def _limits() -> Properties:
    """What the broker may send us: what is larger, or more at a time, it keeps."""
    out = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    out.MaximumPacketSize = LARGEST_PACKET
    out.ReceiveMaximum = IN_HAND
    return out


async def watch(client: Client) -> None:
    """Notice a lost connection, which publishing alone does not. Raises `aiomqtt.MqttError`."""
    async for _ in client.messages:
        pass


def visitor(config: PublishConfig) -> str:
    """An identifier that no daemon has, nor another visitor of this host: a broker drops the older of two clients."""
    return f"{config.identity}-{os.getpid()}"


async def check_broker(config: PublishConfig, visitor: str = "") -> None:
    """Connect once. Raises `PublishError` that says what is wrong and where, `ConfigError` for the files of secrets."""
    where = f"{config.host}:{config.port}"
    try:
        async with asyncio.timeout(config.timeout + 1), client(config, credentials(config), visitor):
            pass
    except MqttConnectError as problem:
        if fault(problem) == "login_refused":
            user = f"user '{config.username}'" if config.username else "a client without user name"
            raise PublishError(
                f"the MQTT broker at {where} refuses {user} ({why(problem)}): "
                "correct publish.username and publish.password_file, or publish.certificate_file"
            ) from None
        raise PublishError(f"the MQTT broker at {where} refuses us: {why(problem)}") from None
    except (aiomqtt.MqttError, TimeoutError) as problem:
        if config.tls and fault(problem) == "tls":
            raise PublishError(
                f"no trusted connection to the MQTT broker at {where}: {why(problem)}; correct publish.host (the name "
                "in the broker's certificate), publish.ca_file, or publish.port (brokers speak TLS on one of its own)"
            ) from None
        raise PublishError(
            f"no MQTT v5 broker at {where}: {why(problem)}; start it, or correct publish.host and publish.port "
            "(by hand: --broker)"
        ) from None
    except ValueError as problem:
        raise ConfigError(f"publish.host = '{config.host}': {problem}") from None


def fault(problem: BaseException) -> str:
    """The kind of a failed connection, for the counter: "login_refused", "tls", or "" for one that is merely gone."""
    if isinstance(problem, MqttConnectError):
        refused = isinstance(problem.rc, ReasonCode) and problem.rc.value in _REFUSED_USER
        return "login_refused" if refused else ""
    causes = (problem, problem.__cause__, problem.__context__)
    return "tls" if any(isinstance(one, ssl.SSLError) for one in causes) else ""


def late(problem: BaseException) -> bool:
    """Whether the broker has only not answered in time; else it ended the connection, or something between did."""
    return isinstance(problem, TimeoutError) or str(problem) == mqtt.LATE


def credentials(config: PublishConfig) -> Credentials:
    """From their files; the password without its line's end. Raises `ConfigError`, which never quotes a secret."""
    name = "publish.{}".format
    password = secret(name("password_file"), config.password_file)
    if not config.tls:
        return Credentials(password, None)
    return Credentials(password, tls(name, config.ca_file, config.certificate_file, config.key_file))


def properties(
    schema: str, model: Iterable[tuple[str, str]] = (), expiry: int | None = None, of: int = PacketTypes.PUBLISH
) -> Properties:
    """Content type and user properties; ``expiry`` in s."""
    out = Properties(of)  # type: ignore[no-untyped-call]  # paho's own omission
    out.ContentType = CONTENT
    out.UserProperty = [("schema", schema), *model]
    if expiry is not None:
        out.MessageExpiryInterval = expiry
    return out


def of_message(summary: Summary, expiry: int, *more: tuple[str, str]) -> Properties:
    """The properties of a message about ``summary``."""
    model = json.loads(summary.posterior).get("model", {})
    named = [("model", str(model.get("name"))), ("model_version", str(model.get("version"))), *more]
    return properties(message.schema_of(summary), named, expiry)


def status_topic(config: PublishConfig) -> str:
    """Where the daemon's own state is retained."""
    return f"{config.prefix}/{config.instance}/status"


def why(problem: BaseException) -> str:
    """The reason in plain words, without numbers of libraries."""
    text = re.sub(r"^\[(Errno|code:?) ?-?\d+\] ?", "", str(problem)).strip()
    if isinstance(problem.__cause__, aiomqtt.MqttCodeError):
        return f"connection lost ({why(problem.__cause__)})"
    if late(problem):
        return "no answer in time"
    if text == "Disconnected during message iteration":  # what aiomqtt calls a broker that is gone
        return "connection lost"
    return text[:1].lower() + text[1:] or type(problem).__name__
