"""A posterior again, from the strain alone: draws are keyed by the id, so it comes out as the one that was sent."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from gwstream.conditioning import Conditioner
from gwstream.config import Config
from gwstream.errors import SamplesError
from gwstream.inference import Inference, load_model
from gwstream.records import Batch, Gap, Strain, Window
from gwstream.samples import Drawn

Message = Mapping[str, Any]


def posteriors(config: Config, strains: Mapping[str, Iterable[Strain | Gap]], messages: list[Message]) -> list[Drawn]:
    """The posterior behind each message, with its draws, in order.

    ``strains``: by detector, what the daemon was given from its first sample on, or from 66 s before the window on, for
    its spectrum holds nothing older. Where it comes without state vector, as recordings do, the bits are those the
    message tells: no draw depends on them. Raises `SamplesError` where a posterior does not come out, byte for
    byte, as it was sent.
    """
    model = load_model(config.inference.model)
    inference = Inference(model, config.inference)
    found = []
    for message in messages:
        part = message["posterior"]
        window = _window(Conditioner(model.spec, part["detector"]), strains[part["detector"]], part)
        trigger = inference.gate(Batch((window,), part["bucket"]))[0]
        draws = part["sampling"]["draws"]  # fewer than are set, where the daemon was overloaded
        posterior = inference.infer(trigger, part["bucket"], draws)
        drawn = Drawn.of(posterior, inference.prior, config.summary)
        if drawn.sha256 != message["sha256"]:
            raise SamplesError(
                f"posterior {part['id']}, computed again, differs from what was sent: {_why(drawn, part)}"
            )
        found.append(drawn)
    return found


def _window(conditioner: Conditioner, strain: Iterable[Strain | Gap], part: Message) -> Window:
    for record in strain:
        for window in conditioner.push(record):
            if window.gps_ns == part["window"]["gps_ns"]:
                return window if window.dq is not None else replace(window, dq=part["data"]["dq"])
    raise SamplesError(
        f"{part['detector']}: the strain has no window at GPS {part['window']['gps']:.4f}, of which {part['id']} "
        "tells; it must begin 12 s or more before that"
    )


def _why(drawn: Drawn, part: Message) -> str:
    """What differs, for people."""
    differing = [name for name in part if part[name] != drawn.body.get(name)]
    hints = {
        "model": "another model: --model DIR, or --config CONFIG",
        "prior": "another prior: --config CONFIG of that daemon",
        "engine": "another engine: --config CONFIG of that daemon, on a host like its own",
        "psd": "another spectrum: the strain must begin where that daemon's did, or 66 s before the window",
        "data": "other bits of the state vector: are these the daemon's own files?",
        "likelihood": "another likelihood: --config CONFIG of that daemon",
    }
    said = next((hint for name, hint in hints.items() if name in differing), "")
    return (
        f"{said or 'other settings: --config CONFIG of that daemon'} (differing: {', '.join(differing) or 'nothing'})"
    )


def from_files(config: Config, message: Message) -> Drawn:
    """The posterior behind a message, from the files that ``config`` names, read as ``gwstream replay`` reads them.

    Raises `SourceError` where they cannot be read, `SamplesError` as `posteriors` does.
    """
    detector = message["posterior"]["detector"]
    return posteriors(config, {detector: asyncio.run(_read(config, detector))}, [message])[0]


async def _read(config: Config, detector: str) -> list[Strain | Gap]:
    from gwstream.source.replay import Replay

    async with Replay(config.source) as source:
        return [record async for record in source.stream(detector)]
