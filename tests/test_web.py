from __future__ import annotations

import asyncio
import hashlib
import json
import re
import socket
from base64 import b64decode
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import fakes
import numpy as np
import pytest
from browser import browser
from prometheus_client import CollectorRegistry
from test_publish import outgoing

from gwstream.config import MetricsConfig, SummaryConfig
from gwstream.demo.child import free_port
from gwstream.errors import ConfigError
from gwstream.metrics import Metrics
from gwstream.prior import Prior
from gwstream.publish import Delivered, message
from gwstream.records import NANO, Batch, Gap, Posterior, Strain, Summary
from gwstream.summary import Summarizer
from gwstream.web import DetectorState, Feed, Watch, feed, pages, rows, server, serving

NOW = (fakes.GPS + 5) * NANO


def new_feed(**options: Any) -> Feed:
    return Feed(("H1", "L1"), **{"now_ns": lambda: NOW, **options})


@asynccontextmanager
async def site(live: Feed, port: int = 0) -> AsyncIterator[str]:
    metrics = Metrics(CollectorRegistry(), ("H1", "L1"))
    async with serving(MetricsConfig(port=port), feed=live, exposition=metrics.exposition) as bound:
        yield f"http://127.0.0.1:{bound}"


@asynccontextmanager
async def listening(live: Feed) -> AsyncIterator[asyncio.Queue[tuple[str, Any]]]:
    """Events of a page, as (kind, data)."""
    heard: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()

    async def listen(response: aiohttp.ClientResponse) -> None:
        kind = ""
        async for line in response.content:
            text = line.decode().rstrip("\n")
            if text.startswith("event: "):
                kind = text[7:]
            elif text.startswith("data: "):
                heard.put_nowait((kind, json.loads(text[6:])))
        heard.put_nowait(("end", None))

    timeout = aiohttp.ClientTimeout(total=30)
    async with (
        site(live) as url,
        aiohttp.ClientSession(timeout=timeout, read_bufsize=2**22) as session,
        session.get(f"{url}/events") as response,
    ):
        assert response.headers["Content-Type"] == "text/event-stream"
        assert response.headers["X-Accel-Buffering"] == "no"
        task = asyncio.create_task(listen(response))
        try:
            yield heard
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def next_of(heard: asyncio.Queue[tuple[str, Any]], kind: str) -> Any:
    async with asyncio.timeout(5):
        while True:
            got, data = await heard.get()
            if got == kind:
                return data


def unpacked(one: dict[str, Any]) -> list[float | None]:
    """As the page does it."""
    whole = np.frombuffer(b64decode(one["data"]), "<i2")
    return [None if value == pages.NONE else round(float(value * one["step"]), 6) for value in whole]


def good(**changes: Any) -> DetectorState:
    fields = {"state": "full", "averages": 63, "history": 64.0, "range_mpc": 1234.0, "data_end_ns": NOW - NANO}
    return DetectorState(**{**fields, **changes})


def tell_posterior(live: Feed, number: int = 0, detector: str = "H1") -> str:
    """A posterior with its event and its delivery; returns its id."""
    window = fakes.window(number, detector)
    samples = np.random.default_rng(number).normal(size=len(window.samples))
    for kind in ("posterior", "event"):
        out = outgoing(number, detector, kind)
        live.posterior(out.summary, samples)
        if kind == "posterior":
            part = message.delivery(
                out, sequence=1, attempt=1, monotonic_ns=out.arrived + 77_000_000, gps_ns=out.summary.gps_ns + NANO
            )
            live.delivered(Delivered(outgoing=out, delivery=part, latency=0.08))
            name = out.summary.id
    return name


def together(*posteriors: Posterior) -> list[Summary]:
    """What is said of the network."""
    summarizer = Summarizer(SummaryConfig(), Prior())
    return [told for one in posteriors for told in summarizer.add(one) if told.kind == "network"]


async def test_metrics_health_and_readiness() -> None:
    now = 100.0
    live = new_feed(monotonic=lambda: now)
    async with site(live) as url, aiohttp.ClientSession() as session:

        async def get(path: str) -> tuple[int, str]:
            async with session.get(url + path) as response:
                return response.status, await response.text()

        status, text = await get("/metrics")
        assert status == 200
        assert 'gwstream_psd_state{detector="H1",state="waiting"} 1.0' in text
        assert (await get("/healthz"))[0] == 200
        status, text = await get("/readyz")
        assert status == 503
        assert json.loads(text)["reasons"] == ["broker: not connected yet", "H1: no strain yet", "L1: no strain yet"]
        live.connection(True, "")
        live.detector("H1", good())
        live.detector("L1", good(state="waiting", history=7.0))
        assert json.loads((await get("/readyz"))[1])["reasons"] == ["L1: 7 s of PSD history, too short yet"]
        live.detector("L1", good(data_end_ns=NANO))  # recorded strain, played as frames that come now
        assert (await get("/readyz"))[0] == 200
        now += 40
        live.detector("H1", good(data_end_ns=NOW))
        live.detector("L1", good(data_end_ns=NANO))  # nothing new
        assert json.loads((await get("/readyz"))[1])["reasons"] == ["L1: no strain for 40 s"]
        live.detector("L1", good(data_end_ns=NANO, live=False))
        assert await get("/readyz") == (200, '{"ok": true, "reasons": []}')
        live.connection(False, "127.0.0.1:1883: connection refused")
        assert "connection refused" in (await get("/readyz"))[1]


async def test_every_file_is_served_and_asks_for_nothing_from_outside() -> None:
    async with site(new_feed()) as url, aiohttp.ClientSession() as session:
        for path, (name, kind) in server.FILES.items():
            async with session.get(url + path) as response:
                assert (response.status, response.content_type) == (200, kind)
                assert "script-src 'self'" in response.headers["Content-Security-Policy"]
                assert "unsafe" not in response.headers["Content-Security-Policy"]
                text = await response.text()
            if "vendor" not in name and not name.endswith(".svg"):
                assert not re.search(r"https?://(?!127)", text), name
                assert not re.search(r"innerHTML|\son\w+=|style=\"|<script>", text), name
        async with session.get(f"{url}/static/../server.py") as response:
            assert response.status == 404
        async with session.get(f"{url}/nothing") as response:
            assert response.status == 404
            assert "Content-Security-Policy" in response.headers


def test_the_vendored_library_carries_its_licence() -> None:
    folder = server.STATIC / "vendor"
    assert "MIT" in (folder / "uPlot-LICENSE").read_text()
    stated = dict(re.findall(r"([0-9a-f]{64})  (\S+)", (folder / "README.md").read_text()))
    files = [folder / name for name in stated.values()]
    assert {one.name for one in files} == {"uPlot.iife.min.js", "uPlot.min.css"}
    assert [hashlib.sha256(one.read_bytes()).hexdigest() for one in files] == list(stated)


async def test_a_port_in_use_names_the_key() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"metrics\.port = {port}: another program"):
            async with site(new_feed(), port):
                pass
    with pytest.raises(ConfigError, match=r"metrics\.host = '203\.0\.113\.1'"):
        async with serving(MetricsConfig(host="203.0.113.1", port=0), feed=new_feed(), exposition=bytes):
            pass


async def test_a_page_hears_what_is_told_and_what_was_told_before() -> None:
    live = new_feed()
    live.about(model="bbh-1det 1")
    first = tell_posterior(live, 0)
    live.strain("H1", 1_126_259_462_123_456_789, 256, np.array([0.12345, np.nan, -3.0]))
    async with listening(live) as heard:
        assert (await next_of(heard, "about"))["model"] == "bbh-1det 1"
        old = await next_of(heard, "strain")
        assert old["gps_ns"] == "1126259462123456789"  # a string: JavaScript's numbers would round it
        assert unpacked(old) == [0.12, None, -3.0]
        kept = await next_of(heard, "posterior")
        assert kept["posterior"]["id"] == first
        assert kept["event"]["id"] == f"E-{first}"
        assert kept["delivery"]["latency"]["total"] == pytest.approx(0.077)
        assert len(unpacked(kept["samples"])) == len(unpacked(kept["posterior"]["waveform"]["median"])) == 256
        await next_of(heard, "history")
        live.detector("L1", good(snr=4.2))
        told = await next_of(heard, "detector")
        assert (told["detector"], told["age"], told["range_mpc"]) == ("L1", 1.0, 1234.0)
        second = tell_posterior(live, 1, "L1")
        assert (await next_of(heard, "posterior"))["posterior"]["id"] == second
        assert "latency" in (await next_of(heard, "amend"))["delivery"]
        assert (await next_of(heard, "amend"))["event"]["id"] == f"E-{second}"
        live.connection(False, "gone")
        assert not (await next_of(heard, "broker"))["up"]
        live.close()
        await next_of(heard, "end")


async def test_members_of_a_network_event_are_marked_while_it_stands() -> None:
    h1, early = fakes.posterior(fakes.window(0, "H1")), fakes.posterior(fakes.window(0, "L1"))
    update = fakes.posterior(fakes.window(1, "L1"), time=0.75 - 0.06, log_bayes=80.0)
    parted = fakes.posterior(fakes.window(2, "L1"), time=0.75 - 0.05, log_bayes=120.0)
    live = new_feed()
    for number, name in ((0, "H1"), (0, "L1"), (1, "L1"), (2, "L1")):
        tell_posterior(live, number, name)

    def marked() -> dict[str, str]:
        return {one["posterior"]["id"]: one["network"]["id"] for one in live._rows._rows if one["network"]}

    first, second, withdrawn = together(h1, early, update, parted)
    live.posterior(first, np.zeros(256))
    assert marked() == {h1.id: first.id, early.id: first.id}
    live.posterior(second, np.zeros(256))
    assert marked() == {h1.id: second.id, update.id: second.id}
    live.posterior(withdrawn, np.zeros(256))
    assert marked() == {}


async def test_too_many_pages_are_turned_away_and_counted() -> None:
    counts: Counter[tuple[str, str, str]] = Counter()
    numbers: list[int] = []
    live = new_feed(clients=1, tally=lambda *key: counts.update([key]), on_clients=numbers.append)
    async with site(live) as url, aiohttp.ClientSession() as session, session.get(f"{url}/events") as one:
        assert one.status == 200
        async with session.get(f"{url}/events") as two:
            assert two.status == 503
    assert counts == {("web", "too_many_pages", ""): 1}
    assert numbers == [1, 0]


async def test_a_slow_page_is_cut_off_and_counted_once() -> None:
    counts: Counter[tuple[str, str, str]] = Counter()
    live = new_feed(tally=lambda *key: counts.update([key]))
    with live.page() as slow, live.page() as quick:
        await anext(slow)
        await anext(quick)
        for _ in range(pages.BACKLOG + 10):
            live.detector("H1", good())
            await anext(quick)
        assert counts == {("web", "slow_page", ""): 1}
        assert [piece async for piece in slow] == []
        live.detector("H1", good())
        assert b"detector" in await anext(quick)


async def test_memory_is_bounded() -> None:
    live = new_feed()
    for number in range(60):
        tell_posterior(live, number)
    for second in range(100):
        live.strain("H1", (fakes.GPS + second) * NANO, 256, np.zeros(256))
    with live.page() as stream:
        history = await anext(stream)
    assert history.count(b"event: posterior\n") == rows.POSTERIORS
    assert history.count(b"event: strain\n") <= feed.STRAIN + 2
    assert len(history) < 2_000_000


async def test_watch_tells_each_sample_once_and_gaps_as_gaps() -> None:
    live = new_feed()
    told: list[tuple[int, list[float]]] = []
    states: list[str] = []
    live.strain = lambda _, ns, rate, samples: told.append((round(ns * rate / NANO), samples.tolist()))  # type: ignore[method-assign]
    live.detector = lambda _, state: states.append(state.state)  # type: ignore[method-assign]
    facts: dict[str, Any] = {}
    watch = Watch(live, detectors=("H1", "L1"), tell=facts.update, clock=lambda: 0.0)
    assert facts["detectors"] == {"H1": {"state": "waiting"}, "L1": {"state": "waiting"}}
    rate, hop, start = fakes.RATE, fakes.HOP, fakes.GPS * fakes.RATE

    def window(number: int) -> Any:
        at = start + number * hop
        return fakes.window(0, start=at, samples=np.arange(at - start, at - start + rate, dtype=float))

    watch.record(Strain(detector="H1", start=start, rate=rate, samples=np.zeros(rate)))
    watch.conditioned("H1", [], None)
    for first in (*range(0, 80, 8), *range(120, 152, 8)):  # a gap after the 80th
        watch.conditioned("H1", [window(first + k) for k in range(8)], fakes.whitener())
    watch.gated(Batch((window(0),), 1), (fakes.trigger(window(0)),))
    watch.record(Gap(detector="H1", start=start, rate=rate, length=1, reason="missing"))
    for at, samples in told:
        assert samples == [float(at - start + k) for k in range(len(samples))]
    covered = [at - start + k for at, samples in told for k in range(len(samples))]
    assert covered == [*range(79 * hop + rate), *range(120 * hop, 120 * hop + rate + 31 * hop)][: len(covered)]
    assert len(covered) > 79 * hop + rate
    assert states == ["waiting", "full"]  # within one second only news is told
    assert facts["detectors"] == {"H1": {"state": "full"}, "L1": {"state": "waiting"}}


async def test_watch_tells_of_the_load() -> None:
    live, told = new_feed(), list[dict[str, Any]]()
    Watch(live, tell=lambda **facts: told.append(facts)).load(2, "fewer draws")
    assert told[-1] == {"load": "fewer draws"}
    with live.page() as page:
        assert '"load":"fewer draws"' in (await anext(page)).decode()


async def test_watch_tells_of_known_signals_now_and_then_and_of_an_alarm_at_once() -> None:
    live = new_feed()
    told: list[dict[str, Any]] = []
    now = [0.0]
    watch = Watch(live, tell=lambda **facts: told.append(facts), clock=lambda: now[0])
    told.clear()
    for second in range(25):
        now[0] = second
        watch.calibrated(fakes.report(injections=second + 1, alarm=second >= 14))
    assert [one["calibration"]["H1"]["injections"] for one in told] == [1, 11, 15, 25]
    assert [one["calibration"]["H1"]["alarm"] for one in told] == [False, False, True, True]
    assert told[-1]["calibration"]["H1"]["text"].startswith("90 % intervals covered 0.89 ± 0.01 of the last 25 known")
    with live.page() as page:
        history = (await anext(page)).decode()
    assert history.count("event: calibration") == 1
    assert '"injections":25' in history


async def test_the_page_in_a_real_browser(tmp_path: Path) -> None:
    port = free_port()
    live = new_feed()
    live.connection(True, "")
    live.about(model={"name": "bbh-1det", "version": "1"}, engine="torch", version="0")
    async with browser(tmp_path) as page:
        async with site(live, port) as url:
            await page.size(1280, 900)
            await page.open(url + "/")
            await page.until("document.querySelector('#link-page dd')?.textContent === 'live'")
            assert await page.run("!document.querySelector('#none').hidden")
            assert await page.until("document.querySelector('#about').textContent") == "model bbh-1det 1 on torch"
            live.about(load="fewer draws")
            about = "model bbh-1det 1 on torch, overloaded: fewer draws"
            await page.until(f"document.querySelector('#about').textContent === '{about}'")
            live.about(load="all")
            await page.until("document.querySelector('#about').textContent === 'model bbh-1det 1 on torch'")
            live.detector("H1", good(snr=4.2))
            for second in range(3):
                noise = np.random.default_rng(second).normal(size=256)
                live.strain("H1", (fakes.GPS + second) * NANO, 256, noise)
            chosen = tell_posterior(live, 0)
            text = await page.until("document.querySelector('#rows tr.event')?.innerText")
            assert "12.0" in text
            assert await page.until("document.querySelector('.H1 .state').textContent") == "full"
            assert "1234" in await page.run("document.querySelector('.H1 .facts').innerText")
            live.calibration("H1", fakes.report().part())
            await page.until("document.querySelector('.H1 .facts').innerText.includes('0.89 \u00b1 0.01 of 300')")
            assert not await page.run("document.querySelector('.H1 .facts .bad')")
            live.calibration("H1", fakes.report(alarm=True).part())
            await page.until("document.querySelector('.H1 .facts .bad')?.title.includes('alarm')")
            await page.until("document.querySelector('#detail .stages')?.children.length")
            detail = await page.run("document.querySelector('#detail').innerText")
            assert "Latency 77 ms" in detail
            assert chosen in detail
            assert await page.run("document.querySelector('.H1 canvas').width > 300")
            await _keyboard(page, live)
            for theme, ground in (("light", "rgb(247, 246, 242)"), ("dark", "rgb(17, 21, 26)")):
                await page.theme(theme)
                assert await page.run("getComputedStyle(document.documentElement).backgroundColor") == ground
            await _phone(page)
        await page.until("document.body.classList.contains('lost')")
        complaints = [text for text in page.complaints if "ERR_" not in text]  # the server was away on purpose
        refusals: Counter[tuple[str, str, str]] = Counter()
        async with site(new_feed(clients=0, tally=lambda *key: refusals.update([key])), port), asyncio.timeout(20):
            while not refusals:  # an answer other than 200 ends the browser's own attempts
                await page.run("0")
        again = new_feed()  # of the daemon that was started again
        tell_posterior(again, 2)
        async with site(again, port):
            await page.until("document.querySelector('#link-page dd').textContent === 'live'", 30)
            await page.until("document.querySelectorAll('#rows tr').length === 1")
    assert complaints == []


async def _phone(page: Any) -> None:
    """Turned to a phone's width, the page fits: at the moment of the turn too, when charts are as wide as they were."""
    await page.run("window.turns = []")
    await page.run("onresize = () => { turns.push([innerWidth, document.documentElement.scrollWidth]); }")
    await page.size(390, 800)
    await page.until("turns.length")
    assert all(turn == [390, 390] for turn in await page.run("turns"))  # one, or more on a busy machine
    parts = "document.querySelectorAll('body *:not(.skip, thead, thead *)')"
    beyond = f"[...{parts}].filter(part => part.getBoundingClientRect().right > 390).map(part => part.outerHTML)"
    await page.until(f"{beyond}.length === 0")  # charts are drawn anew with the next frame
    assert await page.run("document.querySelector('.H1 canvas').getBoundingClientRect().width > 300")


async def _keyboard(page: Any, live: Feed) -> None:
    other = tell_posterior(live, 1, "L1")
    await page.until("document.querySelectorAll('#rows tr').length === 2")
    await page.run("document.querySelector('#rows tr[tabindex=\"0\"]').focus()")
    await page.press("Home")
    await page.press("ArrowDown")
    await page.press("ArrowUp")
    await page.until(f"document.activeElement.id === 'row-{other}'")
    assert other in await page.run("document.querySelector('#detail').innerText")
    (both,) = together(fakes.posterior(fakes.window(0, "H1")), fakes.posterior(fakes.window(1, "L1"), time=0.6875))
    live.posterior(both, np.zeros(256))
    await page.until("document.querySelector('#detail').innerText.includes('With H1: SNR 17.0, chirp mass')")
    marks = "[...document.querySelectorAll('td.quality')].map(cell => cell.innerText.match(/with (..), SNR 17.0/)?.[1])"
    assert await page.run(f"{marks}.join()") == "H1,L1"
