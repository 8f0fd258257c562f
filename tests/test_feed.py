"""What the live page is told: packed, bounded, and nothing while nobody looks."""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from typing import Any

import aiohttp
import fakes
import numpy as np
import pytest
from test_publish import outgoing
from test_web import NOW, good, new_feed, tell_posterior, unpacked

from gwstream import spectra
from gwstream.config import MetricsConfig, SummaryConfig
from gwstream.health import Stuck
from gwstream.prior import Prior
from gwstream.records import NANO, Batch, Summary
from gwstream.summary import Summarizer
from gwstream.web import Feed, Watch, feed, pages, rows, server, serving, trend

SAMPLES = np.zeros(256)


class Ears:
    """An open page of a feed, in the same thread."""

    def __init__(self, live: Feed) -> None:
        self._block = live.page()
        self._block.__enter__()
        self._page = list(live._pages)[-1]
        self.size = 0

    def heard(self) -> list[tuple[str, Any]]:
        """All that was told since the last time: kind and message."""
        waits, self._page._history = self._page._history, []
        while not self._page._queue.empty():
            waits.append(self._page._queue.get_nowait() or b"")
        self.size += sum(map(len, waits))
        parts = [text.decode().strip().split("\n", 1) for text in waits if text.startswith(b"event: ")]
        return [(kind[7:], json.loads(data[6:])) for kind, data in parts]

    def of(self, kind: str) -> list[Any]:
        return [message for name, message in self.heard() if name == kind]


def summaries(number: int, detector: str = "H1") -> tuple[Summary, ...]:
    return Summarizer(SummaryConfig(), Prior()).add(fakes.posterior(fakes.window(number, detector)))


def test_packed_values_come_back_to_half_a_step() -> None:
    values = np.array([0.0, 1.004, -327.0, 1e9, -1e9, np.nan, np.inf])
    back = unpacked(pages.packed(values, 0.01))
    assert back[:3] == [0.0, 1.0, -327.0]
    assert back[3:] == [327.67, -327.67, None, None]
    noise = np.random.default_rng(1).normal(size=1000)
    again = np.array(unpacked(pages.packed(noise, 0.01)), float)
    assert np.abs(again - noise).max() <= 0.0051
    assert pages.packed(np.zeros(0), 0.01)["data"] == ""


def test_while_nobody_looks_nothing_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    for name in ("event", "packed", "spectrum"):
        monkeypatch.setattr(feed, name, lambda *_, name=name: written.append(name))
    monkeypatch.setattr(rows, "packed", lambda *_: written.append("rows"))
    live = new_feed(dropped=lambda: written.append("dropped") or {})  # type: ignore[func-returns-value]
    live.about(model="m")
    live.connection(True, "")
    tell_posterior(live)
    live.detector("H1", good())
    live.whitener(fakes.whitener())
    live.strain("H1", NOW, 256, SAMPLES)
    live.calibration("H1", {})
    live.stage("source", 0.1)
    live.health([Stuck("source H1", 4.0, 1.0)])
    assert written == []


def test_a_flood_of_posteriors_is_told_in_part_but_every_event() -> None:
    now = 0.0
    live = new_feed(monotonic=lambda: now)
    page = Ears(live)
    page.heard()
    told = [outgoing(number).summary for number in range(20)]
    for number in range(400):
        now += 0.01
        live.posterior(told[number % 20], SAMPLES)
    heard = page.of("posterior")
    assert rows.BURST <= len(heard) <= rows.BURST + 4 * rows.RATE + 1
    live.posterior(summaries(500, "L1")[1], SAMPLES)  # an event whose posterior nobody was told
    kinds = page.heard()
    assert [kind for kind, _ in kinds if kind == "posterior"] == ["posterior"]
    assert [message["event"]["id"] for kind, message in kinds if kind == "amend" and "event" in message] == [
        f"E-{fakes.posterior(fakes.window(500, 'L1')).id}"
    ]


def test_events_stay_longest_and_the_page_hears_what_is_gone() -> None:
    now = 0.0
    live = new_feed(monotonic=lambda: now)
    page = Ears(live)
    event = tell_posterior(live, 0)
    for number in range(1, 40):
        now += 1
        live.posterior(outgoing(number).summary, SAMPLES)
    heard = page.heard()
    there = {message["posterior"]["id"] for kind, message in heard if kind == "posterior"}
    gone = [message["id"] for kind, message in heard if kind == "amend" and message.get("gone")]
    assert len(there) - len(gone) == rows.POSTERIORS
    assert event not in gone
    assert gone == [fakes.posterior(fakes.window(number)).id for number in range(1, len(gone) + 1)]
    opened = Ears(live).of("posterior")
    assert {one["posterior"]["id"] for one in opened} == there - set(gone)


def test_many_events_make_room_for_new_ones() -> None:
    now = 0.0
    live = new_feed(monotonic=lambda: now)
    page = Ears(live)
    names = []
    for number in range(40):
        now += 1
        names.append(tell_posterior(live, number))
    gone = [one["id"] for one in page.of("amend") if one.get("gone")]
    assert gone == names[: 40 - rows.POSTERIORS]


def test_how_loud_it_was_and_its_range_are_kept_so_long() -> None:
    live = new_feed()
    for second in range(900):
        at = (fakes.GPS + second) * NANO
        live.detector("H1", good(data_end_ns=at, peak=(at - NANO // 4, 4.0 + second / 1000), range_mpc=1000.0 + second))
    tell_posterior(live)
    (told,) = Ears(live).of("trend")
    assert len(told["loudness"]) == trend.SECONDS
    assert told["loudness"][-1] == [fakes.GPS + 898.75, 4.9]
    assert [gps - fakes.GPS for gps, _ in told["ranges"]] == [*range(0, 900, trend.RANGE_STEP)]
    assert told["bayes"] == [[pytest.approx(fakes.GPS + 0.75, abs=0.01), 40.0]]
    live.detector("H1", good(data_end_ns=fakes.GPS * NANO, peak=None))  # the recording begins again
    (told,) = Ears(live).of("trend")
    assert (told["loudness"], len(told["ranges"])) == ([], 1)


def test_the_spectrum_is_told_now_and_then_with_the_usual_one() -> None:
    now = 0.0
    live = new_feed(monotonic=lambda: now)
    page = Ears(live)
    page.heard()
    frequencies = np.arange(257) * 0.5
    usual = spectra.asd("O3_L1", frequencies)
    for second in range(9):
        now = float(second)
        psd = (usual * (1 + second)) ** 2
        live.whitener(fakes.whitener("L1", id=f"w{second}", psd=psd))
        live.whitener(fakes.whitener("L1", id=f"w{second}", psd=psd))  # the same again is no news
    told = page.of("spectrum")
    assert len(told) == 3
    shown = told[1]["low"] + told[1]["width"] * np.arange(len(unpacked(told[1]["noise"])))
    assert (shown[0], shown[-1]) == (16.0, 110.0)
    noise, reference = (np.array(unpacked(one), float) for one in (told[1]["noise"], told[1]["usual"]))
    assert told[1]["usual"]["name"] == "O3_L1"
    assert np.abs(reference - np.log10(spectra.asd("O3_L1", shown))).max() < 0.003
    assert np.abs(noise - reference - np.log10(5)).max() < 0.005
    live.whitener(fakes.whitener("X1", psd=np.zeros(257)))
    unknown = (Ears(live).of("spectrum"))[-1]
    assert unknown["usual"] is None
    assert set(unpacked(unknown["noise"])) == {None}  # of no power at all there is no logarithm


def test_what_hangs_is_told_at_once_and_the_rest_once_a_second() -> None:
    now = 10.0
    counts = Counter({"source: vetoed": 3})
    live = new_feed(monotonic=lambda: now, dropped=lambda: counts)
    page = Ears(live)
    page.heard()
    live.stage("inference", 0.2)
    live.stage("inference", 0.1)
    live.queue("inference", 7)
    live.outbox(2)
    live.health([])
    (told,) = page.of("health")
    assert told["stages"] == {"inference": {"depth": 7, "seconds": 0.2}}
    assert (told["outbox"], told["dropped"], told["stuck"]) == (2, {"source: vetoed": 3}, [])
    now += 0.5
    live.health([])
    assert page.of("health") == []
    live.health([Stuck("inference", 4.0, 1.0)])
    (told,) = page.of("health")
    assert told["stuck"] == [{"part": "inference", "seconds": 4.0}]
    assert told["stages"]["inference"] == {"depth": 7, "seconds": 0.0}  # nothing since


def test_network_events_are_listed_while_they_stand() -> None:
    live = new_feed()
    page = Ears(live)
    page.heard()
    summarizer = Summarizer(SummaryConfig(), Prior())
    told = []
    for one in (
        fakes.posterior(fakes.window(0, "H1")),
        fakes.posterior(fakes.window(0, "L1")),
        fakes.posterior(fakes.window(2, "L1"), time=0.75 - 0.05, log_bayes=120.0),
    ):
        for summary in summarizer.add(one):
            live.posterior(summary, SAMPLES)
            told += [summary] if summary.kind == "network" else []
    heard = page.of("networks")
    assert [[one["network"]["id"] for one in message["networks"]] for message in heard] == [[told[0].id], []]
    assert (Ears(live).of("networks")) == [{"networks": []}]


def test_a_page_is_sent_no_more_than_so_many_bytes_a_second() -> None:
    now = 0.0
    live = Feed(("H1", "L1", "V1"), now_ns=lambda: NOW, monotonic=lambda: now)
    page = Ears(live)
    page.heard()
    page.size = 0
    noise = np.random.default_rng(3).normal(size=64)
    told = {name: [outgoing(k, name).summary for k in range(4)] for name in ("H1", "L1", "V1")}
    for quarter in range(80):  # 20 s of three detectors with a posterior 16 times a second each
        now += 0.25
        at = fakes.GPS * NANO + quarter * NANO // 4
        for name in ("H1", "L1", "V1"):
            live.strain(name, at, 256, noise)
            live.whitener(fakes.whitener(name, id=str(quarter), psd=np.ones(257)))
            if quarter % 4 == 0:
                live.detector(name, good(data_end_ns=at, peak=(at, 5.0)))
            for k in range(4):
                live.posterior(told[name][k], SAMPLES)
        live.health([])
        page.heard()
    assert 3 * 20 * 1_000 < page.size < 20 * 60_000 + rows.BURST * 12_000


def test_watch_tells_the_loudest_trigger_of_a_second_with_its_time() -> None:
    live = new_feed()
    states: list[Any] = []
    live.detector = lambda _, state: states.append(state)  # type: ignore[method-assign]
    now = 0.0
    watch = Watch(live, clock=lambda: now)
    window = fakes.window(3)
    watch.conditioned("H1", [], fakes.whitener())
    batch = Batch((window,), 1)
    watch.gated(batch, tuple(fakes.trigger(window, time, snr) for time, snr in ((0.7, 5.0), (0.8, 9.0), (0.75, 6.0))))
    for _ in range(2):
        now += 1.1
        watch.conditioned("H1", [], fakes.whitener())
    assert [state.peak for state in states] == [None, (window.gps_ns + 800_000_000, 9.0), None]


async def test_draws_are_made_once_for_all_pages() -> None:
    made: list[str] = []

    def samples(name: str) -> bytes | None:
        made.append(name)
        return None if name == "gone" else name.encode()

    async with (
        serving(MetricsConfig(port=0), feed=new_feed(), exposition=bytes, samples=samples) as port,
        aiohttp.ClientSession() as session,
    ):

        async def get(name: str) -> tuple[int, bytes]:
            async with session.get(f"http://127.0.0.1:{port}/samples/{name}") as answer:
                return answer.status, await answer.read()

        assert await asyncio.gather(*(get("a") for _ in range(5))) == [(200, b"a")] * 5
        assert made == ["a"]
        assert [(await get(f"gone{how}"))[0] for how in ("", "?quiet")] == [404, 204]
        for name in "bcde":
            await get(name)
        await get("a")  # not among the last four
    assert made == ["a", "gone", "gone", "b", "c", "d", "e", "a"]


def test_every_script_is_served_and_short() -> None:
    for path in server.STATIC.glob("*.js"):
        assert f"/static/{path.name}" in server.FILES
        assert len(path.read_text().splitlines()) <= 300


async def test_a_page_hears_that_we_are_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """It counts on that: a silent connection is made anew (page.js)."""
    monkeypatch.setattr(pages, "QUIET", 0.01)
    with new_feed().page() as told:
        await anext(told)
        assert await anext(told) == b"event: here\ndata: {}\n\n"


def luminance(colour: str) -> float:
    """Relative, of #rrggbb (WCAG 2.2)."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_all_that_is_written_can_be_read(theme: int) -> None:
    """Contrast of 4.5 to 1 at least, as WCAG's level AA asks for small text."""
    style = (server.STATIC / "page.css").read_text(encoding="utf-8")
    block = re.findall(r":root \{(.*?)\}", style, re.DOTALL)[theme]
    colours = dict(re.findall(r"--([a-z0-9]+): (#[0-9a-f]{6});", block))
    written = {"ink", "muted", "faint", "h1", "l1", "v1", "k1", "other", "ok", "warn", "bad"}
    assert written <= set(colours)
    for ground in ("ground", "raised"):
        for name in written:
            low, high = sorted(luminance(colours[one]) for one in (name, ground))
            assert (high + 0.05) / (low + 0.05) >= 4.5, (name, ground)
