"""The shipped rules: their unit tests pass, every alert has one, and a paragraph in the runbook."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_metrics import busy, samples

ROOT = Path(__file__).resolve().parents[1]
RULES = ROOT / "deploy" / "rules.yml"
PROMTOOL = shutil.which("promtool")


def rules(kind: str) -> list[dict[str, Any]]:
    """The rules of the file that are alerts, or records."""
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"] if kind in rule]


def names(text: str) -> set[str]:
    return set(re.findall(r"gwstream[_:][a-z0-9_:]+", text))


@pytest.mark.skipif(PROMTOOL is None, reason="needs promtool: apt-get install prometheus")
@pytest.mark.parametrize(
    "command", [["test", "rules", "tests/rules.yml"], ["check", "config", "deploy/prometheus.yml"]]
)
def test_promtool_agrees(command: list[str]) -> None:
    done = subprocess.run([str(PROMTOOL), *command], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert command[0] == "test" or "1 rule files found" in done.stdout


def test_every_alert_is_unit_tested_both_ways() -> None:
    tests = yaml.safe_load((ROOT / "tests" / "rules.yml").read_text(encoding="utf-8"))["tests"]
    cases = [case for test in tests for case in test["alert_rule_test"]]
    for alert in rules("alert"):
        told = [bool(case["exp_alerts"]) for case in cases if case["alertname"] == alert["alert"]]
        assert set(told) == {True, False}, alert["alert"]


def test_every_alert_has_its_paragraph_and_waits_before_it_fires() -> None:
    runbook = (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")
    sections = re.findall(r"^## (\w+)$", runbook, re.MULTILINE)
    assert sections == list(dict.fromkeys(sections))
    assert set(sections) == {alert["alert"] for alert in rules("alert")}
    for alert in rules("alert"):
        name, notes = alert["alert"], alert["annotations"]
        assert notes["runbook_url"] == f"docs/runbook.md#{name.lower()}"
        assert set(notes) == {"summary", "description", "runbook_url"}
        assert alert["labels"]["severity"] in ("critical", "warning")
        assert "for" in alert  # so that it is pending first: one bad scrape wakes nobody


def test_rules_and_runbook_speak_of_metrics_that_exist() -> None:
    known = {name for name, _, _ in samples(busy())} | {rule["record"] for rule in rules("record")}
    runbook = (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")
    used = names(" ".join(rule["expr"] for rule in (*rules("alert"), *rules("record"))) + runbook)
    bases = {re.sub(r"_(bucket|sum|count)$", "", name) for name in known}
    assert used <= known | bases, used - known - bases
