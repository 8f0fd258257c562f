"""What keeps HTTP clients, slow or malicious, from wearing the daemon out: bounds on connections, requests and time.

All of it is bounded: connections in all and of one address, requests a second of one address, addresses remembered,
bytes of a request, and the time a client may take to send one or to take our answer. What is refused is counted.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from aiohttp import web

from gwstream.config import MetricsConfig
from gwstream.records import Tally, silent
from gwstream.web.access import HEADERS

log = logging.getLogger("web")

LARGEST = 32_768  # bytes of a request; none of ours has a body
BURST = 5.0  # s of metrics.request_rate that may come at once: a page brings twenty requests
ADDRESSES = 1024  # whose rate is remembered; beyond, the one longest not seen is forgotten
BACKLOG = 16  # connections taken in at one turn of the event loop
_FULL = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 10\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """Seconds a client has: ``head`` to send a request, ``idle`` between two, ``read`` to take what waits for it."""

    head: float = 10.0
    idle: float = 75.0
    read: float = 30.0


class Guard:
    """Counts connections and requests by the client's address."""

    def __init__(
        self,
        config: MetricsConfig,
        *,
        tally: Tally = silent,
        patience: Patience | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.tally = tally
        self.patience = patience or Patience()
        self._limit = config.connections
        self._rate = config.request_rate
        self._now = now
        self._open: Counter[str] = Counter()
        self._buckets: dict[str, tuple[float, float]] = {}  # requests left, and when that was; the latest seen last

    def admit(self, who: str) -> bool:
        """Whether one more connection may be open. Pair it with `leave`.

        No address has more than half of them, and the last quarter is for addresses that have none: a probe gets in.
        """
        mine, total = self._open[who], self._open.total()
        crowded = total >= self._limit - self._limit // 4 and mine > 0
        if total >= self._limit or mine >= self._limit // 2 or crowded:
            self.tally("web", "too_many_connections", "")
            return False
        self._open[who] += 1
        return True

    def leave(self, who: str) -> None:
        """An admitted connection is over."""
        self._open[who] -= 1
        if not self._open[who]:
            del self._open[who]

    def request(self, who: str) -> bool:
        """Whether this address may have one more request answered now."""
        now, burst = self._now(), self._rate * BURST
        left, since = self._buckets.pop(who, (burst, now))
        left = min(burst, left + (now - since) * self._rate)
        allowed = left >= 1
        self._buckets[who] = (left - allowed, now)
        if len(self._buckets) > ADDRESSES:
            del self._buckets[next(iter(self._buckets))]
        if not allowed:
            self.tally("web", "too_many_requests", "")
        return allowed


class Connection(web.RequestHandler):
    """aiohttp's side of one connection, with limits it does not have. Wrap each request in `handling`."""

    def __init__(self, guard: Guard, server: web.Server) -> None:
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            logger=log,
            access_log=None,  # type: ignore[arg-type] # it means none
            max_line_size=4096,
            max_field_size=8192,
            max_headers=64,
            lingering_time=1.0,
            auto_decompress=False,
        )
        self._guard = guard
        self._peer: asyncio.Transport | None = None
        self._received = 0  # bytes since the last request was complete
        self._busy = self._begun = False  # a request is being answered; one has begun to come
        self._deadline: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None
        self.who = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.who = address(transport)
        if not self._guard.admit(self.who):
            transport.write(_FULL)
            transport.close()
            return
        self._peer = transport
        self._begun = True  # who connects and says nothing is slow as well
        super().connection_made(transport)
        self._wait(self._guard.patience.head)

    def data_received(self, data: bytes) -> None:
        if self._peer is None:
            return
        self._received += len(data)
        if self._received > LARGEST:
            self._guard.tally("web", "bad_request", "")
            self._abort()
            return
        if data and not self._busy and not self._begun:
            self._begun = True
            self._wait(self._guard.patience.head)
        super().data_received(data)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread = asyncio.get_running_loop().call_later(self._guard.patience.read, self._slow)

    def resume_writing(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
        super().resume_writing()

    def connection_lost(self, exc: BaseException | None) -> None:
        for timer in (self._deadline, self._unread):
            if timer is not None:
                timer.cancel()
        if self._peer is not None:
            self._peer = None
            self._guard.leave(self.who)
        super().connection_lost(exc)

    @contextmanager
    def handling(self) -> Iterator[None]:
        """While a request is answered its client owes us nothing but to read."""
        self._busy, self._begun, self._received = True, False, 0
        if self._deadline is not None:
            self._deadline.cancel()
        try:
            yield
        finally:
            self._busy = False
            self._wait(self._guard.patience.idle)

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """What is no HTTP is counted and answered without an echo; aiohttp would log each with a traceback."""
        if status < 500:
            self._guard.tally("web", "bad_request", "")
            response: web.StreamResponse = web.Response(status=status, text="not a request this server understands\n")
            response.force_close()
        else:
            response = super().handle_error(request, status, exc, message)
        response.headers.update(HEADERS)
        return response

    def _wait(self, seconds: float) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        if self._peer is not None:
            self._deadline = asyncio.get_running_loop().call_later(seconds, self._overdue)

    def _overdue(self) -> None:
        if self._begun:
            self._slow()
        else:
            self._abort()

    def _slow(self) -> None:
        self._guard.tally("web", "slow_client", "")
        self._abort()

    def _abort(self) -> None:
        """End the connection at once, whatever waits to be sent."""
        if self._peer is not None:
            self._peer.abort()


def connection_of(request: web.Request) -> Connection:
    """The connection a request came by."""
    assert isinstance(request.protocol, Connection)
    return request.protocol


def address(transport: asyncio.BaseTransport) -> str:
    """Whom limits go by: the IPv4 address, or the IPv6 network of 64 bits, which one client has for itself."""
    peer = transport.get_extra_info("peername")
    if not peer:
        return ""
    try:
        found = ipaddress.ip_address(str(peer[0]).partition("%")[0])
    except ValueError:
        return str(peer[0])
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is None:
            return str(ipaddress.ip_network((found, 64), strict=False))
        found = found.ipv4_mapped
    return str(found)
