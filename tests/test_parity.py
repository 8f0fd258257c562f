"""Engines that are wrong, or fail, are given up, and what comes then is torch's."""

from __future__ import annotations

import logging
import math
from functools import partial

import numpy as np
import pytest
import torch
from test_engines import LATENTS, Other, inputs, other, untrained
from test_networks import KINDS, problem
from torch import Tensor
from trained import noise, shipped, window

from gwstream.config import InferenceConfig
from gwstream.errors import EngineError
from gwstream.inference import Inference, engines, runners
from gwstream.inference.networks.base import Inputs
from gwstream.inference.parity import BUSY, TOLERANCE, Golden, Guarded, Serving
from gwstream.records import Batch

__all__ = ["other"]  # a fixture

Made = tuple[Tensor, ...]
EVERY = 5


def golden(kind: str, seed: int = 4) -> Golden:
    told, _, _ = problem(1, seed)
    return Golden.of(untrained(kind), Inputs(told.y, told.windows), LATENTS)


def guarded(kind: str = "mixture", precision: str = "fp32") -> tuple[Guarded, list[Serving]]:
    """A guard of the engines that there are, and what it tells."""
    told: list[Serving] = []
    settings = InferenceConfig(precision=precision)  # type: ignore[arg-type]
    candidates = engines.chosen(settings)
    return Guarded(untrained(kind), candidates, lambda _: [golden(kind), golden(kind, 5)], told.append, EVERY), told


def raising(made: Made) -> Made:
    raise EngineError("the card fell off the bus")


def nothing(made: Made) -> Made:
    return tuple(torch.full_like(part, math.nan) for part in made)


def shifted(made: Made) -> Made:
    """The first coordinates' means, or what else stands there, a little aside."""
    return (made[0] + 0.05, *made[1:])


def misshapen(made: Made) -> Made:
    return tuple(part[..., :1] for part in made)


def test_the_distance_of_a_shifted_density_is_its_shift_in_standard_deviations(other: type[Other]) -> None:
    """The decoder's means moved by 0.03 of the whole mixture's width, where its parts are alike and close together."""
    net = untrained("cvae")
    one = golden("cvae")
    with torch.inference_mode():
        _, sigma, angle, log_kappa = net(*one.inputs)
    same = torch.full_like(sigma, 0.7)
    alike = (torch.zeros_like(same), same, torch.zeros_like(angle), torch.full_like(log_kappa, 2.0))
    density = net.density(*alike)
    e = density.draw(np.random.default_rng(1), 4000)
    at_rest = Golden(one.inputs, e, density.log_density(e))
    for shift in (0.0, 1e-3, 0.03):
        moved = torch.zeros_like(same)
        moved[..., 2] = shift * 0.7
        other.harm = staticmethod(lambda made, moved=moved: (moved, *alike[1:]))
        engine = other(net, lambda _, one=one: one.inputs, InferenceConfig())
        assert at_rest.distance(net, engine) == pytest.approx(shift, rel=0.1, abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("harm", [shifted, nothing, misshapen, raising])
def test_a_wrong_engine_never_serves(
    other: type[Other], kind: str, harm: object, caplog: pytest.LogCaptureFixture
) -> None:
    other.harm = staticmethod(harm)  # type: ignore[arg-type]
    with caplog.at_level(logging.WARNING, "inference"):
        engine, told = guarded(kind)
    assert engine.name == "torch"
    assert [one.engine for one in told] == ["torch"]
    assert [one.engine for one in told[0].given_up] == ["other"]
    assert f"engine other is given up: {told[0].given_up[0].why}" in caplog.text
    assert "engine torch serves" in caplog.text


def test_a_good_engine_serves_and_its_distance_is_told(other: type[Other]) -> None:
    other.harm = staticmethod(lambda made: (made[0] * (1 + 1e-6), *made[1:]))
    engine, told = guarded()
    assert engine.name == "other"
    assert len(told) == 1
    assert 0 < told[0].distance < told[0].tolerance == TOLERANCE["fp32"]
    assert told[0].given_up == ()
    assert told[0].part() == {"distance": told[0].distance, "tolerance": 1e-3, "given_up": []}


def test_an_engine_that_cannot_be_made_is_passed_over(other: type[Other]) -> None:
    other.broken = "no such card"
    engine, told = guarded()
    assert engine.name == "torch"
    assert told[0].part()["given_up"] == [{"engine": "other", "why": "no such card"}]


def test_what_is_too_coarse_goes_on_in_single_precision(other: type[Other]) -> None:
    class Coarse(other):  # type: ignore[misc, valid-type]
        def run(self, *inputs: Tensor) -> Made:
            made = super().run(*inputs)
            return shifted(made) if self.name.endswith("bf16") else made

    candidates = engines.chosen(InferenceConfig(precision="bf16"))
    swapped = [engines.Candidate(Coarse, one.config) if one.engine is other else one for one in candidates]
    engine = Guarded(untrained("mixture"), swapped, lambda _: [golden("mixture")], lambda _: None, EVERY)
    assert engine.name == "other"
    assert [one.engine for one in engine.serving.given_up] == ["other-bf16"]
    assert "standard deviations from torch, where 0.05 may be" in engine.serving.given_up[0].why


@pytest.mark.parametrize(("harm", "why"), [(raising, "the card fell off"), (nothing, "not finite")])
def test_an_engine_that_fails_in_service_is_replaced_in_the_same_call(
    other: type[Other], harm: object, why: str
) -> None:
    engine, told = guarded()
    net = untrained("mixture")
    given = inputs(net)
    assert engine.name == "other"
    other.harm = staticmethod(harm)  # type: ignore[arg-type]
    for found, expected in zip(engine.run(*given), net(*given), strict=True):
        assert torch.equal(found, expected)
    assert engine.name == told[-1].engine == "torch"
    assert why in told[-1].given_up[0].why


@pytest.mark.parametrize(("busy", "calls"), [(False, EVERY), (True, EVERY * BUSY)])
def test_an_engine_that_strays_in_service_is_found_out(other: type[Other], busy: bool, calls: int) -> None:
    engine, told = guarded()
    for _ in range(calls):
        engine.recheck(busy=busy)
    assert len(told) == 2  # at the start, and now
    other.harm = staticmethod(shifted)
    for _ in range(calls - 1):
        engine.recheck(busy=busy)
    assert engine.name == "other"
    engine.recheck(busy=busy)
    assert engine.name == told[-1].engine == "torch"
    assert "standard deviations from torch, where 0.001 may be" in told[-1].given_up[0].why
    for _ in range(2 * calls):
        engine.recheck(busy=busy)  # torch is compared with nothing
    assert len(told) == 3


def test_numbers_that_torch_has_none_for_either_are_no_fault_of_the_engines(other: type[Other]) -> None:
    engine, _ = guarded()
    given = inputs(untrained("mixture"))
    found = engine.run(torch.full_like(given[0], math.nan), *given[1:])
    assert not torch.isfinite(found[0]).all()
    assert engine.name == "other"


def test_a_bucket_that_is_made_in_service_is_compared_before_it_serves(
    other: type[Other], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wrong for several windows alone, whose program is made when they come."""
    engine, told = guarded()
    net = untrained("mixture")
    assert len(told) == 1

    def run(self: Other, *given: Tensor) -> Made:
        made: Made = net(*given)
        self.buckets = tuple(sorted({*self.buckets, 1 if len(given[0]) == 1 else 4}))  # type: ignore[misc]
        return made if len(given[0]) == 1 else shifted(made)

    monkeypatch.setattr(other, "run", run)
    for count, serves in ((1, "other"), (3, "torch")):
        given = inputs(net, count)
        for found, expected in zip(engine.run(*given), net(*given), strict=True):
            assert torch.equal(found, expected)
        assert engine.name == serves
    assert "standard deviations from torch" in told[-1].given_up[0].why


@pytest.mark.parametrize("busy", [False, True])
def test_posteriors_go_on_when_the_engine_strays_and_say_which_made_them(
    other: type[Other], busy: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gwstream.inference.runners.CHECK_EVERY", 2)
    told: list[Serving] = []
    choice = partial(runners.guarded, told=told.append)
    served = Inference(shipped(), InferenceConfig(draws=200, latents=50), choice)
    by_torch = Inference(shipped(), InferenceConfig(draws=200, latents=50, engine="torch"))
    one = window(noise(1, 3)[0])

    def judge(by: Inference) -> tuple[str, bytes]:
        posterior = by.infer(by.gate(Batch((one,), 1))[0])
        return posterior.engine, posterior.samples.tobytes()

    assert judge(served) == ("other", judge(by_torch)[1])
    other.harm = staticmethod(shifted)
    assert judge(served)[1] != judge(by_torch)[1]
    for _ in range(2 * BUSY if busy else 2):
        if busy:
            judge(served)
        else:
            served.prepare(one.whitener)
    assert judge(served) == judge(by_torch)
    assert told[-1].engine == served.engine == "torch"
