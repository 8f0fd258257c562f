"""All of `test_tensorrt_gpu` on the stand-in for torch-tensorrt, so that its mistakes are seen without a GPU.

What it says of a GPU is said there alone: here the numbers are torch's own, and latency is this processor's.
"""

from __future__ import annotations

import pytest
import test_tensorrt_gpu
from fake_tensorrt import Fake, fake
from test_tensorrt_gpu import *  # noqa: F403 - each test there is, and so each that will be
from test_tensorrt_gpu import cache

from gwstream.inference import engine_tensorrt

__all__ = ["cache", "fake"]  # fixtures

pytestmark: list[pytest.MarkDecorator] = []  # not those of what needs a GPU


@pytest.fixture(autouse=True)
def on_the_fake(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorter than there: the largest bucket is made where it is asked for alone."""
    monkeypatch.setattr(test_tensorrt_gpu, "ROUNDS", 10)
    monkeypatch.setattr(engine_tensorrt, "WARM", 1)
    for module in (engine_tensorrt, test_tensorrt_gpu):
        monkeypatch.setattr(module, "BUCKETS", (1, 4, 16))


def test_all_of_them_are_here() -> None:
    names = [name for name in vars(test_tensorrt_gpu) if name.startswith("test_")]
    assert len(names) >= 9
    assert set(names) <= set(globals())
