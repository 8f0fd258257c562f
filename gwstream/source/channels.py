"""The usual channel names of each detector in the low-latency distribution."""

from __future__ import annotations

_STRAIN = {"V1": "V1:Hrec_hoft_16384Hz"}
_STATE = {"V1": "V1:DQ_ANALYSIS_STATE_VECTOR"}


def strain_channel(detector: str) -> str:
    """Calibrated, cleaned strain."""
    return _STRAIN.get(detector, f"{detector}:GDS-CALIB_STRAIN_CLEAN")


def state_channel(detector: str) -> str:
    """State vector: bit 0 strain ok, bit 1 observing, 5 to 8 no stochastic/CBC/burst/detchar hardware injection."""
    return _STATE.get(detector, f"{detector}:GDS-CALIB_STATE_VECTOR")
