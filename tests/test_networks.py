"""Every kind of network, on a problem whose posterior is known."""

from __future__ import annotations

import dataclasses
import math
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy import stats
from torch import Tensor
from torch.nn import functional
from trained import members, noise, shipped, tiny_bank, window

from gwstream.config import InferenceConfig
from gwstream.inference import Inference, checkpoint, load_model
from gwstream.inference.features import PER_RATIO, RATIOS, TIME, size
from gwstream.inference.importance import Proposal
from gwstream.inference.networks import Network, build
from gwstream.inference.networks.base import Inputs, Pace, wrapped_normal
from gwstream.inference.networks.cvae_flow import CvaeFlow
from gwstream.inference.networks.layers import Autoregression, Chain
from gwstream.inference.networks.seed import Fixed
from gwstream.inference.networks.wavenet import Wavenet
from gwstream.model import ModelSpec
from gwstream.records import Batch, Floats

FEATURES = PER_RATIO * RATIOS + TIME + 10
SMALL: dict[str, dict[str, int]] = {
    "cvae": {"latent": 4, "components": 2, "width": 48, "depth": 1},
    "gaussian": {"width": 48, "depth": 1},
    "mixture": {"width": 48, "depth": 1, "components": 4},
    "maf": {"width": 48, "depth": 1, "hidden": 24, "steps": 2},
    "nsf": {"width": 48, "depth": 1, "hidden": 24, "layers": 1, "bins": 6},
    "cvae-flow": {"width": 48, "depth": 1, "latent": 4, "hidden": 16, "steps": 2},
    "wavenet": {"width": 48, "depth": 1, "hidden": 24, "layers": 1, "bins": 6, "channels": 8, "levels": 4},
    "seed": {"width": 64, "depth": 2, "latent": 4, "components": 2},
}
KINDS = tuple(SMALL)
STEPS, BATCH = 160, 256
KAPPA = 3.0


def spec(kind: str) -> ModelSpec:
    return ModelSpec.model_validate({"name": "small", "network": {"kind": kind, **SMALL[kind]}})


def problem(n: int, seed: int) -> tuple[Inputs, Tensor, Tensor]:
    """Inputs, coordinates (n, 5) drawn from their posterior given the inputs, and the ln density they were drawn with.

    The first coordinates are told by one feature each and by the start of the window; one is skewed by another.
    """
    rng = np.random.default_rng(seed)
    told = rng.standard_normal((n, 4)).clip(-2, 2)
    noise = rng.standard_normal((n, 4))
    sigma = np.exp(0.3 * told[:, [3, 0, 1, 2]])
    angle = rng.vonmises(0, KAPPA, n)
    e = told + sigma * noise
    e[:, 1] += 0.6 * e[:, 0]
    e[:, 2] += 0.2 * e[:, 1] ** 2
    e5 = np.angle(np.exp(1j * (1.5 * told[:, 1] + 0.5 * e[:, 0] + angle)))
    log_p = stats.norm.logpdf(noise).sum(1) - np.log(sigma).sum(1) + stats.vonmises.logpdf(angle, KAPPA)
    y, windows = np.zeros((n, FEATURES)), np.zeros((n, 256))
    y[:, :4] = windows[:, :4] = told
    tensors = (torch.from_numpy(part).float() for part in (y, windows, np.column_stack([e, e5]), log_p))
    y_, windows_, e_, log_p_ = tensors
    return Inputs(y_, windows_), e_, log_p_


@torch.no_grad()
def held(net: Network) -> float:
    torch.manual_seed(5)
    inputs, e, _ = problem(2048, 99)
    return float(net.loss(inputs, e, Pace(1.0, 8)).loss)


@cache
def trained(kind: str) -> tuple[Network, float, float]:
    """A network after a second of training, and its loss before and after."""
    torch.set_num_threads(1)
    torch.manual_seed(1)
    net = build(spec(kind), FEATURES)
    before = held(net)
    optimiser = torch.optim.AdamW(net.parameters(), 5e-3)
    for step in range(STEPS):
        inputs, e, _ = problem(BATCH, step)
        optimiser.param_groups[0]["lr"] = 5e-3 * (1 - step / STEPS)
        optimiser.zero_grad()
        net.loss(inputs, e, Pace(min(1.0, step / 40), 2)).loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 5.0)
        optimiser.step()
    return net.eval().requires_grad_(False), before, held(net)


@torch.inference_mode()
def proposal(net: Network, latents: int = 200, key: int = 3) -> Proposal:
    inputs, _, _ = problem(1, 4)
    return net.propose(inputs, np.random.default_rng(key), latents)


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_falls_towards_that_of_the_truth_and_not_below(kind: str) -> None:
    _, before, after = trained(kind)
    _, _, log_p = problem(2048, 99)
    truth, error = -float(log_p.mean()), float(log_p.std()) / math.sqrt(len(log_p))
    assert truth - 4 * error < after < before - 0.5
    assert after < truth + 1.2


def wide(draws: Floats, n: int) -> tuple[Floats, Floats]:
    """Points all over where ``draws`` lie, (n, 5), and their ln density: heavy-tailed, and uniform on the circle."""
    middle, spread = np.median(draws[:, :4], axis=0), 1.5 * np.cov(draws[:, :4].T)
    cloud = stats.multivariate_t(middle, spread, df=4, seed=8)
    x = cloud.rvs(n)
    angle = np.random.default_rng(9).uniform(-np.pi, np.pi, n)
    return np.column_stack([x, angle]), cloud.logpdf(x) - math.log(2 * math.pi)


@pytest.mark.parametrize("kind", KINDS)
def test_the_density_integrates_to_one_and_draws_follow_it(kind: str) -> None:
    one = proposal(trained(kind)[0])
    draws = one.draw(np.random.default_rng(6), 4000)
    assert draws.shape == (4000, 5)
    assert np.abs(draws[:, 4]).max() <= np.pi + 1e-6
    points, log_density = wide(draws, 30_000)
    weights = np.exp(one.log_density(points) - log_density)
    error = weights.std() / math.sqrt(len(weights))
    assert error < 0.02
    assert weights.mean() == pytest.approx(1.0, abs=4 * error)
    chosen = np.random.default_rng(7).choice(len(points), 3000, p=weights / weights.sum())
    for k in range(5):
        assert stats.ks_2samp(draws[:, k], points[chosen, k]).pvalue > 1e-4, k


@pytest.mark.parametrize("kind", KINDS)
def test_draws_bring_the_density_that_anybody_finds_for_them(kind: str) -> None:
    one = proposal(trained(kind)[0])
    draws = one.draw(np.random.default_rng(1), 500)
    np.testing.assert_allclose(one.log_density(draws), one.log_density(draws.copy()), atol=2e-4)
    turned = draws + np.array([0, 0, 0, 0, 2 * np.pi])
    np.testing.assert_allclose(one.log_density(turned), one.log_density(draws), atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_key_gives_the_same_bits(kind: str) -> None:
    net = trained(kind)[0]
    first, again, other = (proposal(net, key=key).draw(np.random.default_rng(key), 300) for key in (1, 1, 2))
    assert first.tobytes() == again.tobytes()
    assert first.tobytes() != other.tobytes()


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_saved_is_loaded_and_serves_a_window(kind: str, tmp_path: Path) -> None:
    features = size(tiny_bank(), len(members()[0].context))
    recipe = "name = 'small'\n[bank]\ncomponents = 16\nchirp_nodes = 48\nratio_nodes = 8\ngate = 4\n[network]\n"
    recipe += f"kind = '{kind}'\n" + "".join(f"{key} = {value}\n" for key, value in SMALL[kind].items())
    (tmp_path / "model.toml").write_text(recipe, encoding="utf-8")
    torch.manual_seed(2)
    net = build(spec(kind), features)
    net.fit_scale(torch.randn(50, features))
    table = {"bank": {"components": 16, "chirp_nodes": 48, "ratio_nodes": 8, "gate": 4}}
    whole = ModelSpec.model_validate({"name": "small", "network": {"kind": kind, **SMALL[kind]}, **table})
    checkpoint.save(tmp_path / checkpoint.WEIGHTS, whole, tiny_bank(), net)
    loaded = load_model(tmp_path)
    for name, value in net.state_dict().items():
        assert name.startswith(net.training_only) or torch.equal(loaded.net.state_dict()[name], value), name
    assert not any(name.startswith("net.e2") for name in load_file(tmp_path / checkpoint.WEIGHTS))
    inference = Inference(loaded, InferenceConfig(draws=200, latents=50))
    inference.warm()
    one = window(noise(1, 3)[0])
    proposed = inference.propose(one)
    e = proposed.proposal.draw(proposed.rng, 100)
    x = proposed.parameters(e)
    assert x.shape == (100, 5)
    assert np.isfinite(proposed.proposal.log_density(e)).all()
    a, b = (inference.infer(inference.gate(Batch((one,), 1))[0]) for _ in range(2))
    assert a.samples.tobytes() == b.samples.tobytes()
    assert a.weights.sum() == pytest.approx(1.0)


def test_weights_of_one_kind_are_refused_by_another(tmp_path: Path) -> None:
    recipe = tmp_path / "model.toml"
    checkpoint.save(tmp_path / checkpoint.WEIGHTS, spec("gaussian"), tiny_bank(), build(spec("gaussian"), 30))
    recipe.write_text("name = 'small'\n[network]\nkind = 'nsf'\n", encoding="utf-8")
    with pytest.raises(Exception, match=r"made for another \[network\]"):
        load_model(tmp_path)


def test_every_kind_is_of_similar_size_and_ships_in_ten_megabytes() -> None:
    bank = 3.7e6  # bytes, of the shipped model's
    for kind in KINDS:
        net = build(ModelSpec.model_validate({"name": "whole", "network": {"kind": kind}}), 250)
        served = [value for name, value in net.state_dict().items() if not name.startswith(net.training_only)]
        assert 4e5 < sum(value.numel() for value in net.parameters()) < 2e6, kind
        assert 4 * sum(value.numel() for value in served) + bank < 10e6, kind


def test_a_coordinate_sees_those_before_it_alone_and_one_by_one_is_all_at_once() -> None:
    torch.manual_seed(1)
    net = Autoregression(6, (2, 3), 8, 2, 4)
    x = torch.randn(1, 5, requires_grad=True)
    prepared = net.prepare(torch.randn(1, 6))
    found = net(prepared, x)
    for d in range(3):
        (slope,) = torch.autograd.grad(found[0, d].sum(), x, retain_graph=True)
        assert (slope[0, : 2 + d] != 0).all()
        assert (slope[0, 2 + d :] == 0).all()
        torch.testing.assert_close(net.one(d, prepared, x[:, : 2 + d]), found[:, d])


@torch.no_grad()
def test_a_chain_and_its_inverse() -> None:
    torch.manual_seed(1)
    chain = Chain(3, 6, 4, 8, 1)
    prepared = chain.prepare(torch.randn(1, 6))
    u = torch.randn(50, 4)
    x, log_width = chain.outward(prepared, u)
    back, same = chain.inward(prepared, x)
    torch.testing.assert_close(back, u, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(log_width, same, atol=1e-5, rtol=1e-5)
    jacobian = torch.autograd.functional.jacobian(lambda one: chain.inward(prepared, one)[0][0], x[:1])
    _, log_determinant = torch.linalg.slogdet(jacobian[:, 0])
    assert float(log_determinant) == pytest.approx(-float(log_width[0]), abs=1e-4)


@pytest.mark.parametrize("sigma", [0.05, 1.0, 3.5])
def test_a_wrapped_normal_is_scipys_gaussian_wound_up(sigma: float) -> None:
    angle = np.linspace(-9, 9, 50)
    expected = sum(stats.norm.pdf(np.angle(np.exp(1j * angle)) + 2 * np.pi * k, 0, sigma) for k in range(-9, 10))
    found = wrapped_normal(torch.from_numpy(angle), torch.tensor(math.log(sigma), dtype=torch.double)).exp().numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-3)


@torch.no_grad()
def test_the_tree_is_the_last_step_of_dilated_causal_convolutions() -> None:
    torch.manual_seed(1)
    net = build(spec("wavenet"), FEATURES)
    assert isinstance(net, Wavenet)
    samples = torch.randn(3, net.length)
    x, total = net.lift(samples[..., None]).transpose(1, 2), 0.0
    for k, level in enumerate(net.levels):
        channels = level.skip.in_features
        kernel = level.pair.weight.reshape(2 * channels, 2, channels).transpose(1, 2)
        padded = functional.pad(x, (2**k, 0))
        signal, gate = functional.conv1d(padded, kernel, level.pair.bias, dilation=2**k).chunk(2, dim=1)
        update = (torch.tanh(signal) * torch.sigmoid(gate)).transpose(1, 2)
        total = total + level.skip(update)[:, -1]
        x = x + level.residual(update).transpose(1, 2)
    torch.testing.assert_close(net.hear(samples), net.top(torch.relu(total)))


def test_windows_are_cut_around_the_coalescence() -> None:
    net = build(spec("wavenet"), FEATURES)
    assert isinstance(net, Wavenet)
    y = torch.zeros(2, FEATURES)
    y[:, PER_RATIO * RATIOS + TIME] = torch.tensor([0.0, 2.5])  # 0.75 s, and 1.25 s: beyond the window's end
    cut, rest = net.aligned(Inputs(y, torch.arange(256.0).expand(2, 256)))
    assert cut[0].tolist() == [float(k) for k in range(192, 208)]
    assert (cut[1] == 0).all()
    assert rest.abs().max() <= 0.5


def test_fixed_coordinates_and_their_slope() -> None:
    fixed = Fixed(shipped().spec.prior)
    x = shipped().spec.prior.draw(np.random.default_rng(1), 100)
    e = fixed.encode(x)
    assert np.abs(e[:, :4]).max() <= 1.0
    back, log_jacobian = fixed.decode(e)
    np.testing.assert_allclose(back, x, atol=1e-9)
    step = 1e-6
    slopes = [(fixed.encode(x + step * np.eye(5)[k]) - e)[:, k] / step for k in range(5)]
    slopes[4] = np.angle(np.exp(1j * slopes[4] * step)) / step
    np.testing.assert_allclose(np.log(np.prod(slopes, axis=0)), log_jacobian, atol=1e-3)


def test_the_leaning_mixture_is_the_mean_of_its_parts() -> None:
    net = trained("cvae-flow")[0]
    assert isinstance(net, CvaeFlow)
    inputs, e, _ = problem(40, 11)
    one = dataclasses.replace(inputs, y=inputs.y[:1], windows=inputs.windows[:1])
    with torch.inference_mode():
        found = net.propose(one, np.random.default_rng(1), 64)
        window_ = net.embed(one)
        noise_ = torch.from_numpy(np.random.default_rng(1).standard_normal((64, net.latent), np.float32))
        parts = net.decode(window_, net.draw_prior(window_, noise_[None], noise_[None, :, 0]))
        expected = torch.logsumexp(parts.log_density(e[:, None]), 1) - math.log(64)
    np.testing.assert_allclose(found.log_density(e.double().numpy()), expected.numpy(), atol=2e-3)
