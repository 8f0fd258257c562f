"""What is served: the model, the engine that runs it, and how often both were taken anew."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge

from gwstream.inference.parity import Serving
from gwstream.records import RELOADS, Tally


class Served:
    """Metrics of model and engine in ``registry``; ``tally`` counts the engines that are given up."""

    def __init__(self, registry: CollectorRegistry, tally: Tally) -> None:
        self._tally = tally
        self._labels: tuple[str, str, str, str] | None = None
        self._given_up = 0
        names = ["name", "version", "hash", "engine"]
        self._model = Gauge("gwstream_model_info", "Model served.", names, registry=registry)
        about = "Times that settings were read again, by what came of it."
        self._reloads = Counter("gwstream_reloads_total", about, ["result"], registry=registry)
        for result in RELOADS:
            self._reloads.labels(result)

    def reloaded(self, result: str) -> None:
        """Settings were read again; ``result``: one of `RELOADS`."""
        self._reloads.labels(result).inc()

    def model(self, name: str, version: str, digest: str, engine: str) -> None:
        """What is served from here on; ``digest``: of the weights, of which twelve digits are shown."""
        self._given_up = 0
        self._label(name, version, digest, engine)

    def _label(self, name: str, version: str, digest: str, engine: str) -> None:
        if self._labels:
            self._model.remove(*self._labels)
        self._labels = name, version, digest[:12], engine
        self._model.labels(*self._labels).set(1)

    def engine(self, serving: Serving) -> None:
        """The engine was checked, or is another."""
        news = len(serving.given_up) - self._given_up
        if news:
            self._tally("inference", "engine_given_up", "", news)
            self._given_up += news
        if self._labels and self._labels[-1] != serving.engine:
            name, version, digest, _ = self._labels
            self._label(name, version, digest, serving.engine)
