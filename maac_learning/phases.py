"""Where the time of a training run goes."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

from maac_ros.timing import Recorder


class PhaseClock:
    """Seconds spent in named phases; while a phase runs inside another, the outer one's clock stands still.

    ``synchronize``, where it is set, is called at each change of phase: work queued on a GPU then counts
    for the phase that queued it.
    """

    def __init__(self) -> None:
        self.synchronize: Callable[[], object] = lambda: None
        self.recorders: dict[str, Recorder] = {}
        """The durations of each phase, one for every time it ran."""
        self.seconds: dict[str, float] = {}
        """Seconds in each phase, all times together."""
        self._inner: list[float] = []

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Count what runs under this context for phase ``name``."""
        self.synchronize()
        started = time.perf_counter()
        self._inner.append(0.0)
        try:
            yield
        finally:
            self.synchronize()
            elapsed = time.perf_counter() - started
            own = elapsed - self._inner.pop()
            if self._inner:
                self._inner[-1] += elapsed
            self.seconds[name] = self.seconds.get(name, 0.0) + own
            self.recorders.setdefault(name, Recorder()).add(own)

    def clear(self) -> None:
        """Forget everything counted so far; not to be called inside a phase."""
        self.recorders.clear()
        self.seconds.clear()


_Method = TypeVar("_Method", bound=Callable[..., Any])


def timed(name: str) -> Callable[[_Method], _Method]:
    """Count a method for phase ``name`` of its object's ``phases``."""

    def wrap(method: _Method) -> _Method:
        @functools.wraps(method)
        def run(self: Any, *args: Any, **kwargs: Any) -> Any:
            with self.phases(name):
                return method(self, *args, **kwargs)

        return cast(_Method, run)

    return wrap
