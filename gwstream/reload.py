"""Settings read again while the daemon runs: what has changed is taken over as a whole, or not at all.

What judges windows can be replaced (`pipeline.succession`): model, engine, thresholds, known signals. What the other
stages were made with cannot: source, windows, broker, ports, state.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping

from gwstream.config import Config, Section
from gwstream.errors import ConfigError, ModelError
from gwstream.inference import load_model
from gwstream.judge import EngineNews, Judge
from gwstream.records import Whitener

SECTIONS = ("inference", "summary", "calibration")
"""That may change while the daemon runs, but for `FIXED` keys."""

FIXED = ("inference.latency_target", "inference.threads")


async def renewed(read: Callable[[], Config], old: Judge, whiteners: Mapping[str, Whitener]) -> Judge:
    """What judges by the settings as they are now, warm, and prepared for windows behind ``whiteners``.

    It is made in other threads, beside ``old``, which goes on. Raises `ConfigError` and `ModelError` for what cannot
    be, or not without a restart.
    """
    config = await asyncio.to_thread(read)
    refuse(changed(old.config, config))
    judge = await asyncio.to_thread(_made, config, old, EngineNews())
    prepared: set[str] = set()
    while left := [whitener for whitener in whiteners.values() if whitener.id not in prepared]:  # more come meanwhile
        await asyncio.to_thread(judge.inference.prepare, left[0])
        prepared.add(left[0].id)
    return judge


def _made(config: Config, old: Judge, news: EngineNews) -> Judge:
    folder = config.inference.model
    model = load_model(folder)
    if model.conditioning_hash != old.model.conditioning_hash:
        raise ModelError(
            f"{folder}: its windows are not those of the model that serves, {old.model.name}: "
            f"[conditioning] of its model.toml differs; restart the daemon to change to it"
        )
    return Judge.of(config, model, news)


def refuse(keys: Iterable[str]) -> None:
    """Raise `ConfigError` that names those that cannot change without a restart, if there are any."""
    fixed = [key for key in keys if key.partition(".")[0] not in SECTIONS or key in FIXED]
    if fixed:
        names = ", ".join(f"'{key}'" for key in fixed)
        raise ConfigError(
            f"{names} cannot change while the daemon runs: restart it, or take that back; nothing else is taken over"
        )


def changed(old: Config, new: Config) -> list[str]:
    """The keys whose values differ, as the file says them."""
    return list(_changed(old, new, ""))


def _changed(old: object, new: object, place: str) -> Iterator[str]:
    one, other = _parts(old), _parts(new)
    if one is None or other is None:
        if old != new:
            yield place
        return
    for name in sorted(one.keys() | other.keys()):
        yield from _changed(one.get(name), other.get(name), f"{place}.{name}" if place else name)


def _parts(value: object) -> Mapping[str, object] | None:
    """What lies under a key; None: nothing does."""
    if isinstance(value, Section):
        return {name: getattr(value, name) for name in type(value).model_fields}
    return value if isinstance(value, dict) else None
