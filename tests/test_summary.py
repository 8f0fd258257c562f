"""Statistics against independent references; messages exact, canonical and valid; windows of one signal one event."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import fakes
import jsonschema
import numpy as np
import pytest
from fakes import GPS, RATE, posterior, trigger, whitener, window
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from gwstream.config import SummaryConfig
from gwstream.prior import Prior
from gwstream.records import PARAMETERS, Floats, Posterior, Summary, Waveform
from gwstream.summary import Summarizer, schema
from gwstream.summary.events import KEPT
from gwstream.summary.message import REASONS, canonical
from gwstream.summary.statistics import circular, correlation, deviation, mean_sd, quantiles, ranks

Q = (0.05, 0.5, 0.95)
seeds = st.integers(0, 2**32 - 1)


def draws(seed: int, n: int = 500) -> tuple[Floats, Floats]:
    """Normal draws and small integer weights, some of them zero."""
    rng = np.random.default_rng(seed)
    weights = rng.integers(0, 6, n).astype(float)
    weights[0] += 1
    return rng.normal(size=n), weights


# statistics


@given(seeds)
def test_quantiles_of_equal_weights_are_numpys(seed: int) -> None:
    x, _ = draws(seed)
    np.testing.assert_allclose(quantiles(x, np.full(len(x), 1 / len(x)), Q), np.quantile(x, Q, method="hazen"))


@given(seeds)
def test_quantiles_lie_between_neighbours_of_the_repeated_draws(seed: int) -> None:
    x, weights = draws(seed)
    repeated = np.repeat(x, weights.astype(int))
    found = quantiles(x, weights / weights.sum(), Q)
    heaviest = weights.max() / weights.sum()
    low = np.quantile(repeated, np.array(Q) - heaviest, method="inverted_cdf")
    high = np.quantile(repeated, np.array(Q) + heaviest, method="inverted_cdf")
    assert np.all((low <= found) & (found <= high))
    kept = weights > 0
    plain = np.quantile(x[kept], Q, method="inverted_cdf", weights=weights[kept])
    np.testing.assert_allclose(found, plain, atol=0.15)


def test_quantiles_move_little_with_the_weights() -> None:
    x, weights = draws(3, 2000)
    weights += 0.5
    nudged = weights * (1 + 1e-5 * np.sin(np.arange(len(x))))
    difference = quantiles(x, weights / weights.sum(), Q) - quantiles(x, nudged / nudged.sum(), Q)
    assert np.abs(difference).max() < 1e-4


@given(seeds)
def test_moments_are_those_of_the_repeated_draws(seed: int) -> None:
    x, weights = draws(seed)
    y = np.column_stack([x, x**2, np.roll(x, 1)])
    repeated = np.repeat(y, weights.astype(int), axis=0)
    normal = weights / weights.sum()
    np.testing.assert_allclose(mean_sd(x, normal), (repeated[:, 0].mean(), repeated[:, 0].std()), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(correlation(y, normal), np.corrcoef(repeated.T), atol=1e-9)


@pytest.mark.parametrize("weighted", [False, True])
def test_ranks_among_few_draws_are_uniform(weighted: bool) -> None:
    rng = np.random.default_rng(5)
    found = []
    for _ in range(4000):
        centre = rng.standard_normal(2)
        truth, samples = centre + rng.standard_normal(2), centre + rng.standard_normal((60, 2))
        weights = np.full(60, 1 / 60)
        if weighted:  # draws of a wider proposal, weighted back
            samples = centre + 1.2 * (samples - centre)
            weights = np.exp(-0.5 * np.sum((samples - centre) ** 2, axis=1) * (1 - 1 / 1.2**2))
            weights /= weights.sum()
        found.append(ranks(samples, weights, truth, rng))
    for column in np.array(found).T:
        assert stats.kstest(column, "uniform").pvalue > 0.01
        assert np.mean(np.abs(column - 0.5) < 0.45) == pytest.approx(0.9, abs=0.013)


@given(seeds, st.floats(-20, 20), st.floats(0.2, 30))
def test_circular_statistics_agree_with_scipy_in_any_branch(seed: int, centre: float, kappa: float) -> None:
    rng = np.random.default_rng(seed)
    x = (rng.vonmises(0, kappa, 300) + centre) / 2
    weights = rng.integers(0, 4, 300).astype(float)
    weights[0] += 1
    repeated = np.repeat(x, weights.astype(int))
    found = circular(x + np.pi * rng.integers(-3, 4, 300), weights / weights.sum(), np.pi)
    expected = stats.circmean(repeated, high=np.pi)
    assert abs(deviation(np.array([found.mean]), expected, np.pi)[0]) < 1e-7 / max(found.resultant, 1e-3)
    assert found.resultant == pytest.approx(1 - stats.circvar(repeated, high=np.pi), abs=1e-9)
    assert 0 <= found.mean < np.pi


@given(seeds)
def test_the_arc_is_the_shortest(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = np.mod(rng.vonmises(rng.uniform(-3, 3), rng.uniform(0, 5), 40) / 2, np.pi)
    weights = rng.dirichlet(np.ones(40))
    found = circular(x, weights, np.pi)

    def held(start: float, end: float) -> float:
        return float(weights[np.mod(x - start + 1e-12, np.pi) <= end - start + 2e-12].sum())

    assert held(found.start, found.end) >= 0.9 - 1e-9
    widths = [np.mod(b - a, np.pi) for a, b in itertools.product(x, x) if held(a, a + np.mod(b - a, np.pi)) >= 0.9]
    assert found.end - found.start == pytest.approx(min(widths), abs=1e-9)


def test_the_arc_crosses_the_seam() -> None:
    x = np.mod(np.linspace(-0.2, 0.2, 101), np.pi)
    found = circular(x, np.full(101, 1 / 101), np.pi)
    assert found.end - found.start == pytest.approx(0.36, abs=0.005)
    assert found.start > 2.9
    assert found.end > np.pi
    assert min(found.mean, np.pi - found.mean) < 1e-9


# messages


def summarizer(**changes: Any) -> Summarizer:
    return Summarizer(SummaryConfig(**changes), Prior())


def read(one: Posterior, **changes: Any) -> dict[str, Any]:
    first = summarizer(**changes).add(one)[0]
    body: dict[str, Any] = json.loads(first.posterior)
    return body


def message(summary: Summary) -> dict[str, Any]:
    """As a subscriber has it; the delivery part is made up."""
    delivery = {
        "sequence": 4,
        "attempt": 1,
        "latency": {"source": 0.002, "inference": 0.08, "total": 0.082},
        "since_last_sample": 0.3,
        "since_coalescence": 0.5,
        "sent_gps": GPS + 1.5,
    }
    out = {
        "schema": f"gwstream.{'posterior' if summary.kind == 'unweighted' else summary.kind}/1",
        "posterior": json.loads(summary.posterior),
        "sha256": summary.sha256,
        "delivery": delivery,
    }
    return out | ({"event": dict(summary.event)} if summary.event is not None else {})


def validator() -> jsonschema.Draft202012Validator:
    jsonschema.Draft202012Validator.check_schema(schema())
    return jsonschema.Draft202012Validator(schema())


def test_messages_are_valid() -> None:
    check = validator()
    made = summarizer()
    for n in range(4):
        for summary in made.add(posterior(window(n, dq=None if n % 2 else 3), time=0.8 - n / 16)):
            check.validate(message(summary))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("posterior", "snr"), "loud"),
        (("posterior", "parameters", "mass_1", "unit"), "kg"),
        (("posterior", "parameters", "phase", "median"), 1.0),
        (("posterior", "quality", "reasons"), ["bad luck"]),
        (("posterior", "window", "gps_ns"), 1.5),
        (("sha256",), "abc"),
        (("delivery", "latency"), {}),
        (("surprise",), 1),
        (("schema",), "gwstream.event/1"),
    ],
)
def test_the_schema_refuses(path: tuple[str, ...], value: object) -> None:
    wrong = message(summarizer().add(posterior(window()))[0])
    inner = wrong
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    assert not validator().is_valid(wrong)


def test_unweighted_draws_are_told_as_such_and_are_no_event() -> None:
    found = fakes.unweighted(fakes.trigger(window(5), snr=3.5, passed=False), n=400)
    made = Summarizer(SummaryConfig(), Prior(distance_density="volume"), Prior())
    before = made.state()
    summary = made.unweighted(found)
    assert made.state() == before
    assert (summary.kind, summary.id, summary.event, summary.samples) == ("unweighted", found.id, None, b"")
    validator().validate(message(summary))
    part = json.loads(summary.posterior)
    assert canonical(part) == summary.posterior
    assert part["quality"] == {"verdict": "suspect", "reasons": ["unweighted"]}
    assert part["sampling"]["weighted"] is False
    assert part["sampling"]["draws"] == 400
    assert (part["bucket"], part["gate_snr"]) == (16, 3.5)
    unknown = ("snr", "log_bayes", "log_evidence", "likelihood", "residual_p", "peak_residual_p", "waveform")
    assert {part[name] for name in unknown} == {None}
    assert {part["sampling"][name] for name in ("ess", "largest_weight", "log_bayes_error")} == {None}
    assert part["prior"]["effective_distance"]["density"] == "uniform"  # that of the training: no weights change it
    mass = part["parameters"]["mass_1"]
    assert mass["median"] == pytest.approx(np.median(found.samples[:, 0]), rel=1e-6)
    assert mass["p95"] == pytest.approx(np.quantile(found.samples[:, 0], 0.95, method="hazen"), rel=1e-6)
    assert part["coalescence"]["gps_ns"] == part["parameters"]["coalescence_time"]["gps_ns"]["median"]
    weighted = json.loads(made.add(posterior(window(5)))[0].posterior)
    assert set(weighted) == set(part)
    assert weighted["sampling"]["weighted"] is True


def test_unweighted_draws_have_their_doubts_too() -> None:
    young = window(5, whitener=fakes.whitener(history=13.0, drift=2.0), dq=None)
    odd = fakes.unweighted(fakes.trigger(young), latent_p=1e-4)
    found = json.loads(summarizer().unweighted(odd).posterior)["quality"]["reasons"]
    assert found == ["unweighted", "short PSD history", "unlike the training data", "PSD drift", "data quality unknown"]


def test_bytes_are_canonical_and_hashed() -> None:
    one = posterior(window())
    first, second = summarizer().add(one), summarizer().add(one)
    assert [s.posterior for s in first] == [s.posterior for s in second]
    body = first[0].posterior
    assert canonical(json.loads(body)) == body  # any reader can make them again
    assert first[0].sha256 == hashlib.sha256(body).hexdigest()


def test_canonical_json_has_one_form() -> None:
    assert canonical({"b": 0.1, "a": [1, None]}) == b'{"a":[1,null],"b":0.1}'
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical({"a": float("nan")})


def test_the_posterior_does_not_depend_on_what_came_before() -> None:
    late = posterior(window(7), time=0.7)
    busy = summarizer()
    for n in range(7):
        busy.add(posterior(window(n), time=0.8))
    assert busy.add(late)[0] == summarizer().add(late)[0]


def test_parameters_are_those_of_the_draws() -> None:
    one = posterior(window(), n=5000)
    found = read(one)["parameters"]
    repeated = np.random.default_rng(1).choice(one.samples, 200_000, p=one.weights)
    mass_1, mass_2 = repeated[:, 0], repeated[:, 1]
    columns = {
        "mass_1": mass_1,
        "mass_2": mass_2,
        "effective_distance": repeated[:, 2],
        "coalescence_time": repeated[:, 3] + GPS,
        "chirp_mass": (mass_1 * mass_2) ** 0.6 / (mass_1 + mass_2) ** 0.2,
        "mass_ratio": mass_2 / mass_1,
        "total_mass": mass_1 + mass_2,
    }
    for name, x in columns.items():
        sd = x.std()
        assert found[name]["sd"] == pytest.approx(sd, rel=0.02), name
        assert found[name]["mean"] == pytest.approx(x.mean(), abs=0.02 * sd), name
        for key, value in zip(("p5", "median", "p95"), np.quantile(x, Q), strict=True):
            assert found[name][key] == pytest.approx(value, abs=0.04 * sd), (name, key)
    assert found["phase"]["mean"] == pytest.approx(stats.circmean(repeated[:, 4], high=np.pi), abs=0.01)
    assert set(found) == {*columns, "phase"}


def test_the_phase_is_never_taken_for_a_number_on_a_line() -> None:
    one = posterior(window())
    samples = one.samples.copy()
    centred = samples[:, 4] - 1.0
    samples[:, 0] = 38 + 3 * centred  # mass and phase rise together
    answers = []
    for shift in (0.0, 1.0, 2.2):
        samples[:, 4] = np.mod(centred + shift, np.pi)
        body = read(dataclasses.replace(one, samples=samples.copy()))
        answers.append(body["correlation"]["matrix"][0][4])
        assert body["correlation"]["order"] == list(PARAMETERS)
    assert answers == pytest.approx([1.0] * 3, abs=0.02)


@given(st.integers(0, 2**38), st.floats(0.651, 0.849))
def test_times_are_exact_to_the_nanosecond(start: int, time: float) -> None:
    one = posterior(window(start=start), n=100)
    samples = one.samples.copy()
    samples[:, 3] = time
    body = read(dataclasses.replace(one, samples=samples))
    expected = (Fraction(start, RATE) + Fraction(time)) * 10**9
    assert abs(body["coalescence"]["gps_ns"] - expected) <= 1
    assert body["parameters"]["coalescence_time"]["gps_ns"]["p95"] == body["coalescence"]["gps_ns"]
    assert body["coalescence"]["gps"] == body["coalescence"]["gps_ns"] / 10**9
    assert body["window"]["gps_ns"] == Fraction(start, RATE) * 10**9


def test_rounding_is_far_below_a_thousandth_of_a_standard_deviation() -> None:
    one = posterior(window())
    samples = one.samples.copy()
    samples[:, 0] = 99.123456789 + 1e-3 * (samples[:, 0] - 38)
    found = read(dataclasses.replace(one, samples=samples))["parameters"]["mass_1"]
    exact = float(one.weights @ samples[:, 0])
    assert abs(found["mean"] - exact) < 1e-3 * found["sd"]


def suspicious() -> dict[str, Posterior]:
    def with_whitener(**changes: Any) -> Posterior:
        return posterior(window(whitener=whitener(**changes)))

    return {
        "short PSD history": with_whitener(history=31.0, averages=30, state="ready"),
        "weak evidence": posterior(window(), log_bayes=11.9),
        "low effective sample size": posterior(window(), ess=99.0),
        "poor residual": posterior(window(), residual_p=5e-4),
        "unlike the training data": posterior(window(), latent_p=5e-4),
        "poor residual at the peak": posterior(window(), peak_residual_p=1.5e-2),
        "PSD drift": with_whitener(drift=1.31),
        "data quality unknown": posterior(window(dq=None)),
    }


@pytest.mark.parametrize("reason", suspicious())
def test_each_doubt_makes_suspect(reason: str) -> None:
    assert read(suspicious()[reason])["quality"] == {"verdict": "suspect", "reasons": [reason]}


def test_the_readme_tells_of_every_reason() -> None:
    text = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")
    told = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| ")]
    assert [reason for reason in told if reason in REASONS] == list(REASONS)


def test_without_doubt_it_is_good() -> None:
    assert read(posterior(window(gap=True)))["quality"] == {"verdict": "good", "reasons": []}


def test_what_is_not_finite_is_null_and_suspect() -> None:
    nothing = np.full(RATE, np.nan)
    one = posterior(
        window(),
        weights=np.full(400, np.nan),
        ess=float("nan"),
        log_bayes=float("-inf"),
        log_bayes_error=float("inf"),
        residual_p=float("nan"),
        waveform=Waveform(median=nothing, lower=nothing, upper=nothing),
    )
    summaries = summarizer().add(one)
    body = json.loads(summaries[0].posterior)
    assert body["log_bayes"] is None
    assert body["sampling"]["log_bayes_error"] is None
    assert body["quality"]["reasons"] == ["weak evidence", "low effective sample size", "poor residual"]
    for summary in summaries:
        validator().validate(message(summary))


def test_the_message_says_where_it_comes_from() -> None:
    body = read(posterior(window(16, simulated=True, whitener=whitener(end=GPS * RATE))))
    assert body["simulated"] is True
    assert body["psd"]["age"] == 1.0
    assert body["prior"]["masses"]["low"] == 20.0
    assert body["prior"]["coalescence_time"] == {
        "density": "uniform",
        "low": 0.65,
        "high": 0.85,
        "unit": "s after the first sample of the window",
    }
    assert any("10 to 25 %" in text for text in body["assumptions"])
    assert len(body["waveform"]["median"]) == RATE


def test_the_message_states_the_served_prior() -> None:
    volume = Summarizer(SummaryConfig(), Prior().served("volume")).add(posterior(window()))[0]
    validator().validate(message(volume))
    said = json.loads(volume.posterior)["prior"]["effective_distance"]
    assert said["density"] == "uniform in volume: proportional to effective_distance^2"
    assert read(posterior(window()))["prior"]["effective_distance"]["density"] == "uniform"


def test_the_message_says_what_the_noise_is_taken_for() -> None:
    normal, heavy = read(posterior(window())), read(posterior(window(), noise_freedom=20.0))
    assert normal["likelihood"] == {"noise": "Gaussian", "degrees_of_freedom": None}
    assert heavy["likelihood"] == {"noise": "Student-t", "degrees_of_freedom": 20.0}
    assert "Gaussian noise" in normal["assumptions"][-1]
    assert "Student-t" in heavy["assumptions"][-1]
    validator().validate(message(summarizer().add(posterior(window(), noise_freedom=20.0))[0]))


def test_a_model_without_aggregate_says_so_and_is_not_doubted_for_it() -> None:
    body = read(posterior(window(), latent_distance=None, latent_p=None))
    assert (body["latent_distance"], body["latent_p"]) == (None, None)
    assert body["quality"]["verdict"] == "good"
    lost = read(posterior(window(), latent_distance=float("inf"), latent_p=0.0))
    assert lost["latent_distance"] is None
    assert lost["quality"]["reasons"] == ["unlike the training data"]
    validator().validate(message(summarizer().add(posterior(window(), latent_distance=None, latent_p=None))[0]))


# events


def signal(number: int, coalescence: float, detector: str = "H1", **changes: Any) -> Posterior:
    """Window ``number`` of a signal that coalesces ``coalescence`` s after the first window's start."""
    return posterior(window(number, detector), time=coalescence - number / 16, **changes)


def events(summaries: tuple[Summary, ...]) -> list[Summary]:
    return [s for s in summaries if s.kind == "event"]


def test_the_middle_window_makes_the_event_and_the_others_nothing() -> None:
    made = summarizer()
    first = made.add(signal(2, 0.875))
    assert [s.kind for s in first] == ["posterior", "event"]
    assert first[1].event == {"id": first[1].id, "supersedes": [], "windows": 1}
    assert first[1].posterior == first[0].posterior
    for number in (1, 3):
        assert [s.kind for s in made.add(signal(number, 0.875))] == ["posterior"]


def test_a_better_posterior_supersedes() -> None:
    made = summarizer()
    early = events(made.add(signal(1, 0.875)))[0]  # 0.8125 s into its window
    middle = events(made.add(signal(2, 0.875)))[0]  # 0.75 s
    assert middle.event == {"id": middle.id, "supersedes": [early.id], "windows": 2}
    clearly = events(made.add(signal(3, 0.875, log_bayes=60.0)))[0]
    assert clearly.event == {"id": clearly.id, "supersedes": [early.id, middle.id], "windows": 3}


def test_a_good_posterior_supersedes_a_suspect_one_of_more_evidence() -> None:
    made = summarizer()
    doubtful = events(made.add(signal(2, 0.875, residual_p=1e-9, log_bayes=90.0)))[0]
    clean = events(made.add(signal(3, 0.875)))[0]
    assert clean.event is not None
    assert clean.event["supersedes"] == [doubtful.id]


@given(st.permutations(range(4)), st.lists(st.floats(30, 50), min_size=4, max_size=4))
def test_the_best_does_not_depend_on_the_order(order: list[int], evidence: list[float]) -> None:
    def last(numbers: list[int]) -> str:
        made = summarizer()
        told = [made.add(signal(n, 0.9, log_bayes=evidence[n])) for n in numbers]
        return [s.id for each in told for s in events(each)][-1]

    assert last(order) == last([0, 1, 2, 3])


def test_other_signals_and_detectors_are_other_events() -> None:
    made = summarizer(cluster=0.3)
    for one in (signal(2, 0.875), signal(2, 0.875, "L1"), signal(8, 1.2), signal(40, 3.25)):
        told = events(made.add(one))
        assert len(told) == 1
        assert told[0].event is not None
        assert told[0].event["supersedes"] == []


def test_a_posterior_between_two_events_joins_them_only_if_it_is_best() -> None:
    made = summarizer(cluster=0.3)
    left = events(made.add(signal(2, 0.875)))[0]
    right = events(made.add(signal(10, 1.375)))[0]
    assert events(made.add(signal(6, 1.125, log_bayes=30.0))) == []
    both = events(made.add(signal(6, 1.125, log_bayes=80.0)))[0]
    assert both.event == {"id": both.id, "supersedes": [left.id, right.id], "windows": 4}


def test_what_is_left_of_a_loud_signal_beside_it_is_no_event_of_its_own() -> None:
    faint = {"log_bayes": 20.0, "residual_p": 1e-9}
    for order in (("loud", "faint"), ("faint", "loud")):
        made = summarizer(cluster=0.3, shadow=1.0)
        told = []
        for name in order:
            told += events(made.add(signal(2, 0.875, log_bayes=360.0) if name == "loud" else signal(9, 1.35, **faint)))
        assert told[-1].event is not None
        assert told[-1].event["windows"] == (1 if order[0] == "loud" else 2)
        assert len(told) == (1 if order[0] == "loud" else 2)
    for other in (signal(9, 1.35, log_bayes=20.0), signal(9, 1.35, log_bayes=200.0, residual_p=1e-9)):
        made = summarizer(cluster=0.3, shadow=1.0)  # a good one, or one nearly as loud, stands on its own
        made.add(signal(2, 0.875, log_bayes=360.0))
        assert len(events(made.add(other))) == 1


def test_the_state_is_bounded() -> None:
    made = summarizer()
    for n in range(3 * KEPT):
        made.add(signal(32 * n, 2.0 * n + 0.75, n=100))
    state = made._events.detectors["H1"]
    assert len(state) == KEPT
    assert all(len(event.replaced) == 0 for event in state)
    again = summarizer(cluster=5.0)
    for n in range(100):  # ever better, ever the same event
        last = again.add(signal(n, 4.0 + n / 16, n=100, log_bayes=40.0 + n, trigger=trigger(window(n))))
    event = events(last)[0].event
    assert event is not None
    assert len(event["supersedes"]) <= 16  # type: ignore[arg-type]
