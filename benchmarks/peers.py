"""Other people's packages, which live in an environment of their own (``make bench-peers``)."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from types import ModuleType
from typing import Any

NOTE = "torchaudio, which ml4gw imports for a filter and a spectrogram that nothing here uses, is a stand-in"


def have(*names: str) -> bool:
    """Whether all these packages are installed."""
    return all(find_spec(name) is not None for name in names)


def stand_in_for_torchaudio() -> None:
    """Let ml4gw be imported beside the torch of this environment: its torchaudio would bring another torch."""
    if "torchaudio" in sys.modules or have("torchaudio"):
        return
    package, functional, transforms = (
        ModuleType(name) for name in ("torchaudio", "torchaudio.functional", "torchaudio.transforms")
    )
    functional.filtfilt = _missing  # type: ignore[attr-defined]
    transforms.Spectrogram = _missing  # type: ignore[attr-defined]
    package.functional, package.transforms = functional, transforms  # type: ignore[attr-defined]
    sys.modules |= {module.__name__: module for module in (package, functional, transforms)}


def _missing(*_: Any, **__: Any) -> Any:
    raise NotImplementedError("torchaudio is not installed")
