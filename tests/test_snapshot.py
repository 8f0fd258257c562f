from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gwstream import snapshot
from gwstream.conditioning import Conditioner, State
from gwstream.model import ModelSpec
from gwstream.records import Gap, Strain, Window

GPS = 1_400_000_000
RATE = 1024
SPEC = ModelSpec(name="test")

TREE = {"a": [1, None, {"b": np.arange(6.0).reshape(2, 3)}], "c": {"d": np.ones(3, np.float32), "e": "text", "f": True}}


def strain(second: int) -> Strain:
    samples = np.random.default_rng(second).normal(size=RATE) * 1e-21
    return Strain(detector="H1", start=(GPS + second) * RATE, rate=RATE, samples=samples, dq=3)


def told(windows: list[Window]) -> list[object]:
    """All of each window that its posterior may hang on."""
    return [
        (w.start, w.samples.tobytes(), w.context.tobytes(), w.whitener.id, w.whitener.taps.tobytes(), w.dq, w.gap)
        for w in windows
    ]


def through_a_file(state: State, path: Path) -> State:
    snapshot.save(path, {"H1": state.tree()})
    return State.of(snapshot.load(path)["H1"])


def test_a_tree_comes_back_as_it_was(tmp_path: Path) -> None:
    snapshot.save(tmp_path / "state", TREE)
    back = snapshot.load(tmp_path / "state")
    assert back["a"][:2] == [1, None]
    assert (back["c"]["e"], back["c"]["f"]) == ("text", True)
    assert np.array_equal(back["a"][2]["b"], TREE["a"][2]["b"])  # type: ignore[index]
    assert back["c"]["d"].dtype == np.float32
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


@pytest.mark.parametrize("harm", ["cut", "empty", "flipped", "foreign"])
def test_a_damaged_file_is_told_from_a_whole_one(tmp_path: Path, harm: str) -> None:
    path = tmp_path / "state"
    snapshot.save(path, TREE)
    body = bytearray(path.read_bytes())
    if harm == "cut":
        body = body[:-1]
    elif harm == "empty":
        body = bytearray()
    elif harm == "flipped":
        body[len(body) // 2] ^= 1
    else:
        body = bytearray(b"another program's file, longer than a digest is")
    path.write_bytes(body)
    with pytest.raises(snapshot.SnapshotError):
        snapshot.load(path)


def test_a_text_like_an_array_s_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="array:7"):
        snapshot.save(tmp_path / "state", {"a": "array:7"})


@pytest.mark.parametrize("gap", [False, True])
def test_a_restored_conditioner_goes_on_to_the_last_bit(tmp_path: Path, gap: bool) -> None:
    whole = Conditioner(SPEC, "H1")
    for second in range(30):
        if gap and second == 20:
            whole.push(Gap(detector="H1", start=(GPS + 20) * RATE, rate=RATE, length=RATE, reason="missing"))
        else:
            whole.push(strain(second))
    state = whole.state()
    assert state is not None
    assert state.whole
    assert state.second == GPS + 30
    other = Conditioner.restored(SPEC, "H1", through_a_file(state, tmp_path / "state"))
    made = 0
    for second in range(30, 36):
        expected = told(whole.push(strain(second)))
        assert told(other.push(strain(second))) == expected
        made += len(expected)
    assert made


def test_what_is_no_state_is_refused(tmp_path: Path) -> None:
    conditioner = Conditioner(SPEC, "H1")
    assert conditioner.state() is None
    conditioner.push(strain(0))
    state = conditioner.state()
    assert state is not None
    tree = state.tree()
    with pytest.raises((LookupError, TypeError, ValueError)):
        State.of({name: one for name, one in tree.items() if name != "segments"})
    with pytest.raises((LookupError, TypeError, ValueError)):
        State.of(tree | {"foreign": 1})
