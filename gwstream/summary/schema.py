"""JSON Schema (2020-12) of everything gwstream publishes."""

from __future__ import annotations

import math
from typing import Any

from gwstream.records import PARAMETERS
from gwstream.summary.message import REASONS, UNITS

Schema = dict[str, Any]

STATES = ("waiting", "ready", "full")
NUMBER: Schema = {"type": "number"}
MAYBE: Schema = {"type": ["number", "null"], "description": "null: not a finite number"}
COUNT: Schema = {"type": "integer", "minimum": 0}
TEXT: Schema = {"type": "string"}
GPS: Schema = {"type": "number", "description": "GPS s; a double resolves 0.24 us, the integer beside it is exact"}
NS: Schema = {"type": "integer", "description": "GPS time in ns, exact; too large for a double, as JavaScript reads it"}


def schema() -> Schema:
    """One schema for the messages of all topics; ``$defs`` has each kind and part by itself."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "gwstream messages",
        "description": (
            "gwstream/<detector>/posterior, gwstream/<detector>/event and gwstream/<instance>/status. The part "
            "'posterior' depends only on strain, model, engine, bucket and number of draws; 'sha256' is that of its "
            "canonical JSON: keys sorted, no spaces, ASCII, shortest decimal that reads back as the same double."
        ),
        "oneOf": [{"$ref": "#/$defs/posterior_message"}, {"$ref": "#/$defs/event_message"}, {"$ref": "#/$defs/status"}],
        "$defs": {
            "posterior_message": _message("posterior"),
            "event_message": _message("event", event={"$ref": "#/$defs/event"}),
            "status": _status(),
            "event": _event(),
            "delivery": _delivery(),
            "posterior": _posterior(),
            "parameter": _parameter(),
        },
    }


def _object(about: str = "", /, **properties: Schema) -> Schema:
    """An object with these keys, all required, and no others."""
    out: Schema = {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
    return out | ({"description": about} if about else {})


def _open(kind: Schema, others: Schema | bool = True) -> Schema:
    """The same object with ``others`` allowed."""
    return kind | {"additionalProperties": others}


def _says(kind: Schema, about: str) -> Schema:
    return kind | {"description": about}


def _message(kind: str, **more: Schema) -> Schema:
    return _object(
        schema={"const": f"gwstream.{kind}/1"},
        sha256={"type": "string", "pattern": "^[0-9a-f]{64}$"},
        posterior={"$ref": "#/$defs/posterior"},
        delivery={"$ref": "#/$defs/delivery"},
        **more,
    )


def _status() -> Schema:
    known = _object(
        "Retained; also the last will, which says offline. A daemon that runs says online every 10 s.",
        schema={"const": "gwstream.status/1"},
        state={"enum": ["online", "offline"]},
        instance=TEXT,
        version=TEXT,
        sent_gps=_says(NUMBER, "GPS s at sending, by the clock of the daemon's host"),
        reason=_says(TEXT, "why it is offline"),
        outbox=_says(COUNT, "messages that wait for the broker"),
        counts=_says(_open(_object(), COUNT), "messages acknowledged by kind, and dropped"),
        model=_model(),
        engine=TEXT,
        detectors=_says(_open(_object(), _open(_object(state={"enum": list(STATES)}))), "state of the PSD by detector"),
    )
    return _open(known) | {"required": ["schema", "state", "instance"]}


def _event() -> Schema:
    ids: Schema = {"type": "array", "items": TEXT}
    return _object(
        "Windows whose coalescence times agree are one event, told by its best posterior: free of doubts first, then "
        "by ln Bayes factor less what a place far from the middle of the trained range costs.",
        id=_says(TEXT, "follows from the posterior alone"),
        supersedes=_says(ids, "ids of the events this one replaces, oldest first; empty: a new event"),
        windows=_says(COUNT, "posteriors seen so far that belong to it"),
    )


def _delivery() -> Schema:
    latency = _object("s spent in each stage and in the queue before it; they add up to the total.", total=NUMBER)
    part = _object(
        "Of this message on its way, not of the posterior.",
        sequence=_says(COUNT, "counts the messages of this detector since the daemon started"),
        attempt=_says({"type": "integer", "minimum": 1}, "above 1: may have been delivered before"),
        latency=_open(latency, NUMBER),
        since_last_sample=_says(NUMBER, "s from the end of the window's last sample to sending"),
        since_coalescence=_says(NUMBER, "s from the median coalescence to sending"),
        sent_gps=_says(NUMBER, "GPS s at sending, by the clock of the daemon's host"),
    )
    return _open(part)


def _posterior() -> Schema:
    moment = _object(gps=GPS, gps_ns=NS)
    return _object(
        id=_says(TEXT, "follows from detector, window, model and conditioning"),
        detector=TEXT,
        simulated=_says({"type": "boolean"}, "true: the strain is made up, in whole or in part"),
        quality=_object(
            verdict={"enum": ["good", "suspect"]},
            reasons=_says({"type": "array", "items": {"enum": list(REASONS)}}, "why it is suspect; empty when good"),
        ),
        window=_object(
            "Whitened samples the posterior was made from; gps is that of the first, filter delays removed.",
            gps=GPS,
            gps_ns=NS,
            rate=_says(COUNT, "Hz"),
            samples=COUNT,
        ),
        coalescence=moment | {"description": "Median coalescence at the detector: IMRPhenomD's t = 0."},
        snr=_says(MAYBE, "matched-filter SNR of the best draw"),
        gate_snr=_says(MAYBE, "matched-filter SNR that opened the gate"),
        log_bayes=_says(MAYBE, "ln Bayes factor, signal against Gaussian noise"),
        log_evidence=_says(MAYBE, "ln evidence of the signal model"),
        residual_p=_says(MAYBE, "p-value of the chi-square of what the best draw leaves over"),
        sampling=_object(
            draws=COUNT,
            ess=_says(MAYBE, "effective sample size, (sum w)^2 / sum w^2"),
            largest_weight=_says(MAYBE, "share of the heaviest draw; above 0.1 one draw rules"),
            log_bayes_error=_says(
                MAYBE, "standard error of log_bayes and log_evidence; null: too few effective draws to tell"
            ),
            rounds=_says(COUNT, "of importance sampling; above 1: the network's proposal was poor and was adapted"),
            stratified=_says({"type": "boolean"}, "draws are spread evenly over the proposal's parts, not independent"),
        ),
        parameters=_parameters(),
        correlation=_correlation(),
        waveform=_waveform(),
        data=_object(
            dq={"type": ["integer", "null"], "description": "state-vector bits set throughout; null: unknown"},
            gap=_says({"type": "boolean"}, "a gap lies within the span of the PSD"),
        ),
        psd=_psd(),
        engine=TEXT,
        bucket=COUNT,
        model=_model(),
        prior=_prior(),
        assumptions={"type": "array", "items": TEXT},
    )


def _model() -> Schema:
    return _open(_object(name=TEXT, version=TEXT, hash=TEXT, conditioning_hash=TEXT), TEXT)


def _parameter() -> Schema:
    return _object(
        "Of the weighted draws: median, mean, standard deviation, and the ends of the central 90 % interval.",
        unit={"enum": sorted(set(UNITS.values()))},
        median=MAYBE,
        mean=MAYBE,
        sd=MAYBE,
        p5=MAYBE,
        p95=MAYBE,
    )


def _parameters() -> Schema:
    linear: Schema = {"$ref": "#/$defs/parameter"}
    about = {
        "mass_1": "heavier mass at the detector",
        "mass_2": "lighter mass at the detector",
        "effective_distance": "distance of a face-on, overhead source of the same amplitude",
        "chirp_mass": "at the detector",
        "mass_ratio": "mass_2 / mass_1",
        "total_mass": "at the detector",
    }
    properties: dict[str, Schema] = {name: _says(linear, text) for name, text in about.items()}
    points = ("median", "mean", "p5", "p95")
    time = _object(
        "GPS s at the detector; gps_ns has the same exactly.",
        unit={"const": "s"},
        sd=MAYBE,
        gps_ns=_object(**dict.fromkeys(points, NS)),
        **dict.fromkeys(points, GPS),
    )
    arc = _object(
        "Shortest arc with the probability: start in [0, period), end >= start and perhaps beyond the period.",
        probability=NUMBER,
        start=MAYBE,
        end=MAYBE,
    )
    phase = _object(
        "Half the phase of the wave's 70-Hz component at coalescence. An angle with period pi: never average it, nor "
        "compare it, as a number on a line.",
        unit={"const": "rad"},
        period={"const": math.pi},
        mean=_says(MAYBE, "circular mean"),
        resultant=_says(MAYBE, "resultant length: 1 sharp, 0 unknown"),
        arc=arc,
    )
    return _object(**properties, coalescence_time=time, phase=phase)


def _correlation() -> Schema:
    size = len(PARAMETERS)
    row: Schema = {"type": "array", "items": MAYBE, "minItems": size, "maxItems": size}
    return _object(
        "Pearson correlation of the weighted draws; for the phase, of its deviation from the circular mean.",
        order={"const": list(PARAMETERS)},
        matrix={"type": "array", "items": row, "minItems": size, "maxItems": size},
    )


def _waveform() -> Schema:
    band: Schema = {"type": "array", "items": MAYBE}
    return _object(
        "Whitened waveform, sample by sample of the window: pointwise median and central band.",
        unit=TEXT,
        probability=NUMBER,
        median=band,
        lower=band,
        upper=band,
    )


def _psd() -> Schema:
    return _object(
        "The spectrum the window was whitened with: a median of Welch segments.",
        whitener=_says(TEXT, "id of the filter"),
        state={"enum": list(STATES[1:])},
        averages=_says(COUNT, "segments in it"),
        history=_says(MAYBE, "s of clean strain in it"),
        age=_says(MAYBE, "s from the last sample in it to the first of the window"),
        drift=_says(MAYBE, "largest |ln ratio| of the last seconds to it, over bands"),
        range_mpc=_says(MAYBE, "Mpc at which a 30+30 Msun binary has SNR 8, optimally oriented"),
    )


def _prior() -> Schema:
    limits = {"density": TEXT, "low": NUMBER, "high": NUMBER, "unit": TEXT}
    return _object(
        masses=_object(**limits, least_mass_ratio=NUMBER),
        effective_distance=_object(**limits),
        coalescence_time=_object(**limits),
        phase=_object(**limits),
    )
