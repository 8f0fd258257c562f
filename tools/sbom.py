"""Write the software bill of materials (CycloneDX 1.6): what a user of gwstream runs, with versions, licences, hashes.

python tools/sbom.py PYTHON OUTPUT     in an environment with cyclonedx-bom (make sbom); PYTHON: of the one described

Tools for tests are left out; what no package manager knows of, the page's script library and the model that ships, is
added.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
VENDOR = ROOT / "gwstream" / "web" / "static" / "vendor"
MODEL = ROOT / "models" / "bbh-1det"
ITSELF = "root-component"
PLACES = "import json, site; print(json.dumps(site.getsitepackages()))"

Bill = dict[str, Any]


def installed(python: str) -> Bill:
    """The bill of all packages of an environment."""
    options = ("--pyproject", str(ROOT / "pyproject.toml"), "--mc-type", "application", "--output-reproducible")
    command = (sys.executable, "-m", "cyclonedx_py", "environment", *options, "--spec-version", "1.6", python)
    return dict(json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout))


def requirements(python: str) -> dict[str, list[str]]:
    """What each package of an environment asks for, as its metadata has it."""
    where = subprocess.run((python, "-c", PLACES), capture_output=True, check=True, text=True).stdout
    found = metadata.distributions(path=json.loads(where))
    return {canonicalize_name(one.metadata["Name"]): one.requires or [] for one in found}


def closure(wanted: Iterable[str], requires: Mapping[str, list[str]]) -> set[str]:
    """Names of these packages and of all that they need in turn; raises KeyError for one that is not installed."""
    seen: set[tuple[str, str]] = set()
    waiting = [Requirement(one) for one in wanted]
    while waiting:
        one = waiting.pop()
        name = canonicalize_name(one.name)
        for extra in {"", *one.extras} - {extra for known, extra in seen if known == name}:
            seen.add((name, extra))
            asked = map(Requirement, requires[name])
            waiting += [more for more in asked if more.marker is None or more.marker.evaluate({"extra": extra})]
    return {name for name, _ in seen}


def needed(bill: Bill, names: Iterable[str], direct: Iterable[str]) -> Bill:
    """The same bill with these packages and nothing else; ``direct``: those that gwstream itself asks for."""
    refs: dict[str, str] = {canonicalize_name(one["name"]): one["bom-ref"] for one in bill["components"]}
    kept = {refs[name] for name in names}
    links = [
        {"ref": one["ref"], "dependsOn": [ref for ref in one.get("dependsOn", []) if ref in kept]}
        for one in bill["dependencies"]
        if one["ref"] in kept
    ]
    return bill | {
        "components": [one for one in bill["components"] if one["bom-ref"] in kept],
        "dependencies": [{"ref": ITSELF, "dependsOn": sorted(refs[name] for name in direct)}, *links],
    }


def file_of(path: Path, **about: Any) -> dict[str, Any]:
    """A component that is one file."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return {"bom-ref": path.relative_to(ROOT).as_posix(), "hashes": [{"alg": "SHA-256", "content": digest}], **about}


def carried() -> list[dict[str, Any]]:
    """What comes with gwstream and is in no package index."""
    version = re.match(r"uPlot (\S+)", (VENDOR / "README.md").read_text())
    model = tomllib.loads((MODEL / "model.toml").read_text())
    assert version is not None
    return [
        file_of(
            VENDOR / "uPlot.iife.min.js",
            type="library",
            name="uPlot",
            version=version[1],
            purl=f"pkg:npm/uplot@{version[1]}",
            licenses=[{"license": {"id": "MIT"}}],
        ),
        file_of(
            MODEL / "weights.safetensors",
            type="machine-learning-model",
            name=model["name"],
            version=str(model["version"]),
            licenses=[{"license": {"id": "GPL-3.0-or-later"}}],
        ),
    ]


def whole(bill: Bill, requires: Mapping[str, list[str]]) -> Bill:
    """The bill of what a user runs, from that of an environment."""
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    direct = [canonicalize_name(Requirement(one).name) for one in wanted]
    found = needed(bill, closure(wanted, requires), direct)
    more = carried()
    found["components"] += more
    found["dependencies"] += [{"ref": one["bom-ref"]} for one in more]
    found["dependencies"][0]["dependsOn"] += [one["bom-ref"] for one in more]
    return found


def check(text: str) -> None:
    """Raises ValueError where it is not CycloneDX."""
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    if problem := JsonStrictValidator(SchemaVersion.V1_6).validate_str(text):
        raise ValueError(f"the bill is not valid: {problem}")


def main(python: str, output: Path) -> None:
    """Write the bill."""
    bill = whole(installed(python), requirements(python))
    text = json.dumps(bill, indent=1) + "\n"
    check(text)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(text)
    print(f"{output}: {len(bill['components'])} components")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
