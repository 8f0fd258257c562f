"""A real Prometheus for the tests, with the shipped settings and rules, where an hour is a minute."""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from gwstream.demo.child import free_port

PROMETHEUS = shutil.which("prometheus")
DEPLOY = Path(__file__).resolve().parents[1] / "deploy"
FASTER = 60
LEAST = 4  # s, of a range: with a scrape a second a rate needs some
SECONDS = {"s": 1, "m": 60, "h": 3600}


def shorter(rules: str) -> str:
    """The same rules for a hurried test: every ``for``, range and offset divided by `FASTER`; thresholds stay.

    But for the latency objective, which is 500 ms, and for the range in which starts are counted, for a machine that
    runs tests is busy with others too.
    """

    def least(number: str, unit: str, limit: int) -> str:
        return f"{max(int(number) * SECONDS[unit] // FASTER, limit)}s"

    rules = rules.replace('le="0.25"', 'le="0.5"').replace("[30m]) > 2", "[1h]) > 2")
    rules = re.sub(r"(?m)^(\s+for: )(\d+)([smh])$", lambda m: m[1] + least(m[2], m[3], 1), rules)
    return re.sub(r"(\[|offset )(\d+)([smh])", lambda m: m[1] + least(m[2], m[3], LEAST), rules)


class Prometheus:
    """Queries of a running server."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self.url = url

    async def query(self, expression: str) -> list[dict[str, Any]]:
        """The result of an instant query; empty while the server starts. A wrong expression fails the test."""
        try:
            async with self._session.get(f"{self.url}/api/v1/query", params={"query": expression}) as response:
                assert response.status != 400, f"{expression}: {await response.text()}"
                found: list[dict[str, Any]] = (await response.json())["data"]["result"] if response.ok else []
                return found
        except aiohttp.ClientConnectionError:
            return []

    async def alerts(self, state: str) -> set[str]:
        """Names of the alerts that are in ``state`` now."""
        return {one["metric"]["alertname"] for one in await self.query(f'ALERTS{{alertstate="{state}"}}')}

    async def fires(self, *names: str, limit: float = 60) -> None:
        """Wait until these have fired, each having been pending before."""
        await self._until(names, limit, "did not fire", lambda firing: {*names} <= firing)
        pending = await self.query('count by (alertname) (count_over_time(ALERTS{alertstate="pending"}[10m]))')
        assert {*names} <= {one["metric"]["alertname"] for one in pending}

    async def clears(self, *names: str, limit: float = 60) -> None:
        """Wait until none of these fires; no names: until nothing fires."""
        await self._until(names, limit, "did not clear", lambda firing: not firing & ({*names} or firing))

    async def _until(self, names: tuple[str, ...], limit: float, what: str, right: Any) -> None:
        firing: set[str] = set()
        try:
            async with asyncio.timeout(limit):
                while not right(firing := await self.alerts("firing")):
                    await asyncio.sleep(0.2)
        except TimeoutError:
            raise AssertionError(f"of {names or 'all'} some {what} within {limit} s; firing: {firing}") from None


@asynccontextmanager
async def prometheus(folder: Path, target: str, token: Path | None = None) -> AsyncIterator[Prometheus]:
    """A server that scrapes ``target`` (host:port) and evaluates the shortened rules, both once a second.

    ``token``: a file of what it shows.
    """
    settings = (DEPLOY / "prometheus.yml").read_text(encoding="utf-8").replace("127.0.0.1:9480", target)
    if token is not None:
        commented = "# authorization: {credentials_file: /etc/prometheus/gwstream-token}"
        assert commented in settings
        settings = settings.replace(commented, f"authorization: {{credentials_file: {token}}}")
    (folder / "prometheus.yml").write_text(settings.replace(": 5s", ": 1s"), encoding="utf-8")
    (folder / "rules.yml").write_text(shorter((DEPLOY / "rules.yml").read_text(encoding="utf-8")), encoding="utf-8")
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        str(PROMETHEUS),
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with aiohttp.ClientSession() as session:
            yield Prometheus(session, f"http://127.0.0.1:{port}")
    finally:
        process.terminate()
        await process.wait()
