"""How known signals fare, for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge

from gwstream.calibration import Report


class KnownSignals:
    """The metrics ``gwstream_calibration_*`` in ``registry``."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def gauge(name: str, about: str, *more: str) -> Gauge:
            return Gauge(f"gwstream_calibration_{name}", about, ["detector", *more], registry=registry)

        self._injections = Counter(
            "gwstream_calibration_injections_total", "Known signals judged.", ["detector"], registry=registry
        )
        self._coverage = gauge("coverage", "Fraction of intervals that held the truth, of late.", "interval")
        self._coverage_error = gauge("coverage_error", "Standard error of the coverage.", "interval")
        self._rank_p = gauge("rank_p", "Kolmogorov-Smirnov p-value of the ranks of known signals.", "parameter")
        self._ess = gauge("ess_fraction", "Median effective fraction of the draws.")
        self._snr_ratio = gauge("snr_ratio", "Median of recovered over optimal SNR, from 8 on.")
        self._found = gauge("found_fraction", "Fraction behind the gate, of optimal SNR from 8 on.")
        self._alarm = gauge("alarm", "1 while the ranks of known signals are not uniform.")
        self._evidence = gauge("evidence", "ln of the statistic of the alarm over its threshold.")

    def told(self, report: Report) -> None:
        """A known signal was judged."""
        name = report.detector
        self._injections.labels(name).inc()
        for width, value, error in (
            ("50", report.coverage_50, report.coverage_50_error),
            ("90", report.coverage_90, report.coverage_90_error),
        ):
            self._coverage.labels(name, width).set(value)
            self._coverage_error.labels(name, width).set(error)
        for parameter, p in report.p.items():
            self._rank_p.labels(name, parameter).set(p)
        self._ess.labels(name).set(report.ess)
        self._snr_ratio.labels(name).set(report.snr_ratio)
        self._found.labels(name).set(report.found)
        self._alarm.labels(name).set(report.alarm)
        self._evidence.labels(name).set(report.evidence)
