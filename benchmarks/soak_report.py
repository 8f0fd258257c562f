"""The report of a soak: a Markdown table, and a picture of memory and descriptors."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import common
import numpy as np
from drawings import COLOURS, panels
from soak_plan import BROKER, DETECTORS, ORIGIN, PAUSE

HOUR = 3600
LONG = 1.25  # hours of data from which a process shows whether its memory grows
GROWTH = 0.02

Results = list[dict[str, Any]]


def line(index: int, result: dict[str, Any]) -> str:
    """One episode, in a line for the log."""
    wrong = {name: found[:3] for name, found in result["wrong"].items() if found}
    good = "good" if not wrong and not result["failures"] else f"{wrong} {result['failures']}"
    return (
        f"episode {index}: {result['expected']} posteriors, {result['received']} messages received, "
        f"{result['repeated']} repeated, {sum(result['faults'].values())} faults, {result['wall']:.0f} s: {good}"
    )


def lives(results: Results, length: int) -> dict[int, np.ndarray[Any, Any]]:
    """By process: hours of data since the soak began, MB, descriptors, (n, 3)."""
    found: dict[int, list[tuple[float, float, int]]] = {}
    for result in results:
        for pid, second, memory, descriptors in result["samples"]:
            episode = (second - ORIGIN) // (length + PAUSE)
            found.setdefault(pid, []).append(((second - ORIGIN - episode * PAUSE) / HOUR, memory, descriptors))
    return {pid: np.array(rows) for pid, rows in found.items()}


def growth(of: dict[int, np.ndarray[Any, Any]]) -> dict[int, float]:
    """Of processes that lived long enough: by how much the last tenth of their memory after the first hour exceeds the
    first tenth of it, medians, as a fraction."""
    found = {}
    for pid, rows in of.items():
        if rows[-1, 0] - rows[0, 0] < LONG:
            continue
        later = rows[rows[:, 0] > rows[0, 0] + 1, 1]
        part = max(1, len(later) // 10)
        found[pid] = float(np.median(later[-part:]) / np.median(later[:part]) - 1)
    return found


def report(folder: Path) -> int:
    """Write ``report.md`` and ``report.png`` into the soak's folder and print the first; the exit status."""
    options = json.loads((folder / "plan.json").read_text())
    results: Results = [json.loads(path.read_text()) for path in sorted((folder / "episodes").glob("[0-9]*.json"))]
    if not results:
        print("no episode is over yet")
        return 0
    of = lives(results, options["length"])
    grown = growth(of)
    wrong = {name: sum(len(one["wrong"][name]) for one in results) for name in results[0]["wrong"]}
    faults = sum((Counter(one["faults"]) for one in results), Counter[str]())
    text = _text(options, results, wrong, faults, grown)
    (folder / "report.md").write_text(text + "\n", encoding="utf-8")
    _picture(folder / "report.png", of)
    print(text)
    bad = any(wrong.values()) or any(one["failures"] for one in results)
    bad |= not grown and len(results) * options["length"] >= 8 * LONG * HOUR  # it has eighths in which one lives
    return int(bad or any(one >= GROWTH for one in grown.values()))


def _text(
    options: dict[str, Any], results: Results, wrong: dict[str, int], faults: Counter[str], grown: dict[int, float]
) -> str:
    hours = len(results) * options["length"] * len(DETECTORS) / HOUR
    skipped = sum((Counter(one["skipped"]) for one in results), Counter[str]())
    outages = sum(faults[kind] for kind in BROKER)
    rows: list[tuple[str, object]] = [
        (
            "detector-hours of strain",
            f"{hours:.4g} of {options['count'] * options['length'] * len(DETECTORS) / HOUR:.4g}",
        ),
        ("real time", f"{sum(one['wall'] for one in results) / 60:.1f} min"),
        ("faults", sum(faults.values())),
        ("of these `kill -9` of the daemon", faults["daemon killed"]),
        ("of these broker outages", outages),
        ("posteriors expected", sum(one["expected"] for one in results)),
        ("network events expected to stand", sum(one["network"] for one in results)),
        ("messages in the archive", sum(one["messages"] for one in results)),
        ("messages received", sum(one["received"] for one in results)),
        ("of these repeated", sum(one["repeated"] for one in results)),
        (
            "acknowledged by a broker that lost its state, before the subscriber was there again",
            sum(one["forgotten"] for one in results),
        ),
        *wrong.items(),
        ("other failures", sum(len(one["failures"]) for one in results)),
        ("daemon, from its end to strain read again, s", _spread(results, "daemon_back")),
        ("broker, from its return to an empty outbox, s", _spread(results, "broker_back")),
        ("memory at most, MB", f"{max((s[2] for one in results for s in one['samples']), default=0):.0f}"),
        ("descriptors at most", max((s[3] for one in results for s in one["samples"]), default=0)),
        (
            "growth of memory after the first hour of data",
            ", ".join(f"{100 * one:+.2f} %" for one in grown.values()) or "no process lived long enough",
        ),
        *((f"fault: {kind}", number) for kind, number in sorted(faults.items())),
        *((f"skipped, for this machine cannot: {kind}", number) for kind, number in sorted(skipped.items())),
    ]
    table = common.table(("soak", f"seed {options['seed']}"), rows)
    return f"{common.machine()}\n\n{table}"


def _spread(results: Results, name: str) -> str:
    times = [one for result in results for one in result[name]]
    return f"median {np.median(times):.1f}, at most {max(times):.1f} ({len(times)})" if times else "none"


def _picture(path: Path, of: dict[int, np.ndarray[Any, Any]]) -> None:
    with panels(path, 2, (10, 3.5)) as (memory, descriptors):
        for number, rows in enumerate(of.values()):
            colour = COLOURS[number % len(COLOURS)]
            memory.plot(rows[:, 0], rows[:, 1], color=colour, lw=1)
            descriptors.plot(rows[:, 0], rows[:, 2], color=colour, lw=1)
        memory.set(xlabel="hours of data", ylabel="resident memory, MB", ylim=(0, None))
        descriptors.set(xlabel="hours of data", ylabel="open descriptors", ylim=(0, None))
