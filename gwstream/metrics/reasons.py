"""What each reason of ``gwstream_dropped_total`` means, stage by stage, for the reference and for people."""

from __future__ import annotations

from collections.abc import Mapping

from gwstream.asked import REASONS as TRIGGER
from gwstream.source.report import REASONS as SOURCE

MEANINGS: Mapping[str, Mapping[str, str]] = {
    "source": SOURCE,
    "conditioning": {"absurd": "a window of numbers that no detector gives, a billion standard deviations and more"},
    "inference": {
        "unweighted": "under overload: an unweighted posterior that was not made (publish.every_window)",
        "fewer_draws": "under overload: a posterior with a quarter of its draws, or 500",
        "coarser_hop": "under overload: a window that was left out, every second or two of three",
        "overload": "under overload: a window that waited for longer than inference.latency_target",
        "engine_given_up": "an engine failed, or strayed from torch: the next one serves, and nothing is lost",
        "stopped": "the daemon was told to stop before they were judged",
    },
    "summary": {"late_coincidence": "a network event came later than summary.network.wait; it was told all the same"},
    "publish": {
        "outbox_full": "publish.queue messages waited for the broker: the oldest was given up",
        "outbox_unweighted": "publish.queue messages waited for the broker: the oldest unweighted one was given up",
        "outbox_age": "the broker has not taken a message for publish.retention",
        "too_many_attempts": "a message during which one connection after the other broke",
        "refused": "the broker refuses it: the user may not write there, or a quota is used up",
        "undelivered": "not acknowledged when the daemon ended, and not on disk",
        "not_durable": "sent without being on disk first: the disk did not let us",
        "repeated": "its id was stored before, as after a restart: left out",
        "other_bytes": "its id was stored before with other content, as from another engine: the stored one stands",
        "archive_age": "a message left the archive, older than publish.archive_days",
        "archive_size": "a message left the archive, which held publish.archive_mb",
        "samples_size": "the draws of a posterior left the archive, which held publish.samples_mb",
        "set_aside": "the outbox's file was damaged; it was renamed and begun anew with what of it could be read",
    },
    "service": {"set_aside": "how far the last daemon got was damaged, or of another model or setting: begun anew"},
    "calibration": {
        "no pause": "a known signal that found no pause in the live strain",
        "trigger": "a known signal whose window lies near a trigger",
        "made strain wait": "strain came while a known signal was judged",
    },
    "trigger": TRIGGER,
    "web": {
        "too_many_pages": "a live page was turned away",
        "slow_page": "a live page that did not keep up was cut off",
        "too_many_connections": "turned away: metrics.connections are open, or half of them to one address",
        "too_many_requests": "turned away: an address asks more than metrics.request_rate",
        "slow_client": "cut off: it took too long to send a request, or to take the answer",
        "bad_request": "what came was no HTTP, too large, or had a body",
        "unauthorized": "the token was missing or wrong",
        "foreign_host": "a browser asked for a name that is not in metrics.names",
        "foreign_page": "another web site asked for the live page's events",
    },
    "other": {"other": "reasons beyond the 64 a detector that have a counter of their own"},
}
"""By stage and reason; records, seconds or messages are counted as the reason says."""
