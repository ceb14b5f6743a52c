"""What the robot is asked for: which goal holds, and why others do not."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from maac_ros.errors import ObservationError
from maac_ros.joystick import Joystick
from maac_ros.observation import Vector
from maac_ros.observation_terms import Goal

REORDERED_WITHIN_S = 1.0
"""A message older than the one before by less was overtaken on its way; by more, the clock went back."""

AHEAD_S = 1.0
"""A goal may be stamped so far in the future: who asks need not keep time as well as the robot."""


@dataclass(frozen=True)
class _Asked:
    stamp_ns: int
    received_s: float
    values: Vector
    clipped: str
    """What of it was beyond its range."""


class Goals:
    """Keeps what was asked for last.

    A goal that a simulator draws belongs to the state of its stamp. Any other must be of now, by ROS time on hardware
    and in simulation alike, and is brought within its range. One that was overtaken by a newer one is dropped; one
    from much earlier tells that a clock went back: it is refused, and those that follow it are not. Simulated time goes
    back with each new simulator, and nothing is wrong.

    Args:
        goal: the task's goal term.
        units: of what can be asked for, in its order.
        drawn: whether a simulator draws the goals.
        simulated: whether ROS time is simulated time.
        joystick: who asks, where it is one.
    """

    def __init__(
        self,
        goal: Goal,
        units: list[str],
        drawn: bool,
        simulated: Callable[[], bool],
        joystick: Joystick | None = None,
    ) -> None:
        self.source = goal.source
        self._goal, self._units, self._drawn, self._simulated = goal, units, drawn, simulated
        self._told_by = "joy" if joystick else goal.source
        self._limit_s = joystick.timeout_s if joystick else goal.timeout_s
        self._low, self._high = np.array(list(goal.ranges.values())).T
        self._resting = np.array(list(goal.resting.values()))
        self._asked: _Asked | None = None
        self._stamp_ns = 0
        self._refusal = ""
        self.overtaken = 0
        """Goals dropped because a newer one had come before."""

    @property
    def stamp_ns(self) -> int | None:
        """Of the last goal; None before the first."""
        return None if self._asked is None else self._asked.stamp_ns

    def ask(self, stamp_ns: int, goal: Vector | ObservationError, now_ns: int) -> str:
        """Take in a goal (G,), or why it cannot be used; returns why it is refused, empty where it is not.

        Args:
            stamp_ns: 0 for none: the goal is of the moment at which it comes.
            goal: in the order of the task's goal term.
            now_ns: ROS time.
        """
        if isinstance(goal, ObservationError):
            self._refusal = str(goal)
            return self._refusal
        if stamp_ns and not self._drawn:
            if refusal := self._judge(stamp_ns, now_ns):
                self._refusal = refusal
                return refusal
            back_s = (self._stamp_ns - stamp_ns) * 1e-9
            if 0.0 < back_s < REORDERED_WITHIN_S:
                self.overtaken += 1
                return ""
            if back_s > 0.0 and not self._simulated():
                self._stamp_ns = stamp_ns
                self._refusal = f"{self._told_by}: header.stamp went back by {back_s:.3g} s"
                return self._refusal
        values = np.clip(goal, self._low, self._high)
        self._asked = _Asked(stamp_ns, time.perf_counter(), values, self._clipped(goal, values))
        self._stamp_ns, self._refusal = stamp_ns, ""
        return ""

    def holds(self) -> Vector:
        """The goal (G,) of now."""
        if self._asked is None or self._silence():
            return self._resting
        return self._asked.values

    def concerns(self) -> list[str]:
        """What is wrong with what was asked for last."""
        told = [self._refusal]
        if self._asked is not None:
            told.append(self._silence() or self._asked.clipped)
        return [each for each in told if each]

    def _judge(self, stamp_ns: int, now_ns: int) -> str:
        """Why a goal is not of now; empty where it is."""
        age_s, limit_s = (now_ns - stamp_ns) * 1e-9, self._limit_s
        told = f"{self._told_by}: header.stamp is"
        if limit_s is not None and age_s > limit_s:
            return f"{told} {age_s * 1e3:.0f} ms old; limit {limit_s * 1e3:.0f} ms"
        if -age_s > AHEAD_S:
            return (
                f"{told} {-age_s * 1e3:.0f} ms in the future; limit {AHEAD_S * 1e3:.0f} ms; "
                "are the clocks synchronised?"
            )
        return ""

    def _clipped(self, asked: Vector, kept: Vector) -> str:
        beyond = [
            f"{name} = {value:g} {unit}, clipped to {bound:g}"
            for name, unit, value, bound in zip(
                self._goal.ranges, self._units, asked, kept, strict=True
            )
            if value != bound
        ]
        return f"{self._told_by}: {'; '.join(beyond)}" if beyond else ""

    def _silence(self) -> str:
        """Why the resting goal holds again; empty while the last one does."""
        limit_s = self._limit_s
        # Between two states of a simulator that draws goals time may stand still.
        if self._asked is None or limit_s is None or self._drawn:
            return ""
        silent_s = time.perf_counter() - self._asked.received_s
        if silent_s <= limit_s:
            return ""
        return (
            f"{self._told_by}: no goal for {silent_s * 1e3:.0f} ms; limit {limit_s * 1e3:.0f} ms; "
            "the resting goal holds"
        )
