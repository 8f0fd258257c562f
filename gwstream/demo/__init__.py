"""``gwstream demo``: the recording of GW150914 as live frames, through the daemon, to a subscriber and pictures.

Broker, writer, daemon and subscriber are those of a real installation; the daemon runs as ``gwstream run`` in a process
of its own. All of it stays on loopback and in a temporary directory, but for what is left in the output folder.
"""

from __future__ import annotations

import asyncio
import json
import signal
import tempfile
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from gwstream.config import Config, default_model, load
from gwstream.demo import child, play, watch
from gwstream.demo.play import GOOD, seconds
from gwstream.demo.watch import Message, Seen
from gwstream.errors import GwstreamError
from gwstream.records import NANO, Strain
from gwstream.source import recording
from gwstream.terminal.tables import text

if TYPE_CHECKING:
    from rich.console import Console

QUIET = 1.5  # s without a message after which the daemon has said all


def run(output: Path, *, speed: float = 1.0, loop: bool = False) -> int:
    """Play the recording and return the exit status.

    ``speed`` times real time; ``loop``: again and again, until Ctrl-C. Log and pictures go to ``output``. Raises
    `GwstreamError` when a part does not come up, and when nothing is found.
    """
    from rich.console import Console

    output.mkdir(parents=True, exist_ok=True)
    return asyncio.run(_Demo(output.resolve(), speed, loop, Console(highlight=False)).run())


def feed(folder: Path, *, speed: float = 1.0, loop: bool = False) -> int:
    """Play the recording as strain of now into ``folder``/H1 and L1, for a daemon that runs already; the exit status.

    Raises `SourceError` where frames cannot be written.
    """
    from rich.console import Console

    async def main() -> int:
        stop = asyncio.Event()
        with _signals(stop):
            how = play.How(speed=speed, loop=loop)
            await play.feed(folder, Console(highlight=False), stop, how)
        return 130 if stop.is_set() and not loop else 0

    return asyncio.run(main())


@dataclass(slots=True)
class _Demo:
    output: Path
    speed: float
    loop: bool
    console: Console
    seen: Seen = field(default_factory=Seen)
    stop: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> int:
        from gwstream.demo.broker import Broker

        async with AsyncExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gwstream-demo-")))
            stack.enter_context(_signals(self.stop))
            broker = await stack.enter_async_context(Broker())
            directories = {name: folder / name for name in recording.DETECTORS}
            for directory in directories.values():
                directory.mkdir()
            page = child.free_port()
            settings = child.Settings(
                directories=directories,
                model=default_model(),
                broker_port=broker.port,
                http_port=page,
                more="\n[calibration]\ninterval = 0  # a recording is too short for it\n",
            )
            config = folder / "gwstream.toml"
            config.write_text(settings.toml(), encoding="utf-8")
            log = self.output / "daemon.log"
            process = await stack.enter_async_context(child.daemon(config, log, page))
            self.console.print(f"daemon      gwstream run, its log in {log}", soft_wrap=True)
            self.console.print(f"broker      127.0.0.1:{broker.port}, MQTT v5; topics gwstream/#")
            self.console.print(f"live page   [bold]http://127.0.0.1:{page}/[/bold]\n")
            async with asyncio.TaskGroup() as group:
                watcher = await watch.start(group, broker.port, self.console, self.seen)
                how = play.How(speed=self.speed, loop=self.loop, check=lambda: child.check(process, log))
                await play.play(directories, self.console, self.stop, how)
                await watch.settled(self.seen, QUIET)
                status = await child.stop(process)
                watcher.cancel()
            if status:
                raise GwstreamError(f"the daemon ended with status {status}:\n{child.tail(log)}")
            self._pictures(config)
            if not self.loop:
                self.console.print("\ndaemon, broker and page have ended; gwstream demo --loop goes on until Ctrl-C")
        return 130 if self.stop.is_set() and not self.loop else 0

    def _pictures(self, config: Path) -> None:
        """Draw the event of each detector in the first round, from the draws behind its message."""
        strains = {name: replace(recording.read(name), dq=GOOD) for name in recording.DETECTORS}
        end = min(strain.gps_ns for strain in strains.values()) + seconds(strains) * NANO
        best = {name: self.seen.best(name, end) for name in strains}
        messages = [message for message in best.values() if message is not None]
        missing = [name for name, message in best.items() if message is None]
        if missing and not self.stop.is_set():
            raise GwstreamError(f"GW150914 was not found in {' and '.join(missing)}; see {self.output / 'daemon.log'}")
        if messages:
            self.console.print("drawing the pictures, from the same draws computed again ...")
            for path in draw(load(config), strains, messages, self.output):
                self.console.print(f"picture     {path}", soft_wrap=True)
            named = {message["posterior"]["detector"]: message for message in messages}
            if self.seen.networks:
                named["network"] = next(iter(self.seen.networks.values()))
            for name, message in named.items():
                path = self.output / f"GW150914-{name}.json"
                path.write_text(json.dumps(message, indent=2), encoding="utf-8")
                self.console.print(f"message     {path}", soft_wrap=True)


def draw(config: Config, strains: dict[str, Strain], messages: list[Message], output: Path) -> list[Path]:
    """Waveforms of all messages in one picture and a corner plot of each; their paths."""
    from gwstream.samples import pictures, recompute

    found = recompute.posteriors(config, {name: [strain] for name, strain in strains.items()}, list(messages))
    paths = [pictures.waveforms(found, "GW150914 in whitened strain", output / "GW150914-waveform.png")]
    for posterior, message in zip(found, messages, strict=True):
        name = posterior.detector
        chirp = message["posterior"]["parameters"]["chirp_mass"]
        title = (
            f"GW150914 in {name}\nSNR {text(message['posterior']['snr'], 1)}\n"
            f"chirp mass {chirp['median']:.1f} ({chirp['p5']:.1f} to {chirp['p95']:.1f}) M$_\\odot$\n"
            f"GPS {message['posterior']['coalescence']['gps']:.4f}\n50 and 90 % regions"
        )
        paths.append(pictures.corner(posterior, title, output / f"GW150914-{name}-corner.png"))
    return paths


@contextmanager
def _signals(stop: asyncio.Event) -> Iterator[None]:
    """Ctrl-C and SIGTERM set ``stop``."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    try:
        yield
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
