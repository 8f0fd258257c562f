"""Known signals: put in rightly, scored rightly, at the right time; and an alarm that errs as seldom as it says."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
from fakes import GPS, posterior, trigger, window
from scipy.integrate import quad
from scipy.special import ndtr
from scipy.stats import kstest, norm
from trained import inference, shipped

from gwstream.calibration import BEATS, COSTS, FIRST_COST, SETTLE, WAITING, Calibration
from gwstream.calibration.alarm import (
    ALTERNATIVES,
    MEAN,
    QUANTITIES,
    SPREAD,
    Alarm,
    Ratio,
)
from gwstream.calibration.ledger import Ledger
from gwstream.calibration.score import Score, joint, score
from gwstream.calibration.shadow import Plan, Planned
from gwstream.conditioning import Conditioner, psd
from gwstream.config import Config
from gwstream.errors import ConfigError
from gwstream.injection import Injection
from gwstream.prior import Prior
from gwstream.records import NANO, Batch, Floats, Posterior, Strain, Trigger, Window
from gwstream.source.noise import Noise
from gwstream.summary import Summarizer

SPEC = shipped().spec
RATE = SPEC.rate
INTERVAL = 16.0


def plan(interval: float = INTERVAL) -> Plan:
    return Plan(SPEC, Prior(), interval)


def grid(seconds: int, detector: str = "H1", first: int = GPS) -> list[Window]:
    """Every window that begins within so many seconds."""
    return [window(0, detector, start=start) for start in range(first * RATE, (first + seconds) * RATE, SPEC.hop)]


# the signal


def conditioned(rate: int, injection: Injection | None = None) -> list[Window]:
    """The windows of 16 s of noise, with a signal in the strain or without."""
    conditioner = Conditioner(SPEC, "H1")
    noise = Noise("aLIGO_O4_high", rate, 3, "H1")
    out: list[Window] = []
    for second in range(GPS, GPS + 18):
        samples = noise.samples(second * rate, rate)
        if injection is not None:
            first, signal = injection.strain(rate)
            skip = second * rate - first
            piece = signal[max(skip, 0) : max(skip + rate, 0)]
            at = max(-skip, 0)
            samples[at : at + len(piece)] += piece
        out += conditioner.push(Strain(detector="H1", start=second * rate, rate=rate, samples=samples))
    return out


def planned(of: Window, rate: int, seed: int = 1) -> tuple[Planned, Injection]:
    truth = Prior(distance=(0.3, 0.6)).draw(np.random.default_rng(seed), 1)[0]
    mass_1, mass_2, distance, time, phase = truth
    injection = Injection(
        detector="H1",
        gps_ns=of.gps_ns + round(time * NANO),
        mass_1=mass_1,
        mass_2=mass_2,
        effective_distance=distance,
        phase=phase,
    )
    return Planned(of, rate, truth, np.random.default_rng(0)), injection


@pytest.mark.parametrize("rate", [256, 4096, 16384])
def test_a_signal_in_the_copy_is_that_in_the_strain(rate: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one spectrum for both, so that the taps are the same."""
    level = 1e-46 * (1 + (30 / (np.arange(SPEC.conditioning.taps // 2 + 1) + 5)) ** 4)
    monkeypatch.setattr(psd.RunningPsd, "at", lambda *_: (level, 50, 64.0, level))
    quiet = conditioned(rate)
    for number in (-1, -9, -20):
        one, injection = planned(quiet[number], rate, seed=abs(number))
        loud = next(w for w in conditioned(rate, injection) if w.start == one.window.start)
        copy, snr = plan().inject(one)
        signal = copy.samples - one.window.samples
        assert np.abs(copy.samples - loud.samples).max() < 1e-9 * np.abs(signal).max()
        assert snr == pytest.approx(np.linalg.norm(signal))
        assert snr > 5
        assert copy.injected
        assert replace(copy, samples=one.window.samples, injected=False) == one.window


def test_the_live_spectrum_hardly_sees_a_signal() -> None:
    """What the copy leaves out: a real signal enters the spectrum too, at worst one segment of a dozen at the start."""
    quiet = conditioned(4096)
    one, injection = planned(quiet[-1], 4096)
    loud = next(w for w in conditioned(4096, injection) if w.start == one.window.start)
    copy, snr = plan().inject(one)
    assert loud.whitener.id != one.window.whitener.id
    assert np.linalg.norm(copy.samples - loud.samples) < 0.03 * snr


def test_the_signal_is_the_one_the_likelihood_looks_for() -> None:
    quiet = conditioned(4096)[-1]
    for seed in range(6):
        one, _ = planned(quiet, 4096, seed)
        copy, snr = plan().inject(one)
        expected = inference().propose(quiet).templates.waveforms(one.truth[None])[0]
        assert np.linalg.norm(copy.samples - quiet.samples - expected) < 0.01 * snr


# the plan


def test_one_window_an_interval_the_same_again_and_elsewhere_in_each_detector() -> None:
    found = {
        name: [one for w in grid(160, name) if (one := plan().choose(w, 4096)) is not None] for name in ("H1", "L1")
    }
    for ones in found.values():
        assert [one.window.start // (16 * RATE) for one in ones] == [GPS // 16 + k for k in range(10)]
        assert np.diff([one.window.start for one in ones]).min() >= 2 * RATE
    places = {name: [one.window.start % (16 * RATE) for one in ones] for name, ones in found.items()}
    assert len(set(places["H1"])) > 5
    assert places["H1"] != places["L1"]
    again = [one for w in grid(160) if (one := plan().choose(w, 16384)) is not None]
    for one, other in zip(found["H1"], again, strict=True):
        assert one.window.start == other.window.start
        assert (one.truth == other.truth).all()
        assert one.rng.random() == other.rng.random()


def test_signals_are_drawn_from_the_prior_that_is_served() -> None:
    served = Prior().served("volume")
    chosen = Plan(SPEC, served, 4.0)
    truths = np.array([one.truth for w in grid(600) if (one := chosen.choose(w, 4096)) is not None])
    assert len(truths) == 150
    assert np.isfinite(served.log_density(truths)).all()
    assert kstest(served.distance_below(truths[:, 2]), "uniform").pvalue > 0.01
    low, high = served.time
    assert kstest((truths[:, 3] - low) / (high - low), "uniform").pvalue > 0.01


@pytest.mark.parametrize("interval", [0.5, 3.9])
def test_an_interval_too_short_is_refused(interval: float) -> None:
    with pytest.raises(ConfigError, match=f"{interval:g}.*at least 4 s"):
        plan(interval)


# the score


def gaussian(rng: np.random.Generator, spread: float, n: int = 400) -> tuple[Floats, Floats, Floats]:
    """A correlated posterior, as weighted draws from a wider one, and a truth from one ``spread`` times as wide."""
    mix = np.array(
        [[2.0, 0, 0, 0, 0], [1.5, 0.7, 0, 0, 0], [0, 0.05, 0.1, 0, 0], [0, 0, 0, 2e-3, 0], [0, 0, 0.1, 0, 0.2]]
    )
    centre = np.array([38, 28, 0.9, 0.75, rng.uniform(0, np.pi)]) + mix @ rng.standard_normal(5)
    z = 1.15 * rng.standard_normal((n, 5))
    weights = np.exp(-0.5 * np.sum(z**2, axis=1) * (1 - 1.15**-2))
    samples, truth = centre + z @ mix.T, centre + spread * (mix @ rng.standard_normal(5))
    samples[:, 4] %= np.pi
    truth[4] %= np.pi
    return samples, weights / weights.sum(), truth


def scores(spread: float, count: int) -> list[Score]:
    rng = np.random.default_rng(8)
    summarizer = Summarizer(
        Config.model_validate({"source": {"kind": "simulated", "detectors": {"H1": {}}}}).summary, Prior()
    )
    out = []
    for number in range(count):
        samples, weights, truth = gaussian(rng, spread)
        ess = 1 / np.sum(weights**2)
        of = posterior(window(100 * number), samples=samples, weights=weights, ess=ess)
        out.append(score(of, summarizer.add(of)[0], truth, 11.0, rng))
    return out


def test_of_right_posteriors_ranks_are_uniform_and_intervals_cover() -> None:
    found = scores(1.0, 400)
    for column in np.array([one.ranks for one in found]).T:
        assert kstest(column, "uniform").pvalue > 0.01
    covered = np.mean([one.covered for one in found], axis=0)
    assert covered == pytest.approx(0.9, abs=0.035)
    assert found[0].ess == pytest.approx(0.85, abs=0.05)
    assert found[0].optimal_snr == 11.0
    assert found[0].snr == 12.0
    assert found[0].passed
    assert found[0].good
    assert Score(**json.loads(json.dumps(asdict(found[0])))).covered == list(found[0].covered)  # type: ignore[comparison-overlap]


def test_of_narrow_posteriors_ranks_are_not_uniform_and_all_together_say_it_loudest() -> None:
    found = scores(1.15, 400)
    p = [kstest(column, "uniform").pvalue for column in np.array([one.ranks for one in found]).T]
    assert p[-1] < 1e-6
    assert p[-1] < min(p[:-1])
    assert np.mean([one.covered for one in found]) < 0.875


def test_joint_ranks_of_few_draws_are_uniform() -> None:
    """With the truth left out of mean and covariance, 50 draws would call it far away far too often."""
    rng = np.random.default_rng(6)
    ranks = []
    for _ in range(1500):
        x = rng.standard_normal((51, 5)) * [1, 1, 1, 1, 0.1]
        ranks.append(joint(x[1:], np.full(50, 1 / 50), x[0], rng))
    assert kstest(ranks, "uniform").pvalue > 0.01


def test_an_interval_without_numbers_does_not_cover() -> None:
    of = posterior(window())
    of.samples[:, 0] = np.nan
    summarizer = Summarizer(
        Config.model_validate({"source": {"kind": "simulated", "detectors": {"H1": {}}}}).summary, Prior()
    )
    with np.errstate(invalid="ignore"):
        told = summarizer.add(of)[0]
        found = score(of, told, of.samples[0], 9.0, np.random.default_rng(0))
    assert not found.covered[0]


# the alarm


@pytest.mark.parametrize("ratio", ALTERNATIVES)
def test_the_expected_ratio_is_at_most_one_while_all_is_well(ratio: Ratio) -> None:
    def expected(mean: float, deviation: float) -> float:
        def integrand(z: float) -> float:
            log_l = ratio.constant + ratio.linear * z + ratio.square * z**2
            return float(np.exp(log_l - 0.5 * ((z - mean) / deviation) ** 2) / deviation / np.sqrt(2 * np.pi))

        return float(quad(integrand, -40, 40, limit=200)[0])

    grid = [(m, s) for m in np.linspace(-MEAN, MEAN, 5) for s in np.linspace(1 / SPREAD, SPREAD, 5)]
    values = [expected(m, s) for m, s in grid]
    assert max(values) == pytest.approx(1.0, abs=1e-6)  # no more than that, and not needlessly less
    assert expected(0, 1) < 1


def simulate(alarm: Alarm, mean: float, deviation: float, most: int, rng: np.random.Generator) -> int:
    """Injections until the alarm goes up; ``most`` if it does not."""
    for number in range(1, most + 1):
        if alarm.add(ndtr(mean + deviation * rng.standard_normal(len(QUANTITIES)))):
            return number
    return most


@pytest.mark.parametrize(("mean", "deviation"), [(0.0, 1.0), (MEAN, SPREAD)])
def test_false_alarms_are_no_more_frequent_than_stated(mean: float, deviation: float) -> None:
    """One of 60 injections on average would be the bound; what is still well at worst comes near it, no further."""
    rng = np.random.default_rng(12)
    times = [simulate(Alarm(60.0), mean, deviation, 2000, rng) for _ in range(200)]
    assert np.mean(times) - 2 * np.std(times) / np.sqrt(200) > 60


def test_a_months_threshold_is_not_met_in_a_month() -> None:
    """Ten months of one detector at the default interval, a tenth of it here: none of it may do, for 10 would be 1."""
    rng = np.random.default_rng(2)
    month = round(30 * 86400 / INTERVAL)
    assert simulate(Alarm(month), 0.0, 1.0, 16_000, rng) == 16_000


@pytest.mark.parametrize(
    ("mean", "deviation", "within"), [(0.35, 1.0, 600), (0, 1.3, 600), (0, 0.75, 400), (-1, 1, 60), (0, 3, 40)]
)
def test_what_is_wrong_is_found(mean: float, deviation: float, within: int) -> None:
    rng = np.random.default_rng(3)
    alarm = Alarm(162_000.0)
    others = rng.random((within, len(QUANTITIES)))
    for row in others:
        row[2] = norm.cdf(mean + deviation * rng.standard_normal())
        if alarm.add(row):
            break
    assert alarm.up
    assert alarm.about == QUANTITIES[2]
    assert alarm.count == 1


def test_the_alarm_stays_while_all_is_not_well_and_ends_soon_after() -> None:
    rng = np.random.default_rng(4)
    alarm = Alarm(10_000.0)
    simulate(alarm, 0.8, 1.0, 300, rng)
    for _ in range(3000):
        assert not alarm.add(ndtr(0.8 + rng.standard_normal(6)))
        assert alarm.up
    assert alarm.evidence <= 1e-9
    for _ in range(300):
        alarm.add(rng.random(6))
    assert not alarm.up
    assert alarm.count == 1


def test_an_alarm_goes_on_from_its_state() -> None:
    rng = np.random.default_rng(5)
    ranks = rng.random((40, 6))
    one = Alarm(1000.0)
    for row in ranks[:20]:
        one.add(row)
    kept = json.loads(json.dumps({**asdict(one), "log_m": one.log_m.tolist()}))
    other = Alarm(**(kept | {"log_m": np.array(kept["log_m"])}))
    for row in ranks[20:]:
        one.add(row)
        other.add(row)
    assert other.evidence == one.evidence


# the ledger


def graded(ranks: Sequence[float], **changes: Any) -> Score:
    fields: dict[str, Any] = {
        "detector": "H1", "gps_ns": 0, "ranks": tuple(ranks), "covered": tuple(abs(r - 0.5) < 0.45 for r in ranks[:5]),
        "ess": 0.5, "optimal_snr": 10.0, "snr": 10.5, "passed": True, "good": True,
    }  # fmt: skip
    return Score(**{**fields, **changes})


def test_the_report_is_of_the_last_scores() -> None:
    ledger = Ledger.new("H1", 50, 1000.0)
    assert ledger.report().text() == "no known signal judged yet"
    assert ledger.report().part()["coverage_90"] is None
    rng = np.random.default_rng(1)
    for _ in range(30):
        ledger.add(graded(np.full(6, 0.999)))
    rows = rng.random((50, 6))
    for row in rows:
        ledger.add(graded(row))
    report = ledger.report()
    assert (report.injections, report.total) == (50, 80)
    inside = np.abs(rows[:, :5] - 0.5)
    assert report.coverage_50 == pytest.approx(np.mean(inside < 0.25))
    assert report.coverage_90 == pytest.approx(np.mean(inside < 0.45))
    assert report.p["phase"] == pytest.approx(kstest(rows[:, 4], "uniform").pvalue)
    assert report.snr_ratio == pytest.approx(1.05)
    assert report.ess == 0.5
    assert report.part()["text"] == report.text()
    assert report.text().startswith(f"90 % intervals covered {report.coverage_90:.2f} ± ")
    assert "of the last 50 known signals" in report.text()


def test_the_error_is_that_of_injections_not_of_parameters() -> None:
    """Five parameters that always miss together are one trial, not five."""
    rng = np.random.default_rng(7)
    ledger = Ledger.new("H1", 400, 1e9)
    for hit in rng.random(400) < 0.9:
        ledger.add(graded(rng.random(6), covered=(bool(hit),) * 5))
    assert ledger.report().coverage_90_error == pytest.approx(np.sqrt(0.09 / 400), rel=0.15)


def test_faint_signals_do_not_count_for_the_recovered_snr() -> None:
    ledger = Ledger.new("H1", 50, 1000.0)
    ledger.add(graded(np.full(6, 0.4), optimal_snr=3.0, snr=6.0, passed=False))
    assert np.isnan(ledger.report().snr_ratio)
    ledger.add(graded(np.full(6, 0.4), optimal_snr=9.0, snr=9.0))
    assert ledger.report().snr_ratio == 1.0
    assert ledger.report().found == 1.0


# when


class Judge:
    """A stand-in for inference."""

    def __init__(self) -> None:
        self.judged: list[Window] = []

    def gate(self, batch: Batch) -> tuple[Trigger, ...]:
        return tuple(trigger(one) for one in batch.windows)

    def infer(self, found: Trigger, bucket: int) -> Posterior:
        self.judged.append(found.window)
        return posterior(found.window)


class Setting:
    """A calibration fed second by second, as the pipeline would."""

    def __init__(self, live: bool = True, detectors: Sequence[str] = ("H1",), interval: float = 4.0) -> None:
        table = {
            "source": {"kind": "simulated", "detectors": {name: {} for name in detectors}},
            "calibration": {"interval": interval},
        }
        self.lost: Counter[tuple[str, str, str]] = Counter()
        self.judge = Judge()
        self.calibration = Calibration(
            Config.model_validate(table), SPEC, Prior(), self.judge, live=live, tally=self.tally
        )
        self.taps = conditioned(4096)[-1].whitener

    def tally(self, stage: str, reason: str, detector: str, count: int = 1) -> None:
        self.lost[stage, reason, detector] += count

    def second(
        self, number: int, now: float, detector: str = "H1", passed: Sequence[int] = (), gate: bool = True
    ) -> None:
        windows = [replace(w, whitener=self.taps) for w in grid(1, detector, GPS + number)]
        record = Strain(detector=detector, start=(GPS + number) * 4096, rate=4096, samples=np.zeros(4096))
        self.calibration.conditioned(record, windows, now)
        if gate:
            self.calibration.gated([trigger(w, passed=k in passed) for k, w in enumerate(windows)])

    def seconds(self, last: int) -> None:
        for number in range(last):
            self.second(number, float(number))


def place() -> int:
    """Second of the first planned window."""
    return next(k for k, w in enumerate(grid(8)) if plan(4.0).choose(w, 4096) is not None) // 16


def test_a_signal_waits_for_the_windows_after_it_and_for_a_pause() -> None:
    setting = Setting()
    first = place()
    for number in range(first + 1):
        setting.second(number, float(number))
    assert setting.calibration.due(first + 0.2) is None
    assert setting.calibration.take() is None
    setting.second(first + 1, first + 1.0)
    setting.second(first + 2, first + 2.0)
    due = setting.calibration.due(first + 2.01)
    assert due == pytest.approx(first + 2 + SETTLE)
    assert setting.calibration.due(first + 3 - FIRST_COST + 0.01) is None  # too late: strain is coming
    taken = setting.calibration.take()
    assert taken is not None
    assert taken.window.start // RATE == GPS + first
    assert taken.rate == 4096


def test_a_pause_must_hold_what_a_signal_cost_of_late_and_suit_every_detector() -> None:
    setting = Setting(detectors=("H1", "L1"))
    for number in range(8):
        setting.second(number, float(number), "H1")
        setting.second(number, number + 0.5, "L1")
    calibration = setting.calibration
    assert calibration.due(7.55) == pytest.approx(7.5 + SETTLE)
    assert calibration.due(7.9) is None  # H1 comes at 8
    report = calibration._ledgers["H1"].report()
    calibration.done(report, 0.6)
    assert calibration.due(7.55) is None
    for _ in range(100):
        calibration.done(report, 0.05)
    assert calibration.due(7.9) == pytest.approx(7.9)
    assert calibration.due(8.2) is None  # H1 is late, and may come now
    for number in range(8, 14):
        setting.second(number, number + 0.5, "L1")
    assert calibration.due(13.7) == pytest.approx(13.7)  # H1 is gone: L1 is not made to wait for it


def test_what_finds_no_pause_is_dropped_and_counted() -> None:
    setting = Setting()
    setting.seconds(4 * (WAITING + 5))
    assert setting.lost["calibration", "no pause", "H1"] == 5
    assert len(list(iter(setting.calibration.take, None))) == WAITING


def test_one_that_took_longer_than_any_pause_does_not_stop_all_that_follow() -> None:
    setting = Setting()
    setting.seconds(12)
    calibration = setting.calibration
    calibration.done(calibration._ledgers["H1"].report(), 5.0)
    for number in range(12, 12 + 4 * (COSTS + WAITING)):
        assert setting.lost["calibration", "no pause", "H1"] >= COSTS or calibration.due(number - 0.9) is None
        setting.second(number, float(number))
    assert calibration.due(number + 0.2) == pytest.approx(number + 0.2)


@pytest.mark.parametrize("apart", [-17, -16, 0, 16, 17])
def test_windows_that_share_noise_with_a_trigger_are_left_alone(apart: int) -> None:
    setting = Setting()
    chosen = 64 + next(k for k, w in enumerate(grid(8)[64:]) if plan(4.0).choose(w, 4096) is not None)
    for number in range(2, chosen // 16 + 3):
        setting.second(number, float(number), passed=[chosen + apart - 16 * number])
    free = abs(apart) > 16
    assert (setting.calibration.take() is not None) == free
    assert setting.lost["calibration", "trigger", "H1"] == (not free)


def test_strain_that_is_not_live_needs_no_pause() -> None:
    setting = Setting(live=False)
    setting.seconds(8)
    assert setting.calibration.due(123.0) == 123.0


def test_it_judges_a_marked_copy_and_tells_of_it() -> None:
    setting = Setting(live=False)
    setting.seconds(8)
    calibration = setting.calibration
    taken = calibration.take()
    assert taken is not None
    before = taken.window.samples.copy()
    assert calibration.told("H1")["injections"] == 0
    report = calibration.judge(taken)
    assert [one.injected for one in setting.judge.judged] == [True]
    assert (taken.window.samples == before).all()
    assert calibration.told("H1")["injections"] == 0  # not before it is done
    calibration.done(report, 0.1)
    assert calibration.told("H1") == report.part()
    assert report.injections == 1


def test_the_threshold_is_a_month_of_all_detectors() -> None:
    calibration = Setting(detectors=("H1", "L1"), interval=16.0).calibration
    assert calibration._ledgers["L1"].alarm.threshold == pytest.approx(2 * 30 * 86400 / 16)
    assert BEATS > 1
