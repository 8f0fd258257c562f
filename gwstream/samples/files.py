"""Posteriors with their draws as files of the field. Units are those of the message, times GPS seconds."""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from gwstream import __version__
from gwstream.errors import ConfigError
from gwstream.records import NANO, PARAMETERS, Floats
from gwstream.samples import Drawn
from gwstream.summary.message import chirp_mass

FORMATS = ("json", "hdf5", "parquet")
LATEX = {
    "mass_1": ("$m_1$", "$M_{\\odot}$"),
    "mass_2": ("$m_2$", "$M_{\\odot}$"),
    "effective_distance": ("$D_{\\rm eff}$", "Gpc"),
    "phase": ("$\\phi$", None),
}
NONE = "__none__"  # how bilby writes what is not there


def encode(drawn: Drawn, form: str) -> bytes:
    """The content of a file of ``form``, one of `FORMATS`. Raises `ConfigError` where a package for it is missing."""
    if form == "json":
        return drawn.document()
    return hdf5(drawn) if form == "hdf5" else parquet(drawn)


def columns(drawn: Drawn) -> dict[str, Floats]:
    """The draws (S,) by name, with masses that follow from the two; the time as GPS s, called as bilby calls it."""
    made = {name: drawn.samples[:, k] for k, name in enumerate(PARAMETERS)}
    made[time_name(drawn)] = drawn.gps_ns / NANO + made.pop("coalescence_time")
    return made | {
        "chirp_mass": chirp_mass(drawn.samples),
        "mass_ratio": made["mass_2"] / made["mass_1"],
        "total_mass": made["mass_1"] + made["mass_2"],
    }


def time_name(drawn: Drawn) -> str:
    """What bilby and PESummary call the time of coalescence at a detector."""
    return f"{drawn.detector}_time"


def equal(drawn: Drawn) -> np.ndarray[Any, np.dtype[np.intp]]:
    """Numbers of as many draws as are effective, chosen so that all count alike; the same for the same posterior.

    Systematic resampling: a draw of weight w comes n w times, rounded up or down. They come in a random order.
    """
    rng = np.random.Generator(np.random.Philox(key=int(hashlib.sha256(drawn.id.encode()).hexdigest()[:32], 16)))
    n = max(1, math.floor(1.0 / float(np.sum(drawn.weights**2))))
    positions = (np.arange(n) + rng.random()) / n
    chosen = np.searchsorted(np.cumsum(drawn.weights), positions).clip(max=len(drawn.weights) - 1)
    return np.asarray(rng.permutation(chosen))


def parquet(drawn: Drawn) -> bytes:
    """A column a parameter and ``weight``, a row a draw; the metadata ``gwstream`` is the message's posterior."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise ConfigError("--format parquet needs pyarrow: pip install 'gwstream[parquet]'") from None
    table = pa.table({**columns(drawn), "weight": drawn.weights})
    table = table.replace_schema_metadata({"gwstream": _message(drawn)})
    out = io.BytesIO()
    pq.write_table(table, out)
    return out.getvalue()


def hdf5(drawn: Drawn) -> bytes:
    """A result file of bilby, which PESummary reads too.

    ``posterior``: draws that count alike, see `equal`; ``nested_samples``: all, with ``weights``;
    ``meta_data/gwstream``: the message's posterior, as JSON. What follows from the parameters is there as well;
    likelihoods of single draws are not kept.
    """
    import h5py

    out = io.BytesIO()
    with h5py.File(out, "w") as file:
        _fill(file, _result(drawn))
    return out.getvalue()


def _result(drawn: Drawn) -> dict[str, Any]:
    """The fields of bilby's `Result`, as its own HDF5 has them."""
    every, chosen = columns(drawn), equal(drawn)
    body = drawn.body
    searched = ["mass_1", "mass_2", "effective_distance", time_name(drawn), "phase"]
    labels = [LATEX.get(name, (name, "s")) for name in searched]
    evidence, bayes = (math.nan if body[key] is None else body[key] for key in ("log_evidence", "log_bayes"))
    error = body["sampling"]["log_bayes_error"]
    return {
        "__module__": "bilby.core.result",
        "__name__": "Result",
        "label": drawn.id,
        "outdir": ".",
        "sampler": "gwstream",
        "version": f"gwstream={__version__}, in the form of bilby=2",  # PESummary knows such files by "bilby"
        "log_evidence": evidence,
        "log_evidence_err": math.nan if error is None else error,
        "log_bayes_factor": bayes,
        "log_noise_evidence": evidence - bayes,
        "priors": json.dumps(_priors(drawn)),
        "posterior": {name: column[chosen] for name, column in every.items()},
        "nested_samples": every | {"weights": drawn.weights},
        "search_parameter_keys": searched,
        "fixed_parameter_keys": [],
        "constraint_parameter_keys": ["mass_ratio"],
        "parameter_labels": [label for label, _ in labels],
        "parameter_labels_with_unit": [f"{label} [{unit}]" if unit else label for label, unit in labels],
        "injection_parameters": NONE,
        "meta_data": {"gwstream": _message(drawn)},
        "sampler_kwargs": NONE,
        "use_ratio": NONE,
        "sampling_time": NONE,
        "information_gain": math.nan,
        "num_likelihood_evaluations": body["sampling"]["draws"],
        "log_likelihood_evaluations": NONE,
        "log_prior_evaluations": NONE,
        "samples": NONE,
        "walkers": NONE,
        "nburn": NONE,
    }


def _priors(drawn: Drawn) -> dict[str, Any]:
    """The served prior in bilby's JSON.

    Its class works out the mass ratio, whose limits make mass_1 the heavier. Reading a result, bilby 2.8 forgets the
    class: `bilby.gw.prior.BBHPriorDict(dict(result.priors))` has it again.
    """
    told = drawn.body["prior"]
    masses, distance, time = told["masses"], told["effective_distance"], told["coalescence_time"]
    start = drawn.gps_ns / NANO
    mass = masses["low"], masses["high"], None
    uniform: dict[str, tuple[float, float, str | None]] = {"mass_1": mass, "mass_2": mass}
    uniform[time_name(drawn)] = (start + time["low"], start + time["high"], None)
    uniform["phase"] = (told["phase"]["low"], told["phase"]["high"], "periodic")
    made: dict[str, Any] = {"__prior_dict__": True, "__module__": "bilby.gw.prior", "__name__": "BBHPriorDict"}
    for name, (low, high, boundary) in uniform.items():
        made[name] = _prior(name, "Uniform", minimum=low, maximum=high, boundary=boundary)
    alpha = 0.0 if distance["density"] == "uniform" else 2.0
    made["effective_distance"] = _prior(
        "effective_distance", "PowerLaw", alpha=alpha, minimum=distance["low"], maximum=distance["high"], boundary=None
    )
    made["mass_ratio"] = {
        "__prior__": True,
        "__module__": "bilby.core.prior.base",
        "__name__": "Constraint",
        "kwargs": {"minimum": masses["least_mass_ratio"], "maximum": 1.0, "name": "mass_ratio"},
    }
    return made


def _prior(name: str, kind: str, **limits: Any) -> dict[str, Any]:
    label, unit = LATEX.get(name, (name, "s"))
    kwargs = {**limits, "name": name, "latex_label": label, "unit": unit}
    return {"__prior__": True, "__module__": "bilby.core.prior.analytical", "__name__": kind, "kwargs": kwargs}


def _fill(group: Any, content: Mapping[str, Any]) -> None:
    import h5py

    for name, value in content.items():
        if isinstance(value, Mapping):
            _fill(group.create_group(name), value)
        elif isinstance(value, list) and value:
            group.create_dataset(name, data=[one.encode() for one in value], dtype=h5py.special_dtype(vlen=bytes))
        else:
            group.create_dataset(name, data=value)


def _message(drawn: Drawn) -> str:
    return json.dumps({"sha256": drawn.sha256, "posterior": drawn.body}, separators=(",", ":"))
