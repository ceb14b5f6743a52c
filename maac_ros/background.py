"""Long work beside a robot that is being commanded: in small pieces, with pauses in which ticks find the cores free."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

_WORK_S = 0.001
_PAUSE_S = 0.004

_thread = threading.local()


@contextlib.contextmanager
def in_the_background() -> Iterator[None]:
    """Let :func:`breathe` pause what this thread does meanwhile."""
    _thread.since_s = time.perf_counter()
    try:
        yield
    finally:
        del _thread.since_s


def breathe() -> None:
    """Between pieces of long work: a pause, in the background and where a millisecond has gone by since the last."""
    since_s = getattr(_thread, "since_s", None)
    if since_s is not None and time.perf_counter() - since_s > _WORK_S:
        time.sleep(_PAUSE_S)
        _thread.since_s = time.perf_counter()
