"""A real Prometheus, started with the shipped settings, scrapes the daemon's server."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from test_web import new_feed, site

from gwstream import __version__
from gwstream.demo.child import free_port

PROMETHEUS = shutil.which("prometheus")
SHIPPED = Path(__file__).resolve().parents[1] / "deploy" / "prometheus.yml"


async def query(session: aiohttp.ClientSession, url: str, expression: str) -> list[dict[str, Any]]:
    """The result of an instant query; empty while the server starts."""
    try:
        async with session.get(f"{url}/api/v1/query", params={"query": expression}) as response:
            found: list[dict[str, Any]] = (await response.json())["data"]["result"] if response.status == 200 else []
            return found
    except aiohttp.ClientConnectionError:
        return []


@pytest.mark.skipif(PROMETHEUS is None, reason="needs prometheus: apt-get install prometheus")
async def test_prometheus_scrapes_the_daemon(tmp_path: Path) -> None:
    async with site(new_feed()) as daemon:
        settings = SHIPPED.read_text(encoding="utf-8").replace("127.0.0.1:9480", daemon.removeprefix("http://"))
        shutil.copy(SHIPPED.with_name("rules.yml"), tmp_path)
        (tmp_path / "prometheus.yml").write_text(settings.replace("5s", "1s"), encoding="utf-8")
        port = free_port()
        process = await asyncio.create_subprocess_exec(
            str(PROMETHEUS),
            f"--config.file={tmp_path / 'prometheus.yml'}",
            f"--storage.tsdb.path={tmp_path / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            async with aiohttp.ClientSession() as session, asyncio.timeout(60):
                while not (found := await query(session, f"http://127.0.0.1:{port}", "gwstream_build_info")):
                    await asyncio.sleep(0.2)
                up = await query(session, f"http://127.0.0.1:{port}", "up")
        finally:
            process.terminate()
            await process.wait()
    assert found[0]["metric"]["version"] == __version__
    assert found[0]["metric"]["job"] == "gwstream"
    assert [sample["value"][1] for sample in up] == ["1"]
