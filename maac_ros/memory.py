"""What an observation recalls: the last command, what was observed in earlier control periods, and a clock's phase."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from maac_ros.command_range import CommandRange
from maac_ros.observation import Vector
from maac_ros.observation_terms import LAST_COMMAND, PHASE, Phase, earlier
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
        start: (K,) what each begins with; NaN for what ``first`` says.
        turning: whether something does more than move up in a control period.
        gain, partner, partner_gain: (K,) what each is then: ``gain`` times what came from ``sources`` plus
            ``partner_gain`` times what came so for its partner, another of the K.
    """

    def __init__(self, task: Task) -> None:
        entries = task.observation_entries()
        self._range = CommandRange(task)
        now = {entry.name: i for i, entry in enumerate(entries)}
        told = {
            f"{a.joint}/{LAST_COMMAND}": len(now) + i for i, a in enumerate(self._range.entries)
        }
        recalled = [entry.name for entry in entries if entry.source == "memory"]
        self.entries = np.array([now[name] for name in recalled], dtype=np.intp)
        sources = [
            now[name] if name in PHASE else told[name] if name in told else now[earlier(name)]
            for name in recalled
        ]
        self.sources = np.array(sources, dtype=np.intp)
        # At the beginning all earlier values are the present one.
        first = now | told
        self.first = np.array([first[name.partition("@")[0]] for name in recalled], dtype=np.intp)
        self.start = np.full(len(recalled), np.nan)
        self.gain, self.partner_gain = np.ones(len(recalled)), np.zeros(len(recalled))
        self.partner = np.arange(len(recalled))
        clock = next((term for term in task.observation if isinstance(term, Phase)), None)
        self.turning = clock is not None
        if clock is not None:
            sine, cosine = (recalled.index(name) for name in PHASE)
            angle = 2.0 * math.pi * task.control.period_s / clock.period_s
            self.start[[sine, cosine]] = 0.0, 1.0
            self.gain[[sine, cosine]] = math.cos(angle)
            self.partner[[sine, cosine]] = cosine, sine
            self.partner_gain[[sine, cosine]] = math.sin(angle), -math.sin(angle)

    def __bool__(self) -> bool:
        """Whether the task recalls anything."""
        return self.entries.size > 0

    def begin(self, observation: Vector, command: Vector) -> Vector:
        """``observation`` (O,) as the first one, ``command`` (A,), in command units, being in force until then."""
        recalled = self._gathered(observation, command, self.first)
        return self._filled(observation, np.where(np.isnan(self.start), recalled, self.start))

    def go_on(self, observation: Vector, last: Vector, command: Vector) -> Vector:
        """``observation`` (O,) with what it recalls, a control period after ``last`` (O,) and ``command`` (A,)."""
        recalled = self._gathered(last, command, self.sources)
        if self.turning:
            recalled = self.gain * recalled + self.partner_gain * recalled[self.partner]
        return self._filled(observation, recalled)

    def _gathered(self, observation: Vector, command: Vector, at: Indices) -> Vector:
        told = self._range.normalized(command, observation)
        numbers: Vector = np.concatenate((observation, told))[at]
        return numbers

    def _filled(self, observation: Vector, recalled: Vector) -> Vector:
        filled = observation.copy()
        filled[self.entries] = recalled
        return filled
