"""The draws behind a message, on demand: no message carries them, but the daemon keeps those of its last posteriors."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import aiohttp

from gwstream.client.messages import NANO, Message, NetworkEvent, Posterior
from gwstream.errors import SamplesError

SCHEMA = "gwstream.samples/1"
LIMIT = 20.0  # s to wait for the daemon
LARGEST = 64 << 20  # bytes of its answer
WEIGHT = "weight"
TIME = "coalescence_time"


@dataclass(frozen=True, slots=True, kw_only=True)
class Daemon:
    """The HTTP port of a daemon; ``token``: that of its ``metrics.token_file``, where one is set."""

    url: str = "http://127.0.0.1:9480"
    token: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Draws:
    """Weighted draws of a posterior.

    ``values``: by parameter, in the units of the message; ``coalescence_time`` in s after ``gps_ns``, the window's
    first sample. ``weights``: of sum 1, one a draw. ``body``: all of the daemon's answer, with the whitened window
    and its spectrum.
    """

    id: str
    detector: str
    gps_ns: int
    values: Mapping[str, tuple[float, ...]] = field(repr=False)
    weights: tuple[float, ...] = field(repr=False)
    body: Mapping[str, Any] = field(repr=False, compare=False)

    @property
    def gps(self) -> tuple[float, ...]:
        """GPS s of coalescence, to the quarter of a microsecond that a double resolves."""
        return tuple(self.gps_ns / NANO + after for after in self.values[TIME])

    def mean(self, name: str) -> float:
        """Weighted mean of a parameter; of the phase, which is cyclic, it says nothing."""
        return sum(weight * value for weight, value in zip(self.weights, self.values[name], strict=True))


async def draws(of: Message | str, daemon: Daemon | str = "http://127.0.0.1:9480") -> Draws:
    """Of a posterior or event, or of the id of one, from the ``daemon`` that told it; its URL will do.

    It has those of its last 64 posteriors. What comes is checked against its SHA-256, and that of the message.
    Raises `SamplesError` where it has them no more, cannot be reached, or gives others.
    """
    if isinstance(of, NetworkEvent):
        raise SamplesError(
            f"{of.id}: a network event has no draws, but its members do: {', '.join(of.members.values())}"
        )
    where = Daemon(url=daemon) if isinstance(daemon, str) else daemon
    name = (of if isinstance(of, str) else of.id).removeprefix("E-")
    made = _read(name, await _fetch(f"{where.url.rstrip('/')}/samples/{quote(name, safe='')}", where.token))
    if isinstance(of, Posterior) and made.body["sha256"] != of.body["sha256"]:
        raise SamplesError(f"{name}: the daemon at {where.url} has another posterior of this id: is it the same model?")
    return made


async def _fetch(url: str, token: str | None) -> bytes:
    """The answer's body. Raises `SamplesError`."""
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    try:
        async with (
            asyncio.timeout(LIMIT),
            aiohttp.ClientSession(headers=headers) as session,
            session.get(url, allow_redirects=False) as answer,
        ):
            if answer.status == 200:
                return await _whole(answer)
            said = (await answer.content.read(500)).decode("utf-8", "replace").strip() or answer.reason
            raise SamplesError(f"{url}: {said}{'; see Daemon.token' if answer.status == 401 else ''}")
    except TimeoutError:
        raise SamplesError(f"no draws from {url}: no answer within {LIMIT:g} s") from None
    except (aiohttp.ClientError, ValueError, OSError) as problem:
        raise SamplesError(
            f"no draws from {url}: {problem}; name the daemon's HTTP port, as http://HOST:9480"
        ) from None


async def _whole(answer: aiohttp.ClientResponse) -> bytes:
    """All of it, but not without end."""
    pieces, size = [], 0
    async for piece in answer.content.iter_any():
        pieces.append(piece)
        size += len(piece)
        if size > LARGEST:
            raise SamplesError(f"no draws from {answer.url}: its answer is longer than {LARGEST >> 20} MB")
    return b"".join(pieces)


def _read(name: str, answer: bytes) -> Draws:
    """Checked against its own digest. Raises `SamplesError`."""
    try:
        body = json.loads(answer)
        part, columns = body["posterior"], dict(body["draws"])
        weights = tuple(map(float, columns.pop(WEIGHT)))
        values = {str(key): tuple(map(float, column)) for key, column in columns.items()}
        if body["schema"] != SCHEMA or part["id"] != name or TIME not in values:
            raise ValueError(f"not {SCHEMA} of this id")
        if {len(column) for column in values.values()} != {len(weights)} or len(weights) != part["sampling"]["draws"]:
            raise ValueError("some draws are missing")
        digest = hashlib.sha256(json.dumps(part, sort_keys=True, separators=(",", ":")).encode("ascii")).hexdigest()
        if digest != body["sha256"]:
            raise ValueError("its SHA-256 is not the one it states")
        start = int(part["window"]["gps_ns"])
        return Draws(id=name, detector=str(part["detector"]), gps_ns=start, values=values, weights=weights, body=body)
    except (LookupError, TypeError, ValueError, AttributeError) as problem:
        raise SamplesError(f"{name}: not a posterior with its draws: {problem}") from None
