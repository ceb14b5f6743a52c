"""The newest message of each source, handed from the ROS thread to the control thread."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from maac_ros.errors import ObservationError
from maac_ros.joystick import Joystick
from maac_ros.nodes.goals import REORDERED_WITHIN_S, Goals
from maac_ros.nodes.messages import InertialReading, Reading, SensorsReading
from maac_ros.observation import JointReading, ObservationBuilder, RobotState, Vector
from maac_ros.task import Task
from maac_ros.terms import Source


class Wake(Enum):
    """Why :meth:`Inbox.wait` returned."""

    MATCH = "all sources carry one stamp"
    INTERRUPT = "interrupted"
    DEADLINE = "deadline"


@dataclass(frozen=True)
class _Arrival:
    stamp_ns: int
    received_s: float
    reading: Reading | ObservationError


@dataclass(frozen=True)
class Sample:
    """What is known of the robot when a tick begins.

    Attributes:
        observation: (O,) in the task's units, or why there is none.
        stamp_ns: time stamp of the source that is due first; None when a source has never been heard.
        received_s: steady time at which the last message came in.
        oldest: the source whose stamp that is.
    """

    observation: Vector | ObservationError
    stamp_ns: int | None
    received_s: float
    oldest: str = ""


class Inbox:
    """Keeps what each source of ``task`` said last. Thread-safe.

    Args:
        task: decides which sources there are.
        wake_on_match: let :meth:`wait` return when all sources carry one and the same stamp.
        simulated: whether the stamps are of simulated time, which begins anew with each simulator.
        drawn_goals: whether each state comes with a goal of the same stamp, as a simulator draws it, which is then
            waited for; otherwise the goal is what was asked for last.
        joystick: who asks then, where it is one.
    """

    def __init__(
        self,
        task: Task,
        wake_on_match: bool,
        simulated: Callable[[], bool] = lambda: False,
        drawn_goals: bool = False,
        joystick: Joystick | None = None,
    ) -> None:
        self.sources: tuple[Source, ...] = tuple(sorted(task.sources()))
        self._joints = len(task.robot.joints)
        self._builder = ObservationBuilder(task)
        self._wake_on_match = wake_on_match
        self._simulated = simulated
        self._condition = threading.Condition()
        self._arrivals: dict[Source, _Arrival] = {}
        self._drawn_goals = drawn_goals
        self._goals = _goals(task, drawn_goals, simulated, None if drawn_goals else joystick)
        self._matched = False
        self._interrupted = False
        self.overtaken: Counter[Source] = Counter(dict.fromkeys(self.sources, 0))
        """Messages dropped because a newer one of the same source had come before; goals likewise."""

    def put(self, source: Source, stamp_ns: int, reading: Reading | ObservationError) -> None:
        """Take in what ``source`` said, or why it cannot be used.

        On hardware a message that was overtaken by a newer one is dropped, and one from much earlier than the last
        tells that a clock went back: it cannot be used, but those that follow it can.
        """
        if stamp_ns == 0:
            reading = ObservationError(f"{source}: header.stamp is 0; its age cannot be told")
        with self._condition:
            last = self._arrivals.get(source)
            back_s = 0.0
            if last is not None and stamp_ns and not self._simulated():
                back_s = (last.stamp_ns - stamp_ns) * 1e-9
            if 0.0 < back_s < REORDERED_WITHIN_S:
                self.overtaken[source] += 1
                return
            if back_s > 0.0:
                reading = ObservationError(f"{source}: header.stamp went back by {back_s:.3g} s")
            self._arrivals[source] = _Arrival(stamp_ns, time.perf_counter(), reading)
            self._look_for_match()

    def ask(self, stamp_ns: int, goal: Vector | ObservationError, now_ns: int) -> str:
        """Take in what the robot is asked for, or why it cannot be used: see :meth:`Goals.ask`."""
        assert self._goals is not None
        with self._condition:
            refusal = self._goals.ask(stamp_ns, goal, now_ns)
            self.overtaken[self._goals.source] = self._goals.overtaken
            if self._drawn_goals and not refusal:
                self._look_for_match()
            return refusal

    def goal_concerns(self) -> list[str]:
        """What is wrong with what was asked for last."""
        with self._condition:
            return self._goals.concerns() if self._goals is not None else []

    def _look_for_match(self) -> None:
        if self._wake_on_match and self._stamps_match():
            self._matched = True
            self._condition.notify()

    def _stamps_match(self) -> bool:
        if len(self._arrivals) != len(self.sources):
            return False
        stamps: set[int | None] = {arrival.stamp_ns for arrival in self._arrivals.values()}
        if self._goals is not None and self._drawn_goals:
            stamps.add(self._goals.stamp_ns)
        return len(stamps) == 1

    def interrupt(self) -> None:
        """Make :meth:`wait` return at once."""
        with self._condition:
            self._interrupted = True
            self._condition.notify()

    def wait(self, deadline_s: float) -> Wake:
        """Wait for a match that was not reported yet, :meth:`interrupt`, or the steady time ``deadline_s``."""
        with self._condition:
            while not (self._interrupted or self._matched):
                left = deadline_s - time.perf_counter()
                if left <= 0:
                    return Wake.DEADLINE
                self._condition.wait(left)
            if self._interrupted:
                self._interrupted = False
                return Wake.INTERRUPT
            self._matched = False
            return Wake.MATCH

    def stamps(self) -> dict[Source, int | None]:
        """Stamp of each source's newest message, ns; None where it has never been heard."""
        with self._condition:
            return {
                source: self._arrivals[source].stamp_ns if source in self._arrivals else None
                for source in self.sources
            }

    def joints(self) -> tuple[int, JointReading] | None:
        """Stamp and reading of the newest joint states, whatever the other sources say; None where it has no use."""
        with self._condition:
            arrival = self._arrivals.get("joint_states")
        if arrival is None or not isinstance(arrival.reading, JointReading):
            return None
        return arrival.stamp_ns, arrival.reading

    def newest(self, age_limit_s: Callable[[Source], float] = lambda _: 0.0) -> Sample:
        """The observation that the newest messages give together.

        Args:
            age_limit_s: how old each source may become: the one that reaches its limit first is named as the oldest.
        """
        with self._condition:
            arrivals = dict(self._arrivals)
            goal = self._goals.holds() if self._goals is not None else None
        if unheard := [source for source in self.sources if source not in arrivals]:
            reason = f"no observation yet: nothing heard on {', '.join(unheard)}"
            return Sample(ObservationError(reason), None, 0.0)
        newest_ns = max(arrival.stamp_ns for arrival in arrivals.values())

        def time_left(source: Source) -> tuple[float, int]:
            stamp_ns = arrivals[source].stamp_ns
            return age_limit_s(source) - (newest_ns - stamp_ns) * 1e-9, stamp_ns

        oldest = min(arrivals, key=time_left)
        stamp = arrivals[oldest].stamp_ns
        received = max(arrival.received_s for arrival in arrivals.values())
        state = RobotState.unknown(self._joints)
        if goal is not None:
            state.goal = goal
        # What an IMU tells counts for more than what odometry tells of the same.
        for _, arrival in sorted(arrivals.items(), key=lambda each: each[0] == "imu"):
            if isinstance(arrival.reading, ObservationError):
                return Sample(arrival.reading, stamp, received, oldest)
            if isinstance(arrival.reading, JointReading):
                state.joint_position, state.joint_velocity, effort = arrival.reading
                if effort is not None:
                    state.joint_effort = effort
            elif isinstance(arrival.reading, InertialReading):
                state.base_orientation, state.base_angular_velocity = arrival.reading
            elif isinstance(arrival.reading, SensorsReading):
                (state.sensors,) = arrival.reading
            else:
                (
                    state.base_position,
                    state.base_orientation,
                    state.base_linear_velocity,
                    state.base_angular_velocity,
                ) = arrival.reading
        return Sample(self._builder.read(state), stamp, received, oldest)


def _goals(
    task: Task, drawn: bool, simulated: Callable[[], bool], joystick: Joystick | None
) -> Goals | None:
    if (goal := task.goal) is None:
        return None
    units = [entry.unit for entry in task.observation_entries() if entry.source == goal.source]
    return Goals(goal, units, drawn, simulated, joystick)
