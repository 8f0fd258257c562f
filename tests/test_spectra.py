from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gwstream import spectra
from gwstream.config import Detector
from gwstream.errors import ConfigError

MEASURED = {"GW150914_H1": ("GW150914/psd_4096s_H1.npz", 24), "GW150914_L1": ("GW150914/psd_4096s_L1.npz", 24)}


def test_every_curve_is_positive_finite_and_of_the_size_of_a_detector() -> None:
    frequencies = np.linspace(0, 8192, 4001)
    assert len(spectra.names()) >= 12
    for name in spectra.names():
        values = spectra.asd(name, frequencies)
        assert values.shape == frequencies.shape
        assert np.isfinite(values).all()
        assert values.min() > 1e-24
        assert values[frequencies > 20].max() < 1e-19
        assert values[0] > 30 * values[frequencies > 60].min()


def test_the_default_curve_of_the_settings_ships() -> None:
    assert Detector().asd in spectra.names()


def test_shape_is_kept_and_edges_are_held() -> None:
    two = spectra.asd("Aplus", np.array([[1.0, 5.0], [2048.0, 9000.0]]))
    assert two[0, 0] == two[0, 1]
    assert two[1, 0] == two[1, 1]


def test_unknown_name_says_what_was_meant() -> None:
    with pytest.raises(ConfigError, match="did you mean aLIGO_O4_high"):
        spectra.asd("aLIGO_O4_hihg", np.array([10.0]))


@pytest.mark.parametrize("name", ["aLIGO_O4_high", "aLIGO_ZERO_DET_high_P", "Aplus", "AdV", "KAGRA"])
def test_design_curves_equal_their_source_away_from_lines(shared_data: Path, name: str) -> None:
    file = {"KAGRA": "KAGRA_design"}.get(name, name)
    frequencies, values = np.loadtxt(shared_data / "asd/design" / f"{file}_asd.txt", unpack=True)
    inside = (frequencies > 22) & (frequencies < 2000)
    ratio = spectra.asd(name, frequencies[inside]) / values[inside]
    assert abs(np.median(ratio) - 1) < 0.002
    assert np.percentile(np.abs(ratio - 1), 90) < 0.05


@pytest.mark.parametrize("name", MEASURED)
def test_measured_curves_keep_the_level_and_lose_the_lines(shared_data: Path, name: str) -> None:
    path, low = MEASURED[name]
    with np.load(shared_data / "asd" / path) as file:
        frequencies, asd = file["frequencies"], np.sqrt(file["values"])
    inside = (frequencies > low) & (frequencies < 1500)
    smooth = spectra.asd(name, frequencies[inside])
    assert abs(np.median(smooth / asd[inside]) - 1) < 0.02
    sixty = (frequencies > 59) & (frequencies < 61)
    assert asd[sixty].max() > 5 * spectra.asd(name, frequencies[sixty]).max()
    steps = np.abs(np.diff(np.log(spectra.asd(name, np.geomspace(low, 1500, 2000)))))
    assert steps.max() < 0.05
