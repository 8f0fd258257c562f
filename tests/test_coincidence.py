"""Network events: which events agree, who is with whom, and that neither order nor lateness changes what stands."""

from __future__ import annotations

import itertools
import json
import math
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import jsonschema
import lal
import numpy as np
import pytest
from fakes import posterior, whitener, window
from hypothesis import given, settings
from hypothesis import strategies as st

from gwstream.config import SummaryConfig
from gwstream.prior import Prior
from gwstream.publish import message
from gwstream.records import NANO, Outgoing, Posterior, Summary
from gwstream.summary import Summarizer, schema
from gwstream.summary.chirp_mass import RATIOS, ChirpMasses, Likelihood
from gwstream.summary.coincidence import EARTH, KEPT, LONGEST, Coincidences, Member, Network, light_travel
from gwstream.summary.message import chirp_mass
from gwstream.summary.statistics import mean_sd, quantiles

GPS_NS = 1_400_000_000 * NANO
LIGHT = {frozenset(("H1", "L1")): 0.010, frozenset(("H1", "V1")): 0.027, frozenset(("L1", "V1")): 0.026}


def travel(one: str, other: str) -> float:
    return LIGHT[frozenset((one, other))]


def network(sigmas: float = 3.0) -> Coincidences:
    return Coincidences(sigmas, travel)


def mass(median: float, sd: float = 0.03) -> Likelihood:
    """Of a chirp mass, whatever the mass ratio."""
    return Likelihood(math.log(median), sd, (math.log(median),), sd, (0.0,) * RATIOS)


def member(detector: str = "H1", ms: float = 0.0, version: int = 0, **changes: Any) -> Member:
    """An event ``ms`` after a fixed time; version n + 1 of an event supersedes version n."""
    number = changes.pop("number", 0)
    fields: dict[str, Any] = {
        "detector": detector,
        "event": f"{detector}.{number}.{version}",
        "posterior": f"P{detector}.{number}.{version}",
        "replaced": tuple(f"{detector}.{number}.{k}" for k in range(version)),
        "gps_ns": GPS_NS + round(ms * 1e6),
        "time_sd": 0.001,
        "mass": mass(30.0),
        "chirp_mass": (28.5, 30.0, 31.5),
        "snr": 10.0,
        "log_bayes": 40.0,
        "model": {"name": "fake", "version": "1", "hash": "0" * 64, "conditioning_hash": "1" * 64},
    }
    return Member(**fields | changes)


def standing(state: Coincidences) -> set[tuple[str, ...]]:
    """Members' events of the network events that stand."""
    return {tuple(m.event for m in one.network.members) for one in state.told.values()}


# which events agree


@pytest.mark.parametrize(("sd", "inside", "outside"), [(0.001, 14.2, 14.3), (0.003, 22.7, 22.8), (0.0, 12.1, 12.2)])
def test_times_agree_within_light_travel_and_three_deviations(sd: float, inside: float, outside: float) -> None:
    """10 ms of light and 3 times sqrt(2) deviations, which are never below half a millisecond."""
    for sign in (-1, 1):
        for ms, count in ((inside, 1), (outside, 0)):
            state = network()
            state.add(member("H1", time_sd=sd))
            assert len(state.add(member("L1", sign * ms, time_sd=sd))) == count


def test_times_that_are_hardly_known_are_no_evidence() -> None:
    for ms, count in ((1e3 * LONGEST - 1, 1), (1e3 * LONGEST + 1, 0)):
        state = network()
        state.add(member("H1", time_sd=0.05))
        assert len(state.add(member("L1", ms, time_sd=0.05))) == count


@pytest.mark.parametrize(("ratio", "count"), [(1.13, 1), (1.14, 0), (1 / 1.13, 1), (1 / 1.14, 0)])
def test_chirp_masses_agree_within_three_deviations(ratio: float, count: int) -> None:
    state = network()  # 3 * sqrt(2) * 0.03 is ln 1.136
    state.add(member("H1"))
    assert len(state.add(member("L1", 5.0, mass=mass(30.0 * ratio)))) == count


def test_two_events_of_one_detector_are_never_together() -> None:
    state = network()
    assert state.add(member("H1", number=0)) == []
    assert state.add(member("H1", 2.0, number=1)) == []


@pytest.mark.parametrize(
    "unknown", [{"time_sd": math.nan}, {"mass": mass(math.nan)}, {"mass": mass(30.0, math.nan)}, {"snr": math.nan}]
)
def test_an_event_without_numbers_takes_no_part(unknown: dict[str, Any]) -> None:
    state = network()
    state.add(member("H1", **unknown))
    assert state.add(member("L1")) == []


def test_light_travel_is_that_between_the_sites() -> None:
    between = light_travel()
    for one, other in itertools.combinations(("H1", "L1", "V1", "K1"), 2):
        ends = [lal.cached_detector_by_prefix[name].location for name in (one, other)]
        assert between(one, other) == pytest.approx(np.linalg.norm(ends[0] - ends[1]) / lal.C_SI, abs=1e-9)
        assert between(one, other) == between(other, one)
    assert between("H1", "L1") == pytest.approx(0.010013, abs=1e-6)
    assert between("H1", "H2") == 0.0
    assert between("H1", "Y9") == EARTH == pytest.approx(0.04255, abs=1e-5)  # nobody knows where Y9 is


# what they say together


def test_snrs_and_evidence_add_up() -> None:
    state = network()
    state.add(member("H1", snr=12.0, log_bayes=60.0))
    (change,) = state.add(member("L1", 3.0, snr=9.0, log_bayes=30.0))
    assert change.network.snr == 15.0
    assert change.network.log_bayes == 90.0
    assert change.network.loudest.detector == "H1"
    (pair,) = state.pairs(change.network)
    assert pair.detectors == ("H1", "L1")
    assert pair.delay == pytest.approx(0.003)


def test_the_chirp_mass_has_every_likelihood_and_the_prior_once() -> None:
    """Against draws from the prior, weighted by the likelihoods: by numbers, and in the middle and at the edges."""
    prior = Prior()
    masses = ChirpMasses(prior)
    drawn = chirp_mass(prior.draw(np.random.default_rng(1), 1_000_000))
    for each in ([mass(30.0)], [mass(30.0), mass(33.0, 0.05), mass(27.0, 0.2)], [mass(21.0, 0.1)] * 2, [mass(80, 0.1)]):
        weights = np.exp(-0.5 * sum(((np.log(drawn) - one.mean) / one.sd) ** 2 for one in each))
        weights /= weights.sum()
        mean, sd = mean_sd(drawn, weights)
        found = masses.posterior(each)
        assert found.mean == pytest.approx(mean, abs=0.03 * sd)
        assert found.sd == pytest.approx(sd, rel=0.03)
        expected = quantiles(drawn, weights, (0.05, 0.5, 0.95))
        assert (found.p5, found.median, found.p95) == pytest.approx(tuple(expected), abs=0.04 * sd)


@pytest.mark.parametrize(
    ("median", "sd", "slope", "width"),
    [(30.0, 0.03, 0.0, 0.3), (50.0, 0.06, 0.2, 0.3), (35.0, 0.01, -0.1, 0.3), (40.0, 0.006, 1.0, 0.03)],
)
def test_the_likelihood_is_the_posterior_over_the_prior(median: float, sd: float, slope: float, width: float) -> None:
    """Of a detector that knows the chirp mass at a mass ratio, and the ratio badly or well; then of two such."""
    prior = Prior()
    masses = ChirpMasses(prior)
    draws = prior.draw(np.random.default_rng(2), 400_000)
    ratios = draws[:, 1] / draws[:, 0]
    off = np.log(chirp_mass(draws)) - math.log(median) - slope * (ratios - 0.6)
    weights = np.exp(-0.5 * (off / sd) ** 2 - 0.5 * ((ratios - 0.6) / width) ** 2)
    found = masses.likelihood(draws, weights / weights.sum())
    for ratio in (0.6, 0.6 + 0.5 * width, 0.6 - 0.5 * width):
        centre = math.log(median) + slope * (ratio - 0.6)
        assert np.polyval(found.curve, ratio) == pytest.approx(centre, abs=0.15 * sd)
    assert found.spread == pytest.approx(sd, rel=0.1)
    for number in (1, 2):
        product = weights**number
        mean, deviation = mean_sd(chirp_mass(draws), product / product.sum())
        both = masses.posterior([found] * number)
        assert both.mean == pytest.approx(mean, abs=0.15 * deviation)
        assert both.sd == pytest.approx(deviation, rel=0.1)


def test_a_likelihood_of_one_draw_can_be_used() -> None:
    masses = ChirpMasses(Prior())
    one = masses.likelihood(np.array([[36.0, 29.0, 1.0, 0.7, 0.0]] * 3), np.array([1.0, 0.0, 0.0]))
    found = masses.posterior([one, mass(28.1)])
    assert one.sd == 0.01
    assert found.median == pytest.approx(28.1, rel=0.02)
    assert 0 < found.sd < 0.5


# who is with whom


def test_a_silent_detector_is_neither_missed_nor_waited_for() -> None:
    state = network()
    state.add(member("H1"))
    (change,) = state.add(member("L1", 5.0))
    assert [one.detector for one in change.network.members] == ["H1", "L1"]


def test_a_third_detector_joins() -> None:
    state = network()
    state.add(member("H1"))
    (two,) = state.add(member("L1", 5.0))
    (three,) = state.add(member("V1", 20.0))
    assert three.supersedes == (two.network.id,)
    assert standing(state) == {("H1.0.0", "L1.0.0", "V1.0.0")}


def test_all_members_agree_with_each_other() -> None:
    """L1 and V1 agree with H1 but, 48 ms apart, not with each other: the louder of them is with H1."""
    state = network()
    state.add(member("V1", 25.0, snr=9.0))
    state.add(member("L1", -13.0, snr=11.0))
    state.add(member("H1", 0.0))
    assert standing(state) == {("H1.0.0", "L1.0.0")}
    state = network()  # L1 agrees with H1 and with V1, but these do not with each other
    for one in (member("H1", 0.0), member("L1", 13.0), member("V1", 38.0, snr=9.0)):
        state.add(one)
    assert standing(state) == {("H1.0.0", "L1.0.0")}


def test_good_members_count_most_then_their_number_then_loudness() -> None:
    suspect = {"reasons": ("PSD drift",)}
    near = [member("L1", -9.0, number=0, snr=8.0), member("L1", 9.0, number=1, snr=20.0, **suspect)]
    for order in itertools.permutations([member("H1"), *near]):
        state = network()
        for one in order:
            state.add(one)
        assert standing(state) == {("H1.0.0", "L1.0.0")}
    far = member("V1", -25.0, snr=8.0, **suspect)  # agrees with the first of L1 alone
    state = network()
    for one in (member("H1"), member("L1", -9.0, snr=8.0), member("L1", 9.0, number=1, snr=20.0), far):
        state.add(one)
    assert standing(state) == {("H1.0.0", "L1.0.0", "V1.0.0")}
    state = network()
    for one in (member("H1"), member("L1", -9.0, snr=20.0, **suspect), member("L1", 9.0, number=1, snr=8.0), far):
        state.add(one)
    assert standing(state) == {("H1.0.0", "L1.1.0"), ("L1.0.0", "V1.0.0")}


def test_what_is_left_over_may_agree_among_itself() -> None:
    state = network()
    for number, ms in ((0, 0.0), (1, 12.0)):
        for detector in ("H1", "L1"):
            state.add(member(detector, ms, number=number, snr=10.0 + number))
    assert standing(state) == {("H1.0.0", "L1.0.0"), ("H1.1.0", "L1.1.0")}


# updates


def test_a_better_posterior_updates_the_network_event() -> None:
    state = network()
    state.add(member("H1"))
    (first,) = state.add(member("L1", 5.0))
    (second,) = state.add(member("H1", 0.5, version=1))
    (third,) = state.add(member("L1", 5.2, version=1))
    assert second.supersedes == (first.network.id,)
    assert third.supersedes == (first.network.id, second.network.id)
    assert standing(state) == {("H1.0.1", "L1.0.1")}


def test_a_member_that_agrees_no_more_withdraws_it() -> None:
    state = network()
    state.add(member("H1"))
    (first,) = state.add(member("L1", 5.0))
    (change,) = state.add(member("L1", 40.0, version=1))
    assert not change.standing
    assert change.network == first.network
    assert standing(state) == set()
    (again,) = state.add(member("L1", 4.0, version=2))
    assert again.standing
    assert again.supersedes == ()


def test_one_whose_partner_leaves_finds_the_next_best() -> None:
    state = network()
    state.add(member("L1", -9.0, number=0, snr=12.0))
    state.add(member("L1", 9.0, number=1, snr=9.0))
    (first,) = state.add(member("H1"))
    assert first.network.members[1].event == "L1.0.0"
    (change,) = state.add(member("L1", -60.0, number=0, version=1))
    assert change.network.members[1].event == "L1.1.0"
    assert change.supersedes == (first.network.id,)


def test_nothing_is_told_twice() -> None:
    state = network()
    state.add(member("H1"))
    state.add(member("L1", 5.0))
    assert state.add(member("V1", 500.0)) == []
    assert state.add(member("H1", 500.0, number=1)) != []
    assert len(state.told) == 2


# order does not matter


@st.composite
def streams(draw: st.DrawFn) -> list[list[Member]]:
    """Each detector's events in its own order: crowded in time, of few masses, some told again."""
    out = []
    for detector in ("H1", "L1", "V1"):
        events: list[Member] = []
        for number in range(draw(st.integers(0, 4))):
            events += [
                member(
                    detector,
                    draw(st.sampled_from([0.0, 8.0, 14.0, 25.0, 40.0, 55.0, 400.0])) + 0.1 * number,
                    version,
                    number=number,
                    mass=mass(draw(st.sampled_from([28.0, 30.0, 36.0]))),
                    snr=draw(st.sampled_from([8.0, 9.0, 12.0])),
                    reasons=draw(st.sampled_from([(), ("PSD drift",)])),
                )
                for version in range(draw(st.integers(1, 3)))
            ]
        out.append(events)
    return out


def told_by(changes: list[Any]) -> dict[str, Network]:
    """What stands by the messages alone, as a subscriber keeps it."""
    kept: dict[str, Network] = {}
    for change in changes:
        for old in change.supersedes:
            kept.pop(old, None)
        kept.pop(change.network.id, None)
        if change.standing:
            kept[change.network.id] = change.network
    return kept


@settings(max_examples=200, deadline=None)
@given(streams(), st.randoms(use_true_random=False), st.integers(0, 2))
def test_any_interleaving_gives_the_same_network_events(each: list[list[Member]], random: Any, last: int) -> None:
    """Also where one detector's all come after the others'."""

    def run(order: list[int]) -> dict[str, Network]:
        state, left, changes = network(), [list(events) for events in each], []
        for k in order:
            changes += state.add(left[k].pop(0))
        assert {name: one.network for name, one in state.told.items()} == told_by(changes)
        return told_by(changes)

    plain = [k for k, events in enumerate(each) for _ in events]
    mixed = random.sample(plain, len(plain))
    late = sorted(plain, key=lambda k: k == last)
    found = run(plain)
    assert run(mixed) == found
    assert run(late) == found
    events = [m.event for one in found.values() for m in one.members]
    assert len(events) == len(set(events))
    state = network()
    for one in found.values():
        assert all(state._agree(a, b) for a, b in itertools.combinations(one.members, 2))


def test_the_state_is_bounded_and_a_late_detector_still_finds_its_partners() -> None:
    state = network()
    for number in range(3 * KEPT):
        state.add(member("H1", 1e3 * number, number=number))
    assert len(state.members["H1"]) == KEPT
    found = [state.add(member("L1", 1e3 * number, number=number)) for number in range(3 * KEPT)]
    assert [len(changes) for changes in found] == [0] * (2 * KEPT) + [1] * KEPT
    assert len(state.told) == KEPT
    for number in range(3 * KEPT, 6 * KEPT):
        state.add(member("H1", 1e3 * number, number=number))
    assert not state.told
    state = network()
    for version in range(200):
        state.add(member("H1", 0.01 * version, version))
        changes = state.add(member("L1", 0.01 * version, version))
    assert len(changes[-1].supersedes) <= 32
    assert len(state.told) == 1


def test_accidental_pairs_come_at_the_stated_rate() -> None:
    """2 R1 R2 limit: two detectors of unrelated events, five a second for ten minutes."""
    rng = np.random.default_rng(4)
    rate, seconds = 5.0, 600.0
    times = [np.sort(rng.uniform(0, seconds, rng.poisson(rate * seconds))) for _ in range(2)]
    arrivals = sorted((t, name, k) for name, ones in zip(("H1", "L1"), times, strict=True) for k, t in enumerate(ones))
    state = network()
    pairs = sum(len(state._agreeing(one)) for one in _added(state, arrivals))
    limit = state.pair(member("H1"), member("L1")).limit
    expected = 2 * rate**2 * limit * seconds
    assert pairs == pytest.approx(expected, abs=4 * math.sqrt(expected))


def _added(state: Coincidences, arrivals: list[tuple[float, str, int]]) -> list[Member]:
    """Each event as it comes, so that those it agrees with among the ones before can be counted."""
    out = []
    for time, name, number in arrivals:
        one = member(name, 1e3 * time, number=number)
        out.append(one)
        yield one
        state.add(one)


# through the stage


def summarizer(**changes: Any) -> Summarizer:
    return Summarizer(SummaryConfig.model_validate(changes), Prior())


def networks(summaries: tuple[Summary, ...]) -> list[Summary]:
    return [one for one in summaries if one.kind == "network"]


def wire(summary: Summary) -> dict[str, Any]:
    """As a subscriber has it."""
    outgoing = Outgoing(summary=summary, arrived=10, marks=(("summary", 20),), data_end_ns=GPS_NS, first_event=15)
    part = message.delivery(outgoing, sequence=0, attempt=1, monotonic_ns=NANO, gps_ns=GPS_NS)
    body: dict[str, Any] = json.loads(message.compose(summary, part))
    jsonschema.Draft202012Validator(schema()).validate(body)
    return body


def event_of(detector: str, ms: float = 0.0, number: int = 4, **changes: Any) -> Posterior:
    return posterior(window(number, detector), time=0.75 + ms / 1e3, **changes)


def test_the_message_is_valid_and_says_all() -> None:
    made = summarizer()
    first = made.add(event_of("H1", snr=12.0))
    assert [one.kind for one in first] == ["posterior", "event"]
    second = made.add(event_of("L1", 5.0, snr=9.0, log_bayes=20.0))
    assert [one.kind for one in second] == ["posterior", "event", "network"]
    told = second[2]
    assert message.topic("gwstream", told) == "gwstream/network/event"
    body = wire(told)
    assert body["schema"] == "gwstream.network_event/1"
    assert body["event"] == {"id": told.id, "state": "standing", "supersedes": [first[1].id, second[1].id]}
    part = body["network"]
    assert part["snr"] == 15.0
    assert part["log_bayes"] == 60.0
    assert part["quality"] == {"verdict": "good", "reasons": []}
    assert [one["event"] for one in part["members"]] == [first[1].id, second[1].id]
    assert part["pairs"][0]["delay"] == pytest.approx(0.005, abs=0.002)
    for one, single in zip(part["members"], (first[0], second[0]), strict=True):
        alone = json.loads(single.posterior)
        assert one["posterior"] == alone["id"]
        assert one["coalescence"]["gps_ns"] == alone["coalescence"]["gps_ns"]
        assert one["coalescence"]["sd"] == alone["parameters"]["coalescence_time"]["sd"]
        for name in ("median", "p5", "p95"):
            assert one["chirp_mass"][name] == alone["parameters"]["chirp_mass"][name]
        assert part["chirp_mass"]["sd"] < alone["parameters"]["chirp_mass"]["sd"]
    assert body["delivery"]["since_first_event"] == pytest.approx(1.0, abs=1e-6)


def test_good_needs_two_good_members() -> None:
    doubtful = {"whitener": whitener(history=14.0)}
    for suspects, verdict in (((), "good"), (("V1",), "good"), (("L1", "V1"), "suspect")):
        made = summarizer()
        for name in ("H1", "L1", "V1"):
            of = window(4, name, **(doubtful if name in suspects else {}))
            last = made.add(posterior(of, time=0.75))
        part = wire(networks(last)[0])["network"]
        assert len(part["members"]) == 3
        assert part["quality"]["verdict"] == verdict
        assert part["quality"]["reasons"] == ([] if verdict == "good" else ["fewer than two good members"])


def test_a_withdrawal_is_told_as_it_was() -> None:
    made = summarizer()
    made.add(event_of("H1"))
    standing = networks(made.add(event_of("L1", -8.0)))[0]
    gone = networks(made.add(event_of("L1", 60.0, log_bayes=80.0)))
    assert [one.id for one in gone] == [standing.id]
    assert wire(gone[0])["event"] == {"id": standing.id, "state": "withdrawn", "supersedes": []}
    assert gone[0].posterior == standing.posterior


def test_unknown_numbers_stay_valid() -> None:
    made = summarizer()
    made.add(event_of("H1"))
    told = networks(made.add(event_of("L1", log_bayes=math.nan)))[0]
    assert wire(told)["network"]["log_bayes"] is None
    assert networks(made.add(event_of("V1", snr=math.nan))) == []


def test_it_can_be_turned_off_and_tuned() -> None:
    for changes, count in (({}, 1), ({"sigmas": 0.5}, 0), ({"enabled": False}, 0)):
        made = summarizer(network=changes)
        made.add(event_of("H1"))
        assert len(networks(made.add(event_of("L1", 15.0)))) == count


def test_what_a_detector_says_is_the_same_with_and_without_the_network() -> None:
    each = [event_of(name, ms, n) for n, ms in ((4, 0.0), (3, 62.5), (5, -60.0)) for name in ("H1", "L1")]
    alone = {name: summarizer() for name in ("H1", "L1")}
    together = summarizer()
    for one in each:
        told = together.add(one)
        assert tuple(s for s in told if s.kind != "network") == alone[one.window.detector].add(one)
        assert [s.kind for s in told[: len(told) - len(networks(told))]] == ["posterior", "event"][: len(told)]


def test_simulated_members_are_said() -> None:
    made = summarizer()
    made.add(event_of("H1"))
    fake = posterior(replace(window(4, "L1"), simulated=True))
    assert wire(networks(made.add(fake))[0])["network"]["simulated"] is True


def test_an_injected_member_keeps_the_network_event_from_the_broker() -> None:
    for injected in (False, True):
        made = summarizer()
        made.add(event_of("H1"))
        told = networks(made.add(posterior(replace(window(4, "L1"), injected=injected))))[0]
        assert told.injected == injected
        with pytest.raises(ValueError, match="never published") if injected else nullcontext():
            wire(told)
