"""The README's installation on a fresh Debian 12 under a real systemd: from nothing to a posterior on MQTT."""

from __future__ import annotations

import json
import re
import socket
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest
from fresh import fresh
from manager import Manager

from gwstream import __version__

ROOT = Path(__file__).resolve().parents[1]
LOGIN = ("HOME=/root", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")  # nothing of this host's
LIMIT = 1500.0  # s a command may take: PyTorch is large


def blocks(heading: str, page: str = "README.md") -> list[list[str]]:
    """The commands of a section, block by block."""
    section = (ROOT / page).read_text(encoding="utf-8").split(f"\n## {heading}\n")[1].split("\n## ")[0]
    found = re.findall(r"(?m)(?:^ {4}.+\n)+", section)
    return [textwrap.dedent(block).splitlines() for block in found]


def test_the_installation_is_short_and_of_this_version() -> None:
    install, trial = blocks("Installing it")
    assert len(install) <= 5
    assert {*re.findall(r"gwstream-([\d.]+\d)", "\n".join(install))} == {__version__}
    assert "mosquitto_sub" in trial[-1]


def done(at: Manager, commands: list[str]) -> str:
    """What they print, one shell a command, as root in the checkout; each is shown with its time."""
    out = ""
    for command in commands:
        print(f"# {command}", flush=True)
        begin = time.monotonic()
        out = at.run("env", "-i", *LOGIN, "sh", "-ec", f"cd /root/gwstream; {command}", limit=LIMIT)
        last = "".join(f"    {line[:150]}\n" for line in out.splitlines()[-4:] if line)
        print(f"{last}    ({time.monotonic() - begin:.0f} s)", flush=True)
    return out


@pytest.mark.install
@pytest.mark.timeout(3600)
def test_the_readme_leads_to_a_posterior_on_a_fresh_debian(tmp_path: Path) -> None:
    for port in (1883, 9480):
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)), f"port {port} of this host is taken, which Debian shares"
    install, trial = blocks("Installing it")
    print()
    with fresh(tmp_path, ROOT) as at:
        done(at, install)
        assert at.shown("gwstream", "UnitFileState") == "enabled"
        event = _event(at, trial)
        print(at.run("systemctl", "status", "--no-pager", "gwstream"))
        print(at.run("systemd-analyze", "security", "--no-pager", "gwstream").splitlines()[-1])
        assert at.shown("gwstream", "StatusText").startswith("H1, L1 with model bbh-1det, engine openvino")
        assert at.shown("gwstream", "NRestarts") == "0"
        assert at.run("stat", "-c", "%U %a", "/var/lib/gwstream").strip() == "gwstream 700"
        at.run("systemctl", "restart", "gwstream")
        assert "without a new warm-up" in _journal(at)
        _upgrade_and_go_back(at)
        again = _event(at, trial)
        assert again["event"]["id"] != event["event"]["id"]
        assert again["delivery"]["sequence"] > event["delivery"]["sequence"]
        assert "Traceback" not in _journal(at)


def _event(at: Manager, trial: list[str]) -> dict[str, Any]:
    """What comes of the README's trial."""
    out = done(at, ["; ".join(trial).replace("&;", "&")])
    event: dict[str, Any] = json.loads(next(line for line in out.splitlines() if line.startswith("{")))
    assert event["schema"] == "gwstream.event/1"
    chirp = event["posterior"]["parameters"]["chirp_mass"]
    assert chirp["p5"] < 31.0 < chirp["p95"]  # as published, at the detector
    return event


def _journal(at: Manager) -> str:
    return at.run("journalctl", "--no-pager", "-u", "gwstream")


def _upgrade_and_go_back(at: Manager) -> None:
    """By the commands of the operator's page, to a version that differs by its number."""
    upgrade, *_ = blocks("Upgrading, and going back", "docs/operate.md")
    at.run("sed", "-i", 's/^__version__ = .*/__version__ = "99.0"/', "/root/gwstream/gwstream/__init__.py")
    at.run("sh", "-c", "echo '# mine' >> /etc/gwstream/gwstream.toml")
    for version, commands in (("99.0", upgrade), (__version__, upgrade[2:])):
        done(at, [one.replace("NEW", version) for one in commands])
        assert at.shown("gwstream", "Result") == "success", _journal(at)
        assert at.run("/usr/local/bin/gwstream", "--version").split()[-1] == version
        assert "it is not of version 99.0" in _journal(at)  # going back finds nothing: no strain has come since
        assert "outbox begins anew" not in _journal(at)
        assert "# mine" in at.run("tail", "-1", "/etc/gwstream/gwstream.toml")
