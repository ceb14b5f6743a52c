"""What an observation recalls: the last command, and what was observed in earlier control periods."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from maac_ros.action_terms import CommandRange
from maac_ros.observation import Vector
from maac_ros.observation_terms import LAST_COMMAND, earlier
from maac_ros.task import Task

Indices = NDArray[np.intp]

FORGET_S = 0.5
"""After so long without a usable observation what was recalled is of another time: recalling begins anew."""


class Memory:
    """The entries of a task's observation that follow from the last observation and the last command, exactly.

    Attributes:
        entries: (K,) where they are in the observation.
        sources: (K,) where each was one control period ago, in the last observation followed by the normalised command.
        first: (K,) where each begins, in the present observation followed by the normalised command.
    """

    def __init__(self, task: Task) -> None:
        entries = task.observation_entries()
        self._range = CommandRange(task.action_entries())
        now = {entry.name: i for i, entry in enumerate(entries)}
        told = {
            f"{a.joint}/{LAST_COMMAND}": len(now) + i for i, a in enumerate(self._range.entries)
        }
        recalled = [entry.name for entry in entries if entry.source == "memory"]
        self.entries = np.array([now[name] for name in recalled], dtype=np.intp)
        sources = [told[name] if name in told else now[earlier(name)] for name in recalled]
        self.sources = np.array(sources, dtype=np.intp)
        # At the beginning all earlier values are the present one.
        first = now | told
        self.first = np.array([first[name.partition("@")[0]] for name in recalled], dtype=np.intp)

    def __bool__(self) -> bool:
        """Whether the task recalls anything."""
        return self.entries.size > 0

    def begin(self, observation: Vector, command: Vector) -> Vector:
        """``observation`` (O,) as the first one, ``command`` (A,), in command units, being in force until then."""
        return self._filled(observation, observation, command, self.first)

    def go_on(self, observation: Vector, last: Vector, command: Vector) -> Vector:
        """``observation`` (O,) with what it recalls, a control period after ``last`` (O,) and ``command`` (A,)."""
        return self._filled(observation, last, command, self.sources)

    def _filled(self, observation: Vector, last: Vector, command: Vector, at: Indices) -> Vector:
        filled = observation.copy()
        filled[self.entries] = np.concatenate((last, self._range.normalized(command)))[at]
        return filled
