from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from scipy import stats
from trained import inference, members, noise, shipped, signal, templates, window

from gwstream.config import InferenceConfig
from gwstream.inference import Inference
from gwstream.inference.aggregate import Aggregate
from gwstream.records import Batch, Posterior, Trigger, Window

BYTES = ("samples", "weights")


def loud(number: int = 0, snr: float = 15.0) -> tuple[Window, np.ndarray]:
    wave, x = signal(38.0, 31.0, 0.76, 0.6, snr)
    return window(noise(1, 100 + number)[0] + wave, number), x


def gated(*windows: Window, by: Inference | None = None) -> tuple[Trigger, ...]:
    return (by or inference()).gate(Batch(windows, 4))


P_VALUES = ("residual_p", "peak_residual_p")


def same(one: Posterior, two: Posterior) -> bool:
    scalars = ("id", "log_evidence", "log_bayes", "log_bayes_error", "ess", "max_weight", "snr", *P_VALUES)
    arrays = all(getattr(one, name).tobytes() == getattr(two, name).tobytes() for name in BYTES)
    bands = all(
        getattr(one.waveform, name).tobytes() == getattr(two.waveform, name).tobytes()
        for name in ("median", "lower", "upper")
    )
    return arrays and bands and all(getattr(one, name) == getattr(two, name) for name in scalars)


def test_a_posterior_is_recomputed_to_the_last_bit() -> None:
    one, _ = loud()
    others = [window(row, 50 + k) for k, row in enumerate(noise(3, 7))]
    alone = inference().infer(gated(one)[0])
    fresh = Inference(shipped(), InferenceConfig())
    assert same(alone, inference().infer(gated(one)[0]))
    assert same(alone, fresh.infer(gated(*others, one, by=fresh)[-1], 4))


def test_draws_depend_on_the_id() -> None:
    one, _ = loud()
    later = dataclasses.replace(one, start=one.start + 16)
    other = dataclasses.replace(one, detector="L1")
    posteriors = [inference().infer(gated(each)[0]) for each in (one, later, other)]
    assert len({p.id for p in posteriors}) == 3
    assert len({p.samples.tobytes() for p in posteriors}) == 3
    # the same strain with other draws says the same within the draws' error
    for p in posteriors[1:]:
        assert p.log_bayes == pytest.approx(posteriors[0].log_bayes, abs=6 / math.sqrt(min(p.ess, posteriors[0].ess)))


def test_the_gate_does_not_depend_on_the_batch() -> None:
    windows = [window(row, k, members()[k % 3]) for k, row in enumerate(noise(12, 8))]
    windows[5] = loud()[0]
    together = gated(*windows)
    for k, trigger in enumerate(together):
        alone = gated(windows[k])[0]
        assert trigger.window is windows[k]
        assert trigger.template == alone.template
        assert trigger.snr == pytest.approx(alone.snr, rel=1e-5)
        assert trigger.time == pytest.approx(alone.time, abs=1e-5)
        assert trigger.passed == alone.passed
        assert 0 <= trigger.phase < 2 * math.pi


def test_loud_windows_pass_and_quiet_ones_or_late_ones_do_not() -> None:
    assert gated(loud()[0])[0].passed
    assert not any(trigger.passed for trigger in gated(*(window(row, k) for k, row in enumerate(noise(8, 9)))))
    late = window(signal(38.0, 31.0, 0.868, 0.6, 30.0)[0])
    trigger = gated(late)[0]
    assert trigger.snr > 20
    assert not trigger.passed
    deaf = Inference(shipped(), InferenceConfig(gate_snr=30))
    assert not gated(loud()[0], by=deaf)[0].passed


def test_posterior_holds_the_truth_and_its_own_books() -> None:
    one, x = loud(2)
    posterior = inference().infer(gated(one)[0], 4)
    assert posterior.samples.shape == (2000, 5)
    assert posterior.weights.sum() == pytest.approx(1, abs=1e-12)
    assert posterior.ess == pytest.approx(1 / (posterior.weights**2).sum())
    assert posterior.max_weight == posterior.weights.max()
    assert posterior.log_bayes_error == pytest.approx(math.sqrt(1 / posterior.ess - 1 / 2000), rel=1e-3)
    assert (posterior.rounds, posterior.stratified) == (1, True)
    used = posterior.weights > 0
    assert np.isfinite(shipped().spec.prior.log_density(posterior.samples[used])).all()
    assert posterior.log_bayes == pytest.approx(0.5 * 15**2 - 10, abs=45)
    assert posterior.log_evidence - posterior.log_bayes == pytest.approx(stats.norm.logpdf(one.samples).sum())
    assert posterior.snr == pytest.approx(15, abs=3)
    assert posterior.bucket == 4
    assert posterior.model["hash"] == shipped().hash
    assert posterior.model["conditioning_hash"] == shipped().conditioning_hash
    for k in (2, 3):
        mean = posterior.weights @ posterior.samples[:, k]
        spread = math.sqrt(posterior.weights @ (posterior.samples[:, k] - mean) ** 2)
        assert abs(mean - x[k]) < 5 * spread


def test_the_band_of_the_waveform_holds_the_true_one() -> None:
    one, x = loud(3, 25.0)
    found = inference().infer(gated(one)[0]).waveform
    truth = templates().waveforms(x[None])[0]
    assert (found.lower <= found.median).all()
    assert (found.median <= found.upper).all()
    inside = (truth >= found.lower - 0.05) & (truth <= found.upper + 0.05)
    assert inside.mean() > 0.6
    assert np.linalg.norm(found.median - truth) < 0.3 * np.linalg.norm(truth)


def test_residual_p_is_uniform_for_signals_and_small_for_what_is_none() -> None:
    quick = Inference(shipped(), InferenceConfig(draws=400, latents=200))
    values = []
    for number in range(24):
        one, _ = loud(200 + number, 10.0)
        values.append(quick.infer(gated(one, by=quick)[0]).residual_p)
    assert stats.kstest(values, "uniform").pvalue > 1e-3
    glitch = noise(1, 11)[0]
    glitch[150:200] += 12 * np.sin(2 * np.pi * 80 / 256 * np.arange(50)) * np.hanning(50)
    assert quick.infer(gated(window(glitch, 999), by=quick)[0]).residual_p < 1e-4


def test_number_of_draws_and_components_are_the_settings() -> None:
    quick = Inference(shipped(), InferenceConfig(draws=300, latents=50))
    one, _ = loud()
    assert quick.infer(gated(one, by=quick)[0]).samples.shape == (300, 5)
    assert quick.propose(one).proposal.mean.shape == (50, 4)


def test_log_target_is_likelihood_times_prior_in_the_coordinates() -> None:
    """Integrated over e by the proposal it is the evidence; here pointwise, against the parts."""
    from gwstream.inference.likelihood import log_ratio

    one, _ = loud()
    proposed = inference().propose(one)
    e = proposed.proposal.draw(np.random.default_rng(1), 50)
    x, log_jacobian = proposed.anchor.decode(e)
    prior = shipped().spec.prior.log_density(x)
    ratio = log_ratio(one.samples, templates().waveforms(x))
    expected = np.where(np.isfinite(prior), ratio + prior - log_jacobian, -np.inf)
    np.testing.assert_allclose(proposed.log_target(e), expected, atol=0.02)


def test_another_prior_is_another_posterior_with_another_id() -> None:
    one, _ = loud()
    model = shipped().spec.prior
    served = {name: Inference(shipped(), InferenceConfig(distance_prior=name)) for name in ("uniform", "volume")}
    assert served["uniform"].identity(one) == inference().identity(one)  # it is the model's
    assert served["volume"].identity(one) != inference().identity(one)
    assert served["volume"].prior == dataclasses.replace(model, distance_density="volume")
    near, far = (by.infer(gated(one, by=by)[0]) for by in served.values())
    assert far.weights @ far.samples[:, 2] > near.weights @ near.samples[:, 2]
    # by hand: the evidence in volume is that in distance times the mean ratio of the priors
    used = near.weights > 0
    ratio = served["volume"].prior.log_density(near.samples[used]) - model.log_density(near.samples[used])
    expected = math.log(near.weights[used] @ np.exp(ratio))
    error = math.hypot(near.log_bayes_error, far.log_bayes_error)
    assert far.log_bayes - near.log_bayes == pytest.approx(expected, abs=5 * error)


def test_a_window_unlike_the_training_is_far_from_it() -> None:
    """Against an aggregate of the windows of one detector, signals and no glitch."""
    codes = []
    for number in range(400):
        wave, _ = signal(25.0 + number / 8, 22.0 + number / 9, 0.7 + 0.0003 * number, number % 3, 9 + number % 9)
        codes.append(inference().propose(window(noise(1, 300 + number)[0] + wave, number)).code)
    many = np.array(codes)
    aware = Inference(dataclasses.replace(shipped(), aggregate=Aggregate.fit(many[::2], many[1::2])), InferenceConfig())
    one, _ = loud(777)
    like = aware.infer(gated(one, by=aware)[0])
    assert like.latent_p is not None
    assert like.latent_p > 0.01
    t = np.arange(256) / 256
    hum = window(noise(1, 12)[0] + 3 * np.sin(2 * np.pi * 45 * t), 998)
    unlike = aware.infer(gated(hum, by=aware)[0])
    assert unlike.latent_p is not None
    assert unlike.latent_p < 1e-3
    mute = Inference(dataclasses.replace(shipped(), aggregate=None), InferenceConfig())
    assert mute.infer(gated(one, by=mute)[0]).latent_p is None


def test_filters_of_old_whiteners_are_let_go() -> None:
    from gwstream.inference import KEPT_WHITENERS

    one = Inference(shipped(), InferenceConfig())
    for k in range(KEPT_WHITENERS + 4):
        for detector in ("H1", "L1"):  # one that is busy displaces nothing of another
            whitener = dataclasses.replace(members()[0].whitener, detector=detector, id=f"{detector}-{k}")
            gated(dataclasses.replace(window(noise(1, k)[0]), whitener=whitener), by=one)
    last = [str(k) for k in range(4, KEPT_WHITENERS + 4)]
    kept = {detector: [name.removeprefix(f"{detector}-") for name in live] for detector, live in one._live.items()}
    assert kept == {"H1": last, "L1": last}


def test_a_window_of_nothing_has_a_posterior_too() -> None:
    """``gate_snr = 0`` lets everything through."""
    batch = Batch((window(np.zeros(256), 4711),), 1)
    posterior = inference().infer(inference().gate(batch)[0])
    assert np.all(np.isfinite(posterior.samples))
    assert posterior.log_bayes < 0
