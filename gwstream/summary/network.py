"""The message of a network event: what is taken of a detector's event, and the part made from the members alone."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from gwstream.records import NANO, PARAMETERS, Posterior
from gwstream.summary.chirp_mass import ChirpMasses, Combined
from gwstream.summary.coincidence import Change, Member, Network, Pair
from gwstream.summary.events import Event
from gwstream.summary.message import REASONS, chirp_mass, coalescence_ns, number, usable_weights
from gwstream.summary.shapes import GPS, MAYBE, NS, NUMBER, TEXT, Schema, record, says
from gwstream.summary.statistics import mean_sd, quantiles

FEW_GOOD = "fewer than two good members"
ASSUMPTIONS = (
    "one source: noise of the detectors is independent, masses are equal, all other parameters each detector's own",
    "log_bayes: sum of the members', each a signal of its own parameters, against noise alone in every one",
    "chirp_mass: the prior once, and each member's likelihood, taken as normal in ln chirp mass at each mass ratio",
)


def member(posterior: Posterior, event: Event, reasons: tuple[str, ...], masses: ChirpMasses) -> Member:
    """What the network needs of an event told by ``posterior``, which is suspect for ``reasons``."""
    weights = usable_weights(posterior)
    p5, median, p95 = quantiles(chirp_mass(posterior.samples), weights, (0.05, 0.5, 0.95))
    return Member(
        detector=posterior.window.detector,
        event=event.id,
        posterior=posterior.id,
        replaced=event.replaced,
        gps_ns=coalescence_ns(posterior.samples, posterior.window, weights),
        time_sd=mean_sd(posterior.samples[:, PARAMETERS.index("coalescence_time")], weights)[1],
        mass=masses.likelihood(posterior.samples, weights),
        chirp_mass=(float(p5), float(median), float(p95)),
        snr=posterior.snr,
        log_bayes=posterior.log_bayes,
        model=posterior.model,
        reasons=reasons,
        simulated=posterior.window.simulated,
        injected=posterior.window.injected,
    )


def part(network: Network, pairs: list[Pair], mass: Combined) -> dict[str, Any]:
    """The ``network`` part of the message, fit for JSON; it follows from the members alone."""
    doubts = [] if network.good >= 2 else [FEW_GOOD]
    return {
        "id": network.id,
        "simulated": any(one.simulated for one in network.members),
        "quality": _quality(doubts),
        "coalescence": _moment(network.loudest.gps_ns) | {"detector": network.loudest.detector},
        "snr": number(network.snr),
        "log_bayes": number(network.log_bayes),
        "chirp_mass": {"unit": "Msun"} | {name: number(value) for name, value in asdict(mass).items()},
        "members": [_member(one) for one in network.members],
        "pairs": [_pair(one) for one in pairs],
        "model": dict(network.loudest.model),
        "assumptions": list(ASSUMPTIONS),
    }


def told(change: Change) -> dict[str, Any]:
    """The ``event`` part: what it stands for now, which hangs on what was told before."""
    events = [one.event for one in change.network.members] if change.standing else []
    return {
        "id": change.network.id,
        "state": "standing" if change.standing else "withdrawn",
        "supersedes": [*change.supersedes, *events],
    }


def definitions(delivery: Schema, model: Schema) -> dict[str, Schema]:
    """The JSON Schema of the message and its parts; ``delivery`` and ``model``: those of any message."""
    return {
        "network_event_message": record(
            schema={"const": "gwstream.network_event/1"},
            sha256={"type": "string", "pattern": "^[0-9a-f]{64}$"},
            event={"$ref": "#/$defs/network_event"},
            network={"$ref": "#/$defs/network"},
            delivery=delivery,
        ),
        "network_event": record(
            "Of what was told before, so it may differ between two runs over the same strain; 'network' does not.",
            id=says(TEXT, "follows from the members alone"),
            state=says(
                {"enum": ["standing", "withdrawn"]},
                "withdrawn: told again as it was, for a member is now better told and agrees no more; what is left of "
                "its members stands for itself",
            ),
            supersedes=says(
                {"type": "array", "items": TEXT},
                "ids of the network events it replaces, oldest first, and of its members' own events; none when "
                "withdrawn",
            ),
        ),
        "network": _network_schema(model),
    }


def _network_schema(model: Schema) -> Schema:
    quality = record(
        verdict={"enum": ["good", "suspect"]},
        reasons=says({"type": "array", "items": {"enum": [FEW_GOOD]}}, "why it is suspect; empty when good"),
    )
    combined = record(
        "Of all members together, at the detectors: ends of the central 90 % interval, and moments.",
        unit={"const": "Msun"},
        **dict.fromkeys(("median", "mean", "sd", "p5", "p95"), MAYBE),
    )
    return record(
        "Events of different detectors, at most one each, of which every two agree: coalescence times within light "
        "travel time and 3 deviations of their difference, ln chirp masses within 3 of theirs (unless set otherwise). "
        "Where an event could be in several, most good members count first, then most members, then combined SNR.",
        id=says(TEXT, "follows from the members alone"),
        simulated=says({"type": "boolean"}, "true: the strain of a member is made up, in whole or in part"),
        quality=quality,
        coalescence=says(record(gps=GPS, gps_ns=NS, detector=TEXT), "that of the loudest member, at its detector"),
        snr=says(NUMBER, "root of the sum of squares of the members' SNRs"),
        log_bayes=says(MAYBE, "sum of the members' ln Bayes factors"),
        chirp_mass=combined,
        members={"type": "array", "items": _member_schema(), "minItems": 2},
        pairs={"type": "array", "items": _pair_schema(), "minItems": 1},
        model=model,
        assumptions={"type": "array", "items": TEXT},
    )


def _member_schema() -> Schema:
    return record(
        "An event of one detector, told in full on its own topic.",
        detector=TEXT,
        event=says(TEXT, "id of the event"),
        posterior=says(TEXT, "id of its posterior"),
        quality=record(
            verdict={"enum": ["good", "suspect"]}, reasons={"type": "array", "items": {"enum": list(REASONS)}}
        ),
        coalescence=record(gps=GPS, gps_ns=NS, sd=says(NUMBER, "standard deviation, s")),
        snr=NUMBER,
        log_bayes=MAYBE,
        chirp_mass=record(unit={"const": "Msun"}, median=MAYBE, p5=MAYBE, p95=MAYBE),
    )


def _pair_schema() -> Schema:
    return record(
        "Two members compared.",
        detectors={"type": "array", "items": TEXT, "minItems": 2, "maxItems": 2},
        delay=says(NUMBER, "s by which the second coalesces after the first"),
        light_travel=says(NUMBER, "s of light between the sites; 0.0425 through the Earth, where a site is not known"),
        limit=says(NUMBER, "s of delay either way at which they still agree; 0.1 at most"),
        mass_difference=says(NUMBER, "of ln chirp mass by the likelihoods, second less first, in standard deviations"),
    )


def _member(one: Member) -> dict[str, Any]:
    p5, median, p95 = map(number, one.chirp_mass)
    return {
        "detector": one.detector,
        "event": one.event,
        "posterior": one.posterior,
        "quality": _quality(list(one.reasons)),
        "coalescence": _moment(one.gps_ns) | {"sd": number(one.time_sd)},
        "snr": number(one.snr),
        "log_bayes": number(one.log_bayes),
        "chirp_mass": {"unit": "Msun", "median": median, "p5": p5, "p95": p95},
    }


def _pair(pair: Pair) -> dict[str, Any]:
    return {
        "detectors": list(pair.detectors),
        "delay": number(pair.delay),
        "light_travel": number(pair.light_travel),
        "limit": number(pair.limit),
        "mass_difference": number(pair.mass_difference),
    }


def _quality(reasons: list[str]) -> dict[str, Any]:
    return {"verdict": "suspect" if reasons else "good", "reasons": reasons}


def _moment(ns: int) -> dict[str, Any]:
    return {"gps": ns / NANO, "gps_ns": ns}
