"""Which messages are new, and which never came: pure, fed with one message after the other."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from gwstream.client.messages import Event, Message, NetworkEvent

REMEMBERED = 20_000
DETECTORS = 1000  # more than there are; a broker of strangers must not fill the memory


@dataclass(frozen=True, slots=True)
class Gap:
    """Messages of a detector that did not come: the sequence numbers ``first`` to ``last``."""

    detector: str
    first: int
    last: int

    @property
    def lost(self) -> int:
        """How many they are."""
        return self.last - self.first + 1

    def __str__(self) -> str:
        return f"{self.detector}: {self.lost} messages did not come, numbers {self.first} to {self.last}"


class Track:
    """Remembers the last `REMEMBERED` messages by kind and id, and the last number of each of `DETECTORS` detectors.

    A broker keeps the order of a daemon's messages, so a number that is left out is lost at once. A smaller number on
    an unknown id is a daemon that has lost its state directory and counts anew.
    """

    def __init__(self) -> None:
        self._seen: OrderedDict[tuple[type[Message], str, bool], None] = OrderedDict()
        self._numbers: OrderedDict[tuple[type[Message], str, bool, int], None] = OrderedDict()
        self._last: OrderedDict[str, int] = OrderedDict()

    def new(self, message: Message, *, repeat: bool = False) -> tuple[bool, Gap | None]:
        """Whether the message has not come before, and what is missing before it.

        ``repeat``: it was sent before, out of order now, and says nothing of what is missing. It is known by its number
        as well, for a network event may have stood, been withdrawn and stood again. An event that comes under a higher
        number is told anew: it replaces what a restarted daemon has told of its signal since.
        """
        withdrawn = isinstance(message, NetworkEvent) and message.withdrawn
        key = (type(message), message.id, withdrawn)
        exact = (*key, message.sequence)
        last = self._last.get(message.detector)
        if repeat:
            seen = exact in self._numbers
        else:
            anew = isinstance(message, Event | NetworkEvent) and last is not None and message.sequence > last
            seen = key in self._seen and not anew
        if seen:
            return False, None
        if isinstance(message, NetworkEvent):  # it may stand again after it was withdrawn
            self._seen.pop((type(message), message.id, not withdrawn), None)
        self._seen[key] = self._numbers[exact] = None
        for known in (self._seen, self._numbers):
            if len(known) > REMEMBERED:
                known.popitem(last=False)
        if repeat:
            return True, None
        self._last[message.detector] = message.sequence
        self._last.move_to_end(message.detector)
        if len(self._last) > DETECTORS:
            self._last.popitem(last=False)
        if last is None or message.sequence <= last + 1:
            return True, None
        return True, Gap(message.detector, last + 1, message.sequence - 1)
