"""From settings to a running daemon: loads the model, opens the source, builds the rest and hands over to `service`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from functools import partial

from prometheus_client import CollectorRegistry

from gwstream import __version__, clock, logs, pipeline, service
from gwstream.alone import alone, meeting_place
from gwstream.calibration import Calibration
from gwstream.conditioning import Conditioner, State
from gwstream.config import Config, PublishConfig
from gwstream.console import Printer
from gwstream.errors import PublishError
from gwstream.health import Health
from gwstream.inference import Inference, Model, load_model
from gwstream.inference.guarded import GuardedInference
from gwstream.inference.parity import Serving
from gwstream.metrics import Metrics
from gwstream.pipeline.parts import Parts, PublisherLike
from gwstream.pipeline.progress import Progress
from gwstream.publish import Outbox, Publisher, check_broker
from gwstream.records import NANO, Tally
from gwstream.samples import Keeper
from gwstream.settings import inference_config, state_directory, strain
from gwstream.source import Resumable, Source, open_source
from gwstream.summary import Summarizer
from gwstream.web import Feed, Watch

log = logging.getLogger("service")


def run(config: Config, *, print_messages: bool = False) -> int:
    """Run the daemon until it is told to stop or the strain is over; returns the exit status 0.

    ``print_messages``: JSON lines on stdout instead of MQTT. Raises `GwstreamError`.
    """
    logs.configure(config.service)
    for name in config.source.detectors:
        strain(config, name)  # a wrong directory is said before the seconds that loading a model takes
    model = load_model(config.inference.model)
    asyncio.run(_serve(config, model, print_messages))
    return 0


async def _serve(config: Config, model: Model, print_messages: bool) -> None:
    """Open the source, reach the broker, and hand over what the pipeline joins."""
    metrics = Metrics(CollectorRegistry(), tuple(config.source.detectors), queue=config.publish.queue)
    prior = model.spec.prior.served(config.inference.distance_prior)
    health = Health(config.service.stuck)
    async with open_source(config.source, metrics.tally, prior, model.spec.rate, health=health) as source:
        news = _EngineNews()
        inference = GuardedInference(model, inference_config(config), news.told)
        inference.warm((1, pipeline.UNWEIGHTED) if config.publish.every_window else (1,))
        keeper = Keeper(inference, inference.prior, config.summary)
        calibration = _calibration(config, inference, live=source.live, tally=metrics.tally)
        metrics.served.model(model.name, model.version, model.hash, inference.engine)
        news.listen(metrics.served.engine)
        facts = {"model": dict(model.identity), **_of_engine(inference.serving)}
        feed = Feed(
            source.detectors, tally=metrics.tally, on_clients=metrics.web_clients, dropped=lambda: metrics.dropped
        )
        health.listen(feed.health)
        broker = f"{config.publish.host}:{config.publish.port}"
        feed.about(version=__version__, broker=broker, detectors=list(source.detectors), **facts)
        news.listen(lambda serving: feed.about(engine=serving.engine))

        async def work(life: service.Life) -> None:
            async with AsyncExitStack() as stack:
                await joined(life, stack)

        async def joined(life: service.Life, stack: AsyncExitStack) -> None:
            publisher: PublisherLike
            progress: Progress | None = None
            watch = Watch(feed, live=source.live)
            fresh = partial(Summarizer, config.summary, inference.prior, model.spec.prior)
            if print_messages:
                publisher = Printer(closed=life.stop.set)
            else:
                stack.enter_context(alone(config.publish, meeting_place()))
                directory = state_directory(config)
                outbox = Outbox(config.publish, directory, tally=metrics.tally, live=source.live)
                if directory is not None:
                    metrics.storage(directory, lambda: outbox.durable)
                await stack.enter_async_context(outbox)
                await _reach(config.publish, known=outbox.used)
                publisher = Publisher(
                    config.publish, outbox=outbox, tally=metrics.tally, observers=(metrics, feed), health=health
                )
                publisher.tell(**facts)
                news.listen(lambda serving: publisher.tell(**_of_engine(serving)))
                health.listen(lambda stuck: publisher.tell(stuck=[{"part": o.part, "since_gps": o.gps} for o in stuck]))
                if directory is not None and isinstance(source, Resumable):
                    identity = _identity(config, inference)
                    progress = Progress(directory, identity, settled=partial(_settled, outbox), tally=metrics.tally)
                watch = Watch(feed, live=source.live, detectors=source.detectors, tell=publisher.tell)
            states, summarizer = progress.load(fresh) if progress else ({}, fresh())
            for detector, state in states.items():
                _resume(source, detector, state)
            parts = Parts(
                config=config,
                source=source,
                conditioner=partial(_conditioner, model, states),
                spec=model.spec.conditioning,
                summarizer=summarizer,
                progress=progress,
                inference=keeper,
                prior=inference.prior,
                publisher=publisher,
                calibration=calibration,
                observers=(metrics, watch),
                tally=metrics.tally,
                health=health,
            )
            life.ready(f"{', '.join(source.detectors)} with model {model.name}, engine {inference.engine}")
            await pipeline.run(parts, life.stop)

        await service.serve(
            work,
            service=config.service,
            http=config.metrics,
            metrics=metrics,
            feed=feed,
            health=health,
            samples=keeper.document,
        )


class _EngineNews:
    """Tells its listeners, on the event loop it is made on, which engine serves, whichever thread learns it."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._listeners: list[Callable[[Serving], None]] = []

    def listen(self, listener: Callable[[Serving], None]) -> None:
        """Let ``listener`` hear of every check and change from here on."""
        self._listeners.append(listener)

    def told(self, serving: Serving) -> None:
        """There is news; callable from any thread."""
        self._loop.call_soon_threadsafe(self._tell, serving)

    def _tell(self, serving: Serving) -> None:
        for listener in self._listeners:
            listener(serving)


def _of_engine(serving: Serving) -> dict[str, object]:
    """What the status says of the engine."""
    return {"engine": serving.engine, "parity": serving.part()}


def _identity(config: Config, inference: Inference) -> dict[str, object]:
    """What a saved state hangs on."""
    strains = {name: strain(config, name) for name in sorted(config.source.detectors)}
    return {"version": __version__, "model": inference.model.hash, "settings": inference.tag, "strain": strains}


async def _settled(outbox: Outbox) -> bool:
    """Wait until all that was published is on disk; False: it is not, for the disk is in trouble."""
    await outbox.written()
    return outbox.durable


def _conditioner(model: Model, states: Mapping[str, State], detector: str) -> Conditioner:
    state = states.get(detector)
    return Conditioner(model.spec, detector) if state is None else Conditioner.restored(model.spec, detector, state)


def _resume(source: Source, detector: str, state: State) -> None:
    """Let the source go on where ``state`` ends. What is not there any more it reports itself, as missing."""
    assert isinstance(source, Resumable)
    source.resume(detector, state.second, state.input_rate)
    behind = clock.gps_now_ns() / NANO - state.second
    log.info("%s: going on at GPS %d, %.0f s ago, without a new warm-up", detector, state.second, behind)


async def _reach(config: PublishConfig, *, known: bool) -> None:
    """See that the broker takes us. Raises `PublishError`, unless it did before: then messages are kept until it does.

    So a daemon that is restarted while the broker is away goes on with the strain.
    """
    try:
        await check_broker(config)
    except PublishError as problem:
        if not known:
            raise
        log.warning("%s; until then, messages are kept", problem)


def _calibration(config: Config, inference: Inference, *, live: bool, tally: Tally) -> Calibration | None:
    """Known signals at the rate that is set; None: at none."""
    if not config.calibration.interval:
        return None
    return Calibration(config, inference.model.spec, inference.prior, inference, live=live, tally=tally)
