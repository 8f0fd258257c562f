"""The real daemon finds GW150914 while clients of every bad kind are at its HTTP port."""

from __future__ import annotations

import random
import re
import select
import socket
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread

import pytest
from brokers import MOSQUITTO
from test_flow import DETECTORS, LEAST_SNR, Received, daemon, folders, mosquitto, play, subscriber, wait

GET = "GET {} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


def dial(port: int, source: str, sent: str | bytes = b"", receive: int = 0) -> socket.socket:
    one = socket.socket()
    one.settimeout(5)
    if receive:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive)
    one.bind((source, 0))
    one.connect(("127.0.0.1", port))
    one.sendall(sent.encode() if isinstance(sent, str) else sent)
    return one


def trickles(port: int, stop: Event) -> None:
    """Connections that never finish a request, opened again as they are closed."""
    held: list[socket.socket] = []
    while not stop.wait(0.05):
        while len(held) < 40:
            held.append(dial(port, "127.0.0.2", "GET / HTTP/1.1\r\nX: "))
        for one in list(held):
            try:
                one.send(b"y")
                if select.select([one], [], [], 0)[0] and not one.recv(4096):
                    raise ConnectionError
            except OSError:
                one.close()
                held.remove(one)
    for one in held:
        one.close()


def floods(port: int, stop: Event) -> None:
    """One request after the other, for what costs most, as fast as they are taken."""
    last = GET.format("/metrics").replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n")
    while not stop.is_set():
        with suppress(OSError), dial(port, "127.0.0.3", GET.format("/metrics") * 49 + last) as one:
            while one.recv(65536):
                pass


def unread(port: int, stop: Event) -> None:
    """Live pages that read nothing."""
    held = []
    while not stop.wait(0.2):
        with suppress(OSError):
            held.append(dial(port, f"127.0.0.{4 + len(held) % 2}", GET.format("/events"), receive=2048))
        if len(held) > 30:
            held.pop(0).close()
    for one in held:
        one.close()


def nonsense(port: int, stop: Event) -> None:
    """What is no HTTP, and too much of it."""
    chance = random.Random(1)
    while not stop.wait(0.01):
        kinds = (
            chance.randbytes(300),
            b"GET /" + b"a" * 50_000,
            b"POST / HTTP/1.1\r\nContent-Length: 9999999\r\n\r\n" + b"z" * 60_000,
        )
        with suppress(OSError), dial(port, "127.0.0.6", chance.choice(kinds)) as one:
            one.recv(4096)


@contextmanager
def attacked(port: int) -> Iterator[None]:
    stop = Event()
    threads = [Thread(target=kind, args=(port, stop)) for kind in (trickles, floods, unread, nonsense)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def refused(port: int) -> Counter[str]:
    """What the page's server turned away, by reason, as its own metrics have it."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        text = answer.read().decode()
    found = re.findall(r'gwstream_dropped_total\{detector="",reason="(\w+)",stage="web"\} (\S+)', text)
    return Counter({reason: int(float(count)) for reason, count in found})


def loudest(got: list[Received]) -> dict[str, float]:
    events = [one.body["posterior"] for one in got if one.topic.endswith("1/event")]
    return {name: max((one["snr"] for one in events if one["detector"] == name), default=0.0) for name in DETECTORS}


@pytest.mark.skipif(MOSQUITTO is None, reason="needs mosquitto")
def test_events_are_told_while_the_page_is_attacked(tmp_path: Path) -> None:
    for path in folders(tmp_path).values():
        path.mkdir()
    with mosquitto(tmp_path) as broker, subscriber(broker) as got, daemon(tmp_path, broker) as (process, http):
        wait(lambda: any(one.body.get("state") == "online" for one in got), 120, "the daemon")
        with attacked(http):
            play(tmp_path, 0.3)
            wait(lambda: all(snr > LEAST_SNR[name] for name, snr in loudest(got).items()), 120, "both events")
            with urllib.request.urlopen(f"http://127.0.0.1:{http}/healthz", timeout=30) as answer:
                assert answer.status == 200
            time.sleep(0.5)
        counts = refused(http)
        assert {"too_many_requests", "bad_request", "too_many_connections", "slow_client"} <= set(counts), counts
        descriptors = len(list(Path(f"/proc/{process.pid}/fd").iterdir()))
        wait(lambda: len(list(Path(f"/proc/{process.pid}/fd").iterdir())) < descriptors + 8, 60, "descriptors")
        process.terminate()
        assert process.wait(60) == 0
    log = (tmp_path / "log").read_text()
    assert "Traceback" not in log
    assert "error" not in log
