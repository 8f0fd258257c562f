"""What a start does with a slow engine, done before it: everything compiled, kept, and compared with torch."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from gwstream.config import InferenceConfig
from gwstream.errors import EngineError
from gwstream.inference.checkpoint import Model
from gwstream.inference.engine_tensorrt import TensorRtEngine
from gwstream.inference.engines import chosen
from gwstream.inference.parity import TOLERANCE, Golden
from gwstream.inference.runners import example, goldens


def compile_for_start(model: Model, config: InferenceConfig) -> Iterator[str]:
    """A line for each precision that a start with these settings may try, once it is compiled.

    Raises `EngineError` where TensorRT cannot run the model, is farther from torch than may be, or where what was
    compiled could not be kept, and `ConfigError` where TensorRT cannot be had.
    """
    windows = goldens(model, config.latents)
    for candidate in chosen(config.model_copy(update={"engine": TensorRtEngine.kind})):
        if candidate.engine is not TensorRtEngine:
            continue
        engine = TensorRtEngine(model.net, partial(example, model, config.latents), candidate.config)
        distance = max(Golden.farthest(model.net, engine, windows(size), size) for size in engine.buckets)
        most = TOLERANCE[candidate.config.precision]
        if distance > most:
            engine.forget()
            raise EngineError(f"{engine.name} is {distance:.2g} standard deviations from torch, where {most:g} may be")
        if engine.unkept:
            raise EngineError(f"{engine.name}: {engine.unkept}; mend that or name another directory, and compile again")
        sizes = ", ".join(map(str, engine.buckets))
        yield f"{model.name}: {engine.name} is ready for {sizes} windows, {distance:.1g} standard deviations from torch"
