"""``gwstream`` that breaks at will, by files in the directory ``$BREAK``.

``clock``: s that the wall clock is wrong by. ``deaf``: the kernel tells of no file. ``openvino`` and ``torch``: what
becomes of an engine, ``raise`` or ``nan``. ``hold-NAME``: who comes to this place of `PLACES` waits there, and leaves
``at-NAME``.
"""

from __future__ import annotations

import functools
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from gwstream import conditioning, daemon, inference, summary
from gwstream.cli import main
from gwstream.errors import EngineError
from gwstream.inference import engine_openvino, engine_torch
from gwstream.pipeline import progress
from gwstream.publish import store
from gwstream.source import frames, watch

FOLDER = Path(os.environ["BREAK"])
PLACES: dict[str, tuple[Any, str]] = {
    "model": (daemon, "load_model"),
    "frame": (frames, "load"),
    "conditioning": (conditioning.Conditioner, "push"),
    "gate": (inference.Inference, "gate"),
    "posterior": (inference.Inference, "infer"),
    "summary": (summary.Summarizer, "own"),
    "disk": (store.Store, "write"),
    "state": (progress.snapshot, "save"),
}


def told(name: str) -> str:
    """What a file says; empty: there is none."""
    try:
        return (FOLDER / name).read_text()
    except OSError:
        return ""


def held(name: str, work: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(work)
    def waits(*args: Any, **named: Any) -> Any:
        while (FOLDER / f"hold-{name}").exists():
            (FOLDER / f"at-{name}").touch()
            time.sleep(0.02)
        return work(*args, **named)

    return waits


def breaks(name: str, run: Callable[..., Any]) -> Callable[..., Any]:
    def runs(*args: Any) -> Any:
        fault = told(name)
        if fault == "raise":
            raise EngineError(f"{name} was told to fail")
        first, *rest = run(*args)
        return (torch.full_like(first, torch.nan) if fault == "nan" else first, *rest)

    return runs


def prepare() -> None:
    """Let all of it break when it is told."""
    now, now_ns, handle = time.time, time.time_ns, watch.Watcher._handle
    time.time = lambda: now() + float(told("clock") or 0)
    time.time_ns = lambda: now_ns() + round(float(told("clock") or 0) * 1e9)

    def hears(self: watch.Watcher, *event: Any) -> None:
        if not (FOLDER / "deaf").exists():
            handle(self, *event)

    watch.Watcher._handle = hears  # type: ignore[method-assign]
    for name, (owner, work) in PLACES.items():
        setattr(owner, work, held(name, getattr(owner, work)))
    for name, engine in (("openvino", engine_openvino.OpenVinoEngine), ("torch", engine_torch.TorchEngine)):
        engine.run = breaks(name, engine.run)  # type: ignore[attr-defined]


if __name__ == "__main__":
    prepare()
    sys.exit(main())
