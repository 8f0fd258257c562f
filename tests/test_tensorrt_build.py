"""What TensorRT makes of the networks, as far as a machine without a GPU can tell: `make test-tensorrt`.

With TensorRT-RTX, which shares converters and builder's interface with TensorRT, in an environment of its own (`rtx`).
Plans are built, and not run.
"""

from __future__ import annotations

import inspect
import time
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_tensorrt import CompilationSettings, Fake, RuntimeSettings, Stream
from test_engines import inputs, untrained
from test_networks import KINDS
from test_parity import golden
from torch import Tensor, nn

from gwstream.config import InferenceConfig
from gwstream.errors import EngineError
from gwstream.inference import Model, engines, load_model, tensorrt
from gwstream.inference.engine_openvino import OpenVinoEngine
from gwstream.inference.engine_tensorrt import TensorRtEngine
from gwstream.inference.networks import Network
from gwstream.inference.parity import Guarded, Serving
from gwstream.inference.plans import Plan
from gwstream.inference.runners import example
from gwstream.records import BUCKETS

pytestmark = [pytest.mark.tensorrt, pytest.mark.timeout(600)]

MODELS = Path(__file__).resolve().parents[1] / "models"
HALF = ("fp16", "bf16")


@pytest.fixture(autouse=True, scope="module")
def rtx() -> Any:
    from rtx import prepared

    return prepared()


@cache
def model(name: str) -> Model:
    return load_model(MODELS / name)


def partition(net: Network, given: tuple[Tensor, ...]) -> tuple[int, int, int, int]:
    """Operators that are converted, of how many, in how many segments, and how many segments are left to torch."""
    import torch_tensorrt
    from torch_tensorrt.dynamo import CompilationSettings as Settings
    from torch_tensorrt.dynamo import partitioning
    from torch_tensorrt.dynamo.conversion._ConverterRegistry import DYNAMO_CONVERTERS
    from torch_tensorrt.dynamo.lowering import get_decompositions, post_lowering, pre_export_lowering

    assert torch_tensorrt.ENABLED_FEATURES.tensorrt_rtx
    with tensorrt._quiet(), torch.no_grad():
        settings = Settings(min_block_size=1, disable_tf32=True)
        program = pre_export_lowering(torch.export.export(net, given), settings)
        graph = post_lowering(program.run_decompositions(get_decompositions(False)).module(), settings)
        DYNAMO_CONVERTERS.set_compilation_settings(settings)
        converted, operators = partitioning.get_graph_converter_support(graph, settings.torch_executed_ops)
        parts, _ = partitioning.fast_partition(graph, min_block_size=1, torch_executed_ops=settings.torch_executed_ops)
    names = [name for name, _ in parts.named_children()]
    segments = [name for name in names if "_run_on_acc" in name]
    return converted, operators, len(segments), len(names) - len(segments)


def proved(net: Network, given: tuple[Tensor, ...], precision: str, label: str) -> None:
    """All of it converted, in one segment, and a plan built; the figures are printed."""
    written = tensorrt.written(net, precision)
    converted, operators, segments, rest = partition(written, given)
    begin = time.monotonic()
    plan = tensorrt.compiled(written, given, precision)
    took = time.monotonic() - begin
    windows = len(given[0])
    figures = f"{converted}/{operators} operators, {segments} segment, {took:.1f} s, {len(plan.body) / 1e6:.1f} MB"
    print(f"\n{label:20} {precision} {windows:2} windows: {figures}", end="")
    assert converted == operators > 10
    assert (segments, rest) == (1, 0)
    assert plan.body[:4] == b"ftrt" or len(plan.body) > 100_000
    assert plan.inputs == ("y", "windows", *(f"noise_{k}" for k in range(len(given) - 2)))
    assert plan.outputs == tuple(f"output{k}" for k in range(len(net(*given))))


@pytest.mark.parametrize("precision", tensorrt.TYPES)
@pytest.mark.parametrize("windows", BUCKETS)
def test_the_default_network_converts_whole_in_every_bucket_and_precision(windows: int, precision: str) -> None:
    one = model("bbh-1det")
    proved(one.net, example(one, 1000, windows), precision, one.name)


@pytest.mark.parametrize("name", sorted(path.parent.name for path in MODELS.glob("bbh-1det-*/model.toml")))
def test_the_other_networks_convert_whole(name: str) -> None:
    one = model(name)
    proved(one.net, example(one, 1000, 16), "fp32", one.name)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("seed", "cvae")])
def test_the_other_networks_convert_whole_in_half_precision(kind: str) -> None:
    net = untrained(kind)
    for precision in HALF:
        proved(net, inputs(net, 4), precision, f"small {kind}")


class Sorting(nn.Module):
    """A network with an operator for which there is no converter."""

    def forward(self, y: Tensor, windows: Tensor) -> tuple[Tensor, ...]:
        return (torch.cummax(y, -1).values,)


def test_a_network_with_an_operator_that_does_not_convert_is_refused() -> None:
    given = torch.zeros(1, 8), torch.zeros(1, 256)
    converted, operators, _, rest = partition(Sorting(), given)  # type: ignore[arg-type]
    assert converted < operators
    assert rest == 1
    with pytest.raises(EngineError, match=r"TensorRT cannot run this network: .*cummax.* not currently supported!$"):
        tensorrt.compiled(Sorting(), given, "fp32")  # type: ignore[arg-type]


@pytest.mark.parametrize(("engine", "following"), [("tensorrt", "torch"), ("auto", "openvino")])
def test_then_the_next_engine_serves(
    engine: str, following: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if following == "openvino" and OpenVinoEngine.missing():
        pytest.skip(f"needs OpenVINO: {OpenVinoEngine.missing()}")
    net = untrained("cvae")
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda _: nullcontext())
    monkeypatch.setattr(TensorRtEngine, "missing", classmethod(lambda cls: ""))
    forward = type(net).forward

    def summing(self: Network, y: Tensor, windows: Tensor, *noise: Tensor) -> tuple[Tensor, ...]:
        mean, *rest = forward(self, y, windows, *noise)
        return mean + 1e-3 * torch.cumsum(mean, 1), *rest

    monkeypatch.setattr(type(net), "forward", summing)
    told: list[Serving] = []
    candidates = engines.chosen(InferenceConfig(engine=engine, cache=tmp_path))
    served = Guarded(net, candidates, lambda _: [golden("cvae")], told.append, 5)
    assert told[0].given_up[0].engine == "tensorrt"
    assert "cumsum" in told[0].given_up[0].why
    assert served.name == candidates[1].name == following
    assert len(list(tmp_path.iterdir())) == (following == "openvino")  # what OpenVINO compiled, and nothing else


def test_what_is_asked_of_a_plan_is_what_makes_it(tmp_path: Path) -> None:
    net = untrained("gaussian")
    key = tensorrt.key(net, inputs(net, 4), "fp32")
    assert key["tensorrt"].startswith("tensorrt_rtx 1.")
    assert (key["sm"], key["windows"], key["torch-tensorrt"][:5]) == ("8.9", "4", "2.13.")
    assert all(key.values())


def compatible(fake: Any, real: Any) -> None:
    """Everything ``fake`` takes ``real`` takes as well, by the same name and in the same way, and asks nothing more."""
    taken, offered = inspect.signature(fake).parameters, inspect.signature(real).parameters
    for name, parameter in taken.items():
        assert name in offered, f"{real} takes no {name}"
        by_name = parameter.kind is inspect.Parameter.KEYWORD_ONLY
        if by_name:
            assert offered[name].kind is not inspect.Parameter.POSITIONAL_ONLY
        else:
            assert list(offered).index(name) == list(taken).index(name), name
            assert offered[name].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    spare = [one for name, one in offered.items() if name not in taken]
    variable = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    assert all(one.default is not inspect.Parameter.empty or one.kind in variable for one in spare)


def test_the_fake_takes_what_the_real_one_takes(rtx: Any) -> None:
    fake = Fake()
    compatible(
        fake.dynamo.convert_exported_program_to_serialized_trt_engine,
        rtx.dynamo.convert_exported_program_to_serialized_trt_engine,
    )
    compatible(CompilationSettings, rtx.dynamo.CompilationSettings)
    compatible(fake.runtime.TorchTensorRTModule, rtx.runtime.TorchTensorRTModule)
    compatible(RuntimeSettings, rtx.runtime.RuntimeSettings)
    compatible(fake.runtime.set_cudagraphs_mode, rtx.runtime.set_cudagraphs_mode)
    for name in ("setup_engine", "runtime_settings", "forward"):
        assert hasattr(rtx.runtime.TorchTensorRTModule, name)
    for name in ("__version__", "tensorrt_package_name", "ENABLED_FEATURES"):
        assert hasattr(rtx, name)


def test_a_plan_is_loaded_as_far_as_it_goes_without_a_driver(monkeypatch: pytest.MonkeyPatch, rtx: Any) -> None:
    """The real module is made with our settings, names and graphs; what follows needs a GPU."""
    seen: list[Any] = []
    monkeypatch.setattr(rtx.runtime.TorchTensorRTModule, "setup_engine", lambda self: seen.append(self))
    found = tensorrt.loaded(Plan(b"ftrt", ("y",), ("output0",)), "cvae_1")
    try:
        assert seen == [found]
        assert isinstance(found, rtx.runtime.TorchTensorRTModule)
        assert (found.input_binding_names, found.output_binding_names) == (["y"], ["output0"])
        assert found.settings.lazy_engine_init
        assert found.settings.disable_tf32
        assert found.runtime_settings.runtime_cache is None
        assert rtx.runtime.get_cudagraphs_mode()
    finally:
        rtx.runtime.set_cudagraphs_mode(False)
