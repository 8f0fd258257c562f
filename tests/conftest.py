"""What several test files need."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("steady", deadline=None)  # a busy machine is no failure
settings.load_profile("steady")


@pytest.fixture(autouse=True, scope="session")
def _no_trace(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Daemons of the tests keep their state here, not in the home of who runs them."""
    os.environ["XDG_STATE_HOME"] = str(tmp_path_factory.mktemp("state"))
    os.environ.pop("STATE_DIRECTORY", None)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real strain beside the repository; tests that need it are skipped where it is absent."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not (folder / "MANIFEST.md").exists():
        pytest.skip(f"no real strain at {folder}")
    return folder
