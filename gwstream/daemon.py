"""From settings to a running daemon: loads the model, opens the source, builds the rest and hands over to `service`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

from prometheus_client import CollectorRegistry

from gwstream import __version__, clock, logs, pipeline, service
from gwstream.alone import alone, meeting_place
from gwstream.conditioning import Conditioner, State
from gwstream.config import Config, PublishConfig
from gwstream.console import Printer
from gwstream.errors import PublishError
from gwstream.health import Health
from gwstream.inference import Model, load_model
from gwstream.judge import EngineNews, Judge, of_engine
from gwstream.metrics import Metrics
from gwstream.pipeline.parts import Parts, PublisherLike
from gwstream.pipeline.progress import Progress
from gwstream.publish import Outbox, Publisher, check_broker
from gwstream.records import NANO
from gwstream.samples import Keeper
from gwstream.settings import state_directory, strain
from gwstream.source import Resumable, Source, open_source
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
    """Open the source, make ready what judges, and hand over to `service`."""
    metrics = Metrics(CollectorRegistry(), tuple(config.source.detectors), queue=config.publish.queue)
    prior = model.spec.prior.served(config.inference.distance_prior)
    health = Health(config.service.stuck)
    async with open_source(config.source, metrics.tally, prior, model.spec.rate, health=health) as source:
        judge = Judge.of(config, model, EngineNews())
        daemon = _Daemon(source, judge, metrics, health)
        await service.serve(
            partial(daemon.work, print_messages=print_messages),
            service=config.service,
            http=config.metrics,
            metrics=metrics,
            feed=daemon.feed,
            health=health,
            samples=daemon.keeper.document,
        )


class _Daemon:
    """The parts that the pipeline joins, each told of the others. Raises `ConfigError` for settings that clash."""

    def __init__(self, source: Source, judge: Judge, metrics: Metrics, health: Health) -> None:
        self._source, self._judge, self._metrics, self._health = source, judge, metrics, health
        self._config = judge.config
        self.keeper = Keeper(judge.inference, judge.prior, self._config.summary)
        self._calibration = judge.calibration(live=source.live, tally=metrics.tally)
        model = judge.model
        metrics.served.model(model.name, model.version, model.hash, judge.inference.engine)
        judge.news.listen(metrics.served.engine)
        self.feed = self._feed()

    def _feed(self) -> Feed:
        """What the live page is told."""
        metrics, publish, detectors = self._metrics, self._config.publish, self._source.detectors
        feed = Feed(detectors, tally=metrics.tally, on_clients=metrics.web_clients, dropped=lambda: metrics.dropped)
        self._health.listen(feed.health)
        broker = f"{publish.host}:{publish.port}"
        feed.about(version=__version__, broker=broker, detectors=list(detectors), **self._judge.facts)
        self._judge.news.listen(lambda serving: feed.about(engine=serving.engine))
        return feed

    async def work(self, life: service.Life, *, print_messages: bool) -> None:
        """Reach the broker, go on where the last daemon stopped, and run the pipeline to its end."""
        async with AsyncExitStack() as stack:
            if print_messages:
                parts = self._parts(Printer(closed=life.stop.set), Watch(self.feed, live=self._source.live))
            else:
                parts = await self._published(stack)
            detectors, judge = ", ".join(self._source.detectors), self._judge
            life.ready(f"{detectors} with model {judge.model.name}, engine {judge.inference.engine}")
            await pipeline.run(parts, life.stop)

    async def _published(self, stack: AsyncExitStack) -> Parts:
        """What the pipeline joins where messages go to a broker. Raises `PublishError`."""
        config, metrics = self._config, self._metrics
        stack.enter_context(alone(config.publish, meeting_place()))
        directory = state_directory(config)
        outbox = Outbox(config.publish, directory, tally=metrics.tally, live=self._source.live)
        if directory is not None:
            metrics.storage(directory, lambda: outbox.durable)
        await stack.enter_async_context(outbox)
        await _reach(config.publish, known=outbox.used)
        publisher = Publisher(
            config.publish, outbox=outbox, tally=metrics.tally, observers=(metrics, self.feed), health=self._health
        )
        publisher.tell(**self._judge.facts)
        self._judge.news.listen(lambda serving: publisher.tell(**of_engine(serving)))
        self._health.listen(lambda stuck: publisher.tell(stuck=[{"part": o.part, "since_gps": o.gps} for o in stuck]))
        watch = Watch(self.feed, live=self._source.live, detectors=self._source.detectors, tell=publisher.tell)
        progress = self._progress(directory, outbox)
        return self._parts(publisher, watch, progress)

    def _progress(self, directory: Path | None, outbox: Outbox) -> Progress | None:
        """What keeps how far we are; None where nothing is kept, or the source cannot go on from there."""
        if directory is None or not isinstance(self._source, Resumable):
            return None
        settled = partial(_settled, outbox)
        return Progress(directory, self._judge.identity, settled=settled, tally=self._metrics.tally)

    def _parts(self, publisher: PublisherLike, watch: Watch, progress: Progress | None = None) -> Parts:
        """What the pipeline joins, as the last daemon left it."""
        judge = self._judge
        states, summarizer = progress.load(judge.summarizer) if progress else ({}, judge.summarizer())
        for detector, state in states.items():
            _resume(self._source, detector, state)
        return Parts(
            config=self._config,
            source=self._source,
            conditioner=partial(_conditioner, judge.model, states),
            spec=judge.model.spec.conditioning,
            summarizer=summarizer,
            progress=progress,
            inference=self.keeper,
            prior=judge.prior,
            publisher=publisher,
            calibration=self._calibration,
            observers=(self._metrics, watch),
            tally=self._metrics.tally,
            health=self._health,
        )


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
