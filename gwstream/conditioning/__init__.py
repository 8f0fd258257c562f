"""Stage 2: `Strain` in, whitened `Window`s out. Causal, synchronous, one `Conditioner` a detector.

Everything lies on absolute sample counts, so the windows depend on the strain alone and not on how it was cut.
"""

from __future__ import annotations

from collections import deque
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gwstream.conditioning import whitening
from gwstream.conditioning.psd import RunningPsd
from gwstream.conditioning.resample import Decimator
from gwstream.conditioning.state import Quality, State
from gwstream.errors import SourceError
from gwstream.model import ConditioningSpec, ModelSpec
from gwstream.records import Gap, Strain, Whitener, Window

__all__ = ["Conditioner", "State"]


class Conditioner:
    """Decimation, running PSD, whitening and windowing of one detector's strain."""

    def __init__(self, spec: ModelSpec, detector: str) -> None:
        self._spec: ConditioningSpec = spec.conditioning
        self._detector = detector
        self._decimator: Decimator | None = None
        self._psd = RunningPsd(self._spec)
        self._stream = np.empty(0)
        self._start = 0  # count, at the model's rate, of _stream[0]
        self._expected = 0  # count, at the input rate, of the next strain
        self._next_window = 0
        self._next_update = 0
        self._whiteners: deque[tuple[Whitener, NDArray[np.float32]]] = deque(
            maxlen=2 + (self._spec.window + self._spec.taps) // self._spec.update
        )
        self._quality: deque[Quality] = deque()  # start, end, dq, simulated
        self._last_gap: int | None = None

    @property
    def whitener(self) -> Whitener | None:
        """The newest filter, None before ``ready`` seconds of clean strain."""
        return self._whiteners[-1][0] if self._whiteners else None

    def state(self) -> State | None:
        """All it knows, for `restored`; None before the first strain."""
        decimator = self._decimator
        if decimator is None:
            return None
        kept, kept_start = decimator.kept
        return State(
            input_rate=decimator.rate,
            expected=self._expected,
            kept=kept,
            kept_start=kept_start,
            segments=self._psd.segments,
            stream=self._stream,
            start=self._start,
            next_window=self._next_window,
            next_update=self._next_update,
            whiteners=tuple(self._whiteners),
            quality=tuple(self._quality),
            last_gap=self._last_gap,
        )

    @classmethod
    def restored(cls, spec: ModelSpec, detector: str, state: State) -> Conditioner:
        """One that goes on where ``state`` was taken, to the last bit."""
        new = cls(spec, detector)
        new._decimator = Decimator(new._spec, state.input_rate)
        new._decimator.kept = state.kept, state.kept_start
        new._psd.segments = state.segments
        new._expected = state.expected
        new._stream, new._start = state.stream, state.start
        new._next_window, new._next_update = state.next_window, state.next_update
        new._whiteners.extend(state.whiteners)
        new._quality.extend(state.quality)
        new._last_gap = state.last_gap
        return new

    def push(self, record: Strain | Gap) -> list[Window]:
        """Take the next record; returns the windows it completes, oldest first.

        Records must be in time order; a jump counts as a gap. Strain that overlaps the past raises `SourceError`.
        """
        if isinstance(record, Gap):
            self._break(record.end * self._spec.rate // record.rate)
            return []
        decimator = self._decimator_for(record)
        first, samples = decimator.push(record.start, record.samples)
        if not len(samples):
            return []
        if not len(self._stream):
            self._begin(first)
        self._stream = np.concatenate([self._stream, samples])
        self._note_quality(record)
        return self._advance()

    def _decimator_for(self, record: Strain) -> Decimator:
        decimator = self._decimator
        if decimator is None or decimator.rate != record.rate:
            self._break(record.start * self._spec.rate // record.rate)
            decimator = self._decimator = Decimator(self._spec, record.rate)
            self._expected = record.start
        elif record.start < self._expected:
            raise SourceError(
                f"{self._detector}: strain from count {record.start} at {record.rate} Hz overlaps what came before, "
                f"which ended at {self._expected}"
            )
        elif record.start > self._expected:
            self._break(record.start * self._spec.rate // record.rate)
        self._expected = record.end
        return decimator

    def _break(self, end: int) -> None:
        """A gap up to count ``end``: the stream starts afresh after it; the PSD history stays."""
        if self._decimator is not None:
            self._decimator.reset()
        if len(self._stream) or self._last_gap is not None:
            self._last_gap = end
        self._stream = np.empty(0)
        self._quality.clear()

    def _begin(self, first: int) -> None:
        spec = self._spec
        self._start = first
        self._next_update = -(-first // spec.update) * spec.update
        self._next_window = -(-(first + spec.taps - 1) // spec.hop) * spec.hop

    def _note_quality(self, record: Strain) -> None:
        spec = self._spec
        begin = record.start * spec.rate // record.rate
        end = -(-record.end * spec.rate // record.rate)
        self._quality.append((begin, end, record.dq, record.simulated))
        while self._quality[0][1] < self._start - spec.rate:
            self._quality.popleft()

    def _advance(self) -> list[Window]:
        """PSD updates and windows up to the end of the stream, in time order."""
        spec = self._spec
        end = self._start + len(self._stream)
        windows = []
        while True:
            window_end = self._next_window + spec.window
            if self._next_update <= end and self._next_update <= window_end:
                self._update(self._next_update)
                self._next_update += spec.update
            elif window_end <= end:
                window = self._cut(self._next_window)
                if window is not None:
                    windows.append(window)
                self._next_window += spec.hop
            else:
                break
        keep = min(self._next_window - spec.taps + 1, self._next_update - spec.taps)
        if keep > self._start:
            self._stream = self._stream[keep - self._start :].copy()
            self._start = keep
        return windows

    def _update(self, end: int) -> None:
        """Close the Welch segment that ends at count ``end``, if clean, and design the filter that stands there."""
        spec = self._spec
        begin = end - spec.taps
        if begin >= self._start:
            self._psd.add(begin, self._stream[begin - self._start : end - self._start])
        found = self._psd.at(end)
        if found is None:
            self._whiteners.clear()
            return
        psd, averages, history, recent = found
        taps = whitening.minimum_phase(spec, psd, averages)
        state: Literal["ready", "full"] = "full" if history >= spec.full - spec.update / spec.rate else "ready"
        whitener = Whitener(
            id=whitening.identity(self._detector, end, taps),
            detector=self._detector,
            rate=spec.rate,
            taps=taps,
            psd=psd,
            averages=averages,
            history=history,
            end=end,
            state=state,
            drift=whitening.drift(spec, psd, recent),
            range_mpc=whitening.range_mpc(spec, psd),
        )
        self._whiteners.append((whitener, whitening.context(spec, psd, averages).astype(np.float32)))

    def _cut(self, start: int) -> Window | None:
        """The window at count ``start``, whitened whole with the last filter completed before its first sample."""
        spec = self._spec
        found = next((pair for pair in reversed(self._whiteners) if pair[0].end <= start), None)
        if found is None:
            return None
        whitener, context = found
        begin = start - spec.taps + 1
        piece = self._stream[begin - self._start : start + spec.window - self._start]
        marks = [
            (dq, simulated) for low, high, dq, simulated in self._quality if high > begin and low < start + spec.window
        ]
        known = [dq for dq, _ in marks if dq is not None]
        horizon = start - round(spec.full * spec.rate)
        return Window(
            detector=self._detector,
            start=start,
            rate=spec.rate,
            samples=np.convolve(piece, whitener.taps, mode="valid"),
            whitener=whitener,
            context=context,
            dq=int(np.bitwise_and.reduce(known)) if known and len(known) == len(marks) else None,
            gap=self._last_gap is not None and self._last_gap > horizon,
            simulated=any(simulated for _, simulated in marks),
        )
