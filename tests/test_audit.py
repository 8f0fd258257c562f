"""What a user runs is listed whole, and asked about; the threat model names tests that there are."""

from __future__ import annotations

import ast
import importlib
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def sbom(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    return importlib.import_module("sbom")


@pytest.fixture
def audit(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    return importlib.import_module("audit")


def test_packages_are_followed_by_markers_and_extras(sbom: ModuleType) -> None:
    requires = {
        "a": ["B.b>=1", 'old; python_version < "3"', 'tester; extra == "test"', "c[fast]"],
        "b-b": ["a"],
        "c": ['quick; extra == "fast"', 'slow; extra == "slow"'],
        "quick": [],
    }
    assert sbom.closure(["A"], requires) == {"a", "b-b", "c", "quick"}
    with pytest.raises(KeyError, match="none"):
        sbom.closure(["none"], requires)


def test_the_bill_has_what_runs_and_no_tools(sbom: ModuleType) -> None:
    requires = sbom.requirements(sys.executable)
    components = [{"bom-ref": f"{name}==1", "name": name} for name in requires]
    bill = sbom.whole({"components": components, "dependencies": [], "bomFormat": "CycloneDX"}, requires)
    names = {one["name"] for one in bill["components"]}
    assert {"torch", "aiohttp", "multidict", "aiomqtt", "paho-mqtt", "uPlot", "bbh-1det"} <= names
    assert not {"pytest", "ruff", "mypy", "hypothesis"} & names
    refs = [one["bom-ref"] for one in bill["components"]]
    assert len(refs) == len(set(refs))
    for link in bill["dependencies"]:
        assert set(link.get("dependsOn", [])) <= set(refs)
    assert {"torch==1", "aiohttp==1"} <= set(bill["dependencies"][0]["dependsOn"])
    assert "multidict==1" not in bill["dependencies"][0]["dependsOn"]
    weights = next(one for one in bill["components"] if one.get("type") == "machine-learning-model")
    assert re.fullmatch(r"[0-9a-f]{64}", weights["hashes"][0]["content"])


FLAWED: dict[str, Any] = {  # as pip-audit prints it
    "dependencies": [
        {
            "name": "aiohttp",
            "version": "3.14.5",
            "vulns": [{"id": "PYSEC-2099-1", "fix_versions": ["99.1"], "aliases": ["CVE-2099-1"], "description": "s"}],
        },
        {"name": "numpy", "version": "2.4.6", "vulns": []},
        {"name": "secret", "skip_reason": "Dependency not found on PyPI and could not be audited: secret (1)"},
    ],
    "fixes": [],
}


def test_a_known_flaw_fails_the_audit_and_a_missing_network_does_not(audit: ModuleType) -> None:
    status, lines = audit.verdict(FLAWED, "", 3)
    assert status == 1
    assert lines[0] == "aiohttp 3.14.5: PYSEC-2099-1, mended in 99.1"
    assert lines[-1] == "2 of 3 packages audited, 1 known vulnerabilities"
    good = {"dependencies": FLAWED["dependencies"][1:]}
    assert audit.verdict(good, "", 2) == (0, [lines[1], "1 of 2 packages audited, 0 known vulnerabilities"])
    status, lines = audit.verdict(None, "requests.exceptions.ConnectionError: HTTPSConnectionPool(...)", 3)
    assert status == 0
    assert lines[0].startswith("NOT AUDITED")
    assert audit.verdict(None, "TypeError: a defect", 3)[0] == 2


def test_local_marks_of_builds_are_left_out(audit: ModuleType) -> None:
    components = [
        {"name": "torch", "version": "2.13.0+cpu", "purl": "pkg:pypi/torch@2.13.0%2Bcpu"},
        {"name": "uPlot", "version": "1.6.32", "purl": "pkg:npm/uplot@1.6.32"},
        {"name": "bbh-1det", "version": "1"},
    ]
    assert audit.pins({"components": components}) == ["torch==2.13.0"]


def test_nothing_that_runs_data_is_in_the_code() -> None:
    """No pickle in any guise, no eval, no shell."""
    modules = {"pickle", "dill", "cloudpickle", "shelve", "marshal", "joblib", "code"}
    calls = {"eval", "exec", "torch.load", "os.system", "os.popen", "yaml.load", "read_pickle", "torch.save"}
    found = []
    for path in (ROOT / "gwstream").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = {alias.name.partition(".")[0] for alias in node.names} & modules
            elif isinstance(node, ast.ImportFrom):
                names = {(node.module or "").partition(".")[0]} & modules
            elif isinstance(node, ast.Call):
                named = {one.arg: one.value for one in node.keywords}
                loose = {"shell", "allow_pickle"} & {
                    arg
                    for arg, value in named.items()
                    if arg and not (isinstance(value, ast.Constant) and not value.value)
                }
                names = ({ast.unparse(node.func)} & calls) | loose
            else:
                continue
            found += [f"{path.name}, line {node.lineno}: {name}" for name in names]
    assert found == []


def test_the_threat_model_names_tests_and_files_that_there_are() -> None:
    page = (ROOT / "docs" / "security.md").read_text()
    code = "\n".join(path.read_text() for path in (ROOT / "tests").glob("test_*.py"))
    named = re.findall(r"`(test_\w+)`", page)
    assert len(named) > 20
    assert [name for name in named if f"def {name}(" not in code] == []
    for path in re.findall(r"`(deploy/[\w.-]+)`", page):
        assert (ROOT / path).exists(), path
    targets = (ROOT / "Makefile").read_text()
    for target in re.findall(r"`make ([\w-]+)`", page):
        assert f"\n{target}:" in targets, target
