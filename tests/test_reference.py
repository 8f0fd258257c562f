"""The references are those of this code, and leave nothing out."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_metrics import busy, samples

from gwstream.metrics.reasons import MEANINGS
from gwstream.summary.schema import schema

ROOT = Path(__file__).resolve().parents[1]
COUNTING = {"tally": None, "_tally": None, "drop": "publish", "lost": "publish", "give_up": "inference"}


@pytest.mark.parametrize("name", ["metrics.md", "messages.md"])
def test_a_reference_is_current(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    made = importlib.import_module("make_reference").PAGES[name]()
    current = (ROOT / "docs" / name).read_text(encoding="utf-8")
    assert current == made, f"docs/{name} is not what the code says: run  make docs"


def test_every_metric_and_field_has_its_line() -> None:
    page = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    for name, labels, _ in samples(busy()):
        if not name.startswith("process_"):
            base = name.removesuffix("_bucket").removesuffix("_sum").removesuffix("_count")
            line = next(line for line in page.splitlines() if line.startswith(f"| `{base}` |"))
            assert all(f"`{label}`" in line for label in labels if label != "le"), line
    page = (ROOT / "docs" / "messages.md").read_text(encoding="utf-8")
    for name, node in schema()["$defs"].items():
        section = page.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
        assert all(f"| `{field}` |" in section for field in node["properties"]), name


def test_every_reason_that_is_counted_has_a_meaning() -> None:
    found = set(counted())
    assert {("publish", "outbox_full"), ("web", "slow_page"), ("inference", "overload")} <= found
    unknown = [(stage, reason) for stage, reason in found if reason not in MEANINGS.get(stage, {})]
    assert not unknown, "gwstream/metrics/reasons.py does not say what these mean"
    known = {(stage, reason) for stage, reasons in MEANINGS.items() for reason in reasons}
    gone = {one for one in known - found if one[0] not in ("source", "trigger", "other")}  # these count by a variable
    assert not gone, "nothing counts these any more"


def counted() -> Iterator[tuple[str, str]]:
    """(stage, reason) of all calls that count, where both stand in the code."""
    for path in (ROOT / "gwstream").rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute)):
                continue
            words = [one.value for one in call.args if isinstance(one, ast.Constant) and isinstance(one.value, str)]
            words = [word for word in words if word]
            stage = COUNTING.get(call.func.attr, "")
            if stage is None and len(words) == 2:
                yield words[0], words[1]
            elif stage and words:
                yield stage, words[0]
