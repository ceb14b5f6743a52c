"""A second thread that sees that no tick hangs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

_LONGEST_SLEEP_S = 1.0
"""The limit may change while the watchdog sleeps."""


class Watchdog:
    """Calls ``overdue`` once a tick has taken longer than the limit, and again every period until it ends.

    It wakes once in a limit, not once in a tick.

    Args:
        overdue: is given the steady time at which the tick began; called from the watchdog's own thread.
        period_s: time between two calls while one tick hangs.
        limit_s: present limit.
    """

    def __init__(
        self, overdue: Callable[[float], None], period_s: float, limit_s: Callable[[], float]
    ) -> None:
        self._overdue, self._period_s, self._limit_s = overdue, period_s, limit_s
        self._begun_s: float | None = None
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to watch."""
        self._begun_s = None
        self._ended.clear()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Watch no longer; waits for a call under way."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
        self._thread = None

    def tick_begins(self) -> None:
        self._begun_s = time.perf_counter()

    def tick_ends(self) -> None:
        self._begun_s = None

    def still_ticks(self, begun_s: float) -> bool:
        """Whether the tick that began at ``begun_s`` has not ended."""
        return self._begun_s == begun_s

    def _run(self) -> None:
        wait_s = 0.0
        while not self._ended.wait(wait_s):
            begun_s, limit_s = self._begun_s, self._limit_s()
            if begun_s is None:
                wait_s = min(limit_s, _LONGEST_SLEEP_S)
                continue
            age_s = time.perf_counter() - begun_s
            if age_s < limit_s:
                wait_s = min(limit_s - age_s, _LONGEST_SLEEP_S)
                continue
            self._overdue(begun_s)
            wait_s = self._period_s
