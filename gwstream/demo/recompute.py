"""A posterior again, from the strain alone: draws are keyed by the id, so it comes out as the one that was sent."""

from __future__ import annotations

from typing import Any

from gwstream.conditioning import Conditioner
from gwstream.config import Config
from gwstream.errors import GwstreamError
from gwstream.inference import Inference, load_model
from gwstream.records import Batch, Posterior, Strain
from gwstream.summary import Summarizer

Message = dict[str, Any]


def posteriors(config: Config, strains: dict[str, Strain], messages: list[Message]) -> list[Posterior]:
    """The `Posterior` behind each message, in order.

    ``strains``: by detector, what the daemon was given from its first sample on. Raises `GwstreamError` where a
    posterior does not come out, byte for byte, as it was sent.
    """
    model = load_model(config.inference.model)
    inference = Inference(model, config.inference)
    summarizer = Summarizer(config.summary, inference.prior)
    found = []
    for message in messages:
        part = message["posterior"]
        detector, gps_ns = part["detector"], part["window"]["gps_ns"]
        windows = Conditioner(model.spec, detector).push(strains[detector])
        window = next((w for w in windows if w.gps_ns == gps_ns), None)
        if window is None:
            raise GwstreamError(f"{detector}: the strain has no window at GPS ns {gps_ns}, of which {part['id']} tells")
        posterior = inference.infer(inference.gate(Batch((window,), part["bucket"]))[0], part["bucket"])
        if summarizer.add(posterior)[0].sha256 != message["sha256"]:
            raise GwstreamError(f"{detector}: posterior {part['id']}, computed again, differs from what was sent")
        found.append(posterior)
    return found
