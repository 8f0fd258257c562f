"""Where the draws of a posterior come from: a file that has them, a running daemon, or the strain."""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gwstream.errors import ConfigError, SamplesError
from gwstream.samples import SCHEMA, Drawn, posterior_of

LIMIT = 20.0  # s to wait for a daemon
LARGEST = 64 << 20  # bytes of an answer
MESSAGES = ("gwstream.posterior/1", "gwstream.event/1", "gwstream.answer/1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where to look. ``url``: of a daemon's HTTP port; ``token``: for it. ``strain``: files, in time order.

    With ``strain``: ``config``, the settings of the daemon that sent the message, or ``model``, its folder, and
    ``channel`` of GWF files.
    """

    url: str = "http://127.0.0.1:9480"
    token: str | None = field(default=None, repr=False)
    strain: tuple[Path, ...] = ()
    channel: str = ""
    config: Path | None = None
    model: Path | None = None


def find(what: str, places: Places, name: str | None = None) -> Drawn:
    """The posterior with its draws. ``what``: a posterior's or event's id, or a file of one or several messages.

    ``name``: the id of one of these; None: their last event, or posterior where there is none. Raises `SamplesError`,
    `ConfigError`, and with strain `SourceError` and `ModelError`.
    """
    if not Path(what).is_file():
        return _by_id(what, places)
    path = Path(what)
    document = _chosen(path, name)
    if document["schema"] == SCHEMA:
        return Drawn.parse(document)
    if places.strain:
        return _computed(document, places)
    drawn = fetch(document["posterior"]["id"], places)
    if drawn.sha256 != document["sha256"]:
        raise SamplesError(
            f"{path}: the daemon at {places.url} has another posterior of this id: is it the same model?"
        )
    return drawn


def _by_id(name: str, places: Places) -> Drawn:
    if name.endswith("-u"):
        raise SamplesError(f"{name} is unweighted: its draws are kept nowhere; ask for a posterior behind the gate")
    if places.strain:
        raise ConfigError(f"{name}: no such file; --strain needs the message, to check what is computed against it")
    if "/" in name or name.endswith((".json", ".jsonl")):
        raise SamplesError(f"{name}: no such file")
    return fetch(name, places)


def fetch(name: str, places: Places) -> Drawn:
    """The draws that a running daemon keeps. Raises `SamplesError`."""
    url = f"{places.url.rstrip('/')}/samples/{urllib.parse.quote(posterior_of(name), safe='')}"
    if not url.startswith(("http://", "https://")):
        raise ConfigError(f"--url {places.url}: write it as http://HOST:PORT")
    request = urllib.request.Request(url)
    if places.token is not None:
        request.add_header("Authorization", f"Bearer {places.token}")
    try:
        with urllib.request.urlopen(request, timeout=LIMIT) as answer:
            return Drawn.parse(json.loads(answer.read(LARGEST)))
    except urllib.error.HTTPError as problem:
        said = problem.read(500).decode("utf-8", "replace").strip()
        problem.close()
        hint = "; --token-file FILE" if problem.code == 401 else ""
        raise SamplesError(f"{url}: {said or problem.reason}{hint}") from None
    except (OSError, ValueError) as problem:
        reason = getattr(problem, "reason", problem)
        raise SamplesError(
            f"no draws from {url}: {reason}; name the daemon's HTTP port (--url), or the strain (--strain)"
        ) from None


def _chosen(path: Path, name: str | None) -> dict[str, Any]:
    """One document of a file: JSON, or JSON on each line."""
    known = [one for one in _documents(path) if one.get("schema") in (*MESSAGES, SCHEMA) and "posterior" in one]
    known = [
        one for one in known if one["posterior"].get("sampling", {}).get("weighted", True)
    ]  # of the others no draws
    if name is not None:
        known = [one for one in known if one["posterior"].get("id") == posterior_of(name)]
    events = [one for one in known if one["schema"] == "gwstream.event/1"]
    if not known:
        wanted = "posterior, event or samples" if name is None else f"message of {name}"
        raise SamplesError(f"{path}: holds no {wanted}; network events have no draws, but their members do")
    return (events or known)[-1]


def _documents(path: Path) -> list[dict[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        raise SamplesError(f"{path}: cannot be read as JSON: {problem}") from None
    try:
        return [one for one in (json.loads(text),) if isinstance(one, dict)]
    except ValueError:
        pass
    try:
        found = [json.loads(line) for line in text.splitlines() if line.strip()]
    except ValueError as problem:
        raise SamplesError(f"{path}: neither JSON nor JSON lines: {problem}") from None
    return [one for one in found if isinstance(one, dict)]


def _computed(message: dict[str, Any], places: Places) -> Drawn:
    """From the strain, with the daemon's settings, or the default ones and what the message says of them."""
    from gwstream import settings
    from gwstream.config import load
    from gwstream.samples.recompute import from_files

    part = message["posterior"]
    options: dict[str, Any] = {"detector": part["detector"], "channel": places.channel, "speed": 0.0}
    config = settings.replay_config(places.strain, **options, model=places.model, gate_snr=6.5, broker=None)
    if places.config is not None:
        own = load(places.config)
        inference = own.inference if places.model is None else own.inference.model_copy(update={"model": places.model})
        config = config.model_copy(update={"inference": inference, "summary": own.summary})
    else:
        density, noise = part["prior"]["effective_distance"]["density"], part["likelihood"]["noise"]
        told = {
            "draws": part["sampling"]["draws"],
            "distance_prior": "uniform" if density == "uniform" else "volume",
            "likelihood": "student" if noise == "Student-t" else "gaussian",
        }
        config = config.model_copy(update={"inference": config.inference.model_copy(update=told)})
    engine, _, precision = str(part["engine"]).partition("-")  # bytes are equal on equal engines alone
    same = config.inference.model_copy(update={"engine": engine, "precision": precision or "fp32"})
    return from_files(config.model_copy(update={"inference": same}), message)
