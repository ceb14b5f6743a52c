"""Latency statistics and absolute-deadline pacing."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Summary:
    """Order statistics of recorded durations, in milliseconds. NaN where nothing was recorded."""

    count: int
    p50_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float

    @classmethod
    def of(cls, seconds: NDArray[np.float64]) -> Summary:
        """Of durations (N,) in seconds."""
        if len(seconds) == 0:
            return cls(0, *[float("nan")] * 4)
        return cls(len(seconds), *np.percentile(seconds * 1e3, (50, 99, 99.9, 100)).tolist())


class Recorder:
    """Keeps the last ``capacity`` durations in a ring, and counts all of them."""

    def __init__(self, capacity: int = 65536) -> None:
        self._seconds = np.empty(capacity)
        self.count = 0

    def add(self, seconds: float) -> None:
        self._seconds[self.count % self._seconds.size] = seconds
        self.count += 1

    @property
    def last_s(self) -> float:
        """The newest duration, in seconds; NaN where nothing was recorded."""
        if self.count == 0:
            return float("nan")
        return float(self._seconds[(self.count - 1) % self._seconds.size])

    def clear(self) -> None:
        self.count = 0

    def summary(self) -> Summary:
        """Statistics over what is in the ring."""
        kept = self._seconds[: min(self.count, self._seconds.size)]
        return replace(Summary.of(kept), count=self.count)


class Deadlines:
    """Deadlines ``start + k * period`` on a steady clock: late ticks do not shift the later ones."""

    def __init__(self, period_s: float, start_s: float) -> None:
        self._period_s = period_s
        self._start_s = start_s
        self._index = 0

    def next(self, now_s: float) -> tuple[float, int]:
        """The first deadline after the previous one that is not yet past, and how many were skipped for it."""
        self._index += 1
        due = int(np.ceil((now_s - self._start_s) / self._period_s))
        skipped = max(0, due - self._index)
        self._index += skipped
        return self._start_s + self._index * self._period_s, skipped
