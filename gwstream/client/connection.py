"""Where the broker is, and connections to it."""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Any

import aiomqtt
from paho.mqtt.client import MQTT_CLEAN_START_FIRST_ONLY
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from gwstream import mqtt
from gwstream.errors import ConfigError

NOBODY = "start a broker there, or name another"
WAITING = 10_000  # messages kept for a reader that is slow; more are lost, and noticed


@dataclass(frozen=True, slots=True, kw_only=True)
class Broker:
    """Where to subscribe. ``tls``: a context, as from `ssl.create_default_context`; None: plain TCP.

    The broker keeps messages for ``keep`` s while the connection is away. With an ``identifier`` of its own, which no
    two programs may share, it does so while the program is away too.
    """

    host: str = "127.0.0.1"
    port: int = 1883
    prefix: str = "gwstream"
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: ssl.SSLContext | None = None
    identifier: str = ""
    keep: int = 3600

    @property
    def address(self) -> str:
        """HOST:PORT."""
        return f"{self.host}:{self.port}"


def host_and_port(text: str) -> tuple[str, int | None]:
    """Of HOST[:PORT], an IPv6 address with a port in brackets; None: no port. Raises `ConfigError`."""
    match = re.fullmatch(r"(?:\[([^]]+)\]|([^:]*))(?::([^:]*))?", text)
    if match is None:  # several colons: an address of IPv6
        return text, None
    host, port = match[1] or match[2], match[3]
    if not host:
        raise ConfigError(f"broker '{text}': write it as HOST or HOST:PORT")
    if port is not None and not (port.isascii() and port.isdecimal() and 0 < int(port) < 2**16):
        raise ConfigError(f"broker '{text}': '{port}' is not a port; write it as HOST:PORT")
    return host, None if port is None else int(port)


def broker_at(broker: Broker | str) -> Broker:
    """The broker at HOST[:PORT]. Raises `ConfigError`."""
    if isinstance(broker, Broker):
        return broker
    host, port = host_and_port(broker)
    return Broker(host=host) if port is None else Broker(host=host, port=port)


class Client(mqtt.Client):
    """Left for good, it has the broker ``forget`` it, or not; a lost connection is not for good."""

    def __init__(self, *args: Any, forget: bool, **options: Any) -> None:
        super().__init__(*args, **options)
        self._forget = forget

    async def __aexit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._forget and not isinstance(problem, aiomqtt.MqttError):
            end = Properties(PacketTypes.DISCONNECT)  # type: ignore[no-untyped-call]
            end.SessionExpiryInterval = 0
            goodbye = partial(self._client.disconnect, properties=end)
            self._client.disconnect = goodbye  # type: ignore[method-assign]  # aiomqtt says goodbye without properties
        await super().__aexit__(kind, problem, trace)


def connect(broker: Broker, name: str, *, clean: bool) -> Client:
    """A new client, to be entered once; ``clean``: what the broker has kept for ``name`` is of no interest.

    A client without an identifier of its own leaves nothing behind at the broker.
    """
    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    properties.SessionExpiryInterval = broker.keep
    return Client(
        broker.host,
        broker.port,
        forget=not broker.identifier,
        username=broker.username,
        password=broker.password,
        tls_context=broker.tls,
        identifier=name,
        protocol=aiomqtt.ProtocolVersion.V5,
        clean_start=MQTT_CLEAN_START_FIRST_ONLY if clean else False,
        properties=properties,
        timeout=5.0,
        keepalive=10,
        max_queued_incoming_messages=WAITING,
    )
