"""A daemon whose engine goes wrong, in its own process, with a broker and a subscriber: it says so, and serves on."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import jsonschema
import pytest
from brokers import MOSQUITTO, mosquitto
from test_flow import COALESCENCE, Received, folders, of_kind, play, subscriber

from gwstream.config import default_model
from gwstream.demo import child
from gwstream.summary import schema

LONG = 90.0  # s that a slow machine may take for anything
GIVEN_UP = 'gwstream_dropped_total{detector="",reason="engine_given_up",stage="inference"}'
pytestmark = pytest.mark.skipif(MOSQUITTO is None, reason="needs mosquitto")


@dataclass
class Running:
    """The daemon, and what a subscriber has of it."""

    root: Path
    port: int
    got: list[Received]

    async def status(self, right: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The first status that is right."""
        async with asyncio.timeout(LONG):
            while True:
                for one in of_kind(self.got, "status"):
                    if one.body["state"] == "online" and right(one.body):
                        jsonschema.Draft202012Validator(schema()).validate(one.body)
                        return one.body
                await asyncio.sleep(0.1)

    async def metrics(self) -> dict[str, float]:
        url = f"http://127.0.0.1:{self.port}/metrics"
        async with aiohttp.ClientSession() as session, session.get(url) as answer:
            lines = (await answer.text()).splitlines()
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[0] != "#")}

    async def event(self) -> dict[str, Any]:
        """The posterior that tells of GW150914 in H1."""
        async with asyncio.timeout(LONG):
            while True:
                for one in of_kind(self.got, "event"):
                    if one.topic == "gwstream/H1/event":
                        part: dict[str, Any] = one.body["posterior"]
                        return part
                await asyncio.sleep(0.1)

    def log(self) -> str:
        return (self.root / "log").read_text()


@asynccontextmanager
async def running(root: Path, patch: pytest.MonkeyPatch, more: str = "") -> AsyncIterator[Running]:
    for path in folders(root).values():
        path.mkdir()
    patch.setenv("HANG", str(root))
    port, config = child.free_port(), root / "gwstream.toml"
    async with mosquitto(root) as broker:
        settings = child.Settings(
            directories=folders(root), model=default_model(), broker_port=broker.port, http_port=port
        )
        config.write_text(settings.toml().replace("[inference]\n", f"[inference]\n{more}"))
        program = (sys.executable, str(Path(__file__).with_name("straying.py")))
        with subscriber(broker.port) as got:
            async with child.daemon(config, root / "log", port, program):
                yield Running(root, port, got)


async def fell_back(it: Running) -> None:
    """All that must be seen once torch serves."""
    status = await it.status(lambda body: body["engine"] == "torch")
    assert [one["engine"] for one in status["parity"]["given_up"]] == ["openvino"]
    assert "standard deviations from torch, where 0.001 may be" in status["parity"]["given_up"][0]["why"]
    found = await it.metrics()
    assert found[GIVEN_UP] == 1
    assert [name for name in found if name.startswith("gwstream_model_info") and 'engine="torch"' in name]
    assert not [name for name in found if name.startswith("gwstream_model_info") and "openvino" in name]
    assert "engine openvino is given up: it is " in it.log()
    assert "engine torch serves" in it.log()


@pytest.mark.timeout(600)
async def test_an_engine_that_strays_in_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(tmp_path, monkeypatch) as it:
        status = await it.status(lambda body: True)
        assert status["engine"] == "openvino"
        assert 0 <= status["parity"]["distance"] < status["parity"]["tolerance"] == 1e-3
        assert status["parity"]["given_up"] == []
        await asyncio.to_thread(play, tmp_path, 0.5, slice(0, 14))
        assert GIVEN_UP not in await it.metrics()
        (tmp_path / "stray").touch()
        await asyncio.to_thread(play, tmp_path, 0.5, slice(14, 15))
        await fell_back(it)
        await asyncio.to_thread(play, tmp_path, 0.5, slice(15, 20))
        part = await it.event()
        assert part["engine"] == "torch"
        assert part["coalescence"]["gps"] == pytest.approx(COALESCENCE["H1"], abs=0.003)


@pytest.mark.timeout(600)
async def test_an_engine_that_is_wrong_from_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "stray").touch()
    async with running(tmp_path, monkeypatch, 'engine = "openvino"\n') as it:
        await fell_back(it)
        await asyncio.to_thread(play, tmp_path, 0.2, slice(0, 20))
        part = await it.event()
        assert part["engine"] == "torch"
        assert part["coalescence"]["gps"] == pytest.approx(COALESCENCE["H1"], abs=0.003)
