"""JSON Schema (2020-12) of everything gwstream publishes."""

from __future__ import annotations

import math

from gwstream.records import LOADS, PARAMETERS, RELOADS
from gwstream.summary import answers, network
from gwstream.summary.message import DISTANCE_DENSITIES, NOISES, REASONS, UNITS, UNWEIGHTED
from gwstream.summary.shapes import COUNT, GPS, MAYBE, NS, NUMBER, TEXT, Schema, opened, or_null, record, says

STATES = ("waiting", "ready", "full")


def schema() -> Schema:
    """One schema for the messages of all topics; ``$defs`` has each kind and part by itself."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "gwstream messages",
        "description": (
            "gwstream/<detector>/posterior, gwstream/<detector>/event, gwstream/network/event, "
            "gwstream/<instance>/status, and gwstream/reply/... in answer to a trigger. The part 'posterior' depends "
            "only on strain, model, prior, likelihood, engine, bucket and number of draws, and 'network' on the members"
            " of a network event; 'sha256' that of the part's canonical JSON: keys sorted, no spaces, ASCII, shortest "
            "decimal that reads back as the same double."
        ),
        "oneOf": [
            {"$ref": f"#/$defs/{name}"}
            for name in ("posterior_message", "event_message", "network_event_message", "status", *answers.MESSAGES)
        ],
        "$defs": {
            "posterior_message": _message("posterior"),
            "event_message": _message("event", event={"$ref": "#/$defs/event"}),
            "status": _status(),
            "event": _event(),
            "delivery": _delivery(),
            "calibration": _calibration(),
            "posterior": _posterior(),
            "parameter": _parameter(),
            **network.definitions({"$ref": "#/$defs/delivery"}, _model()),
            **answers.definitions({"$ref": "#/$defs/posterior"}),
        },
    }


def _message(kind: str, **more: Schema) -> Schema:
    return record(
        schema={"const": f"gwstream.{kind}/1"},
        sha256={"type": "string", "pattern": "^[0-9a-f]{64}$"},
        posterior={"$ref": "#/$defs/posterior"},
        delivery={"$ref": "#/$defs/delivery"},
        **more,
    )


def _status() -> Schema:
    known = record(
        "Retained; also the last will, which says offline. A daemon that runs says online every 10 s.",
        schema={"const": "gwstream.status/1"},
        state={"enum": ["online", "offline"]},
        instance=TEXT,
        version=TEXT,
        sent_gps=says(NUMBER, "GPS s at sending, by the clock of the daemon's host"),
        reason=says(TEXT, "why it is offline"),
        outbox=says(COUNT, "messages that wait for the broker"),
        durable=says({"type": "boolean"}, "whether they outlive the daemon"),
        trouble=says(TEXT, "why they do not, though they should"),
        stuck=says({"type": "array", "items": _hanging()}, "parts of the daemon that hang: it needs a restart"),
        counts=says(opened(record(), COUNT), "messages acknowledged by kind, and dropped"),
        model=_model(),
        engine=TEXT,
        parity=says(_parity(), "of the engine with PyTorch"),
        load=says({"enum": list(LOADS)}, "what is done for live windows: less than all where the daemon is overloaded"),
        detectors=says(opened(record(), opened(record(state={"enum": list(STATES)}))), "state of the PSD by detector"),
        calibration=says(opened(record(), {"$ref": "#/$defs/calibration"}), "how known signals fare, by detector"),
        reload=says(_reload(), "what came of the last reload"),
    )
    return opened(known) | {"required": ["schema", "state", "instance"]}


def _parity() -> Schema:
    given_up = opened(record(engine=TEXT, why=TEXT))
    return opened(
        record(
            distance=says(NUMBER, "at the last check, in standard deviations of a posterior"),
            tolerance=says(NUMBER, "beyond which the engine is given up"),
            given_up=says({"type": "array", "items": given_up}, "engines that would have been preferred"),
        )
    )


def _reload() -> Schema:
    keys: Schema = {"type": "array", "items": TEXT}
    return opened(
        record(
            result=says({"enum": list(RELOADS)}, "refused: all goes on as it was"),
            gps=says(NUMBER, "GPS s, by the clock of the daemon's host"),
            changed=says(keys, "settings that are others since; empty where it was refused"),
            reason=says(TEXT, "why it was refused; else empty"),
        )
    )


def _hanging() -> Schema:
    return opened(record(part=says(TEXT, "stage, and detector if of one"), since_gps=says(NUMBER, "GPS s")))


def _event() -> Schema:
    ids: Schema = {"type": "array", "items": TEXT}
    return record(
        "Windows whose coalescence times agree are one event, told by its best posterior: free of doubts first, then "
        "by ln Bayes factor less what a place far from the middle of the trained range costs.",
        id=says(TEXT, "follows from the posterior alone"),
        supersedes=says(ids, "ids of the events this one replaces, oldest first; empty: a new event"),
        windows=says(COUNT, "posteriors seen so far that belong to it"),
    )


def _delivery() -> Schema:
    latency = record("s spent in each stage and in the queue before it; they add up to the total.", total=NUMBER)
    part = record(
        "Of this message on its way, not of the posterior.",
        sequence=says(COUNT, "counts the messages of this detector, over restarts; one left out is a message lost"),
        attempt=says({"type": "integer", "minimum": 1}, "above 1: may have been delivered before"),
        latency=opened(latency, NUMBER),
        since_last_sample=says(NUMBER, "s from the end of the window's last sample to sending"),
        since_coalescence=says(NUMBER, "s from the median coalescence to sending"),
        sent_gps=says(NUMBER, "GPS s at sending, by the clock of the daemon's host"),
    )
    part["properties"]["since_first_event"] = says(
        NUMBER, "of network events: s from the first of its members' events that was made, to sending"
    )
    part["properties"]["load"] = says(
        {"enum": list(LOADS[1:])},
        "what an overloaded daemon did for its windows; absent: all. From 'fewer draws' on, sampling.draws is a quarter"
        " of what is set, or 500; from 'every second window' on, the other windows are not judged",
    )
    part["properties"]["calibration"] = {"$ref": "#/$defs/calibration"}
    return opened(part)


def _calibration() -> Schema:
    flag: Schema = {"type": "boolean"}
    return record(
        "How the last signals fared that the daemon put into copies of this detector's windows, drawn from the prior, "
        "every one of them counted. Absent: no such are made.",
        text=says(TEXT, "the same for people"),
        injections=says(COUNT, "signals these figures are of"),
        total=says(COUNT, "signals since the daemon started"),
        coverage_50=says(MAYBE, "fraction of central 50 % intervals that held the truth, all parameters together"),
        coverage_50_error=says(MAYBE, "its standard error"),
        coverage_90=says(MAYBE, "fraction of the 90 % intervals of messages that held it, all parameters together"),
        coverage_90_error=says(MAYBE, "its standard error"),
        p=says(
            record(**dict.fromkeys((*PARAMETERS, "joint"), MAYBE)),
            "Kolmogorov-Smirnov p-value of the truth's ranks among the draws; joint: of its distance from the mean",
        ),
        ess=says(MAYBE, "median effective fraction of the draws"),
        snr_ratio=says(MAYBE, "median of recovered over optimal SNR, of signals from optimal SNR 8 on"),
        found=says(MAYBE, "fraction of those that the gate would have passed"),
        alarm=says(flag, "a sequential test, with a false alarm a month at most, finds the ranks not uniform"),
        alarm_about=says(TEXT, "parameter that speaks loudest, or joint; empty without an alarm"),
        alarms=says(COUNT, "since the daemon started"),
        evidence=says(MAYBE, "ln of the test's statistic over its threshold"),
    )


def _posterior() -> Schema:
    moment = record(gps=GPS, gps_ns=NS)
    return record(
        id=says(TEXT, "follows from detector, window, model, conditioning and prior"),
        detector=TEXT,
        simulated=says({"type": "boolean"}, "true: the strain is made up, in whole or in part"),
        quality=record(
            verdict={"enum": ["good", "suspect"]},
            reasons=says(
                {"type": "array", "items": {"enum": [UNWEIGHTED, *REASONS]}}, "why it is suspect; empty when good"
            ),
        ),
        window=record(
            "Whitened samples the posterior was made from; gps is that of the first, filter delays removed.",
            gps=GPS,
            gps_ns=NS,
            rate=says(COUNT, "Hz"),
            samples=COUNT,
        ),
        coalescence=moment | {"description": "Median coalescence at the detector: IMRPhenomD's t = 0."},
        snr=says(MAYBE, "matched-filter SNR of the best draw"),
        gate_snr=says(MAYBE, "matched-filter SNR that opened the gate"),
        log_bayes=says(MAYBE, "ln Bayes factor, signal against noise"),
        log_evidence=says(MAYBE, "ln evidence of the signal model"),
        likelihood=or_null(
            record(
                "What the noise is taken for; null: unweighted.",
                noise={"enum": list(NOISES)},
                degrees_of_freedom=says(MAYBE, "of the Student-t; null: Gaussian"),
            )
        ),
        residual_p=says(MAYBE, "p-value of the chi-square of what the best draw leaves over"),
        peak_residual_p=says(MAYBE, "the same within 47 ms of coalescence: small where a glitch passes for a merger"),
        latent_distance=says(MAYBE, "of the network's input from those of its training, in their standard deviations"),
        latent_p=says(MAYBE, "fraction of training windows behind the gate as far off; null: the model cannot say"),
        sampling=record(
            "Of an unweighted posterior (publish.every_window) all that only weights can tell is null.",
            weighted=says({"type": "boolean"}, "by the likelihood; false: the network's draws as they are"),
            draws=COUNT,
            ess=says(MAYBE, "effective sample size, (sum w)^2 / sum w^2"),
            largest_weight=says(MAYBE, "share of the heaviest draw; above 0.1 one draw rules"),
            log_bayes_error=says(
                MAYBE, "standard error of log_bayes and log_evidence; null: too few effective draws to tell"
            ),
            rounds=says(
                COUNT, "0: unweighted; of importance sampling; above 1: the network's proposal was poor and was adapted"
            ),
            stratified=says(
                {"type": ["boolean", "null"]}, "draws are spread evenly over the proposal's parts, not independent"
            ),
        ),
        parameters=_parameters(),
        correlation=_correlation(),
        waveform=or_null(_waveform()),
        data=record(
            dq={"type": ["integer", "null"], "description": "state-vector bits set throughout; null: unknown"},
            gap=says({"type": "boolean"}, "a gap lies within the span of the PSD"),
        ),
        psd=_psd(),
        engine=TEXT,
        bucket=COUNT,
        model=_model(),
        prior=_prior(),
        assumptions={"type": "array", "items": TEXT},
    )


def _model() -> Schema:
    return opened(record(name=TEXT, version=TEXT, hash=TEXT, conditioning_hash=TEXT), TEXT)


def _parameter() -> Schema:
    return record(
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
    properties: dict[str, Schema] = {name: says(linear, text) for name, text in about.items()}
    points = ("median", "mean", "p5", "p95")
    time = record(
        "GPS s at the detector; gps_ns has the same exactly.",
        unit={"const": "s"},
        sd=MAYBE,
        gps_ns=record(**dict.fromkeys(points, NS)),
        **dict.fromkeys(points, GPS),
    )
    arc = record(
        "Shortest arc with the probability: start in [0, period), end >= start and perhaps beyond the period.",
        probability=NUMBER,
        start=MAYBE,
        end=MAYBE,
    )
    phase = record(
        "Half the phase of the wave's 70-Hz component at coalescence. An angle with period pi: never average it, nor "
        "compare it, as a number on a line.",
        unit={"const": "rad"},
        period={"const": math.pi},
        mean=says(MAYBE, "circular mean"),
        resultant=says(MAYBE, "resultant length: 1 sharp, 0 unknown"),
        arc=arc,
    )
    return record(**properties, coalescence_time=time, phase=phase)


def _correlation() -> Schema:
    size = len(PARAMETERS)
    row: Schema = {"type": "array", "items": MAYBE, "minItems": size, "maxItems": size}
    return record(
        "Pearson correlation of the weighted draws; for the phase, of its deviation from the circular mean.",
        order={"const": list(PARAMETERS)},
        matrix={"type": "array", "items": row, "minItems": size, "maxItems": size},
    )


def _waveform() -> Schema:
    band: Schema = {"type": "array", "items": MAYBE}
    return record(
        "Whitened waveform, sample by sample of the window: pointwise median and central band; null: unweighted.",
        unit=TEXT,
        probability=NUMBER,
        median=band,
        lower=band,
        upper=band,
    )


def _psd() -> Schema:
    return record(
        "The spectrum the window was whitened with: a median of Welch segments.",
        whitener=says(TEXT, "id of the filter"),
        state={"enum": list(STATES[1:])},
        averages=says(COUNT, "segments in it"),
        history=says(MAYBE, "s of clean strain in it"),
        age=says(MAYBE, "s from the last sample in it to the first of the window"),
        drift=says(MAYBE, "largest |ln ratio| of the last seconds to it, over bands"),
        range_mpc=says(MAYBE, "Mpc at which a 30+30 Msun binary has SNR 8, optimally oriented"),
    )


def _prior() -> Schema:
    limits = {"density": TEXT, "low": NUMBER, "high": NUMBER, "unit": TEXT}
    return record(
        masses=record(**limits, least_mass_ratio=NUMBER),
        effective_distance=record(
            "The served one: weights can give another density than the network was trained with.",
            **(limits | {"density": {"enum": list(DISTANCE_DENSITIES.values())}}),
        ),
        coalescence_time=record(**limits),
        phase=record(**limits),
    )
