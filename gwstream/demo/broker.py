"""An MQTT v5 broker in a child process on loopback, for the demo, tests and benchmarks: iotcore's, which is rumqttd.

It keeps nothing on disk, asks for no password and ends with us: not a broker to serve others.
"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from gwstream.demo.child import free_port
from gwstream.errors import PublishError

START_LIMIT = 15.0  # s
STOP_LIMIT = 5.0  # s
LARGEST_MESSAGE = 4 << 20  # bytes; its own limit of 20 kB would cut the connection at a long posterior

_SETTINGS = """
id = 0
[router]
id = 0
max_connections = 256
max_outgoing_packet_count = 200
max_segment_size = 16777216
max_segment_count = 4
[v5.1]
name = "v5"
listen = "127.0.0.1:{port}"
next_connection_delay_ms = 1
[v5.1.connections]
connection_timeout_ms = 10000
max_payload_size = {largest}
max_inflight_count = 200
dynamic_filters = true
"""


class Broker:
    """``async with Broker() as broker`` listens on 127.0.0.1 and ``broker.port``: the given one, or one that is free.

    Raises `PublishError` when iotcore is not installed or the broker does not come up.
    """

    def __init__(self, port: int = 0) -> None:
        self._wanted = port
        self._broker: Any = None
        self.port = port

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self._start)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self._stop)

    def _start(self) -> None:
        try:
            import iotcore
        except ImportError:
            raise PublishError("the broker of the demo is missing: pip install 'gwstream[demo]'") from None
        self.port = self._wanted or free_port()
        with tempfile.TemporaryDirectory(prefix="gwstream-broker-") as folder:
            settings = Path(folder) / "broker.toml"
            settings.write_text(_SETTINGS.format(port=self.port, largest=LARGEST_MESSAGE), encoding="utf-8")
            self._broker = iotcore.Broker(config_path=str(settings))
            try:
                self._broker.start(timeout=START_LIMIT)  # has read its settings when it listens
            except (OSError, RuntimeError) as problem:
                raise PublishError(f"the broker does not start on 127.0.0.1:{self.port}: {problem}") from problem

    def _stop(self) -> None:
        if self._broker is not None:
            self._broker.stop(timeout=STOP_LIMIT)
