"""The TensorRT engine on a card that is none: buckets, precision, what is kept, and what happens when it fails.

What TensorRT makes of the networks is for `test_tensorrt_build`, what a GPU makes of it for `test_tensorrt_gpu`.
"""

from __future__ import annotations

import builtins
import gc
import logging
import weakref
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fake_tensorrt import PROGRAMS, Fake, fake, library
from test_engines import inputs, untrained
from test_networks import KINDS
from test_parity import golden
from torch import Tensor
from trained import shipped

from gwstream import state
from gwstream.cli import main
from gwstream.config import InferenceConfig
from gwstream.errors import ConfigError, EngineError
from gwstream.inference import engine_tensorrt, engines, plans, tensorrt
from gwstream.inference.engine_tensorrt import TensorRtEngine
from gwstream.inference.networks.layers import Residual
from gwstream.inference.parity import TOLERANCE, Golden, Guarded, Serving
from gwstream.inference.runners import example, goldens
from gwstream.records import BUCKETS

__all__ = ["fake"]  # a fixture


def engine(kind: str, cache: Path, precision: str = "fp32") -> TensorRtEngine:
    net = untrained(kind)
    config = InferenceConfig(precision=precision, cache=cache)  # type: ignore[arg-type]
    return TensorRtEngine(net, partial(inputs, net), config)


def guarded(kind: str, cache: Path, told: list[Serving], **settings: Any) -> Guarded:
    candidates = engines.chosen(InferenceConfig(engine="tensorrt", cache=cache, **settings))
    return Guarded(untrained(kind), candidates, lambda _: [golden(kind), golden(kind, 5)], told.append, 5)


@pytest.mark.parametrize("kind", KINDS)
def test_any_number_of_windows_comes_out_as_by_torch_and_in_memory_of_its_own(
    fake: Fake, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes, counts = (BUCKETS, (1, 3, 17, 64, 70)) if kind == "mixture" else ((1, 4), (1, 3, 4))
    monkeypatch.setattr(engine_tensorrt, "BUCKETS", sizes)
    made = engine(kind, tmp_path / "engines")
    assert fake.compiled == [*sizes] == list(made.buckets)
    net = untrained(kind)
    for count in counts:
        given = inputs(net, count)
        first = made.run(*given)
        kept = [part.clone() for part in first]
        made.run(*inputs(net, count, seed=7))
        assert all(torch.equal(part, copy) for part, copy in zip(first, kept, strict=True))
        again = made.run(*given)
        for part, same, expected in zip(first, again, net(*given), strict=True):
            torch.testing.assert_close(part, expected, atol=1e-4, rtol=1e-4)
            assert torch.equal(part, same)


def test_windows_go_through_the_smallest_bucket_that_holds_them(fake: Fake, tmp_path: Path) -> None:
    made = engine("mixture", tmp_path)
    net = untrained("mixture")
    for count, bucket in ((1, 0), (2, 1), (4, 1), (5, 2), (17, 3), (64, 3)):
        before = [one.runs for one in fake.loaded]
        made.run(*inputs(net, count))
        assert [one.runs - earlier for one, earlier in zip(fake.loaded, before, strict=True)] == [
            int(k == bucket) for k in range(4)
        ]


def test_every_bucket_is_warm_and_its_graph_stays(fake: Fake, tmp_path: Path) -> None:
    made = engine("mixture", tmp_path)
    assert [one.runs for one in fake.loaded] == [engine_tensorrt.WARM] * 4
    made.run(*inputs(untrained("mixture")))
    assert [one.recorded for one in fake.loaded] == [one.runs for one in fake.loaded]
    assert fake.graphs


def test_an_engine_that_is_let_go_leaves_nothing_on_the_card(fake: Fake, tmp_path: Path) -> None:
    made = engine("gaussian", tmp_path)
    old = [weakref.ref(one) for one in fake.loaded]
    fake.loaded.clear()
    assert all(one() is not None for one in old)
    made = engine("gaussian", tmp_path)
    gc.collect()
    assert [one() for one in old] == [None] * 4
    made.run(*inputs(untrained("gaussian")))
    assert fake.loaded[0].recorded == engine_tensorrt.WARM + 1


def test_a_second_start_compiles_nothing_and_gives_the_same_bytes(
    fake: Fake, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.INFO, "inference"):
        first = engine("cvae", tmp_path / "engines")
    assert caplog.text.count("compiling the cvae in fp32 for ") == 4
    assert "for NVIDIA H100, once" in caplog.text
    assert capsys.readouterr().out == ""  # messages may go there
    caplog.clear()
    with caplog.at_level(logging.INFO, "inference"):
        second = engine("cvae", tmp_path / "engines")
    assert fake.compiled == [*BUCKETS]
    assert caplog.text == ""
    given = inputs(untrained("cvae"), 3)
    assert all(torch.equal(a, b) for a, b in zip(first.run(*given), second.run(*given), strict=True))
    assert not any(Path(path).exists() for path in fake.timing)


def test_engines_are_kept_beside_the_state_unless_a_place_is_named(
    fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "var"))
    net = untrained("gaussian")
    TensorRtEngine(net, partial(inputs, net), InferenceConfig())
    assert len(list((tmp_path / "var" / "engines").iterdir())) == 4
    assert (tmp_path / "var" / "engines").stat().st_mode & 0o777 == 0o700
    monkeypatch.delenv("STATE_DIRECTORY")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg"))
    assert state.home() == tmp_path / "xdg" / "gwstream"


def changed(net: torch.nn.Module) -> None:
    with torch.no_grad():
        next(net.parameters())[0] += 1e-3


@pytest.mark.parametrize(
    "change",
    ["gpu", "sm", "tensorrt", "torch-tensorrt", "precision", "weights", "latents", "code"],
)
def test_a_plan_for_another_card_version_precision_or_network_is_compiled_anew(
    fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    import copy
    import sys

    monkeypatch.setattr(engine_tensorrt, "BUCKETS", (1,))
    net, latents, config = copy.deepcopy(untrained("cvae")), 60, InferenceConfig(cache=tmp_path)
    TensorRtEngine(net, partial(inputs, net), config)
    TensorRtEngine(net, partial(inputs, net), config)
    assert fake.compiled == [1]
    match change:
        case "gpu":
            monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "NVIDIA L4")
        case "sm":
            monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (8, 9))
        case "tensorrt":
            monkeypatch.setitem(sys.modules, "tensorrt", library("10.16.2"))
        case "torch-tensorrt":
            monkeypatch.setattr(fake, "__version__", "2.13.1")
        case "precision":
            config = InferenceConfig(cache=tmp_path, precision="fp16")
        case "weights":
            changed(net)
        case "latents":
            latents = 61
        case "code":
            monkeypatch.setattr(plans, "_code", lambda: "other")
    given = (*inputs(net)[:2], *net.noise(np.random.default_rng(0), latents))
    TensorRtEngine(net, lambda _: given, config)
    assert fake.compiled == [1, 1]


@pytest.mark.parametrize("harm", ["mode", "cut", "link"])
def test_what_cannot_be_trusted_is_compiled_again(fake: Fake, tmp_path: Path, harm: str) -> None:
    cache = tmp_path / "engines"
    first = engine("mixture", cache)
    match harm:
        case "mode":
            cache.chmod(0o777)
        case "cut":
            for path in cache.iterdir():
                path.write_bytes(path.read_bytes()[:100])
        case "link":
            cache.rename(tmp_path / "elsewhere")
            cache.symlink_to(tmp_path / "elsewhere")
    second = engine("mixture", cache)
    assert fake.compiled == 2 * [*BUCKETS]
    given = inputs(untrained("mixture"))
    assert all(torch.equal(a, b) for a, b in zip(first.run(*given), second.run(*given), strict=True))


def test_a_kept_plan_that_cannot_be_loaded_is_compiled_once_more(
    fake: Fake, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = engine("gaussian", tmp_path)
    fake.spoilt.add(fake.loaded[1].body)
    second = engine("gaussian", tmp_path)
    assert fake.compiled == [*BUCKETS, BUCKETS[1]]
    assert "compiling again what was kept: TensorRT cannot load what it compiled: IRuntime" in caplog.text
    given = inputs(untrained("gaussian"), 3)
    assert all(torch.equal(a, b) for a, b in zip(first.run(*given), second.run(*given), strict=True))
    engine("gaussian", tmp_path)
    assert fake.compiled == [*BUCKETS, BUCKETS[1]]


def test_what_was_just_compiled_and_cannot_be_loaded_is_an_engines_error(fake: Fake, tmp_path: Path) -> None:
    fake.spoilt = {f"plan {k}".encode() for k in range(len(PROGRAMS), len(PROGRAMS) + 9)}
    with pytest.raises(EngineError, match=r"cannot load what it compiled: IRuntime.*does not match$"):
        engine("gaussian", tmp_path)
    assert fake.compiled == [1]


def test_a_kept_plan_that_is_too_far_from_torch_is_not_there_for_the_next_start(fake: Fake, tmp_path: Path) -> None:
    told: list[Serving] = []
    assert guarded("mixture", tmp_path, told).name == "tensorrt"
    load = fake.load

    def harmed(*args: Any, **settings: Any) -> Any:
        found = load(*args, **settings)
        found.harm = lambda made: (made[0] + 0.05, *made[1:])
        return found

    fake.runtime.TorchTensorRTModule = harmed
    assert guarded("mixture", tmp_path, told).name == "torch"
    assert fake.compiled == [*BUCKETS]
    assert list(tmp_path.iterdir()) == []
    assert guarded("mixture", tmp_path, told).name == "torch"  # compiled anew, and kept: it may never come nearer
    assert fake.compiled == 2 * [*BUCKETS]
    assert len(list(tmp_path.iterdir())) == len(BUCKETS)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "seed"])
def test_half_precision_is_written_into_the_wide_layers_alone(kind: str, precision: str) -> None:
    net = untrained(kind)
    found = tensorrt.written(net, precision)
    wide = [name for name, part in net.named_modules() if isinstance(part, Residual)]
    assert wide
    for name, value in found.named_parameters():
        inside = any(name.startswith((f"{one}.first", f"{one}.second")) for one in wide)
        assert value.dtype == (tensorrt.TYPES[precision] if inside else torch.float32), name
    assert {value.dtype for value in net.parameters()} == {torch.float32}
    given = inputs(net)
    for part, exact in zip(found(*given), net(*given), strict=True):
        assert part.dtype == torch.float32
        assert not torch.equal(part, exact)
        assert (part - exact).abs().median() < 0.05  # not all: an angle may turn once


def test_a_network_without_wide_layers_has_no_half_precision(fake: Fake, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="no layers that could run in bf16"):
        engine("seed", tmp_path, "bf16")


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_rounding_to_half_precision_is_within_the_tolerance(precision: str) -> None:
    """Of the shipped network, by torch; one that rounds more coarsely is told from it."""
    model = shipped()
    half = tensorrt.written(model.net, precision)
    distances = [one.distance(model.net, Runs(half)) for one in goldens(model, 1000)(1)]  # type: ignore[arg-type]
    print(precision, distances)
    assert 0.01 * TOLERANCE[precision] < max(distances) < TOLERANCE[precision]


class Runs:
    """An engine that is a module."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.module = module

    @torch.inference_mode()
    def run(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        found: tuple[Tensor, ...] = self.module(*inputs)
        return found


def test_auto_takes_it_first_where_there_is_a_card(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [one.name for one in engines.chosen(InferenceConfig())]
    assert names[0] == "tensorrt"
    assert names[-1] == "torch"
    assert [one.name for one in engines.chosen(InferenceConfig(precision="fp16"))][:2] == ["tensorrt-fp16", "tensorrt"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "tensorrt" not in [one.name for one in engines.chosen(InferenceConfig())]


@pytest.mark.parametrize(
    ("cuda", "said"), [(None, "this PyTorch is built without CUDA"), ("13.0", "nvidia-smi must list one.* CUDA 13.0")]
)
def test_what_is_missing_is_said(
    fake: Fake, monkeypatch: pytest.MonkeyPatch, cuda: str | None, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    with pytest.raises(ConfigError, match=f"engine is 'tensorrt', but it cannot run here: .*{said}"):
        engines.chosen(InferenceConfig(engine="tensorrt"))
    assert main(["compile"]) == 78
    assert "gwstream compile: TensorRT cannot run here" in capsys.readouterr().err


def test_without_the_package_it_says_what_to_install() -> None:
    assert TensorRtEngine.missing() == "pip install 'gwstream[tensorrt]'"


def test_a_package_that_cannot_be_loaded_is_an_engines_error(
    fake: Fake, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    real = builtins.__import__

    def broken(name: str, *args: Any) -> Any:
        if name == "torch_tensorrt":
            raise Exception("libnvinfer.so.10: cannot open shared object file\nand more")
        return real(name, *args)

    monkeypatch.setattr(builtins, "__import__", broken)
    with pytest.raises(EngineError, match=r"cannot be loaded: libnvinfer.so.10: cannot open shared object file$"):
        engine("mixture", tmp_path)


def test_a_network_it_cannot_run_is_torchs_and_the_operator_is_named(fake: Fake, tmp_path: Path) -> None:
    fake.refuses = RuntimeError("class GraphModule(torch.nn.Module): a page of it")
    fake.refuses.__cause__ = RuntimeError("Conversion of function aten::sort not currently supported!\n\nWhile …")
    told: list[Serving] = []
    assert guarded("mixture", tmp_path, told).name == "torch"
    (one,) = told[0].given_up
    assert one.engine == "tensorrt"
    assert one.why == "TensorRT cannot run this network: Conversion of function aten::sort not currently supported!"


def lost(_: Any) -> Any:
    raise RuntimeError("CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be …")


def test_one_that_fails_while_it_serves_is_replaced_and_not_by_another_that_takes_minutes(
    fake: Fake, tmp_path: Path
) -> None:
    told: list[Serving] = []
    served = guarded("cvae", tmp_path, told, precision="bf16")
    assert served.name == "tensorrt-bf16"
    compiled = len(fake.compiled)
    for one in fake.loaded:
        one.harm = lost
    net = untrained("cvae")
    given = inputs(net)
    for found, expected in zip(served.run(*given), net(*given), strict=True):
        assert torch.equal(found, expected)
    assert [one.engine for one in told[-1].given_up] == ["tensorrt-bf16", "tensorrt"]
    assert told[-1].given_up[0].why == "TensorRT failed: CUDA error: an illegal memory access was encountered"
    assert "made at a start alone" in told[-1].given_up[1].why
    assert len(fake.compiled) == compiled


@pytest.mark.parametrize("wrong", range(4))
def test_one_wrong_bucket_is_found_at_the_start(
    fake: Fake, tmp_path: Path, wrong: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = fake.load

    def harmed(*args: Any, **settings: Any) -> Any:
        found = load(*args, **settings)
        if len(fake.loaded) == wrong + 1:
            found.harm = lambda made: (made[0] + 0.05, *made[1:])
        return found

    monkeypatch.setattr(fake.runtime, "TorchTensorRTModule", harmed)
    told: list[Serving] = []
    assert guarded("mixture", tmp_path, told).name == "torch"
    assert "standard deviations from torch" in told[0].given_up[0].why


@pytest.mark.parametrize("wrong", range(4))
def test_one_bucket_that_goes_wrong_is_found_in_its_turn(fake: Fake, tmp_path: Path, wrong: int) -> None:
    told: list[Serving] = []
    served = guarded("mixture", tmp_path, told)
    fake.loaded[wrong].harm = lambda made: (made[0] + 0.05, *made[1:])
    for _ in range(4 * 5):
        served.recheck(busy=False)
    assert served.name == "torch"


def test_an_input_of_another_shape_is_an_error(fake: Fake, tmp_path: Path) -> None:
    made = engine("mixture", tmp_path)
    with pytest.raises(EngineError, match=r"an input is \(1, 1\) and should be"):
        made.run(torch.zeros(1, 1), torch.zeros(1, 256))


def test_trt_rtx_makes_its_own_graphs_and_keeps_nothing_in_tmp(fake: Fake, tmp_path: Path) -> None:
    engine("mixture", tmp_path)
    assert all(one.runtime_settings is None for one in fake.loaded)
    fake.ENABLED_FEATURES.tensorrt_rtx = True
    engine("mixture", tmp_path)
    for one in fake.loaded[4:]:
        assert one.runtime_settings is not None
        assert one.runtime_settings.cuda_graph_strategy == "whole_graph_capture"
        assert one.runtime_settings.runtime_cache is None


def test_compile_leaves_what_a_start_needs(
    fake: Fake, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "gwstream.toml"
    config.write_text(
        "[source]\nkind = 'simulated'\n[source.detectors.H1]\n[inference]\nprecision = 'bf16'\nlatents = 50\n"
        "[service]\nstate = 'state'\n"
    )
    model = shipped()
    monkeypatch.setattr("gwstream.inference.load_model", lambda _: model)
    assert main(["compile", "--config", str(config)]) == 0
    said = capsys.readouterr()
    assert fake.compiled == 2 * [*BUCKETS]
    assert "bbh-1det: tensorrt-bf16 is ready for 1, 4, 16, 64 windows" in said.out
    assert "bbh-1det: tensorrt is ready for 1, 4, 16, 64 windows" in said.out
    assert "compiled the cvae in bf16 for 64 windows at a time" in said.err
    TensorRtEngine(model.net, partial(example, model, 50), InferenceConfig(cache=tmp_path / "state" / "engines"))
    assert len(fake.compiled) == 8


def test_compile_fails_where_what_it_compiled_is_not_kept(
    fake: Fake, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_tensorrt, "BUCKETS", (1,))
    model = shipped()
    monkeypatch.setattr("gwstream.inference.load_model", lambda _: model)
    cache = tmp_path / "engines"
    cache.mkdir(mode=0o750)
    assert main(["compile", "--cache", str(cache), "--latents", "20"]) == 70
    said = capsys.readouterr()
    assert said.out == ""
    last = said.err.splitlines()[-1]
    assert f"tensorrt: what was compiled is not kept in {cache}: others may get at it (mode 0750); remove it" in last
    assert last.endswith("mend that or name another directory, and compile again")


def test_compile_refuses_what_is_too_far_from_torch(
    fake: Fake, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = shipped()
    monkeypatch.setattr("gwstream.inference.load_model", lambda _: model)
    monkeypatch.setattr(engine_tensorrt, "BUCKETS", (1,))
    monkeypatch.setattr(Golden, "farthest", staticmethod(lambda *_: 0.5))
    for kept in (1, 0):  # the second time, what the first compiled: the third would compile anew
        assert main(["compile", "--cache", str(tmp_path), "--latents", "20"]) == 70
        assert "tensorrt is 0.5 standard deviations from torch, where 0.001 may be" in capsys.readouterr().err
        assert len(list(tmp_path.iterdir())) == kept
    assert fake.compiled == [1]
