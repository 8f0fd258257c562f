"""Good events as alert documents in the form of IGWN's (igwn-gwalert-schema), a line of JSON each.

python igwn_alerts.py --far 1e-5 [HOST[:PORT]] | mosquitto_pub -V mqttv5 -q 1 -l -t alerts/gwstream

What the schema asks for and gwstream does not know is left empty, and no alert is called significant: there is no sky
map, and no probability that the source is astrophysical. The false alarm rate is that of good events as you have
measured it at your detector, in Hz: gwstream states none for a single event.
"""

import argparse
import asyncio
import json
from collections import OrderedDict
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from gwstream.client import Event, Message, NetworkEvent, everything

REMEMBERED = 1000  # events that may still be updated
LEAP_SECONDS = 18  # GPS less UTC, since 2017


class Alerts:
    """What is told of each event; ``rate``: of good events from noise alone, Hz."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._told: OrderedDict[str, str] = OrderedDict()  # superevent by the ids of the events that have told it
        self._joint: OrderedDict[str, None] = OrderedDict()  # superevents that a network event tells
        self._standing: OrderedDict[str, Event] = OrderedDict()  # detectors' events, by id

    def of(self, message: Message) -> Iterator[dict[str, Any]]:
        """The alerts that an event leads to: a new one, an update, and the retraction of what is no more."""
        if not isinstance(message, Event | NetworkEvent):
            return
        ids, joint = (message.id, *message.supersedes), isinstance(message, NetworkEvent)
        known = list(dict.fromkeys(self._told[name] for name in ids if name in self._told))
        if isinstance(message, Event):
            for name in message.supersedes:
                self._standing.pop(name, None)
            remember(self._standing, {message.id: message})
        if isinstance(message, NetworkEvent) and message.withdrawn:
            if message.id in self._told:
                yield from self._parted(self._told[message.id])
        elif known or message.good:
            name = known[0] if known else message.id
            merged = [event for event, other in self._told.items() if other in known[1:]]
            remember(self._told, dict.fromkeys((*ids, *merged), name))
            if joint:
                remember(self._joint, {name: None})
            if message.good and (joint or name not in self._joint):  # a member's own update is in the network's
                yield self._alert(name, "UPDATE" if known else "PRELIMINARY", self._event(message))
            yield from (self._alert(other, "RETRACTION", None) for other in known[1:])

    def _parted(self, name: str) -> Iterator[dict[str, Any]]:
        """What is left of a network event stands for itself: one member goes on with the alert, or it is taken back."""
        members = [one for one, other in self._told.items() if other == name]
        left = [self._standing[one] for one in members if one in self._standing and self._standing[one].good]
        for one in members:
            del self._told[one]
        self._joint.pop(name, None)
        if not left:
            yield self._alert(name, "RETRACTION", None)
        left.sort(key=lambda event: name not in (event.id, *event.supersedes))
        for number, event in enumerate(left):
            own, kind = (event.id, "PRELIMINARY") if number else (name, "UPDATE")
            remember(self._told, dict.fromkeys((event.id, *event.supersedes), own))
            yield self._alert(own, kind, self._event(event))

    def _event(self, message: Event | NetworkEvent) -> dict[str, Any]:
        instruments = list(message.members) if isinstance(message, NetworkEvent) else [message.detector]
        return {
            "time": utc(message.gps),
            "far": self._rate,
            "significant": False,
            "instruments": instruments,
            "group": "CBC",
            "pipeline": "gwstream",
            "search": "BBH",
            "classification": {},
            "properties": {},
            "skymap": None,
        }

    @staticmethod
    def _alert(name: str, kind: str, event: dict[str, Any] | None) -> dict[str, Any]:
        now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        common = {"alert_type": kind, "time_created": now, "superevent_id": name}
        return {**common, "event": event, "external_coinc": None, "urls": {}}


def remember(table: OrderedDict[str, Any], more: dict[str, Any]) -> None:
    """Put them last, and let the oldest go."""
    for name, value in more.items():
        table[name] = value
        table.move_to_end(name)
    while len(table) > REMEMBERED:
        table.popitem(last=False)


def utc(gps: float) -> str:
    """ISO 8601, to the millisecond."""
    moment = datetime(1980, 1, 6, tzinfo=UTC) + timedelta(seconds=gps - LEAP_SECONDS)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


async def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("broker", nargs="?", default="127.0.0.1", metavar="HOST[:PORT]")
    options.add_argument("--far", type=float, required=True, metavar="HZ", help="rate of good events from noise alone")
    given = options.parse_args()
    alerts = Alerts(given.far)
    async for message in everything(given.broker):
        if isinstance(message, Message):
            for alert in alerts.of(message):
                print(json.dumps(alert), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
