"""Stage 3: `Window`s of all detectors in, `Batch`es out: by size or by age.

Pure: the caller says what time it is. No detector is waited for, order of arrival is kept, and at most ``size - 1``
windows are ever held.
"""

from __future__ import annotations

from gwstream.config import BatchingConfig
from gwstream.records import BUCKETS, Batch, Window, bucket

__all__ = ["BUCKETS", "Batcher", "bucket"]


class Batcher:
    """Collects windows until there are ``config.size``, or until the oldest is ``config.max_age`` seconds old.

    ``now`` is any clock in seconds that does not go back.
    """

    def __init__(self, config: BatchingConfig) -> None:
        self._size = config.size
        self._max_age = config.max_age
        self._windows: list[Window] = []
        self._deadline: float | None = None

    @property
    def deadline(self) -> float | None:
        """When `due` will next have a batch; None while nothing is held."""
        return self._deadline

    def __len__(self) -> int:
        return len(self._windows)

    def add(self, window: Window, now: float) -> Batch | None:
        """Take a window; the batch it completes, if it does."""
        if self._deadline is None:
            self._deadline = now + self._max_age
        self._windows.append(window)
        return self.flush() if len(self._windows) >= self._size else self.due(now)

    def due(self, now: float) -> Batch | None:
        """What is held, if its oldest window has reached the age."""
        if self._deadline is None or now < self._deadline:
            return None
        return self.flush()

    def flush(self) -> Batch | None:
        """What is held, whatever its age: for the end of the stream."""
        if not self._windows:
            return None
        windows, self._windows, self._deadline = tuple(self._windows), [], None
        return Batch(windows, bucket(len(windows)))
