"""The levels of load: in which order what is given up, when, and how it is taken up again. No clock, no pipeline."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gwstream.pipeline.load import CALM, LONGEST_CALM, PERIOD, Backlog, Level, Load
from gwstream.records import LOADS

RATE = 32.0  # windows a second: two detectors
TARGET = 2.0
LOOK = 0.25


@dataclass
class Machine:
    """A queue worked off at a speed, in windows a second at full work; each level makes it faster or the queue shorter.

    ``saved``: by level, how many times as fast a window is done with.
    """

    speed: float
    saved: tuple[float, ...] = (1.0, 1.0, 2.0, 4.0, 8.0, 8.0)
    load: Load = field(default_factory=lambda: Load(TARGET, RATE))
    now: float = 0.0
    come: float = 0.0
    done: float = 0.0
    levels: list[Level] = field(default_factory=list)
    worst: float = 0.0
    shed: float = 0.0

    def run(self, seconds: float, rate: float = RATE) -> None:
        """So long at so many windows a second, in frames of a second."""
        for _ in range(round(seconds / LOOK)):
            self.now += LOOK
            if self.now % 1 == 0:
                self.come += rate
            level = self.load.level
            self.done = min(self.come, self.done + LOOK * self.speed * self.saved[level])
            age = (self.come - self.done) / rate if rate else (TARGET + 1) * (self.come > self.done)
            if level == Level.NEWEST_WINDOWS and age > TARGET:
                self.shed += (age - TARGET) * rate
                self.done = self.come - TARGET * rate
                age = TARGET
            self.worst = max(self.worst, age)
            self.load.look(Backlog(round(self.come), round(self.come - self.done), age), self.now)
            self.levels.append(self.load.level)

    @property
    def path(self) -> list[Level]:
        """The levels, each once as long as it lasts."""
        return [one for k, one in enumerate(self.levels) if not k or one != self.levels[k - 1]]


def test_a_machine_that_keeps_up_judges_everything() -> None:
    machine = Machine(40.0)
    machine.run(600)
    assert machine.path == [Level.ALL]


def test_draws_go_first_then_windows_then_the_oldest() -> None:
    machine = Machine(1.0)  # 8 a second at the last level, where 32 come
    machine.run(300)
    assert machine.path == list(Level)
    assert machine.worst <= TARGET + len(Level) * (PERIOD + LOOK) + 1
    assert machine.shed > 0
    assert machine.levels[-1] == Level.NEWEST_WINDOWS  # for as long as it lasts


@pytest.mark.parametrize(("speed", "level"), [(20.0, 2), (10.0, 3), (5.0, 4)])
def test_no_more_is_given_up_than_is_needed(speed: float, level: int) -> None:
    machine = Machine(speed)
    machine.run(900)
    assert max(machine.levels) == level
    assert machine.shed == 0
    last = machine.levels[-round(400 / LOOK) :]
    assert sum(one == level for one in last) > 0.85 * len(last)  # the tries to do with less become rare
    assert machine.worst < TARGET + 6


def test_it_recovers_by_itself_one_level_at_a_time() -> None:
    machine = Machine(1.0)
    machine.run(60)
    machine.speed = 1000.0
    machine.levels.clear()
    machine.run(LONGEST_CALM + 6 * (CALM + 1))
    assert machine.path == list(reversed(Level))


def test_it_recovers_where_no_more_strain_comes() -> None:
    machine = Machine(20.0)
    machine.run(20)
    assert machine.load.level > Level.ALL
    machine.run(LONGEST_CALM + 6 * CALM, rate=0.0)
    assert machine.load.level == Level.ALL


def test_there_is_a_calm_before_each_step_down_and_it_grows() -> None:
    machine = Machine(20.0)
    machine.run(600)
    changes = [k for k in range(1, len(machine.levels)) if machine.levels[k] != machine.levels[k - 1]]
    lasted = [(b - a) * LOOK for a, b in pairwise(changes) if machine.levels[a] > machine.levels[b]]
    assert min(lasted) >= CALM
    assert max(lasted) >= LONGEST_CALM / 2
    assert max(lasted) < LONGEST_CALM + 10


def test_after_a_step_down_that_held_the_calm_is_short_again() -> None:
    machine = Machine(20.0)
    machine.run(300)
    machine.speed = 1000.0
    machine.run(2 * LONGEST_CALM)
    assert machine.load.level == Level.ALL
    machine.speed = 10.0
    machine.run(60)
    machine.speed = 1000.0
    machine.levels.clear()
    machine.run(LONGEST_CALM)
    assert machine.load.level == Level.ALL


@pytest.mark.parametrize("minutes", [1, 8])
def test_what_a_restart_finds_is_no_overload(minutes: int) -> None:
    """It all comes within seconds, and is old until it is worked off."""
    load, come, done = Load(TARGET, RATE), 0.0, 0.0
    for k in range(1, 400):
        come += RATE * LOOK if k > 20 else minutes * 60 * RATE / 20
        done = min(come, done + 400 * LOOK)
        assert load.look(Backlog(round(come), round(come - done), k * LOOK if come > done else 0.0), k * LOOK) == 0


def test_a_burst_on_a_machine_that_is_too_slow_is_overload() -> None:
    load, come, done = Load(TARGET, RATE), 60 * RATE, 0.0
    for k in range(1, 100):
        come, done = come + RATE * LOOK, done + 33 * LOOK
        load.look(Backlog(round(come), round(come - done), k * LOOK), k * LOOK)
    assert load.level > Level.ALL


def test_a_machine_that_hangs_is_not_overloaded() -> None:
    load = Load(TARGET, RATE)
    for k in range(1, 200):
        come = round(RATE * LOOK * k)
        assert load.look(Backlog(come, come, k * LOOK), k * LOOK) == Level.ALL


def test_frames_of_several_seconds_are_no_overload() -> None:
    load, waiting, come = Load(TARGET, RATE), 0.0, 0
    for k in range(400):
        if k % 16 == 0:
            come, waiting = come + 4 * int(RATE), waiting + 4 * RATE
        waiting = max(0.0, waiting - 50 * LOOK)  # 2.6 s for one that brings 4
        age = (k % 16) * LOOK if waiting else 0.0
        assert load.look(Backlog(come, round(waiting), age), k * LOOK) == Level.ALL


def test_levels_can_be_left_out() -> None:
    levels = tuple(level for level in Level if level != Level.WEIGHTED_ONLY)
    machine = Machine(1.0, load=Load(TARGET, RATE, levels))
    machine.run(100)
    assert machine.path == list(levels)


@given(
    st.lists(
        st.tuples(st.integers(0, 200), st.integers(0, 300), st.floats(0, 20), st.floats(0.01, 3)),
        min_size=1,
        max_size=80,
    )
)
def test_whatever_is_told_the_level_moves_by_one_and_not_too_often(steps: list[tuple[int, int, float, float]]) -> None:
    load, come, now = Load(TARGET, RATE), 0, 0.0
    before, moved, up = Level.ALL, -CALM, False
    for more, waiting, age, passed in steps:
        come, now = come + more, now + passed
        level = load.look(Backlog(come, min(waiting, come), age), now)
        assert abs(level - before) <= 1
        if level > before:
            assert age > TARGET
            assert not up or now - moved >= PERIOD
        if level < before:
            assert age <= TARGET / 2
            assert now - moved >= CALM
        if level != before:
            moved, up = now, level > before
        before = level


def test_words_and_strides() -> None:
    assert [level.text for level in Level] == list(LOADS)
    stride: Callable[[Level], int] = lambda level: level.stride  # noqa: E731
    assert list(map(stride, Level)) == [1, 1, 1, 2, 3, 3]
