"""Who may see what the daemon serves, and the headers that make a browser keep to it.

With a token (``metrics.token_file``) everything but the two health checks asks for it: programs send it as
``Authorization: Bearer``, browsers as the password of their own dialog (HTTP Basic, any user name), and from then on
with the page's files and its events. Without a token whoever reaches the port may read; then the name a browser asked
for must be ours, lest a foreign web site whose name is made to lead here reads the page (DNS rebinding).
"""

from __future__ import annotations

import base64
import binascii
import hmac
import ipaddress
import socket
from urllib.parse import urlsplit

from aiohttp import web

from gwstream.config import MetricsConfig
from gwstream.errors import ConfigError
from gwstream.records import Tally
from gwstream.secrets import secret

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
    "Server": "gwstream",
}
HEALTH = frozenset({"/healthz", "/readyz"})
SHORTEST = 16  # characters of a token


class Access:
    """Lets a request pass, or refuses and counts it.

    Raises `ConfigError` for a token that cannot be read or is too short.
    """

    def __init__(self, config: MetricsConfig, tally: Tally) -> None:
        self._token = _token(config)
        self._names = {"localhost", config.host.lower(), socket.gethostname().lower(), *map(str.lower, config.names)}
        self._tally = tally

    @property
    def open(self) -> bool:
        """Whether everybody who reaches the port may read."""
        return self._token is None

    def check(self, request: web.Request) -> None:
        """Raises a `web.HTTPException` unless the request may pass."""
        if request.path in HEALTH:
            return
        if self._token is None:
            if not self._ours(request.headers.get("Host", "")):
                self._tally("web", "foreign_host", "")
                raise web.HTTPMisdirectedRequest(text="not a name of this host; metrics.names lists further ones\n")
        elif not hmac.compare_digest(_given(request.headers.get("Authorization", "")), self._token):
            self._tally("web", "unauthorized", "")
            raise _unauthorized()
        if request.path == "/events" and request.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
            self._tally("web", "foreign_page", "")  # it could not read them, but would take up a page's place
            raise web.HTTPForbidden(text="for the live page alone\n")

    def _ours(self, host: str) -> bool:
        """Whether no stranger can own this name: an address, or one of ours. Whatever has no Host is no browser."""
        try:
            name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
            if not host or name in self._names:
                return True
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


def _token(config: MetricsConfig) -> bytes | None:
    text = secret("metrics.token_file", config.token_file)
    if text is not None and len(text) < SHORTEST:
        raise ConfigError(
            f"metrics.token_file = '{config.token_file}': a token of fewer than {SHORTEST} characters can be guessed; "
            "make one with: openssl rand -hex 32"
        )
    return None if text is None else text.encode()


def _given(authorization: str) -> bytes:
    """The token in an Authorization header; empty: none."""
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return value.strip().encode("utf-8", "surrogateescape")
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value.strip(), validate=True).partition(b":")[2]
        except (binascii.Error, ValueError):
            pass
    return b""


def _unauthorized() -> web.HTTPUnauthorized:
    refusal = web.HTTPUnauthorized(text="the token is missing or wrong\n")
    for scheme in ("Bearer", "Basic"):
        refusal.headers.add("WWW-Authenticate", f'{scheme} realm="gwstream", charset="UTF-8"')
    return refusal
