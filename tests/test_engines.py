"""Engines give what torch gives, and the daemon takes the one it is told to."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from test_networks import FEATURES, KINDS, problem, spec
from torch import Tensor

from gwstream.cli import main
from gwstream.config import InferenceConfig
from gwstream.errors import ConfigError
from gwstream.inference import engines
from gwstream.inference.engine_torch import TorchEngine
from gwstream.inference.networks import Network, build

LATENTS = 60


@cache
def untrained(kind: str) -> Network:
    """A network whose weights nobody has trained, but that says something of every input."""
    torch.set_num_threads(1)
    torch.manual_seed(3)
    net = build(spec(kind), FEATURES)
    with torch.no_grad():
        for value in net.parameters():
            value.add_(0.05 * torch.randn_like(value))
    return net.eval().requires_grad_(False)


def inputs(net: Network, windows: int = 1, seed: int = 4) -> tuple[Tensor, ...]:
    """Of so many windows, their random numbers drawn one window after the other."""
    told, _, _ = problem(windows, seed)
    rng = np.random.default_rng(seed)
    drawn = [net.noise(rng, LATENTS) for _ in range(windows)]
    return told.y, told.windows, *(torch.cat(parts) for parts in zip(*drawn, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_windows_together_are_windows_alone(kind: str) -> None:
    net = untrained(kind)
    many = inputs(net, 3)
    together = net(*many)
    for k in range(3):
        alone = net(*(part[k : k + 1] for part in many))
        for one, all_ in zip(alone, together, strict=True):
            torch.testing.assert_close(one, all_[k : k + 1], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_network_is_exported_whole_and_draws_nothing(kind: str) -> None:
    net = untrained(kind)
    given = inputs(net)
    program = torch.export.export(net, given)
    assert not any("rand" in str(node.target) for node in program.graph.nodes)
    other = inputs(net, seed=5)  # not a constant of the example
    for exported, eager in zip(program.module()(*other), net(*other), strict=True):
        torch.testing.assert_close(exported, eager, atol=1e-5, rtol=1e-5)


def test_torch_is_always_there_and_the_last() -> None:
    for wanted in ("auto", "torch"):
        assert engines.chosen(InferenceConfig(engine=wanted))[-1] is TorchEngine
    assert engines.chosen(InferenceConfig(engine="torch")) == [TorchEngine]


def test_an_engine_is_one_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "kinds", lambda: ["slow", "torch"])
    monkeypatch.setattr(engines, "_load", lambda kind: {"slow": Slow, "torch": TorchEngine}[kind])
    assert engines.chosen(InferenceConfig()) == [Slow, TorchEngine]
    assert engines.chosen(InferenceConfig(engine="slow")) == [Slow, TorchEngine]
    monkeypatch.setattr(Slow, "missing", classmethod(lambda cls: "pip install patience"))
    assert engines.chosen(InferenceConfig()) == [TorchEngine]
    with pytest.raises(ConfigError, match="engine is 'slow', but it cannot run here: pip install patience"):
        engines.chosen(InferenceConfig(engine="slow"))


class Slow(TorchEngine):
    kind = "slow"
    rank = 5


@pytest.mark.parametrize(("wrong", "said"), [("torhc", "did you mean 'torch'"), ("x", "there are: auto, ")])
def test_an_engine_that_is_none_is_a_wrong_setting(wrong: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        engines.chosen(InferenceConfig(engine=wrong))


def test_check_config_says_which_engine_will_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "gwstream.toml"
    path.write_text("[source]\nkind = 'simulated'\n[source.detectors.H1]\n[inference]\nengine = 'torch'\n")
    assert main(["check-config", str(path)]) == 0
    assert "  engine       torch\n" in capsys.readouterr().out
    path.write_text(path.read_text().replace("'torch'", "'torhc'"))
    assert main(["check-config", str(path)]) == 78
    assert "did you mean 'torch'" in capsys.readouterr().err
