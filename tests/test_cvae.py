from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from gwstream.inference.networks.autoencoder import Decoded, Latent
from gwstream.inference.networks.base import Inputs, Pace
from gwstream.inference.networks.cvae import Cvae
from gwstream.model import CvaeSpec

SPEC = CvaeSpec(latent=2, components=3, width=32, depth=1)


def network(seed: int = 1) -> Cvae:
    torch.set_num_threads(1)  # small products: idle threads cost more than they bring
    torch.manual_seed(seed)
    return Cvae(SPEC, 7).eval()


def told(y: Tensor) -> Inputs:
    return Inputs(y, torch.zeros(len(y), 256))


def data(n: int) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(2)
    x = np.column_stack([rng.uniform(-2, 2, (n, 4)), rng.uniform(-3, 3, n)])
    y = torch.from_numpy(rng.standard_normal((n, 7))).float()
    return y, torch.from_numpy(x).float()


def log_evidence(net: Cvae, y: Tensor, x: Tensor) -> float:
    """Mean ln p(x|y) by a grid over the two latents: the truth that both bounds stay below."""
    side = torch.linspace(-9, 9, 400)
    z = torch.cartesian_prod(side, side)[None]
    cell = float(side[1] - side[0]) ** 2
    total = 0.0
    for k in range(len(y)):
        window = net.embed(told(y[k : k + 1]))
        log_r = net.prior(window).log_density(z)
        found = net.decode(window, z)
        log_x = found.log_density(x[k : k + 1, None])
        assert float(torch.logsumexp(log_r, 1)) + math.log(cell) == pytest.approx(0, abs=0.01)
        total += float(torch.logsumexp(log_r + log_x, 1)) + math.log(cell)
    return total / len(y)


@torch.no_grad()
def test_elbo_and_its_weighted_form_are_bounds_of_the_evidence_in_order() -> None:
    net = network()
    net.e2[-1].bias[2:] += 0.4  # E2 wider than need be: a gap to see
    y, x = data(4)
    truth = log_evidence(net, y, x)
    torch.manual_seed(3)
    means = {}
    for draws, repeats in ((1, 1000), (16, 200), (256, 60)):
        losses = [float(net.loss(told(y), x, Pace(1.0, draws)).loss) for _ in range(repeats)]
        means[draws] = -np.mean(losses)
        assert means[draws] < truth + 4 * np.std(losses) / math.sqrt(repeats) + 0.01
    assert means[1] < means[16] < means[256] + 0.01
    assert truth - means[256] < 0.25 * (truth - means[1])


@torch.no_grad()
def test_kl_is_that_of_two_gaussians() -> None:
    """With one component E1 is a Gaussian, and torch knows the divergence in closed form."""
    torch.manual_seed(8)
    net = Cvae(CvaeSpec(latent=2, components=1, width=32, depth=1), 7).eval()
    net.e2[-1].bias[2:] -= 0.7
    y, x = data(6)
    window = net.embed(told(y))
    mean, log_sigma = net.posterior(window, x)
    prior = net.prior(window)
    expected = kl_divergence(Normal(mean, log_sigma.exp()), Normal(prior.mean[:, 0], prior.log_sigma[:, 0].exp())).sum(
        -1
    )
    found = net.loss(told(y), x, Pace(1.0, 20_000)).kl
    assert found == pytest.approx(float(expected.mean()), abs=0.05)


@torch.no_grad()
@pytest.mark.parametrize("draws", [1, 4])
def test_beta_weighs_the_kl_term_alone(draws: int) -> None:
    net = network()
    y, x = data(8)
    losses = []
    for beta in (0.0, 0.5, 1.0):
        torch.manual_seed(4)
        losses.append(net.loss(told(y), x, Pace(beta, draws)))
    assert len({one.reconstruction for one in losses}) == 1
    if draws == 1:
        assert float(losses[0].loss) == pytest.approx(-losses[0].reconstruction, rel=1e-5)
        assert float(losses[2].loss) == pytest.approx(losses[2].kl - losses[2].reconstruction, rel=1e-5)
        assert float(losses[1].loss) == pytest.approx(0.5 * float(losses[0].loss + losses[2].loss), rel=1e-5)
    assert float(losses[0].loss) != float(losses[1].loss)


def test_latent_density_is_a_mixture_of_gaussians() -> None:
    rng = np.random.default_rng(5)
    weights = np.log([0.2, 0.5, 0.3])
    mean, log_sigma = rng.normal(0, 1, (3, 2)), rng.normal(-0.5, 0.3, (3, 2))
    z = rng.normal(0, 2, (50, 2))
    expected = np.log(
        sum(
            math.exp(w) * stats.norm.pdf(z, m, np.exp(s)).prod(1)
            for w, m, s in zip(weights, mean, log_sigma, strict=True)
        )
    )
    one = Latent(*(torch.from_numpy(np.asarray(value))[None] for value in (weights, mean, log_sigma)))
    np.testing.assert_allclose(one.log_density(torch.from_numpy(z)[None])[0].numpy(), expected, rtol=1e-6)


def test_decoders_density_equals_scipy() -> None:
    rng = np.random.default_rng(6)
    n = 60
    mean, sigma = rng.normal(0, 2, (n, 4)), rng.uniform(0.3, 3, (n, 4))
    angle, kappa = rng.uniform(-3, 3, n), rng.uniform(0.05, 400, n)
    x = np.column_stack([rng.uniform(-3, 3, (n, 4)), rng.uniform(-3, 3, n)])
    one = Decoded(*(torch.from_numpy(value) for value in (mean, sigma, angle, np.log(kappa))))
    found = one.log_density(torch.from_numpy(x)).numpy()
    expected = stats.norm.logpdf(x[:, :4], mean, sigma).sum(1) + stats.vonmises.logpdf(x[:, 4], kappa, loc=angle)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_the_engines_mixture_is_the_decoder_over_latents_of_e1() -> None:
    net = network()
    rng = np.random.default_rng(7)
    y = torch.from_numpy(rng.standard_normal((1, 7))).float()
    with torch.inference_mode():
        mixture = net.propose(told(y), rng, 4000)
    e = np.column_stack([rng.uniform(-3, 3, (30, 4)), rng.uniform(-3, 3, 30)])
    x = torch.from_numpy(e).float()
    with torch.no_grad():
        expected = [log_evidence(net, y, x[k : k + 1]) for k in range(4)]
    np.testing.assert_allclose(mixture.log_density(e)[:4], expected, atol=0.05)


def test_gradients_stay_finite_for_targets_far_outside_the_network() -> None:
    net = network()
    y, x = data(6)
    x[:, :4] = torch.tensor([2.999, -2.999, 2.999, 0.0])
    with torch.no_grad():
        net.d[-1].bias[:4] = 60.0
        net.d[-1].bias[10] = 20.0
    net.loss(told(50 * y), x, Pace(1.0, 4)).loss.backward()
    gradients = [value.grad for value in net.parameters() if value.grad is not None]
    assert gradients
    assert all(torch.isfinite(gradient).all() for gradient in gradients)


def test_each_window_is_embedded_alone() -> None:
    net = network()
    y, _ = data(5)
    with torch.no_grad():
        torch.testing.assert_close(net.embed(told(y))[2:3], net.embed(told(y[2:3])), atol=1e-5, rtol=1e-5)
