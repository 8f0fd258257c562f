"""The HTTP server on the daemon's own loop: ``/metrics``, ``/healthz``, ``/readyz``, ``/samples``, page and events."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import web

from gwstream.config import MetricsConfig
from gwstream.errors import ConfigError
from gwstream.health import Health
from gwstream.records import Tally, silent
from gwstream.web.access import HEADERS, Access
from gwstream.web.feed import Feed, Full
from gwstream.web.guard import BACKLOG, Connection, Guard, Patience, connection_of

log = logging.getLogger("web")

LOOPBACK = {"127.0.0.1", "::1", "localhost"}

STATIC = Path(__file__).parent / "static"
SCRIPTS = tuple(sorted(path.stem for path in STATIC.glob("*.js")))
FILES = {
    "/": ("index.html", "text/html"),
    "/static/page.css": ("page.css", "text/css"),
    "/static/parts.css": ("parts.css", "text/css"),
    "/static/icon.svg": ("icon.svg", "image/svg+xml"),
    "/static/vendor/uPlot.iife.min.js": ("vendor/uPlot.iife.min.js", "text/javascript"),
    "/static/vendor/uPlot.min.css": ("vendor/uPlot.min.css", "text/css"),
    **{f"/static/{name}.js": (f"{name}.js", "text/javascript") for name in SCRIPTS},
}
DRAWS = 4  # answers with draws that are kept: every open page asks for those of the latest event
TEXT_FORMAT = "text/plain; version=0.0.4; charset=utf-8"


Samples = Callable[[str], bytes | None]


def _no_samples(name: str) -> None:
    """Of a daemon that keeps none."""


@asynccontextmanager
async def serving(
    config: MetricsConfig,
    *,
    feed: Feed,
    exposition: Callable[[], bytes],
    health: Health | None = None,
    tally: Tally = silent,
    patience: Patience | None = None,
    samples: Samples = _no_samples,
) -> AsyncIterator[int]:
    """The server while the block lasts; gives the port. ``exposition``: the text of ``/metrics``, made in a thread, as
    is what ``samples`` gives for the id of a posterior or event: its draws as JSON, or None.

    Raises `ConfigError` when the port cannot be had, or the token.
    """
    access, guard = Access(config, tally), Guard(config, tally=tally, patience=patience)
    if access.open and config.host not in LOOPBACK:
        log.warning(
            "whoever reaches port %d of %s may read all: metrics.token_file is not set", config.port, config.host
        )
    application = _application(feed, exposition, health or Health(), guard, access, samples)
    # a handler whose client has gone is cancelled, so that its place is free at once
    runner = web.AppRunner(application, shutdown_timeout=1.0, handler_cancellation=True)
    await runner.setup()
    try:
        http = runner.server
        assert http is not None
        try:
            listener = await asyncio.get_running_loop().create_server(
                lambda: Connection(guard, http), config.host, config.port, backlog=BACKLOG
            )
        except OSError as problem:
            raise ConfigError(_refused(config, problem)) from None
        try:
            yield int(listener.sockets[0].getsockname()[1])
        finally:
            listener.close()
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


def _application(
    feed: Feed, exposition: Callable[[], bytes], health: Health, guard: Guard, access: Access, samples: Samples
) -> web.Application:
    making: asyncio.Task[bytes] | None = None

    async def metrics(_: web.Request) -> web.Response:
        nonlocal making
        if making is None or making.done():  # scrapes at one time have one text: the thread takes time from inference
            making = asyncio.create_task(asyncio.to_thread(exposition), name="web-metrics")
        text = await asyncio.shield(making)
        return web.Response(body=text, headers={"Content-Type": TEXT_FORMAT, "Cache-Control": "no-store"})

    async def healthz(_: web.Request) -> web.Response:
        return _verdict(_hanging(health))  # a part that dies takes the process down

    async def readyz(_: web.Request) -> web.Response:
        return _verdict([*_hanging(health), *feed.unready()])

    async def events(request: web.Request) -> web.StreamResponse:
        return await _events(request, feed)

    one_at_a_time = asyncio.Lock()  # the thread takes time from inference
    made: OrderedDict[str, bytes] = OrderedDict()

    async def draws(request: web.Request) -> web.Response:
        name = request.match_info["id"]
        async with one_at_a_time:
            content = made.get(name) or await asyncio.to_thread(samples, name)
            if content is not None:
                made[name] = content
                while len(made) > DRAWS:
                    made.popitem(last=False)
        if content is None and "quiet" in request.query:  # for the page: a browser's console takes 404 for a fault
            return web.Response(status=204, headers={"Cache-Control": "no-store"})
        if content is None:
            raise web.HTTPNotFound(text="not among the last posteriors, whose draws are kept\n")
        return web.Response(body=content, content_type="application/json", headers={"Cache-Control": "no-store"})

    application = web.Application(middlewares=[_guarded(guard, access)])
    application.router.add_get("/metrics", metrics)
    application.router.add_get("/healthz", healthz)
    application.router.add_get("/readyz", readyz)
    application.router.add_get("/events", events)
    application.router.add_get("/samples/{id}", draws)
    for path, (name, kind) in FILES.items():
        application.router.add_get(path, _file((STATIC / name).read_bytes(), kind))
    return application


def _hanging(health: Health) -> list[str]:
    return [str(one) for one in health.stuck()]


def _verdict(reasons: list[str]) -> web.Response:
    body: dict[str, Any] = {"ok": not reasons, "reasons": reasons}
    return web.json_response(body, status=503 if reasons else 200, headers={"Cache-Control": "no-store"})


def _file(body: bytes, kind: str) -> Callable[[web.Request], Any]:
    """A handler that sends ``body``, read once at the start: no request makes a path."""
    tag = hashlib.sha256(body).hexdigest()[:16]

    async def send(request: web.Request) -> web.Response:
        if any(known.value == tag for known in request.if_none_match or ()):
            response = web.Response(status=304)
        else:
            response = web.Response(body=body, headers={"Content-Type": f"{kind}; charset=utf-8"})
        response.etag = tag
        return response

    return send


async def _events(request: web.Request, feed: Feed) -> web.StreamResponse:
    """Server-sent events until either side goes away."""
    try:
        with feed.page(connection_of(request).who) as stream:
            response = web.StreamResponse(headers={"Content-Type": "text/event-stream", **HEADERS})
            response.headers["Cache-Control"] = "no-store"
            response.headers["X-Accel-Buffering"] = "no"  # a proxy such as nginx must pass each piece on at once
            await response.prepare(request)
            async for piece in stream:
                await response.write(piece)
            return response
    except Full:
        raise web.HTTPServiceUnavailable(text="as many live pages are open as may be\n") from None
    except ConnectionResetError:
        return web.Response()  # the page is gone


def _guarded(guard: Guard, access: Access) -> Any:
    """Lets those requests through that may pass, and gives every answer its headers."""

    @web.middleware
    async def middleware(request: web.Request, handler: Any) -> web.StreamResponse:
        connection = connection_of(request)
        with connection.handling():
            try:
                _admit(request, connection, guard)
                access.check(request)
                response: web.StreamResponse = await handler(request)
            except web.HTTPException as problem:
                problem.headers.update(HEADERS)
                raise
            if not response.prepared:
                for name, value in HEADERS.items():
                    response.headers.setdefault(name, value)
            return response

    return middleware


def _admit(request: web.Request, connection: Connection, guard: Guard) -> None:
    refusal: web.HTTPException
    if not guard.request(connection.who):
        refusal = web.HTTPTooManyRequests(text="too many requests from your address\n", headers={"Retry-After": "1"})
    elif request.can_read_body:
        guard.tally("web", "bad_request", "")
        refusal = web.HTTPRequestEntityTooLarge(max_size=0, actual_size=0, text="no request here has a body\n")
    else:
        return
    refusal.force_close()
    raise refusal
