"""Summaries on their way to the publisher: with their journey, and with what calibration says of their detector."""

from __future__ import annotations

from collections.abc import Sequence

from gwstream.pipeline.journey import Journey
from gwstream.pipeline.load import Level
from gwstream.pipeline.network import Followed
from gwstream.pipeline.parts import Parts
from gwstream.records import Outgoing, Summary, Window, gps_ns


class Outbound:
    """Hands summaries to the publisher of ``parts``, and tells its observers."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._followed = Followed(parts.config.summary.network.wait, parts.tally)

    def go_on(self, parts: Parts) -> None:
        """With other parts, and what is known of the events so far."""
        self._parts = parts
        self._followed.wait = parts.config.summary.network.wait

    async def send(self, summaries: Sequence[Summary], window: Window, journey: Journey, level: Level) -> None:
        """Summaries that ``window`` has led to under the load ``level``; the journey ends where they were made."""
        end = journey.left("summary")
        calibration = self._parts.calibration
        told = calibration.told(window.detector) if calibration is not None else None
        for summary in summaries:
            outgoing = Outgoing(
                summary=summary,
                arrived=journey.arrived,
                marks=journey.marks,
                data_end_ns=gps_ns(window.start + len(window.samples), window.rate),
                first_event=self._followed.first(summary, end),
                calibration=told if summary.detector == window.detector and summary.kind != "unweighted" else None,
                load=level.text if level else "",
            )
            for observer in self._parts.observers:
                observer.outgoing(outgoing, window)
            await self._parts.publisher.put(outgoing)
