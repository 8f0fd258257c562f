"""A subscriber such as anybody could write: it knows the topics and the schema, and prints what it gets."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gwstream.errors import GwstreamError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

Message = dict[str, Any]

ROWS = (
    ("chirp_mass", "chirp mass", 1),
    ("mass_1", "mass 1", 1),
    ("mass_2", "mass 2", 1),
    ("mass_ratio", "mass ratio", 2),
    ("effective_distance", "effective distance", 2),
    ("coalescence_time", "coalescence, GPS", 4),
    ("phase", "phase", 2),
)


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


def table(message: Message) -> Table:
    """One posterior: median, 90 % interval and unit of each parameter."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    posterior = message["posterior"]
    out = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name, justify in (("parameter", "left"), ("median", "right"), ("90 % interval", "right"), ("unit", "left")):
        out.add_column(name, justify=justify)  # type: ignore[arg-type]
    for name, label, digits in ROWS:
        one = posterior["parameters"][name]
        if name == "phase":
            middle, low, high, unit = one["mean"], one["arc"]["start"], one["arc"]["end"], "rad, mod π"
        else:
            middle, low, high, unit = one["median"], one["p5"], one["p95"], one["unit"].replace("1", "")
        interval = f"{text(low, digits)} to {text(high, digits)}"
        if name == "coalescence_time":
            interval = f"{1e3 * (low - middle):+.1f} to {1e3 * (high - middle):+.1f} ms"
        out.add_row(label, text(middle, digits), interval, unit)
    return out


def heading(message: Message) -> str:
    """What a reader needs before the numbers."""
    posterior = message["posterior"]
    quality = posterior["quality"]
    verdict = "[green]good[/green]"
    if quality["verdict"] != "good":
        verdict = f"[yellow]{quality['verdict']}: {', '.join(quality['reasons'])}[/yellow]"
    return (
        f"[bold]{posterior['detector']}[/bold]  SNR [bold]{text(posterior['snr'], 1)}[/bold]  "
        f"ln Bayes factor {text(posterior['log_bayes'], 1)}  "
        f"latency {latency_ms(message):.0f} ms   {verdict}"
    )


def text(value: float | None, digits: int) -> str:
    """A number as it is printed; the schema's null is a question mark."""
    return "?" if value is None else f"{value:.{digits}f}"


def latency_ms(message: Message) -> float:
    """From the frame that completed the window to the message's way out, as the daemon measured it."""
    return 1e3 * float(message["delivery"]["latency"]["total"])


async def settled(seen: Seen, quiet: float) -> None:
    """Wait until nothing new has come for ``quiet`` seconds."""
    before = -1
    while before != (now := sum(seen.posteriors.values()) + len(seen.events) + len(seen.networks)):
        before = now
        await asyncio.sleep(quiet)
