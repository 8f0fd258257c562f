"""Engines give what torch gives, and the daemon takes the one it is told to."""

from __future__ import annotations

import copy
import gc
import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
import torch
from test_networks import FEATURES, KINDS, problem, spec
from torch import Tensor
from trained import noise, shipped, signal, window

from gwstream.cli import main
from gwstream.config import InferenceConfig, default_model
from gwstream.errors import ConfigError, EngineError
from gwstream.inference import Inference, engine_openvino, engines, plans
from gwstream.inference.checkpoint import load_model
from gwstream.inference.engine_openvino import OpenVinoEngine
from gwstream.inference.engine_torch import TorchEngine
from gwstream.inference.engines import Example
from gwstream.inference.networks import Network, build
from gwstream.inference.networks.base import Inputs
from gwstream.inference.networks.wavenet import Wavenet
from gwstream.inference.parity import TOLERANCE, Golden
from gwstream.inference.plans import Plan, Plans
from gwstream.model import WavenetSpec
from gwstream.prior import Prior
from gwstream.records import Batch

LATENTS = 60


@cache
def untrained(kind: str) -> Network:
    """A network whose weights nobody has trained, but that says something of every input."""
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


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


class Other:
    """An engine that is told what to do to torch's numbers."""

    kind = "other"
    rank = 5
    precisions = ("fp32", "bf16")
    slow = False
    buckets = (1,)
    install = ""
    broken = ""
    harm: Callable[[tuple[Tensor, ...]], tuple[Tensor, ...]] = staticmethod(lambda made: made)

    def __init__(self, net: Network, example: Example, config: InferenceConfig) -> None:
        if self.broken:
            raise EngineError(self.broken)
        self.name = engines.named(self.kind, config.precision)
        self._net = net

    @classmethod
    def missing(cls) -> str:
        return cls.install

    @torch.inference_mode()
    def run(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return self.harm(self._net(*inputs))

    def forget(self) -> None:
        pass


@pytest.fixture
def other(monkeypatch: pytest.MonkeyPatch) -> type[Other]:
    """An installed engine, which with torch is all there is."""
    there = {"other": type("Other", (Other,), {}), "torch": TorchEngine}
    monkeypatch.setattr(engines, "kinds", lambda: list(there))
    monkeypatch.setattr(engines, "_load", lambda kind: there[kind])
    return there["other"]


def names(**settings: str) -> list[str]:
    return [one.name for one in engines.chosen(InferenceConfig(**settings))]


def test_the_best_that_is_installed_or_the_one_that_is_named_and_torch_behind_it(other: type[Other]) -> None:
    assert names() == names(engine="other") == ["other", "torch"]
    assert names(engine="torch") == ["torch"]
    assert names(precision="bf16") == ["other-bf16", "other", "torch"]
    other.install = "pip install patience"
    assert names() == ["torch"]
    with pytest.raises(ConfigError, match="engine is 'other', but it cannot run here: pip install patience"):
        names(engine="other")
    for engine in ("auto", "torch"):
        with pytest.raises(ConfigError, match=r"is 'bf16', which no engine to be had here knows; install .* other$"):
            names(engine=engine, precision="bf16")


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


@pytest.fixture
def exports(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Of how many windows each network was that OpenVINO compiled."""
    made: list[int] = []
    whole = engine_openvino._made

    def counted(net: Network, example: tuple[Tensor, ...], config: InferenceConfig) -> Plan:
        made.append(len(example[0]))
        return whole(net, example, config)

    monkeypatch.setattr(engine_openvino, "_made", counted)
    return made


@pytest.mark.parametrize("kind", KINDS)
def test_openvino_gives_what_torch_gives_and_the_same_bytes_each_time(
    exports: list[int], kind: str, tmp_path: Path
) -> None:
    """Compiled twice: neither finds what the other kept."""
    net = untrained(kind)
    given = inputs(net)
    both = [InferenceConfig(cache=tmp_path / name) for name in ("one", "other")]
    engine, again = (OpenVinoEngine(net, lambda _: given, config) for config in both)
    assert exports == [1, 1]
    assert engine.name == "openvino"
    made = engine.run(*given)
    other = inputs(net, seed=5)
    for one in (given, other):
        for found, expected in zip(engine.run(*one), net(*one), strict=True):
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert all(torch.equal(a, b) for a, b in zip(made, engine.run(*given), strict=True))  # and `made` was not changed
    assert all(torch.equal(a, b) for a, b in zip(made, again.run(*given), strict=True))
    assert Golden.of(net, Inputs(*given[:2]), LATENTS).distance(net, engine) < 0.1 * TOLERANCE["fp32"]


def test_what_openvino_compiled_is_kept_and_gives_the_same_bytes_at_the_next_start(
    exports: list[int], tmp_path: Path
) -> None:
    net, config = untrained("cvae"), InferenceConfig(cache=tmp_path)
    given = {size: inputs(net, size) for size in (1, 4)}
    both = [OpenVinoEngine(net, lambda size: given[size], config) for _ in range(2)]
    for size in given:
        first, second = (engine.run(*given[size]) for engine in both)
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert exports == [1, 4]


ASKED = {"openvino": "2099.1", "cpu": "another processor", "able": ["FP32", "AMX"]}


@pytest.mark.parametrize("part", ["threads", "weights", "latents", "precision", *ASKED])
def test_what_was_compiled_for_anything_else_is_compiled_anew(
    exports: list[int], tmp_path: Path, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, config = untrained("gaussian"), InferenceConfig(cache=tmp_path)
    OpenVinoEngine(net, partial(inputs, net), config)
    given = inputs(net)
    if part == "threads":
        config = InferenceConfig(cache=tmp_path, threads=2)
    elif part == "weights":
        net = copy.deepcopy(net)
        next(net.parameters()).mul_(1.5)
    elif part == "latents":
        net = untrained("cvae")
        OpenVinoEngine(net, partial(inputs, net), config)
        given = (*given[:2], *net.noise(np.random.default_rng(0), LATENTS + 1))
        exports.pop()
    elif part == "precision":
        config = InferenceConfig(cache=tmp_path, precision="bf16")
        monkeypatch.setattr(engine_openvino, "_Program", lambda *_: None)  # not every processor calculates in it
    elif part == "openvino":
        monkeypatch.setattr("openvino.get_version", lambda: ASKED[part])
    else:
        name = {"cpu": "FULL_DEVICE_NAME", "able": "OPTIMIZATION_CAPABILITIES"}[part]
        core = type(engine_openvino._core())
        real = core.get_property
        monkeypatch.setattr(core, "get_property", lambda *about: ASKED[part] if about[-1] == name else real(*about))
    OpenVinoEngine(net, lambda _: given, config)
    assert exports == [1, 1]


def test_what_openvino_does_not_take_is_compiled_again(
    exports: list[int], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    net, config = untrained("gaussian"), InferenceConfig(cache=tmp_path)
    given = inputs(net)
    names = tuple(engine_openvino._names(len(given)))
    Plans(tmp_path).save(engine_openvino._key(net, given, config), Plan(b"no graph" * 100, names, ()))
    engine = OpenVinoEngine(net, lambda _: given, config)
    torch.testing.assert_close(engine.run(*given)[0], net(*given)[0], atol=1e-5, rtol=1e-4)
    assert "compiling again" in caplog.text
    OpenVinoEngine(net, lambda _: given, config)
    assert exports == [1]


def test_a_model_that_is_loaded_anew_is_the_same_to_what_was_compiled() -> None:
    """An autoencoder's second encoder only trains: it is not in the file, and is drawn anew at each load."""
    one, other = (load_model(default_model()).net for _ in range(2))
    assert one.training_only
    given = inputs(untrained("cvae"))
    assert plans.key(one, given, "fp32") == plans.key(other, given, "fp32")


@pytest.mark.parametrize(("rate", "prior"), [(512, Prior()), (256, Prior(time=(0.6, 0.85)))])
def test_what_a_network_was_built_with_is_in_the_key_of_its_plans(rate: int, prior: Prior) -> None:
    """WaveNet's cut around the coalescence has the rate and the prior's times in it, which no weight tells."""
    network, nets = spec("wavenet").network, []
    assert isinstance(network, WavenetSpec)
    for about in ((256, Prior()), (rate, prior)):
        torch.manual_seed(3)
        nets.append(Wavenet(network, FEATURES, *about))
    given = inputs(untrained("gaussian"))
    one, other = (plans.key(net, given, "fp32") for net in nets)
    assert one["built"] != other["built"]
    assert {**one, "built": ""} == {**other, "built": ""}


def test_openvino_runs_in_as_many_threads_as_are_set() -> None:
    net = untrained("cvae")
    for threads in (1, 2):
        engine = OpenVinoEngine(net, partial(inputs, net), InferenceConfig(threads=threads))
        compiled = engine._programs.program(1).request.get_compiled_model()
        assert compiled.get_property("INFERENCE_NUM_THREADS") == threads
        assert compiled.get_property("INFERENCE_PRECISION_HINT").to_string() == "f32"


def test_openvinos_errors_are_ours(tmp_path: Path) -> None:
    net = untrained("gaussian")
    engine = OpenVinoEngine(net, partial(inputs, net), InferenceConfig())
    with pytest.raises(EngineError, match="OpenVINO failed: "):
        engine.run(torch.zeros(1, 3), torch.zeros(1, 256))
    net.forward = lambda y, windows: (torch.linalg.eigvals(y.T @ y),)  # type: ignore[method-assign]
    try:
        with pytest.raises(EngineError, match=r"OpenVINO cannot run this network: [^\n]+$"):
            OpenVinoEngine(net, partial(inputs, net), InferenceConfig(cache=tmp_path))
    finally:
        del net.forward


def test_served_posteriors_are_those_of_torch_within_a_thousandth_of_their_width() -> None:
    wave, _ = signal(40.0, 31.0, 0.74, 1.0, 12.0)
    one = window(noise(1, 3)[0] + wave)
    by_torch, by_openvino = (
        served.infer(served.gate(Batch((one,), 1))[0])
        for served in (Inference(shipped(), InferenceConfig(engine=name)) for name in ("torch", "openvino"))
    )
    assert (by_torch.engine, by_openvino.engine) == ("torch", "openvino")
    assert by_torch.id == by_openvino.id
    for k in range(4):
        a, b = (np.sort(p.samples[:, k]) for p in (by_torch, by_openvino))
        np.testing.assert_allclose(a.mean(), b.mean(), atol=1e-3 * a.std())
        np.testing.assert_allclose(a[[100, 1000, -100]], b[[100, 1000, -100]], atol=5e-3 * a.std())
    assert by_openvino.log_bayes == pytest.approx(by_torch.log_bayes, abs=1e-3)
    assert by_openvino.ess == pytest.approx(by_torch.ess, rel=1e-2)


def test_openvino_leaves_no_identifier_and_reports_to_nobody(tmp_path: Path) -> None:
    """Its package of statistics makes one in the user's home, from which it counts him, when OpenVINO is imported."""
    pytest.importorskip("openvino")
    program = (
        "import sys; from gwstream.inference.engine_openvino import _failures; _failures();"
        "print('openvino' in sys.modules, sys.modules['openvino_telemetry'])"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        env=os.environ | {"HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.stdout == "True None\n", done.stderr
    assert list(tmp_path.iterdir()) == []


def test_what_is_exported_for_an_engine_does_not_pile_up(tmp_path: Path) -> None:
    """Graphs refer to themselves: with every reload of a model there would be more of them until a collection."""
    net = untrained("cvae")

    def graphs() -> int:
        return sum(issubclass(type(one), torch.fx.Graph) for one in gc.get_objects())

    gc.collect()
    gc.disable()
    try:
        counts = []
        for k in range(3):
            engine = OpenVinoEngine(net, partial(inputs, net), InferenceConfig(cache=tmp_path / str(k)))
            counts.append(graphs())
            del engine
        assert counts[2] == counts[1]
    finally:
        gc.enable()
