"""A subscriber such as anybody could write: it knows the topics and the schema, and prints what it gets."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gwstream.errors import GwstreamError
from gwstream.terminal.tables import heading, table, text

if TYPE_CHECKING:
    from rich.console import Console

Message = dict[str, Any]


@dataclass(slots=True)
class Seen:
    """What came over MQTT so far: posteriors by detector, and event messages that no later one supersedes, by id.

    ``networks``: the same of network events; the events of their members stay with the others, for the pictures.
    """

    posteriors: dict[str, int] = field(default_factory=dict)
    events: dict[str, Message] = field(default_factory=dict)
    networks: dict[str, Message] = field(default_factory=dict)

    def best(self, detector: str, before: int) -> Message | None:
        """The loudest event of a detector with coalescence before GPS ns ``before``."""
        mine = [
            message
            for message in self.events.values()
            if message["posterior"]["detector"] == detector and message["posterior"]["coalescence"]["gps_ns"] < before
        ]
        return max(mine, key=lambda message: float(message["posterior"]["snr"] or 0), default=None)


async def start(group: asyncio.TaskGroup, port: int, console: Console, seen: Seen) -> asyncio.Task[None]:
    """Subscribe to the broker on loopback, then go on in a task of ``group`` until that is cancelled."""
    ready = asyncio.Event()
    task = group.create_task(_subscribe(port, console, seen, ready), name="subscriber")
    await ready.wait()
    return task


async def _subscribe(port: int, console: Console, seen: Seen, ready: asyncio.Event) -> None:
    import aiomqtt

    try:
        async with aiomqtt.Client("127.0.0.1", port, protocol=aiomqtt.ProtocolVersion.V5) as client:
            await client.subscribe("gwstream/+/posterior", qos=1)
            await client.subscribe("gwstream/+/event", qos=1)
            ready.set()
            async for message in client.messages:
                assert isinstance(message.payload, bytes)
                take(json.loads(message.payload), console, seen)
    except aiomqtt.MqttError as problem:
        raise GwstreamError(f"the subscriber lost the broker at 127.0.0.1:{port}: {problem}") from problem


def take(message: Message, console: Console, seen: Seen) -> None:
    """Print a posterior as a table, an event as a line; keep both."""
    if message["schema"].startswith("gwstream.network_event/"):
        together(message, console, seen)
        return
    posterior = message["posterior"]
    detector = posterior["detector"]
    if message["schema"].startswith("gwstream.posterior/"):
        seen.posteriors[detector] = seen.posteriors.get(detector, 0) + 1
        console.print(heading(message), soft_wrap=True, highlight=False)
        console.print(table(message))
        return
    event = message["event"]
    for old in event["supersedes"]:
        seen.events.pop(old, None)
    seen.events[event["id"]] = message
    verb = "updated" if event["supersedes"] else "found"
    console.print(
        f"[bold]event {verb}[/bold] in {detector}: GPS {posterior['coalescence']['gps']:.4f}, "
        f"SNR {text(posterior['snr'], 1)}, {event['id']}\n",
        highlight=False,
        soft_wrap=True,
    )


def together(message: Message, console: Console, seen: Seen) -> None:
    """Print a network event as a line, and keep it while it stands."""
    event, network = message["event"], message["network"]
    known = [seen.networks.pop(old) for old in (*event["supersedes"], event["id"]) if old in seen.networks]
    verb = "updated" if known else "found"
    if event["state"] == "standing":
        seen.networks[event["id"]] = message
    else:
        verb = "withdrawn"
    mass = network["chirp_mass"]
    console.print(
        f"[bold]network event {verb}[/bold] in {' and '.join(one['detector'] for one in network['members'])}: "
        f"SNR {text(network['snr'], 1)}, chirp mass {text(mass['median'], 1)} "
        f"({text(mass['p5'], 1)} to {text(mass['p95'], 1)}) Msun, {event['id']}\n",
        highlight=False,
        soft_wrap=True,
    )


async def settled(seen: Seen, quiet: float) -> None:
    """Wait until nothing new has come for ``quiet`` seconds."""
    before = -1
    while before != (now := sum(seen.posteriors.values()) + len(seen.events) + len(seen.networks)):
        before = now
        await asyncio.sleep(quiet)
