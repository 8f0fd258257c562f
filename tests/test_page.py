"""The live page in real Chromium: three detectors at ten messages a second, keys, draws, colours, a restart."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import fakes
import numpy as np
from browser import Page, browser
from lively import Lively
from prometheus_client import CollectorRegistry
from test_web import new_feed

from gwstream.config import MetricsConfig, SummaryConfig
from gwstream.demo.child import free_port
from gwstream.health import Stuck
from gwstream.metrics import Metrics
from gwstream.prior import Prior
from gwstream.records import NANO
from gwstream.samples import Drawn
from gwstream.web import Feed, serving
from gwstream.web.rows import POSTERIORS

NAMES = ("H1", "L1", "V1")
SHOWN = "[...document.querySelectorAll('.detector:not([hidden])')].map(one => one.getAttribute('aria-label')).join()"
PRESSED = "[...document.querySelectorAll('.chip[aria-pressed=true]:not([hidden])')].map(one => one.textContent).join()"
CHOSEN = "document.querySelector('#rows tr[aria-selected=true]')?.id.slice(4)"
# how many different colours a canvas shows
COLOURS = """((canvas) => { const { width, height } = canvas;
  const copy = new OffscreenCanvas(width, height).getContext('2d', { willReadFrequently: true });
  copy.drawImage(canvas, 0, 0); const { data } = copy.getImageData(0, 0, width, height);
  const seen = new Set(); for (let i = 0; i < data.length; i += 4) if (data[i + 3]) seen.add(data[i] << 16 | data[i + 1] << 8 | data[i + 2]);
  return seen.size; })(document.querySelector('%s'))"""  # noqa: E501
# whether a canvas has pixels of the colour of an element's text
PAINTED = """((canvas, text) => { const { width, height } = canvas, wanted = getComputedStyle(text).color.match(/\\d+/g).map(Number);
  const copy = new OffscreenCanvas(width, height).getContext('2d', { willReadFrequently: true });
  copy.drawImage(canvas, 0, 0); const { data } = copy.getImageData(0, 0, width, height); let count = 0;
  for (let i = 0; i < data.length; i += 4) count += data[i + 3] === 255 && wanted.every((part, k) => data[i + k] === part);
  return count > 30; })(document.querySelector('%s'), document.querySelector('%c'))"""  # noqa: E501


def draws(name: str) -> bytes | None:
    """Of the fake posterior called ``name``; of V1's there are none."""
    detector, start, _ = name.removeprefix("E-").split("-")
    if detector == "V1":
        return None
    posterior = fakes.posterior(fakes.window(0, detector, start=int(start)))
    document = json.loads(Drawn.of(posterior, Prior(), SummaryConfig()).document())
    document["posterior"]["id"] = name
    return json.dumps(document).encode()


@asynccontextmanager
async def served(live: Feed, port: int = 0) -> AsyncIterator[str]:
    exposition = Metrics(CollectorRegistry(), NAMES).exposition
    async with serving(MetricsConfig(port=port), feed=live, exposition=exposition, samples=draws) as bound:
        yield f"http://127.0.0.1:{bound}/"


@asynccontextmanager
async def looking(tmp_path: Path, live: Feed) -> AsyncIterator[tuple[Page, Lively]]:
    """A page that has heard of three detectors, and of signals in two of them."""
    live.connection(True, "")
    lively = Lively(live, NAMES)
    for _ in range(115):
        lively.tell()
    async with browser(tmp_path) as page, served(live) as url:
        await page.size(1440, 1000)
        await page.open(url)
        await page.until("document.querySelectorAll('#rows tr.event').length === 4")
        yield page, lively
        assert page.complaints == []


async def test_three_detectors_are_drawn_as_they_go_on(tmp_path: Path) -> None:
    async with looking(tmp_path, new_feed()) as (page, lively):
        for name, found in (("H1", True), ("L1", True), ("V1", False)):  # a waveform over the strain, in its colour
            drawn = PAINTED.replace("%s", f".{name} .strip canvas").replace("%c", f".{name} h2")
            assert await page.until(drawn if found else f"!({drawn})")
        assert await page.run(SHOWN) == "H1,L1,V1"
        head = "document.querySelector('.H1 .facts').innerText.match(/Last window\\s+(\\S+)/)[1]"
        before = await page.run(head)
        await lively.run(3)
        assert await page.until(f"({head} !== '{before}') && {head}")
        frames = "import('/static/frames.js').then(({ measured }) => measured.costs.length)"
        count = await page.run(frames)
        await page.until(f"{frames}.then(now => now > {count} + 3)")
        for name in NAMES:
            assert await page.run(COLOURS % f".{name} .scroll .gram canvas") > 30  # a colour map, not a flat ground
            for chart in (".strip", ".loud", ".noise", ".range"):
                assert await page.run(COLOURS % f".{name} {chart} canvas") > 3, (name, chart)
        assert "O3 H1" in await page.run("document.querySelector('.H1 .noise').innerText")
        assert "Mpc" in await page.run("document.querySelector('.H1 .range h3').innerText")


async def test_detectors_are_hidden_by_key_and_button_and_stay_so(tmp_path: Path) -> None:
    async with looking(tmp_path, new_feed()) as (page, _):
        await page.press("2")
        assert (await page.run(SHOWN), await page.run(PRESSED)) == ("H1,V1", "H1,V1")
        await page.run("document.querySelector('.chip.H1').click()")
        assert await page.run(SHOWN) == "V1"
        await page.press("3")
        assert await page.run("!document.querySelector('#all-hidden').hidden")
        await page.press("1")
        await page.run("{ window.old = true; location.reload() }")
        await page.until("!window.old && document.querySelectorAll('#rows tr.event').length === 4")
        assert await page.run(SHOWN) == "H1"
        await page.press("2")
        await page.until("document.querySelector('.L1 .strip canvas').getBoundingClientRect().width > 300")
        await page.until((COLOURS % ".L1 .scroll .gram canvas") + " > 30")


async def test_a_spectrogram_told_to_draw_while_hidden_is_drawn_when_shown(tmp_path: Path) -> None:
    async with looking(tmp_path, new_feed()) as (page, _):
        await page.run("""import('/static/spectrogram.js').then(({ Spectrogram }) => {
          window.held = document.body.appendChild(document.createElement('div'));
          held.className = 'gram held';
          held.hidden = true;
          const gram = new Spectrogram(held);
          gram.add(0, 256, Array.from({ length: 2560 }, (_, i) => 4 * Math.sin(i * i / 2000)));
          gram.draw(0, 8);
        })""")
        assert await page.run("held.clientWidth") == 0
        await page.run("held.hidden = false")
        await page.until((COLOURS % ".held canvas") + " > 30")


async def test_posteriors_are_chosen_by_key_and_click_and_followed_again(tmp_path: Path) -> None:
    live = new_feed()
    async with looking(tmp_path, live) as (page, lively):
        rows = (await page.run("[...document.querySelectorAll('#rows tr')].map(row => row.id.slice(4)).join()")).split(
            ","
        )
        first = await page.run(CHOSEN)
        assert first.startswith("H1")  # the loudest of the latest signal
        await page.press("j")
        await page.press("j")
        await page.press("k")
        chosen = rows[rows.index(first) + 1]
        assert await page.run(CHOSEN) == chosen
        assert await page.run("document.activeElement.id") == f"row-{chosen}"
        assert chosen in await page.run("document.querySelector('#detail').innerText")
        assert not await page.run("document.querySelector('#follow').hidden")
        for _ in range(50):
            lively.tell()  # another signal: the reader's choice stands
        await page.until("document.querySelectorAll('#rows tr').length === 6")
        assert await page.run(CHOSEN) == chosen
        await page.press("l")
        latest = await page.until(f"{CHOSEN} !== '{chosen}' && {CHOSEN}")
        assert latest.startswith("H1")
        assert latest not in rows
        await page.run("document.querySelector('#network-list li:last-child button').click()")
        assert await page.run(CHOSEN) in rows
        assert await page.run("document.querySelectorAll('#network-list li').length") == 3


async def test_what_is_read_stays_when_the_list_has_gone_on(tmp_path: Path) -> None:
    async with looking(tmp_path, new_feed()) as (page, lively):
        await page.press("j")
        chosen = await page.run(CHOSEN)
        for number in range(POSTERIORS + 2):
            lively._signal("H1", (fakes.GPS + 100 + 2 * number) * fakes.RATE)
            await page.run("0")  # the page keeps up
        await page.until(f"!document.getElementById('row-{chosen}')")
        assert chosen in await page.run("document.querySelector('#detail').innerText")
        oldest = "document.querySelector('#rows').lastElementChild.id"
        assert await page.run("document.activeElement.id") == await page.run(oldest)
        assert await page.run("document.querySelectorAll('#rows tr[tabindex=\"0\"]').length") == 1
        button = "document.querySelector('#network-list button')"
        await page.run(f"{button}.click()")  # of a signal that is not listed any more
        assert await page.run(f"{button}.disabled")
        assert chosen in await page.run("document.querySelector('#detail').innerText")
        await page.press("j")
        assert await page.run(CHOSEN) == (await page.run(oldest)).removeprefix("row-")


async def test_draws_that_break_off_are_asked_for_again(tmp_path: Path) -> None:
    async with looking(tmp_path, new_feed()) as (page, _):
        await page.until("!!document.querySelector('.corner canvas')")
        await page.run("{ window.whole = fetch; window.fetch = async () => new Response('{\"draws\"'); }")
        await page.press("j")
        await page.press("j")  # the other one of H1
        await page.until("document.querySelector('#detail').innerText.includes('these are gone')")
        await page.run("window.fetch = whole")
        await page.press("k")
        await page.press("j")
        await page.until("!!document.querySelector('.corner canvas')")


async def test_a_connection_that_is_silent_is_made_anew(tmp_path: Path) -> None:
    pages: list[int] = []
    async with looking(tmp_path, new_feed(on_clients=pages.append)) as (page, _):
        assert pages == [1]
        await page.run("{ const now = performance.now.bind(performance); performance.now = () => now() + 30_000; }")
        await asyncio.sleep(2.5)
        assert pages == [1]  # the daemon speaks at least each 15 s
        await page.run("{ const now = performance.now.bind(performance); performance.now = () => now() + 30_000; }")
        await page.until("document.querySelector('#link-page dd').textContent === 'live' && performance.now() > 60_000")
        async with asyncio.timeout(15):
            while len(pages) < 3:
                await asyncio.sleep(0.05)
        assert sorted(pages[1:3]) in ([0, 1], [1, 2])
        await page.until("document.querySelectorAll('#rows tr.event').length === 4")


async def test_the_corner_plot_comes_with_the_draws_and_says_where_there_are_none(tmp_path: Path) -> None:
    live = new_feed()
    async with looking(tmp_path, live) as (page, lively):
        await page.until("document.querySelector('.corner canvas')?.width > 300")
        light = await page.run("document.querySelector('.corner canvas').toDataURL()")
        assert await page.run(COLOURS % ".corner canvas") > 10
        await page.theme("dark")
        await page.until(f"document.querySelector('.corner canvas').toDataURL() !== {json.dumps(light)}")
        lively.names = ("V1", "V1", "V1")
        lively._signal("V1", (fakes.GPS + 100) * fakes.RATE)
        await page.until("document.querySelector('#detail').innerText.includes('these are gone')")


async def test_health_calibration_and_what_hangs_are_seen_at_a_glance(tmp_path: Path) -> None:
    drops: dict[str, int] = {}
    live = new_feed(dropped=lambda: drops)
    async with looking(tmp_path, live) as (page, _):
        assert await page.run("document.querySelector('#dropped').hidden")
        drops["source: vetoed"] = 7
        live.queue("inference", 12)
        live.health([Stuck("inference", 5.0, 1.0)])
        await page.until("document.querySelector('#stages [data-state=bad]')?.innerText.includes('stuck for 5 s')")
        await page.run("document.querySelector('#dropped').open = true")
        assert "vetoed 7" in await page.run("document.querySelector('#dropped').innerText")
        live.health([])
        await page.until("!document.querySelector('#stages [data-state=bad]')")
        live.calibration("H1", fakes.report().part())
        await page.until("document.querySelector('#calibrated dd').textContent.includes('0.89')")
        for width in (1440, 1280):  # a line for each fact, and none runs out of its column
            await page.size(width, 1000)
            heights = "[...document.querySelectorAll('.H1 .facts > *')].map(one => one.getBoundingClientRect().height)"
            await page.until("document.querySelector('.H1 .facts').innerText.includes('0.89 ± 0.01 of 300')")
            assert max(await page.run(heights)) < 28
            facts = "document.querySelector('.H1 .facts')"
            assert await page.run(f"{facts}.scrollWidth - {facts}.clientWidth") == 0
            gap = "(([label, value]) => value.getBoundingClientRect().left - label.getBoundingClientRect().right)"
            assert await page.run(f"{gap}([...{facts}.children].slice(-2))") >= 8
        live.calibration("L1", fakes.report("L1", alarm=True, alarm_about="phase").part())
        await page.until("document.querySelector('#calibrated[data-state=bad] dd')?.textContent === 'L1 off: phase'")
        live.calibration("L1", fakes.report("L1", injections=0).part())  # another model
        await page.until("document.querySelector('#calibrated[data-state=ok] dd')?.textContent.includes('0.89')")


async def test_the_charts_hold_still_when_told_to_and_the_keys_are_explained(tmp_path: Path) -> None:
    async with looking(tmp_path, new_feed()) as (page, lively):
        await page.press("?")
        assert await page.run("document.querySelector('#help').open")
        await page.press("j")  # nothing happens behind it
        await page.press("?")
        assert not await page.run("document.querySelector('#help').open")
        going = asyncio.create_task(lively.run(2.5))
        await asyncio.sleep(1)  # in the middle of scrolling
        await page.press("f")
        assert await page.run("document.querySelector('#freeze').getAttribute('aria-pressed')") == "true"
        picture = "document.querySelector('.H1 .scroll .gram canvas').toDataURL()"
        before = await page.run(picture)
        await going
        assert await page.run(picture) == before
        await page.press("f")
        await lively.run(1.5)
        await page.until(f"{picture} !== {json.dumps(before)}")


async def test_a_daemon_that_is_started_again_is_shown_anew(tmp_path: Path) -> None:
    port, live = free_port(), new_feed()
    lively = Lively(live, NAMES)
    for _ in range(60):
        lively.tell()
    async with browser(tmp_path) as page:
        async with served(live, port) as url:
            await page.size(1440, 1000)
            await page.open(url)
            await page.until("document.querySelectorAll('#rows tr.event').length === 2")
        await page.until("document.body.classList.contains('lost')")
        page.complaints = [one for one in page.complaints if "ERR_" not in one]
        again = new_feed()
        other = Lively(again, NAMES)
        for _ in range(115):
            other.tell()
        async with served(again, port):
            await page.until("document.querySelector('#link-page dd').textContent === 'live'", 30)
            await page.until("document.querySelectorAll('#rows tr.event').length === 4")
            assert await page.run("!document.body.classList.contains('lost')")
            assert await page.run("document.querySelectorAll('.detector').length") == 3
            await other.run(1.5)
            assert await page.run(COLOURS % ".V1 .scroll .gram canvas") > 30
            again.calibration("V1", fakes.report("V1", alarm=True, alarm_about="phase").part())
            await page.until("!!document.querySelector('#calibrated[data-state=bad]')")
        await page.until("document.body.classList.contains('lost')")
        fewer = new_feed()
        one = Lively(fewer, ("H1", "L1"))
        for _ in range(20):
            one.tell()
        async with served(fewer, port):
            await page.until("document.querySelector('#link-page dd').textContent === 'live'", 30)
            await page.until(f"{SHOWN} === 'H1,L1'")
            assert await page.run(PRESSED) == "H1,L1"
            assert await page.run("document.querySelector('#calibrated').dataset.state") == "wait"
            fewer.strain(
                "V1", fakes.GPS * NANO, 256, np.zeros(256)
            )  # and comes back with the first that is heard of it
            await page.until(f"{SHOWN} === 'H1,L1,V1'")
        page.complaints = [one for one in page.complaints if "ERR_" not in one]
        assert page.complaints == []


async def test_the_spectrogram_of_white_noise_has_an_energy_of_one(tmp_path: Path) -> None:
    noise = np.random.default_rng(8).normal(size=6000).tolist()
    script = f"""import('/static/qtransform.js').then(({{ QTransform }}) => {{
      const transform = new QTransform(256, 20), out = new Float32Array(20), sum = new Float64Array(20);
      const noise = {json.dumps(noise)};
      let count = 0;
      for (let at = 100; at < 5900; at += 5, count++) {{ transform.column(noise, at, out); out.forEach((e, k) => sum[k] += e); }}
      const wave = noise.map((_, i) => Math.sin(2 * Math.PI * 60 * i / 256));
      transform.column(wave, 3000, out);
      return {{ mean: Array.from(sum, (e) => e / count), loudest: transform.frequencies[out.indexOf(Math.max(...out))] }};
    }})"""  # noqa: E501
    async with looking(tmp_path, new_feed()) as (page, _):
        found: dict[str, Any] = await page.run(script)
    assert np.abs(np.array(found["mean"]) - 1).max() < 0.25
    assert abs(np.mean(found["mean"]) - 1) < 0.05
    assert abs(found["loudest"] / 60 - 1) < 0.05
