from __future__ import annotations

import asyncio
import socket
import time

import aiomqtt
import pytest

from gwstream.demo.broker import Broker
from gwstream.errors import PublishError


def client(port: int) -> aiomqtt.Client:
    return aiomqtt.Client("127.0.0.1", port, protocol=aiomqtt.ProtocolVersion.V5, timeout=5)


async def test_speaks_v5_and_keeps_what_is_retained() -> None:
    async with Broker() as broker:
        async with client(broker.port) as one:
            await one.publish("a/kept", b"x" * 300_000, qos=1, retain=True)
        async with client(broker.port) as late:
            await late.subscribe("a/#", qos=1)
            message = await asyncio.wait_for(anext(aiter(late.messages)), 5)
    assert message.retain
    assert len(bytes(message.payload)) == 300_000  # above the broker's own limit of 20 kB


async def test_listens_on_loopback_alone_and_releases_the_port_soon() -> None:
    async with Broker() as broker:
        port = broker.port
        with socket.socket() as other:  # 127.0.0.2 would answer, were it bound to all addresses
            other.settimeout(1)
            assert other.connect_ex(("127.0.0.2", port)) != 0
        begin = time.monotonic()
    assert time.monotonic() - begin < 5
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


async def test_a_port_in_use_is_said() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(PublishError, match=str(taken.getsockname()[1])):
            async with Broker(taken.getsockname()[1]):
                pass
