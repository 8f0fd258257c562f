"""What the network alone says of many windows, and the programs of fixed shapes that it runs in."""

from __future__ import annotations

import dataclasses
from functools import partial
from itertools import chain

import numpy as np
import pytest
import torch
from test_engines import LATENTS, inputs, untrained
from test_networks import KINDS
from torch import Tensor
from trained import inference, members, noise, signal, window

from gwstream.config import InferenceConfig
from gwstream.inference import Inference
from gwstream.inference.engine_openvino import OpenVinoEngine
from gwstream.inference.engine_torch import TorchEngine
from gwstream.inference.engines import Buckets
from gwstream.inference.unweighted import groups, places
from gwstream.records import Batch, Trigger, Unweighted


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def triggers(count: int, seed: int = 3) -> list[Trigger]:
    """Of signals in noise, behind one whitener."""
    wave, _ = signal(38.0, 31.0, 0.76, 0.6, 12.0)
    windows = [window(row + wave, k) for k, row in enumerate(noise(count, seed))]
    return list(inference().gate(Batch(tuple(windows), 64)))


def same(one: Unweighted, two: Unweighted) -> bool:
    return (one.id, one.bucket, one.latent_p, one.trigger.snr) == (
        two.id,
        two.bucket,
        two.latent_p,
        two.trigger.snr,
    ) and (one.samples.tobytes() == two.samples.tobytes())


@pytest.mark.parametrize("count", [1, 3, 11])
def test_a_windows_draws_do_not_depend_on_those_it_is_judged_with(count: int) -> None:
    found = triggers(count)
    others = [dataclasses.replace(one, window=dataclasses.replace(one.window, start=7)) for one in triggers(count, 9)]
    together = inference().unweighted(found)
    for k in range(count):
        mixed = [*others[:k], found[k], *others[k + 1 :]]
        place = (k + 1) % count
        mixed[k], mixed[place] = mixed[place], mixed[k]
        assert same(inference().unweighted(mixed)[place], together[k])


def test_they_are_the_networks_proposal() -> None:
    """In any bucket of several but for rounding, and alone or as what the likelihood weights but for random numbers."""
    found = triggers(6)
    few = inference().unweighted(found[:3])
    for number, (trigger, one) in enumerate(zip(found, inference().unweighted(found), strict=True)):
        (alone,) = inference().unweighted([trigger])
        assert (one.bucket, alone.bucket) == (16, 1)
        assert one.samples.shape == alone.samples.shape == (InferenceConfig().latents, 5)
        if number < len(few):
            assert few[number].bucket == 4
            np.testing.assert_allclose(few[number].samples, one.samples, atol=1e-3, rtol=1e-3)
        proposed = inference().propose(trigger.window)
        drawn = proposed.parameters(proposed.proposal.draw(np.random.default_rng(1), 4000))
        for samples in (one.samples, alone.samples):
            spread = samples.std(0)
            away = (samples[:, :4].mean(0) - drawn[:, :4].mean(0)) / spread[:4]
            assert np.abs(away).max() < 0.2
            np.testing.assert_allclose(spread[:4], drawn[:, :4].std(0), rtol=0.2)
            assert np.isfinite(inference().prior.log_density(samples)).mean() > 0.999


def test_in_a_bucket_of_several_two_draws_share_a_latent() -> None:
    """As in a weighted posterior: the network runs on half as many, and every one of them is drawn from twice."""
    given: list[tuple[Tensor, ...]] = []

    class Spy:
        name = "spy"

        def run(self, *inputs: Tensor) -> tuple[Tensor, ...]:
            given.append(inputs)
            made: tuple[Tensor, ...] = inference().model.net(*inputs)
            mean, sigma, angle, log_kappa = made
            return mean, torch.full_like(sigma, 1e-9), angle, torch.full_like(log_kappa, 9.0)

        def recheck(self, *, busy: bool) -> None: ...

    whole = 50
    one = Inference(inference().model, InferenceConfig(latents=whole), lambda *_: Spy())
    for count, latents in ((1, whole), (3, whole // 2)):
        with torch.inference_mode():
            (first, *_) = one.unweighted(triggers(count))
        assert [part.shape[1] for part in given[-1][2:]] == [latents, latents]
        assert len(np.unique(first.samples[:, 0].round(6))) == latents
    assert len(first.samples) == whole


def test_ids_are_their_own_and_everything_is_told() -> None:
    (trigger,) = triggers(1)
    (one,) = inference().unweighted([trigger])
    posterior = inference().infer(trigger)
    assert one.id == f"{posterior.id}-u"
    assert one.trigger.window is trigger.window
    assert one.trigger.snr == pytest.approx(trigger.snr, rel=1e-5)
    assert (one.engine, one.model) == (posterior.engine, posterior.model)
    assert one.latent_p == pytest.approx(posterior.latent_p, rel=1e-3)
    later = dataclasses.replace(trigger, window=dataclasses.replace(trigger.window, start=5))
    assert not np.array_equal(inference().unweighted([later])[0].samples, one.samples)


def test_in_a_least_bucket_bytes_do_not_hang_on_how_many_come() -> None:
    found = triggers(11)
    together = inference().unweighted(found, 16)
    assert {one.bucket for one in together} == {16}
    for few in (found[:1], found[3:6], found[2:9]):
        alone = inference().gate(Batch(tuple(one.window for one in few), 64))  # another product, another rounding
        for one in inference().unweighted(alone, 16):
            assert same(one, next(other for other in together if other.id == one.id))


def test_windows_of_several_detectors_come_back_in_order() -> None:
    windows = [window(row, k, members()[k % 3]) for k, row in enumerate(noise(10, 8))]
    found = inference().gate(Batch(tuple(windows), 16))
    made = inference().unweighted(found)
    assert [one.window.start for one in made] == [one.start for one in windows]
    assert [one.bucket for one in made] == [4] * 10
    assert inference().unweighted([]) == ()


def test_more_than_the_largest_bucket_are_taken_in_turn() -> None:
    windows = [window(row, k, members()[k // 70]) for k, row in enumerate(np.zeros((140, 1)))]
    assert [len(rows) for rows in groups(windows)] == [64, 6, 64, 6]
    assert sorted(chain.from_iterable(groups(windows))) == list(range(140))


@pytest.mark.parametrize(("count", "shapes"), [(1, [1]), (2, [4]), (5, [16]), (64, [64]), (70, [64, 16])])
def test_a_bucket_is_the_smallest_that_fits(count: int, shapes: list[int]) -> None:
    made: list[int] = []
    ran: list[int] = []

    def make(example: tuple[Tensor, ...]) -> object:
        made.append(len(example[0]))

        def run(*given: Tensor) -> tuple[Tensor, ...]:
            assert {len(part) for part in given} == {len(example[0])}
            ran.append(len(given[0]))
            return given[0] * 2, given[1]

        return run

    programs = Buckets(make, lambda size: (torch.zeros(size, 2), torch.zeros(size, 3)))  # type: ignore[arg-type]
    assert made == [1]
    one, two = torch.randn(count, 2), torch.randn(count, 3)
    for _ in range(2):
        doubled, other = programs.run(one, two)
        assert torch.equal(doubled, 2 * one)
        assert torch.equal(other, two)
    assert ran == 2 * shapes
    assert made == sorted({1, *shapes}, key=[1, *shapes].index)  # each but once


@pytest.mark.parametrize("kind", KINDS)
def test_openvino_runs_any_number_of_windows(kind: str) -> None:
    net = untrained(kind)
    engine = OpenVinoEngine(net, partial(inputs, net), InferenceConfig())
    reference = TorchEngine(net, partial(inputs, net), InferenceConfig())
    given = inputs(net, 3)
    for found, expected in zip(engine.run(*given), reference.run(*given), strict=True):
        assert len(found) == 3
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_flows_have_unweighted_draws_too() -> None:
    """Their densities come of tensors of ONE window."""
    net = untrained("maf")
    made = net(*inputs(net, 3))
    draws = net.density(*(part[2:3] for part in made)).draw(np.random.default_rng(1), LATENTS)
    alone = net.density(*net(*(part[2:3] for part in inputs(net, 3)))).draw(np.random.default_rng(1), LATENTS)
    np.testing.assert_allclose(draws, alone, atol=1e-3, rtol=1e-3)


def test_an_engine_is_warm_in_the_buckets_it_is_told_of() -> None:
    served = Inference(inference().model, InferenceConfig(engine="openvino"))
    served.warm((1, 16))
    assert set(served._runner._engine._programs._programs) == {1, 16}  # type: ignore[attr-defined]


def test_a_window_has_its_row_by_its_time() -> None:
    """For rounding differs from row to row: whoever is judged with it, it is in the same one."""
    hop = 16
    first = window(np.zeros(256), 0)
    windows = [dataclasses.replace(first, start=first.start + hop * k) for k in (3, 4, 9, 18)]
    alone = [places([one], hop, 16)[0] for one in windows]
    assert places(windows, hop, 16) == alone
    assert len(set(alone)) == 4
    assert places([windows[0], windows[0]], hop, 16) == [0, 1]
