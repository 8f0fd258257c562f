"""Where the broker is, and connections to it."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field

import aiomqtt
from paho.mqtt.client import MQTT_CLEAN_START_FIRST_ONLY
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

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


def connect(broker: Broker, name: str, *, clean: bool) -> aiomqtt.Client:
    """A new client, to be entered once; ``clean``: what the broker has kept for ``name`` is of no interest."""
    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    properties.SessionExpiryInterval = broker.keep
    return aiomqtt.Client(
        broker.host,
        broker.port,
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
