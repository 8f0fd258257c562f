"""Write docs/metrics.md and docs/messages.md from the code: the metric registry and the JSON Schema.

python tools/make_reference.py
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from gwstream.metrics import Metrics
from gwstream.metrics.reasons import MEANINGS
from gwstream.summary.schema import schema

DOCS = Path(__file__).resolve().parents[1] / "docs"
NOTE = "<!-- Made by tools/make_reference.py from the code: run it, do not edit. -->\n"
METRICS = """# Metrics

`/metrics` of the daemon (`metrics.host`, `metrics.port`) has these for Prometheus: at most 100 series, and 150 more a
detector. Histograms have `_bucket`, `_sum` and `_count`. The usual `process_` metrics of the client library come with
them. `deploy/rules.yml` makes recording rules and alerts of them, `deploy/grafana.json` pictures.
"""
DROPPED = """
## Reasons of `gwstream_dropped_total`

Everything dropped, late, vetoed or degraded is counted here, with stage, reason and detector.
"""
MESSAGES = """# Messages

`gwstream schema` prints the JSON Schema this page is made from. Times in `gps_ns` are exact integers; floating-point
GPS seconds resolve a quarter of a microsecond. A field is always there unless it is called optional.

| topic | message |
|---|---|
| `<prefix>/<detector>/posterior` | [posterior_message](#posterior_message) |
| `<prefix>/<detector>/event` | [event_message](#event_message) |
| `<prefix>/network/event` | [network_event_message](#network_event_message) |
| `<prefix>/<instance>/status` | [status](#status), retained |
| `<prefix>/reply/...` | [answer_message](#answer_message), [trigger_error](#trigger_error) |
| `<prefix>/trigger` | [trigger](#trigger), to the daemon |
"""


def table(head: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> str:
    """Markdown."""
    lines = [head, tuple("---" for _ in head), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def metrics() -> str:
    """The page about metrics."""
    registry = CollectorRegistry()
    Metrics(registry).storage(Path("/"), lambda: True)
    known = {
        getattr(one, "_name"): one  # noqa: B009 - labels are known to the collector alone
        for one in registry._collector_to_names
        if hasattr(one, "_labelnames")
    }
    rows = []
    for family in registry.collect():
        if family.name in known:
            name = f"{family.name}_total" if family.type == "counter" else family.name
            labels = ", ".join(f"`{label}`" for label in known[family.name]._labelnames)
            rows.append((f"`{name}`", family.type, labels, family.documentation))
    text = METRICS + "\n" + table(("metric", "type", "labels", "meaning"), iter(sorted(rows))) + DROPPED
    for stage, meanings in MEANINGS.items():
        text += f"\n### {stage}\n\n"
        text += table(("reason", "meaning"), ((f"`{name}`", about) for name, about in meanings.items()))
    return NOTE + text


def kind(node: dict[str, Any]) -> str:
    """The type of a field in words."""
    if "$ref" in node:
        name = node["$ref"].rpartition("/")[2]
        return f"[{name}](#{name})"
    if "const" in node:
        return f"`{node['const']}`"
    if "enum" in node:
        return " or ".join(f"`{one}`" for one in node["enum"])
    of = node.get("type", "any")
    if of == "array":
        return f"array of {kind(node['items'])}"
    return of if isinstance(of, str) else " or ".join(of)


def fields(node: dict[str, Any], path: str = "") -> Iterator[tuple[str, ...]]:
    """(name, type, meaning) of all below ``node``, in order."""
    for name, child in node.get("properties", {}).items():
        may = name not in node.get("required", [])
        about = child.get("description", "")
        yield f"`{path}{name}`", kind(child), ("optional; " if may and about else "optional" if may else "") + about
        yield from fields(child, f"{path}{name}.")
    others = node.get("additionalProperties")
    if isinstance(others, dict):
        yield f"`{path}<name>`", kind(others), others.get("description", "")
        yield from fields(others, f"{path}<name>.")


def messages() -> str:
    """The page about messages."""
    text = MESSAGES
    for name, node in schema()["$defs"].items():
        about = node.get("description", "")
        text += f"\n## {name}\n\n" + (f"{about}\n\n" if about else "")
        text += table(("field", "type", "meaning"), fields(node))
    return NOTE + text


PAGES = {"metrics.md": metrics, "messages.md": messages}


def main() -> None:
    """Write both."""
    for name, page in PAGES.items():
        (DOCS / name).write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
