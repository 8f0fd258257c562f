"""What judges windows by one set of settings: model, engine, and all that hangs on them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from gwstream import __version__, pipeline
from gwstream.calibration import Calibration
from gwstream.config import Config
from gwstream.inference import Inference, Model
from gwstream.inference.parity import Serving
from gwstream.inference.runners import guarded
from gwstream.prior import Prior
from gwstream.records import Tally
from gwstream.settings import inference_config, strain
from gwstream.summary import Summarizer


class EngineNews:
    """Tells its listeners, on the event loop it is made on, which engine serves, whichever thread learns it."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._listeners: list[Callable[[Serving], None]] = []
        self._serving: Serving | None = None

    @property
    def serving(self) -> Serving:
        """How things stand, once an engine has been chosen."""
        assert self._serving is not None
        return self._serving

    def listen(self, listener: Callable[[Serving], None]) -> None:
        """Let ``listener`` hear how things stand, and of every check and change from here on."""
        listener(self.serving)
        self._listeners.append(listener)

    def silence(self) -> None:
        """Nobody hears of anything from here on."""
        self._listeners.clear()

    def told(self, serving: Serving) -> None:
        """There is news; callable from any thread."""
        self._serving = serving
        self._loop.call_soon_threadsafe(self._tell, serving)

    def _tell(self, serving: Serving) -> None:
        for listener in self._listeners:
            listener(serving)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judge:
    """A model at work by ``config``; ``news`` tells of its engine."""

    config: Config
    model: Model
    inference: Inference
    news: EngineNews

    @classmethod
    def of(cls, config: Config, model: Model, news: EngineNews) -> Judge:
        """Choose an engine, hold it to torch, and warm it. Raises `ConfigError` where it is not to be had."""
        inference = Inference(
            model, inference_config(config), lambda model, settings: guarded(model, settings, news.told)
        )
        inference.warm((1, pipeline.UNWEIGHTED) if config.publish.every_window else (1,))
        return cls(config=config, model=model, inference=inference, news=news)

    @property
    def prior(self) -> Prior:
        """Of the posteriors."""
        return self.inference.prior

    @property
    def facts(self) -> Mapping[str, object]:
        """What the status says of model and engine."""
        return {"model": dict(self.model.identity), **of_engine(self.news.serving)}

    @property
    def identity(self) -> Mapping[str, object]:
        """What a saved state hangs on."""
        strains = {name: strain(self.config, name) for name in sorted(self.config.source.detectors)}
        return {
            "version": __version__,
            "model": self.model.hash,
            "settings": self.inference.tag,
            "strain": strains,
        }

    def summarizer(self) -> Summarizer:
        """A new one."""
        return Summarizer(self.config.summary, self.prior, self.model.spec.prior)

    def calibration(self, *, live: bool, tally: Tally) -> Calibration | None:
        """Known signals at the rate that is set; None: at none. Raises `ConfigError` for a rate that cannot be."""
        if not self.config.calibration.interval:
            return None
        return Calibration(self.config, self.model.spec, self.prior, self.inference, live=live, tally=tally)

    def like(self, other: Judge) -> bool:
        """Whether known signals that ``other`` has judged tell of this one, too: thresholds may differ."""
        return self._known == other._known

    @property
    def _known(self) -> tuple[object, ...]:
        inference = self.config.inference.model_dump(exclude={"model", "cache", "gate_snr"})
        return self.model.hash, self.prior, inference, self.config.calibration


def of_engine(serving: Serving) -> dict[str, object]:
    """What the status says of the engine."""
    return {"engine": serving.engine, "parity": serving.part()}
