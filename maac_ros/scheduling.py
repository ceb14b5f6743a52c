"""Real-time scheduling of threads (SCHED_FIFO on Linux): control goes before everything else that wants its core.

A thread of the interpreter cannot go on while another one of its process holds the interpreter's lock, so one that goes
before others is of no use alone: all threads of the process do, but for those that are busy for long.
"""

from __future__ import annotations

import contextlib
import os

from maac_ros.errors import ConfigError

MOST = 99
"""Highest real-time priority; 1 is the lowest, and goes before all that have none."""


def prioritise(priority: int) -> None:
    """Give all threads of this process the real-time ``priority``, 1 to 99; threads that they start inherit it.

    Raises:
        ConfigError: when the system does not let this process have it.
    """
    wanted = (os.SCHED_FIFO, priority)
    # A thread that is started meanwhile may inherit what its own starter had before.
    while missing := [thread for thread in _threads() if _scheduling(thread) not in (wanted, None)]:
        for thread in missing:
            try:
                os.sched_setscheduler(thread, os.SCHED_FIFO, os.sched_param(priority))
            except ProcessLookupError:
                continue  # it has ended
            except PermissionError as reason:
                raise ConfigError(
                    f"thread_priority: got {priority}; the system does not let this process have a real-time "
                    f"priority; expected 0, or the right to one: an rtprio limit of {priority} or more, or CAP_SYS_NICE"
                ) from reason


def priority() -> int:
    """Real-time priority of the main thread of this process; 0 for none."""
    known = _scheduling(os.getpid())
    return known[1] if known is not None else 0


def give_way() -> None:
    """Let the calling thread have no real-time priority any more: for long work, which control must not wait for."""
    now = _scheduling(0)
    if now is not None and now[0] in (os.SCHED_FIFO, os.SCHED_RR):
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def as_main_thread() -> None:
    """Schedule the calling thread as the main one of its process, whoever started it."""
    wanted = _scheduling(os.getpid())
    if wanted is not None and wanted != _scheduling(0):
        # The process may have been given a priority that it has no right to give itself.
        with contextlib.suppress(PermissionError):
            os.sched_setscheduler(0, wanted[0], os.sched_param(wanted[1]))


def _threads() -> list[int]:
    return [int(name) for name in os.listdir("/proc/self/task")]


def _scheduling(thread: int) -> tuple[int, int] | None:
    """Policy and priority of a thread, 0 for the calling one; None when it has ended, or the system is not Linux."""
    if not hasattr(os, "sched_getscheduler"):
        return None
    try:
        return os.sched_getscheduler(thread), os.sched_getparam(thread).sched_priority
    except ProcessLookupError:
        return None
