"""Where this host keeps what outlives a process."""

from __future__ import annotations

import os
from pathlib import Path


def home() -> Path:
    """systemd's ``$STATE_DIRECTORY``, else ``$XDG_STATE_HOME/gwstream``, else ``~/.local/state/gwstream``."""
    given = of_systemd()
    base = os.environ.get("XDG_STATE_HOME", "")
    return Path(given) if given else (Path(base) if base else Path.home() / ".local" / "state") / "gwstream"


def of_systemd() -> str:
    """The unit's ``StateDirectory=``; empty: there is none."""
    return os.environ.get("STATE_DIRECTORY", "").split(":")[0]
