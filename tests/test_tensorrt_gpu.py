"""The TensorRT engine on a real GPU: parity, latency, what is kept, and what happens to it when weights change.

    pytest -m gpu -s tests/test_tensorrt_gpu.py

Not yet run: no machine that this was written on had a GPU. `test_tensorrt_gpu_faked` runs all of it on a stand-in.
"""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from test_engines import inputs, untrained
from test_networks import KINDS
from torch import Tensor
from trained import noise, shipped, signal, window

from gwstream.config import InferenceConfig
from gwstream.errors import EngineError
from gwstream.inference import Inference
from gwstream.inference.engine_tensorrt import TensorRtEngine
from gwstream.inference.networks import Network
from gwstream.inference.networks.base import Inputs
from gwstream.inference.parity import TOLERANCE, Golden
from gwstream.inference.runners import example, goldens, guarded
from gwstream.records import BUCKETS, Batch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(bool(TensorRtEngine.missing()), reason=f"needs a GPU: {TensorRtEngine.missing()}"),
]

ROUNDS = 200


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gpu") / "engines"


Windows = Callable[[int], list[Golden]]


def built(cache: Path, precision: str) -> tuple[TensorRtEngine, Windows]:
    model, config = shipped(), InferenceConfig(precision=precision, cache=cache)  # type: ignore[arg-type]
    return TensorRtEngine(model.net, partial(example, model, config.latents), config), goldens(model, config.latents)


def many(windows: Windows, size: int) -> tuple[Tensor, ...]:
    some = windows(size)
    rows = [some[k % len(some)].inputs for k in range(size)]
    return tuple(map(torch.cat, zip(*rows, strict=True)))


@pytest.mark.parametrize("precision", TensorRtEngine.precisions)
def test_every_bucket_is_as_near_to_torch_as_it_must_be(cache: Path, precision: str) -> None:
    engine, windows = built(cache, precision)
    distances = {size: Golden.farthest(shipped().net, engine, windows(size), size) for size in engine.buckets}
    print(precision, distances)
    assert tuple(distances) == BUCKETS
    assert max(distances.values()) < TOLERANCE[precision]


@pytest.mark.parametrize("precision", TensorRtEngine.precisions)
def test_equal_inputs_in_equal_buckets_are_equal_bytes_at_every_start(cache: Path, precision: str) -> None:
    (engine, windows), (again, _) = built(cache, precision), built(cache, precision)
    for size in (1, 3, 16, 70):
        given = many(windows, size)
        first = [part.clone() for part in engine.run(*given)]
        engine.run(*(part.flip(0) for part in given))
        for one in (engine, again):
            assert all(torch.equal(a, b) for a, b in zip(first, one.run(*given), strict=True))


@pytest.mark.parametrize("precision", TensorRtEngine.precisions)
def test_latency_of_a_bucket(cache: Path, precision: str) -> None:
    """Printed, and held to nothing: a figure of the machine."""
    engine, windows = built(cache, precision)
    for size in engine.buckets:
        given = many(windows, size)
        times = []
        for _ in range(ROUNDS):
            begin = time.perf_counter()
            engine.run(*given)
            times.append(1e3 * (time.perf_counter() - begin))
        low, middle, high = np.percentile(times[ROUNDS // 10 :], [25, 50, 99])
        name = torch.cuda.get_device_name()
        print(f"{name} {precision} {size:2} windows: {middle:.3f} ms (quartile {low:.3f}, p99 {high:.3f})")


def test_what_was_compiled_is_loaded_at_the_next_start(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    built(cache, "fp32")
    times = {path.name: path.stat().st_ctime for path in cache.iterdir()}
    begin = time.perf_counter()
    with caplog.at_level(logging.INFO, "inference"):
        built(cache, "fp32")
    print(f"a start with what was compiled: {time.perf_counter() - begin:.1f} s")
    assert "compiling" not in caplog.text
    assert set(times) == {path.name for path in cache.iterdir()}


def test_new_weights_are_compiled_and_are_the_ones_that_serve(cache: Path) -> None:
    """The refit after new weights: another plan, compiled. TensorRT's own, new weights in an old plan, is not used."""
    model = shipped()
    net: Network = copy.deepcopy(model.net)
    with torch.no_grad():
        for value in net.parameters():
            value.mul_(1.001)
    old, windows = built(cache, "fp32")
    new = TensorRtEngine(net, partial(example, model, 1000), InferenceConfig(cache=cache))
    for one in windows(1):
        changed = Golden.of(net, Inputs(*one.inputs[:2]), 1000)
        assert changed.distance(net, new) < TOLERANCE["fp32"] < changed.distance(net, old)
        assert one.distance(model.net, old) < TOLERANCE["fp32"] < one.distance(model.net, new)


def test_a_damaged_plan_is_compiled_anew(cache: Path) -> None:
    built(cache, "fp32")
    for path in cache.iterdir():
        path.write_bytes(path.read_bytes()[:-1])
    engine, windows = built(cache, "fp32")
    assert Golden.farthest(shipped().net, engine, windows(16), 16) < TOLERANCE["fp32"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_network_runs_as_by_torch(cache: Path, kind: str) -> None:
    net = untrained(kind)
    engine = TensorRtEngine(net, partial(inputs, net), InferenceConfig(cache=cache))
    for count in (1, 3, 16):
        given = inputs(net, count)
        for part, expected in zip(engine.run(*given), net(*given), strict=True):
            torch.testing.assert_close(part, expected, atol=1e-3, rtol=1e-3)


def test_an_error_of_cuda_is_an_engines(cache: Path) -> None:
    engine, windows = built(cache, "fp32")
    y, *rest = windows(1)[0].inputs
    with pytest.raises(EngineError, match="an input is"):
        engine.run(y[:, :3], *rest)


def test_posteriors_are_those_of_torch(cache: Path) -> None:
    wave, _ = signal(40.0, 31.0, 0.74, 1.0, 12.0)
    one = window(noise(1, 3)[0] + wave)
    torchs = Inference(shipped(), InferenceConfig(engine="torch"))
    served = Inference(shipped(), InferenceConfig(cache=cache), guarded)
    assert served.engine == "tensorrt"
    by_torch, by_tensorrt = (it.infer(it.gate(Batch((one,), 1))[0]) for it in (torchs, served))
    for k in range(4):
        a, b = (np.sort(p.samples[:, k]) for p in (by_torch, by_tensorrt))
        np.testing.assert_allclose(a.mean(), b.mean(), atol=1e-3 * a.std())
    assert by_tensorrt.log_bayes == pytest.approx(by_torch.log_bayes, abs=1e-3)
    triggers = list(served.gate(Batch((one,) * 16, 16)))
    assert {found.engine for found in served.unweighted(triggers)} == {"tensorrt"}
