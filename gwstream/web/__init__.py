"""The HTTP server: metrics, health and the live page with its stream of events."""

from gwstream.web.feed import DetectorState, Feed
from gwstream.web.server import serving
from gwstream.web.watch import Watch

__all__ = ["DetectorState", "Feed", "Watch", "serving"]
