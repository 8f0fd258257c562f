"""All that a message says, for a person."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from gwstream.client import Event, NetworkEvent
from gwstream.terminal.known import Row
from gwstream.terminal.tables import plain, table, text

PICTURE = 6  # rows of the waveform, where there is room for it
RECORDED = 3600.0  # s after coalescence from which the strain was a recording
FULL = 30  # rows from which there is


def details(row: Row, width: int, height: int) -> RenderableType:
    """The message in ``width`` columns and about ``height`` rows."""
    try:
        return _network(row) if isinstance(row.message, NetworkEvent) else _posterior(row, width, height)
    except (LookupError, TypeError, ValueError, AttributeError) as problem:
        return Text(f"This message lacks what its schema promises: {plain(str(problem))}", "yellow")


def _posterior(row: Row, width: int, height: int) -> RenderableType:
    message = row.message
    body, part = message.body, message.body["posterior"]
    parts: list[RenderableType] = [_quality(row)]
    if height >= FULL:
        parts += [Text(line, "cyan") for line in braille(part["waveform"]["median"], width, PICTURE)]
    parts.append(table(dict(body)))
    sampling, psd = part["sampling"], part["psd"]
    model = part["model"]
    facts = {
        "id": plain(message.id),
        "SNR": f"{text(part['snr'], 1)}, {text(part['gate_snr'], 1)} at the gate",
        "ln Bayes": f"{text(part['log_bayes'], 1)} ± {text(sampling['log_bayes_error'], 2)}",
        "residual p": f"{_small(part['residual_p'])}, {_small(part['peak_residual_p'])} at the peak",
        "latent p": _small(part["latent_p"]),
        "draws": f"{sampling['draws']}, {text(sampling['ess'], 0)} effective, "
        f"the heaviest {text(_percent(sampling['largest_weight']), 1)} %",
        "spectrum": f"{plain(psd['state'])}, {psd['averages']} averages in {text(psd['history'], 0)} s, "
        f"drift {text(psd['drift'], 2)}, range {text(psd['range_mpc'], 0)} Mpc",
        "latency": _latency(body["delivery"]),
        "model": f"{plain(model['name'])} {plain(model['version'])}, {plain(part['engine'])}",
        "number": f"{message.sequence}" + (", simulated strain" if message.simulated else ""),
    }
    if isinstance(message, Event):
        facts["windows"] = f"{body['event']['windows']}, supersedes {len(message.supersedes)} before"
    return Group(*parts, _facts(facts))


def _network(row: Row) -> RenderableType:
    message = row.message
    body, part = message.body, message.body["network"]
    facts = {
        "members": " and ".join(plain(f"{one['detector']} (SNR {text(one.get('snr'), 1)})") for one in part["members"]),
        "SNR": text(part["snr"], 1),
        "ln Bayes": text(part["log_bayes"], 1),
        "chirp mass": plain(str(message.chirp_mass)),
        "GPS": f"{message.gps:.4f} at {plain(part['coalescence']['detector'])}",
        "state": plain(body["event"]["state"]),
        "latency": _latency(body["delivery"]),
        "id": plain(message.id),
        "supersedes": "\n".join(plain(one) for one in body["event"]["supersedes"]),
    }
    return Group(_quality(row), Text(), _facts(facts))


def _quality(row: Row) -> Text:
    reasons = plain(", ".join(row.message.reasons))
    said = Text("good", "green") if row.message.good else Text(f"suspect: {reasons}", "yellow")
    return said.append("; superseded or withdrawn since", "dim") if row.gone else said


def _facts(facts: Mapping[str, str]) -> Table:
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, fact in facts.items():
        if fact:
            grid.add_row(name, Text(fact))
    return grid


def _latency(delivery: Mapping[str, Any]) -> str:
    """Total, and the stages, each with its queue, that took a millisecond or more."""
    steps: dict[str, float] = {}
    for name, seconds in delivery["latency"].items():
        stage = name.removesuffix("_queue")
        steps[stage] = steps.get(stage, 0.0) + float(seconds)
    total = steps.pop("total")
    said = ", ".join(f"{plain(stage)} {1e3 * s:.0f}" for stage, s in steps.items() if s >= 0.001)
    since = float(delivery["since_coalescence"])
    after = f", {since:.2f} s after coalescence" if abs(since) < RECORDED else ""
    return f"{1e3 * total:.0f} ms{f' ({said})' if said else ''}{after}"


def _small(value: float | None) -> str:
    return "?" if value is None else f"{value:.2g}"


def _percent(value: float | None) -> float | None:
    return None if value is None else 100 * value


def braille(values: list[float | None], width: int, height: int) -> list[str]:
    """A curve in ``height`` lines of ``width`` characters of 2 by 4 dots; gaps where a value is None."""
    columns, rows = 2 * width, 4 * height
    known = [value for value in values if value is not None]
    reach = max((abs(value) for value in known), default=0.0) or 1.0
    cells = [[0] * width for _ in range(height)]
    bits = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
    for column in range(columns):
        first = column * len(values) // columns
        piece = [v for v in values[first : max(first + 1, (column + 1) * len(values) // columns + 1)] if v is not None]
        if not piece:
            continue
        high, low = (round((1 - value / reach) / 2 * (rows - 1)) for value in (max(piece), min(piece)))
        for row in range(high, low + 1):
            cells[row // 4][column // 2] |= bits[row % 4][column % 2]
    return ["".join(chr(0x2800 + cell) for cell in line) for line in cells]
