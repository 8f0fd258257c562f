"""The HTTP server on the daemon's own loop: ``/metrics``, ``/healthz``, ``/readyz``, the page and its events."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import web

from gwstream.config import MetricsConfig
from gwstream.errors import ConfigError
from gwstream.web.feed import Feed, Full

STATIC = Path(__file__).parent / "static"
FILES = {
    "/": ("index.html", "text/html"),
    "/static/page.css": ("page.css", "text/css"),
    "/static/page.js": ("page.js", "text/javascript"),
    "/static/charts.js": ("charts.js", "text/javascript"),
    "/static/icon.svg": ("icon.svg", "image/svg+xml"),
    "/static/vendor/uPlot.iife.min.js": ("vendor/uPlot.iife.min.js", "text/javascript"),
    "/static/vendor/uPlot.min.css": ("vendor/uPlot.min.css", "text/css"),
}
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
TEXT_FORMAT = "text/plain; version=0.0.4; charset=utf-8"


@asynccontextmanager
async def serving(config: MetricsConfig, *, feed: Feed, exposition: Callable[[], bytes]) -> AsyncIterator[int]:
    """The server while the block lasts; gives the port. ``exposition``: the text of ``/metrics``, made in a thread.

    Raises `ConfigError` when the port cannot be had.
    """
    runner = web.AppRunner(_application(feed, exposition), access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        site = web.TCPSite(runner, config.host, config.port)
        try:
            await site.start()
        except OSError as problem:
            raise ConfigError(_refused(config, problem)) from None
        yield int(runner.addresses[0][1])
    finally:
        feed.close()
        await runner.cleanup()


def _refused(config: MetricsConfig, problem: OSError) -> str:
    if problem.errno == errno.EADDRINUSE:
        return (
            f"metrics.port = {config.port}: another program listens on {config.host}:{config.port}; "
            "stop it, or set metrics.port to a free one (0: any)"
        )
    return f"metrics.host = '{config.host}', metrics.port = {config.port}: cannot listen there: {problem.strerror}"


def _application(feed: Feed, exposition: Callable[[], bytes]) -> web.Application:
    async def metrics(_: web.Request) -> web.Response:
        text = await asyncio.to_thread(exposition)
        return web.Response(body=text, headers={"Content-Type": TEXT_FORMAT, "Cache-Control": "no-store"})

    async def healthz(_: web.Request) -> web.Response:
        return _verdict([])  # a part that dies takes the process down: whoever answers is well

    async def readyz(_: web.Request) -> web.Response:
        return _verdict(feed.unready())

    async def events(request: web.Request) -> web.StreamResponse:
        return await _events(request, feed)

    application = web.Application(middlewares=[_secure])
    application.router.add_get("/metrics", metrics)
    application.router.add_get("/healthz", healthz)
    application.router.add_get("/readyz", readyz)
    application.router.add_get("/events", events)
    for path, (name, kind) in FILES.items():
        application.router.add_get(path, _file(STATIC / name, kind))
    return application


def _verdict(reasons: list[str]) -> web.Response:
    body: dict[str, Any] = {"ok": not reasons, "reasons": reasons}
    return web.json_response(body, status=503 if reasons else 200, headers={"Cache-Control": "no-store"})


def _file(path: Path, kind: str) -> Callable[[web.Request], Any]:
    async def send(_: web.Request) -> web.FileResponse:
        return web.FileResponse(path, headers={"Content-Type": f"{kind}; charset=utf-8"})

    return send


async def _events(request: web.Request, feed: Feed) -> web.StreamResponse:
    """Server-sent events until either side goes away."""
    try:
        with feed.page() as stream:
            response = web.StreamResponse(headers={"Content-Type": "text/event-stream", **HEADERS})
            response.headers["Cache-Control"] = "no-store"
            await response.prepare(request)
            async for piece in stream:
                await response.write(piece)
            return response
    except Full:
        raise web.HTTPServiceUnavailable(text="as many live pages are open as may be\n") from None
    except ConnectionResetError:
        return web.Response()  # the page is gone


@web.middleware
async def _secure(request: web.Request, handler: Any) -> web.StreamResponse:
    try:
        response: web.StreamResponse = await handler(request)
    except web.HTTPException as problem:
        problem.headers.update(HEADERS)
        raise
    if not response.prepared:
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
    return response
