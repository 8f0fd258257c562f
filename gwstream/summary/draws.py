"""The weighted draws of a posterior as bytes to keep: safetensors, so that anybody reads them and nothing is run."""

from __future__ import annotations

import json

import numpy as np
from safetensors.numpy import save

from gwstream.records import PARAMETERS, Posterior

UNITS = {"mass_1": "Msun", "mass_2": "Msun", "effective_distance": "Gpc", "coalescence_time": "s", "phase": "rad"}


def packed(posterior: Posterior) -> bytes:
    """``samples`` (n, 5) and ``weights`` (n,), float32: 24 bytes a draw.

    The metadata's one entry, ``gwstream``, is JSON: id, detector, names and units of the columns, and GPS ns of the
    window's first sample, from which ``coalescence_time`` counts.
    """
    window = posterior.window
    about = {
        "id": posterior.id,
        "detector": window.detector,
        "window_gps_ns": window.gps_ns,
        "parameters": PARAMETERS,
        "units": [UNITS[name] for name in PARAMETERS],
    }
    arrays = {
        "samples": np.ascontiguousarray(posterior.samples, np.float32),
        "weights": np.ascontiguousarray(posterior.weights, np.float32),
    }
    return save(arrays, {"gwstream": json.dumps(about)})
