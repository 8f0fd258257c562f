"""A new model's ``model.toml``, each setting explained, those that hang together worked out from a few."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from gwstream.errors import ConfigError, ModelError
from gwstream.model import read_spec, template_length

RATES = (256, 512, 1024)
COMPONENTS = {4: 40, 8: 80, 16: 128}  # by the templates' length, s: longer signals differ in more ways
FLOOR = 18.0  # Hz
COLUMN = 30  # at which comments begin
EDGE = 20.0  # Hz on either side of the Nyquist frequency in which the anti-alias filter falls

TEXT = """\
# A model of gwstream. All that training and serving must agree on is said here, and nowhere else.
#   gwstream train {folder}/model.toml --budget 20m
#   gwstream validate {folder}
# What each setting means in full: docs/models.md. What is left out has its default.
name = "{name}"
version = "1"  # change it when you train anew: messages tell of it
description = ""

[conditioning]  # from strain to windows
rate = {rate}  # Hz; the strain's rate must be a multiple of it
window = {window}  # samples: {seconds:g} s
hop = {hop}  # samples between two windows: 16 a second
pass_hz = {pass_hz}  # the anti-alias filter is flat up to here ...
stop_hz = {stop_hz}  # ... and 80 dB down from here; half the rate lies between
floor_hz = {floor}  # below, the whitened stream is empty
taps = {taps}  # samples of the whitening filter, and of the spectrum's segments: 2 s
update = {update}  # samples between two spectra: 1 s
ready = 12.0  # s of clean strain before the first window
full = 64.0  # s that the running median spans at most

[prior]  # uniform within these limits
mass = [{low:.1f}, {high:.1f}]  # solar masses at the detector, of either object
min_ratio = 0.25  # lighter over heavier, at least
distance = [0.1, 5.0]  # effective distance, Gpc
time = [{early:g}, {late:g}]  # coalescence, s after the window's first sample

[bank]  # templates; `gwstream train` says where they are too coarse for the prior
components = {components}  # singular vectors: more for lighter masses
chirp_nodes = 256  # of the grid they are interpolated on
ratio_nodes = 40
gate = 32  # templates of the matched filters that every window passes

[network]
kind = "cvae"  # or gaussian, mixture, maf, nsf, cvae-flow, wavenet, seed
width = 368  # of its layers
depth = 3

[training]
seed = 1
samples = 2097152  # where no --budget is given
batch = 512
rate = 0.001  # of learning, at its peak
whiteners = 64  # detectors drawn at a time, each with a spectrum and a filter of its own ...
refresh = 0.1  # ... and drawn anew after this part of the run
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a model is to be for: Hz, window in s, masses in Msun."""

    rate: int = 256
    seconds: float = 1.0
    mass: tuple[float, float] = (20.0, 100.0)


def write(folder: Path, wish: Wish) -> Path:
    """``model.toml`` in a new folder, named after it; returns its path.

    Raises `ConfigError` where there is one already, and `ConfigError` or `ModelError` for an impossible wish.
    """
    path = folder / "model.toml"
    if path.exists():
        raise ConfigError(f"{path}: is there already; remove it, or name another folder")
    low, high = wish.mass
    rate, window = wish.rate, round(wish.seconds * wish.rate)
    if window % (rate // 16) or window < rate // 2:
        raise ConfigError(f"--window {wish.seconds:g}: must be a multiple of 1/16 s, from 0.5 s")
    if not 0 < low < high:
        raise ConfigError(f"--mass {low:g} {high:g}: needs two masses above zero, the smaller first")
    name = "".join(one if one.isalnum() else "-" for one in folder.resolve().name.lower()).strip("-") or "model"
    long = template_length(low, wish.seconds, FLOOR)
    early, late = (wish.seconds - one for one in (0.35, 0.15))
    text = TEXT.format(
        folder=folder, name=name, rate=rate, window=window, seconds=wish.seconds, hop=rate // 16,
        pass_hz=rate / 2 - EDGE, stop_hz=rate / 2 + EDGE, taps=2 * rate, update=rate, low=low, high=high, floor=FLOOR,
        early=round(early, 4), late=round(late, 4), components=COMPONENTS.get(long, 128),
    )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(_aligned(text), encoding="utf-8")
    try:
        read_spec(path)
    except ModelError:
        path.unlink()
        with suppress(OSError):  # it held other things
            folder.rmdir()
        raise
    return path


def _aligned(text: str) -> str:
    """With the comments beside settings below each other."""
    lines = (line.partition("  # ") for line in text.splitlines())
    return "".join(f"{left:<{COLUMN}}# {right}\n" if mark else f"{left}\n" for left, mark, right in lines)
