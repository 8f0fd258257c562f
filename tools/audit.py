"""Ask a database of known vulnerabilities about every package of a bill of materials (make audit).

python tools/audit.py BILL             in an environment with pip-audit

Ends with status 1 where one is known. Without the network it says that nothing was audited, and ends with 0: other
checks can go on, and whoever reads the words knows.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

SERVICE = "osv"  # Google's and PyPA's database, which knows packages that are not on PyPI's own list too
OFFLINE = ("ConnectionError", "Timeout", "ServiceError", "ProxyError")  # what pip-audit's last words then hold


def pins(bill: dict[str, Any]) -> list[str]:
    """``name==version`` of each Python package; a build's local mark (``+cpu``) is not known to databases."""
    packages = [one for one in bill["components"] if one.get("purl", "").startswith("pkg:pypi/")]
    return [f"{one['name']}=={one['version'].partition('+')[0]}" for one in packages]


def ask(wanted: list[str]) -> tuple[dict[str, Any] | None, str]:
    """pip-audit's report, None where it could not make one, and its last words."""
    with tempfile.TemporaryDirectory() as folder:
        listed = Path(folder) / "requirements.txt"
        listed.write_text("\n".join(wanted) + "\n")
        options = ("--no-deps", "--disable-pip", "--progress-spinner", "off", "--timeout", "15", "-f", "json")
        command = (sys.executable, "-m", "pip_audit", "-r", str(listed), "--vulnerability-service", SERVICE, *options)
        done = subprocess.run(command, capture_output=True, text=True)
    words = done.stderr.strip().splitlines()[-1:] or [""]
    try:
        return dict(json.loads(done.stdout)), words[0]
    except ValueError:
        return None, words[0]


def verdict(report: dict[str, Any] | None, words: str, asked: int) -> tuple[int, list[str]]:
    """Exit status and what to print."""
    if report is None:
        offline = any(word in words for word in OFFLINE)
        return 0 if offline else 2, [f"NOT AUDITED, for there is no answer: {words[:200]}"]
    packages = report["dependencies"]
    lines = [
        f"{one['name']} {one['version']}: {flaw['id']}"
        + (f", mended in {', '.join(flaw['fix_versions'])}" if flaw["fix_versions"] else ", not mended yet")
        for one in packages
        for flaw in one.get("vulns", [])
    ]
    silent = [f"not audited: {one['name']}: {one['skip_reason']}" for one in packages if "skip_reason" in one]
    answered = len(packages) - len(silent)
    said = f"{answered} of {asked} packages audited, {len(lines)} known vulnerabilities"
    return int(bool(lines)), [*lines, *silent, said]


def main(bill: Path) -> int:
    """Print what is known; returns the exit status."""
    wanted = pins(json.loads(bill.read_text()))
    status, lines = verdict(*ask(wanted), len(wanted))
    print("\n".join(lines))
    return status


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
