"""No two daemons of a host take the same name at a broker, which would throw each out for the other, for ever."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gwstream.config import PublishConfig
from gwstream.errors import ConfigError


def meeting_place() -> Path | None:
    """Where the daemons of this host meet: systemd's ``RuntimeDirectory=``; None: not under systemd."""
    given = os.environ.get("RUNTIME_DIRECTORY", "").split(":")[0]
    return Path(given) if given else None


@contextmanager
def alone(config: PublishConfig, directory: Path | None) -> Iterator[None]:
    """Hold our name at the broker while the context lasts; without a ``directory`` nothing is held.

    Raises `ConfigError` where another daemon of this host has it, or the directory cannot be used.
    """
    if directory is None:
        yield
        return
    name = f"{config.identity}@{config.host}-{config.port}.lock".replace("/", "-")
    try:
        lock = os.open(directory / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as problem:
        raise ConfigError(f"{directory / name}: {problem.strerror}; correct RuntimeDirectory= of the unit") from None
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            other = os.read(lock, 20).decode("ascii", "replace").strip()
            raise ConfigError(
                f"publish.instance = '{config.instance}': process {other} publishes under this name to "
                f"{config.host}:{config.port} already: give each daemon a publish.instance of its own"
            ) from None
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(lock)
