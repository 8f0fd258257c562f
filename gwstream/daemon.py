"""From settings to a running daemon: loads the model, opens the source, builds the rest and hands over to `service`."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial

from prometheus_client import CollectorRegistry

from gwstream import __version__, clock, logs, memory, pipeline, service
from gwstream.alone import alone, meeting_place
from gwstream.conditioning import Conditioner, State
from gwstream.config import Config, PublishConfig
from gwstream.console import Printer
from gwstream.errors import GwstreamError, PublishError
from gwstream.health import Health
from gwstream.inference import Model, load_model
from gwstream.judge import EngineNews, Judge, of_engine
from gwstream.metrics import Metrics
from gwstream.pipeline.parts import Parts, PublisherLike
from gwstream.pipeline.progress import Progress
from gwstream.pipeline.succession import Succession, Successor
from gwstream.publish import Desk, Outbox, Publisher, check_broker
from gwstream.records import NANO
from gwstream.reload import changed, renewed
from gwstream.samples import Keeper
from gwstream.settings import state_directory, strain
from gwstream.source import Resumable, Source, open_source
from gwstream.web import Feed, Watch

log = logging.getLogger("service")

LONGEST = 1000  # characters of a reason in the status


Read = Callable[[], Config]
"""Reads the settings. Raises `ConfigError`."""


def run(config: Config, *, read: Read | None = None, print_messages: bool = False) -> int:
    """Run the daemon until it is told to stop or the strain is over; returns the exit status 0.

    ``read``: the settings once more, on SIGHUP; None: that ends the process. ``print_messages``: JSON lines on stdout
    instead of MQTT. Raises `GwstreamError`.
    """
    logs.configure(config.service)
    memory.one_heap()
    for name in config.source.detectors:
        strain(config, name)  # a wrong directory is said before the seconds that loading a model takes
    log.info("loading the model in %s", config.inference.model)
    model = load_model(config.inference.model)
    asyncio.run(_serve(config, model, read, print_messages))
    return 0


async def _serve(config: Config, model: Model, read: Read | None, print_messages: bool) -> None:
    """Open the source, make ready what judges, and hand over to `service`."""
    asked = asyncio.Event()
    if read is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, asked.set)
    metrics = Metrics(CollectorRegistry(), tuple(config.source.detectors), queue=config.publish.queue)
    prior = model.spec.prior.served(config.inference.distance_prior)
    health = Health(config.service.stuck)
    async with open_source(config.source, metrics.tally, prior, model.spec.rate, health=health) as source:
        daemon = _Daemon(source, Judge.of(config, model, EngineNews()), metrics, health)

        async def work(life: service.Life) -> None:
            async with asyncio.TaskGroup() as group:
                reloads = group.create_task(daemon.reload(life, asked, read), name="reload")
                tidying = group.create_task(memory.give_back(), name="memory")
                await daemon.work(life, print_messages=print_messages)
                reloads.cancel()
                tidying.cancel()

        await service.serve(
            work,
            service=config.service,
            http=config.metrics,
            metrics=metrics,
            feed=daemon.feed,
            health=health,
            samples=daemon.document,
        )


class _Daemon:
    """The parts that the pipeline joins, each told of the others. Raises `ConfigError` for settings that clash.

    ``judge``: what judges windows, until a reload.
    """

    def __init__(self, source: Source, judge: Judge, metrics: Metrics, health: Health) -> None:
        self._source, self._judge, self._metrics, self._health = source, judge, metrics, health
        self._config = judge.config
        self._succession = Succession()
        self._keeper = Keeper(judge.inference, judge.prior, self._config.summary)
        self._calibration = judge.calibration(live=source.live, tally=metrics.tally)
        self._publisher: Publisher | None = None
        self._progress: Progress | None = None
        detectors = source.detectors
        self.feed = Feed(
            detectors, tally=metrics.tally, on_clients=metrics.web_clients, dropped=lambda: metrics.dropped
        )
        health.listen(self.feed.health)
        broker = f"{self._config.publish.host}:{self._config.publish.port}"
        self.feed.about(version=__version__, broker=broker, detectors=list(detectors))
        self._tell()

    def document(self, name: str) -> bytes | None:
        """The draws of a posterior or event; see `Keeper`."""
        return self._keeper.document(name)

    def _tell(self) -> None:
        """Let all who want to know hear what judges, and of its engine from here on."""
        judge, publisher = self._judge, self._publisher
        model = judge.model
        self._metrics.served.model(model.name, model.version, model.hash, judge.inference.engine)
        judge.news.listen(self._metrics.served.engine)
        self.feed.about(**judge.facts)
        judge.news.listen(lambda serving: self.feed.about(engine=serving.engine))
        if publisher is not None:
            publisher.tell(**judge.facts)
            judge.news.listen(lambda serving: publisher.tell(**of_engine(serving)))

    @property
    def _status(self) -> str:
        """In a line, what is at work."""
        judge = self._judge
        return f"{', '.join(self._source.detectors)} with model {judge.model.name}, engine {judge.inference.engine}"

    async def work(self, life: service.Life, *, print_messages: bool) -> None:
        """Reach the broker, go on where the last daemon stopped, and run the pipeline to its end."""
        async with AsyncExitStack() as stack:
            if print_messages:
                parts = self._parts(Printer(closed=life.stop.set), Watch(self.feed, live=self._source.live))
            else:
                parts = await self._published(stack)
            memory.settle()
            life.ready(self._status)
            await pipeline.run(parts, life.stop, self._succession)

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
        takes = config.publish.triggers.enabled
        desk = Desk(config.publish, tally=metrics.tally, answered=metrics.answered) if takes else None
        self._publisher = publisher = Publisher(
            config.publish,
            outbox=outbox,
            desk=desk,
            tally=metrics.tally,
            observers=(metrics, self.feed),
            health=self._health,
        )
        publisher.tell(**self._judge.facts)
        self._judge.news.listen(lambda serving: publisher.tell(**of_engine(serving)))
        self._health.listen(lambda stuck: publisher.tell(stuck=[{"part": o.part, "since_gps": o.gps} for o in stuck]))
        watch = Watch(self.feed, live=self._source.live, detectors=self._source.detectors, tell=publisher.tell)
        if directory is not None and isinstance(self._source, Resumable):
            settled = partial(_settled, outbox)
            self._progress = Progress(directory, self._judge.identity, settled=settled, tally=metrics.tally)
        return replace(self._parts(publisher, watch), desk=desk)

    def _parts(self, publisher: PublisherLike, watch: Watch) -> Parts:
        """What the pipeline joins, as the last daemon left it."""
        judge, progress = self._judge, self._progress
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
            inference=self._keeper,
            prior=judge.prior,
            publisher=publisher,
            calibration=self._calibration,
            observers=(self._metrics, watch),
            tally=self._metrics.tally,
            health=self._health,
        )

    async def reload(self, life: service.Life, asked: asyncio.Event, read: Read | None) -> None:
        """Take the settings anew each time that is asked for, until cancelled."""
        while read is not None:
            await asked.wait()
            asked.clear()
            life.reloading()
            keys, reason = await self._reloaded(read)
            result = "refused" if reason else "done"
            if reason:
                log.error("not reloaded, all goes on as it was: %s", reason)
            else:
                memory.settle()
                log.info("reloaded: %s; changed: %s", self._status, ", ".join(keys) or "no setting")
            self._metrics.served.reloaded(result)
            if self._publisher is not None:
                told = {"result": result, "gps": clock.gps_now_ns() / NANO, "changed": keys, "reason": reason}
                self._publisher.tell(reload=told)
            life.reloaded(self._status + ("; the last reload was refused, the log says why" if reason else ""))

    async def _reloaded(self, read: Read) -> tuple[list[str], str]:
        """The keys that have changed, or none and why it was refused."""
        try:
            judge = await renewed(read, self._judge, self._succession.whiteners)
            keys = changed(self._judge.config, judge.config)
            await self._succeeded(judge)
        except GwstreamError as problem:
            return [], str(problem)[:LONGEST]
        except Exception as problem:  # what a new model does wrong must not end what goes well
            log.error("this is a defect of gwstream; please report what follows", exc_info=problem)
            return [], f"{type(problem).__name__}: {problem}"[:LONGEST]
        return keys, ""

    async def _succeeded(self, judge: Judge) -> None:
        """Let ``judge`` judge what comes, and return when it does. Raises `ConfigError`."""
        before, done = self._judge, asyncio.Event()
        keeper = self._keeper.heir(judge.inference, judge.prior, judge.config.summary)
        calibration = judge.calibration(live=self._source.live, tally=self._metrics.tally)
        if calibration is not None and self._calibration is not None and judge.like(before):
            calibration.go_on(self._calibration)

        def taken() -> None:
            before.news.silence()
            self._judge, self._config, self._keeper, self._calibration = judge, judge.config, keeper, calibration
            if self._progress is not None:
                self._progress.identify(judge.identity)
            self._tell()
            done.set()

        self._succession.offer(
            Successor(
                config=judge.config,
                inference=keeper,
                prior=judge.prior,
                summarizer=judge.summarizer(),
                calibration=calibration,
                taken=taken,
            )
        )
        await done.wait()


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
