"""Slow and malicious clients of the HTTP server, and the token."""

from __future__ import annotations

import asyncio
import base64
import logging
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
from browser import browser
from hypothesis import HealthCheck, given
from hypothesis import settings as trials
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from test_web import good, new_feed, tell_posterior

from gwstream.config import MetricsConfig
from gwstream.errors import ConfigError
from gwstream.metrics import Metrics
from gwstream.metrics.reasons import MEANINGS
from gwstream.web import Feed, serving
from gwstream.web.access import HEADERS
from gwstream.web.guard import ADDRESSES, BURST, LARGEST, Guard, Patience, address

TOKEN = "0123456789abcdef0123456789abcdef"


@dataclass
class Site:
    url: str = ""
    port: int = 0
    live: Feed = field(default_factory=new_feed)
    counts: Counter[str] = field(default_factory=Counter)

    def tally(self, stage: str, reason: str, detector: str, count: int = 1) -> None:
        assert reason in MEANINGS[stage]
        self.counts[reason] += count


@asynccontextmanager
async def site(feed: Feed | None = None, patience: Patience | None = None, **settings: Any) -> AsyncIterator[Site]:
    made = Site(live=feed or new_feed())
    exposition = Metrics(CollectorRegistry(), ("H1",)).exposition
    config = MetricsConfig(port=0, **{"request_rate": 1000, **settings})
    async with serving(config, feed=made.live, exposition=exposition, tally=made.tally, patience=patience) as port:
        made.port, made.url = port, f"http://127.0.0.1:{port}"
        yield made


async def until(condition: Any, limit: float = 20) -> None:
    async with asyncio.timeout(limit):
        while not condition():
            await asyncio.sleep(0.01)


@asynccontextmanager
async def dialled(
    at: Site, sent: bytes = b"", source: str = "127.0.0.1"
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection on which ``sent`` has been sent."""
    reader, writer = await asyncio.open_connection("127.0.0.1", at.port, local_addr=(source, 0))
    try:
        writer.write(sent)
        async with asyncio.timeout(30):
            yield reader, writer
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def raw(at: Site, sent: bytes, *, end: bool = False) -> bytes:
    """All that comes back for these bytes, until the server ends the connection. ``end``: nothing follows them."""
    async with dialled(at, sent) as (reader, writer):
        with suppress(ConnectionError):
            if end:
                writer.write_eof()
            return await reader.read()
    return b""


async def get(at: Site, path: str, source: str = "127.0.0.1", **headers: str) -> tuple[int, str, Any]:
    connector = aiohttp.TCPConnector(local_addr=(source, 0))
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        session.get(at.url + path, headers=headers) as response,
    ):
        return response.status, await response.text(), response.headers


def request(path: str, *lines: str) -> bytes:
    return "\r\n".join((f"GET {path} HTTP/1.1", "Host: 127.0.0.1", "Connection: close", *lines, "", "")).encode(
        "latin-1"
    )


# ---- slow clients ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("begun", [b"", b"GET /", b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: "])
async def test_who_does_not_finish_a_request_is_cut_off(begun: bytes) -> None:
    async with site(patience=Patience(head=0.3)) as at, dialled(at, begun) as (reader, writer):
        task = asyncio.create_task(reader.read())
        while not task.done():  # a byte now and then does not help
            await asyncio.sleep(0.05)
            writer.write(b"x" if begun else b"")
        with suppress(ConnectionError):  # a byte was on its way
            assert await task == b""
        assert at.counts == {"slow_client": 1}
        assert (await get(at, "/healthz"))[0] == 200


HEALTHZ = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


async def test_an_idle_connection_ends_without_complaint() -> None:
    async with site(patience=Patience(head=0.5, idle=0.5)) as at, dialled(at) as (reader, writer):
        for _ in range(4):  # longer in all than any limit
            writer.write(HEALTHZ)
            assert b"200 OK" in await reader.readuntil(b"}")
            await asyncio.sleep(0.2)
        assert await reader.read() == b""
        assert not at.counts


async def test_a_second_request_has_no_more_time_than_the_first() -> None:
    async with site(patience=Patience(head=0.3)) as at, dialled(at, HEALTHZ) as (reader, writer):
        assert b"200 OK" in await reader.readuntil(b"}")
        writer.write(b"GET /heal")
        with suppress(ConnectionError):
            assert await reader.read() == b""
        assert at.counts == {"slow_client": 1}


async def test_a_page_that_does_not_read_gives_its_place_back() -> None:
    numbers: list[int] = []
    feed = new_feed(on_clients=numbers.append)
    for number in range(24):
        tell_posterior(feed, number)
    async with site(feed, patience=Patience(read=0.5)) as at:
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(client, ("127.0.0.1", at.port))
        await loop.sock_sendall(client, b"GET /events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        await until(lambda: numbers == [1])
        samples = np.random.default_rng(1).normal(size=16_384)
        for number in range(200):
            feed.strain("H1", number * 10**9, 16_384, samples)  # more in all than the sockets' buffers hold
        await until(lambda: numbers == [1, 0])
        assert at.counts["slow_client"] == 1
        client.close()


async def test_a_page_that_goes_away_gives_its_place_back_at_once() -> None:
    numbers: list[int] = []
    async with site(new_feed(on_clients=numbers.append)) as at:
        async with dialled(at, request("/events")):
            await until(lambda: numbers == [1])
        await until(lambda: numbers == [1, 0], 10)  # less than the 15 s after which a write would notice


# ---- many connections, many requests --------------------------------------------------------------------------------


async def test_connections_are_bounded_in_all_and_for_each_address() -> None:
    async with site(connections=4) as at:
        async with AsyncExitStack() as stack:
            for number, (last, status) in enumerate(((2, 200), (2, 200), (2, 503), (3, 200), (4, 200), (5, 503))):
                reader, _ = await stack.enter_async_context(dialled(at, HEALTHZ, f"127.0.0.{last}"))
                head = await reader.readuntil(b"\r\n\r\n")
                assert head.startswith(f"HTTP/1.1 {status}".encode()), number
        assert at.counts == {"too_many_connections": 2}
        for last in (2, 2, 3, 4, 5):
            assert (await get(at, "/healthz", f"127.0.0.{last}"))[0] == 200


async def test_an_address_that_asks_too_often_waits_and_others_do_not() -> None:
    async with site(request_rate=2.0) as at:
        burst = int(2 * BURST)
        answers = [await get(at, "/healthz", "127.0.0.2") for _ in range(burst + 3)]
        assert [status for status, _, _ in answers[:burst]] == [200] * burst
        assert 429 in [status for status, _, _ in answers[burst:]]
        refused = next(headers for status, _, headers in answers if status == 429)
        assert (refused["Retry-After"], refused["Connection"]) == ("1", "close")
        assert refused["Content-Security-Policy"] == HEADERS["Content-Security-Policy"]
        assert (await get(at, "/healthz", "127.0.0.3"))[0] == 200
        assert at.counts["too_many_requests"] == [status for status, _, _ in answers].count(429)


def test_the_rate_comes_back_and_the_table_is_bounded() -> None:
    now = 0.0
    guard = Guard(MetricsConfig(request_rate=2.0), now=lambda: now)
    assert [guard.request("a") for _ in range(12)] == [True] * 10 + [False] * 2
    now = 1.0
    assert [guard.request("a") for _ in range(3)] == [True, True, False]
    now = 1e6
    assert [guard.request("a") for _ in range(12)] == [True] * 10 + [False] * 2
    for number in range(3 * ADDRESSES):
        guard.request(str(number))
    assert len(guard._buckets) == ADDRESSES


async def test_one_address_has_half_of_the_pages_at_most() -> None:
    counts: Counter[str] = Counter()
    feed = new_feed(clients=4, tally=lambda _, reason, __: counts.update([reason]))
    async with site(feed) as at, AsyncExitStack() as stack:
        for last, status in ((2, 200), (2, 200), (2, 503), (3, 200)):
            reader, _ = await stack.enter_async_context(dialled(at, request("/events"), f"127.0.0.{last}"))
            assert (await reader.readuntil(b"\r\n")).startswith(f"HTTP/1.1 {status}".encode())
        assert counts == {"too_many_pages": 1}


def test_the_last_quarter_is_for_who_has_none() -> None:
    guard = Guard(MetricsConfig(connections=16))
    assert [guard.admit("a") for _ in range(9)] == [True] * 8 + [False]
    assert [guard.admit("b") for _ in range(5)] == [True] * 4 + [False]
    assert [guard.admit(who) for who in "cdefg"] == [True] * 4 + [False]
    for _ in range(4):
        guard.leave("a")
    assert not guard.admit("c")
    assert guard.admit("g")


@pytest.mark.parametrize(
    ("peer", "who"),
    [
        (("192.0.2.7", 1), "192.0.2.7"),
        (("::ffff:192.0.2.7", 1, 0, 0), "192.0.2.7"),
        (("2001:db8::1:2:3:4", 1, 0, 0), "2001:db8::/64"),
        (("fe80::1%eth0", 1, 0, 2), "fe80::/64"),
        (None, ""),
    ],
)
def test_limits_go_by_the_address_and_by_networks_of_ipv6(peer: Any, who: str) -> None:
    class Transport(asyncio.Transport):
        def get_extra_info(self, name: str, default: Any = None) -> Any:
            return peer if name == "peername" else default

    assert address(Transport()) == who


# ---- malicious requests ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /" + b"a" * 5000 + b" HTTP/1.1\r\n\r\n",
        request("/", "X: " + "b" * 9000),
        request("/", *(f"X{k}: 1" for k in range(100))),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)),
        b"<script>alert(1)</script> / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX\x00Y: <script>\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: -5\r\n\r\n",
    ],
)
async def test_what_is_no_request_is_counted_and_not_echoed(sent: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async with site(patience=Patience(head=1.0)) as at:
        answer = await raw(at, sent)
        assert answer.startswith((b"HTTP/1.1 400", b"HTTP/1.0 400"))
        for piece in (b"aaaa", b"bbbb", b"script>", b"alert", b"aiohttp", b"Traceback"):
            assert piece not in answer
        for name, value in HEADERS.items():
            assert f"{name}: {value}".encode() in answer
        assert at.counts == {"bad_request": 1}
        assert (await get(at, "/healthz"))[0] == 200
    assert "Traceback" not in caplog.text
    assert not [record for record in caplog.records if record.levelno > logging.INFO]


async def test_more_bytes_than_a_request_may_have_end_the_connection() -> None:
    async with site() as at:
        endless = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n" + b"X: y\r\n" * 40 + b"Y: " + b"z" * LARGEST
        await raw(at, endless)
        assert at.counts["bad_request"] == 1
        stream = b"GET /events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
        async with dialled(at, stream + HEALTHZ * 2000):  # behind it, requests that are not answered while it lasts
            await until(lambda: at.counts["bad_request"] == 2)


@pytest.mark.parametrize(
    "length", ["Content-Length: 10", "Transfer-Encoding: chunked", "Content-Length: 1000000000000"]
)
@pytest.mark.parametrize("method", ["GET", "POST", "PUT"])
async def test_a_body_is_refused_unread(method: str, length: str) -> None:
    async with site() as at:
        answer = await raw(at, f"{method} /events HTTP/1.1\r\nHost: 127.0.0.1\r\n{length}\r\n\r\n".encode())
        assert answer.startswith(b"HTTP/1.1 413")
        assert b"Connection: close" in answer
        assert at.counts == {"bad_request": 1}


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PATCH", "PROPFIND"])
async def test_there_is_nothing_to_do_but_to_read(method: str) -> None:
    async with site() as at:
        answer = await raw(at, f"{method} / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
        assert answer.split(b" ")[1] in (b"400", b"404", b"405")
        assert b"Content-Security-Policy" in answer


@pytest.mark.parametrize(
    "path",
    [
        "/static/../server.py",
        "/static/%2e%2e/server.py",
        "/static/..%2fserver.py",
        "/static/..%5cserver.py",
        "/static/vendor/../../../server.py",
        "//etc/passwd",
        "/../../../../../../etc/passwd",
        "/static/%00",
        "/static/page.js%00.css",
        "/static/",
        "/static",
        "/static/vendor/README.md",
        "/<script>alert(1)</script>",
        "/%3Cscript%3Ealert(1)%3C/script%3E",
        "http://evil.example/static/../../etc/passwd",
        "/metrics/../../etc/passwd",
    ],
)
async def test_no_path_leads_elsewhere_or_comes_back_in_the_answer(path: str) -> None:
    async with site() as at:
        answer = await raw(at, request(path))
        assert answer.split(b" ")[1] in (b"400", b"404")
        for piece in (b"root:", b"import", b"script>", b"aiohttp"):
            assert piece not in answer
        for name, value in HEADERS.items():
            assert f"{name}: {value}".encode() in answer


async def test_a_header_cannot_be_put_into_an_answer() -> None:
    async with site() as at:
        for path in ("/%0d%0aX-Evil:%201", "/static/%0d%0aX-Evil:%201", "/?a=%0d%0aX-Evil:%201"):
            assert b"X-Evil" not in (await raw(at, request(path))).split(b"\r\n\r\n")[0]


WORDS = (
    b"GET ",
    b"/",
    b"/events",
    b" HTTP/1.1",
    b"\r\n",
    b"\n",
    b"\r",
    b"Host: ",
    b"127.0.0.1",
    b":",
    b"\x00",
    b"\xff" * 9,
)
LINES = (
    b"Content-Length: 3",
    b"Transfer-Encoding: chunked",
    b"Expect: 100-continue",
    b"Upgrade: websocket",
    b"\r\n\r\n",
)
MORE = (
    b"Connection: upgrade",
    b"ffffffffffffffff\r\n",
    b"Range: bytes=0-",
    b"Authorization: Basic ",
    b"%",
    b"<script>",
)
PIECES = st.sampled_from((*WORDS, *LINES, *MORE))


async def test_random_bytes_do_no_harm(caplog: pytest.LogCaptureFixture) -> None:
    """Every answer is one of ours, nothing is echoed, and the server goes on."""
    async with site(patience=Patience(head=0.2, idle=0.2), connections=1000) as at:
        loop = asyncio.get_running_loop()

        @trials(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
        @given(st.lists(PIECES | st.binary(max_size=20), max_size=30))
        def sends(pieces: list[bytes]) -> None:
            sent = b"".join(pieces) + b"\r\n\r\n"
            answer = asyncio.run_coroutine_threadsafe(raw(at, sent, end=True), loop).result(30)
            assert not answer or answer.startswith(b"HTTP/1.")
            assert b"<script>" not in answer.replace(b"<script src", b"")
            assert b" 500 " not in answer.split(b"\r\n")[0]

        await asyncio.to_thread(sends)
        assert (await get(at, "/healthz"))[0] == 200
    assert not [record for record in caplog.records if record.levelno > logging.WARNING]


async def test_a_failure_of_ours_is_logged_and_says_nothing_to_the_client(caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> bytes:
        raise RuntimeError("secret detail")

    async with serving(MetricsConfig(port=0), feed=new_feed(), exposition=broken) as port:
        answer = await raw(Site(port=port), request("/metrics", "Accept: text/html"))
    assert answer.startswith(b"HTTP/1.1 500")
    assert b"secret detail" not in answer
    assert b"Content-Security-Policy" in answer
    assert "secret detail" in caplog.text


# ---- who may read ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host", ["127.0.0.1:1", "localhost", "LOCALHOST.:9480", "[::1]:9480", "192.0.2.7", "gw.example"]
)
async def test_names_of_this_host_are_served(host: str) -> None:
    async with site(names=("gw.example",)) as at:
        assert (await get(at, "/", Host=host))[0] == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:9480", "127.0.0.1.evil.example", "127.0.0.1@evil.example", "[::1", "x y"]
)
async def test_a_foreign_name_that_leads_here_is_not_served(host: str) -> None:
    async with site() as at:
        status, text, headers = await get(at, "/", Host=host)
        assert status == 421
        assert "metrics.names" in text
        assert headers["Content-Security-Policy"]
        assert at.counts == {"foreign_host": 1}
        assert (await get(at, "/healthz", Host=host))[0] == 200


async def test_another_web_site_cannot_take_up_the_places_of_pages() -> None:
    async with site() as at:
        assert (await get(at, "/events", **{"Sec-Fetch-Site": "cross-site"}))[0] == 403
        assert at.counts == {"foreign_page": 1}


def basic(password: str, user: str = "any") -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


async def test_with_a_token_everything_but_health_asks_for_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    file = tmp_path / "token"
    file.write_text(TOKEN + "\n")
    async with site(token_file=file) as at:
        for path in ("/healthz", "/readyz"):
            assert (await get(at, path))[0] in (200, 503)
        wrong = ("", "Bearer", f"Bearer {TOKEN[:-1]}", f"Bearer {TOKEN}x", f"Digest {TOKEN}", "Basic !!", basic(""))
        wrong += (basic(TOKEN[1:]), basic("x", TOKEN), "Bearer \xff", "Basic " + TOKEN, "Bearer " + "x" * 4000)
        for path in ("/", "/metrics", "/events", "/static/page.js", "/nothing", "/healthz/", "//healthz"):
            for given_ in wrong:
                answer = await raw(at, request(path, f"Authorization: {given_}"))
                assert answer.startswith(b"HTTP/1.1 401"), (path, given_)
            assert b'WWW-Authenticate: Basic realm="gwstream"' in answer
            assert b'WWW-Authenticate: Bearer realm="gwstream"' in answer
        assert at.counts == {"unauthorized": 7 * len(wrong)}
        for right in (f"Bearer {TOKEN}", f"bearer  {TOKEN}", basic(TOKEN), basic(TOKEN, "")):
            assert (await get(at, "/metrics", Authorization=right))[0] == 200
        assert (await get(at, "/", Authorization=f"Bearer {TOKEN}", Host="any.example"))[0] == 200
    assert TOKEN not in caplog.text


def test_a_token_that_is_short_missing_or_unreadable_is_refused(tmp_path: Path) -> None:
    short = tmp_path / "short"
    short.write_text("hunter2")

    async def start(file: Path) -> None:
        async with serving(MetricsConfig(port=0, token_file=file), feed=new_feed(), exposition=bytes):
            pass

    with pytest.raises(ConfigError, match=r"metrics\.token_file = .*16 characters.*openssl") as told:
        asyncio.run(start(short))
    assert "hunter2" not in str(told.value)
    with pytest.raises(ConfigError, match=r"metrics\.token_file = .*No such file"):
        asyncio.run(start(tmp_path / "none"))


async def test_open_to_all_is_said(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    async with site():
        pass
    assert not caplog.text
    file = tmp_path / "token"
    file.write_text(TOKEN)
    async with site(host="0.0.0.0", token_file=file):
        pass
    assert not caplog.text
    async with site(host="0.0.0.0"):
        pass
    assert "whoever reaches port 0 of 0.0.0.0 may read all" in caplog.text


async def test_scrapes_at_one_time_are_made_once() -> None:
    made = 0

    def exposition() -> bytes:
        nonlocal made
        made += 1
        time.sleep(0.3)
        return b"x 1\n"

    async with serving(MetricsConfig(port=0), feed=new_feed(), exposition=exposition) as port:
        at = Site(port=port, url=f"http://127.0.0.1:{port}")
        answers = await asyncio.gather(*(get(at, "/metrics") for _ in range(10)))
    assert {text for _, text, _ in answers} == {"x 1\n"}
    assert made < 10


# ---- a real browser -------------------------------------------------------------------------------------------------


async def test_the_page_with_a_token_in_a_real_browser(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN)
    live = new_feed()
    live.detector("H1", good())
    async with browser(tmp_path) as page, site(live, token_file=file) as at:
        await page.password(TOKEN)
        await page.open(at.url + "/")
        await page.until("document.querySelector('#link-page dd')?.textContent === 'live'")
        tell_posterior(live)
        await page.until("document.querySelectorAll('#rows tr').length === 1")
        assert await page.run("getComputedStyle(document.querySelector('#detectors article')).display") == "grid"
        await page.until("document.querySelectorAll('canvas').length > 0")
        assert page.asked == 1
        complaints = [one for one in page.complaints if "401" not in one]
    assert complaints == []


async def test_hostile_words_stay_words_in_a_real_browser(tmp_path: Path) -> None:
    evil = "<img src=x onerror='document.title=\"owned\"'><script>document.title='owned'</script>"
    live = new_feed()
    live.about(model={"name": evil, "version": evil}, engine=evil, version=evil, broker=evil, instance=evil)
    live.connection(False, evil)
    live.detector("H1", good())
    tell_posterior(live)
    posterior = live._rows._rows[0]["posterior"]
    posterior["quality"] = {"verdict": evil, "reasons": [evil]}
    posterior["engine"] = evil
    async with browser(tmp_path) as page, site(live) as at:
        await page.open(at.url + "/")
        await page.until("document.querySelectorAll('#rows tr').length === 1")
        assert evil in await page.run("document.querySelector('td.quality').textContent")
        assert evil in await page.run("document.querySelector('#about').textContent")
        assert await page.run("document.querySelectorAll('img, script:not([src])').length") == 0
        assert await page.run("document.title") != "owned"
        injected = "document.body.insertAdjacentHTML('beforeend', '<b id=evil>')"
        assert await page.run(f"(() => {{ try {{ {injected} }} catch (e) {{ return e.name }} }})()") == "TypeError"
        inline = (
            "(() => { const s = document.createElement('script'); try { s.textContent = 'window.evil = 1' } catch {}"
        )
        assert await page.run(inline + " document.body.append(s); return window.evil === undefined })()")
