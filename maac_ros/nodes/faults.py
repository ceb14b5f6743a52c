"""What can befall the messages of a robot: a stand-in robot, and faults between it and whoever listens."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import Any, Literal

import numpy as np
from rclpy.node import Node

from maac_ros.nodes.common import RELIABLE
from maac_ros.nodes.messages import (
    STATE_MESSAGES,
    goal_message,
    imu_message,
    joint_state_message,
    ns_to_stamp,
    odometry_message,
    sensors_message,
    stamp_to_ns,
)
from maac_ros.observation import RobotState, Vector
from maac_ros.task import Task
from maac_ros.terms import Source

Message = Any
"""Of the robot's state, or of what it is asked for."""

Change = Callable[[Message], list[Message]]
"""What arrives, of one message that was sent: it, others, or nothing."""

Effect = Literal["none", "safe", "safe at times"]

HUGE = 1e300
"""A finite number that single precision cannot hold."""


@dataclass(frozen=True)
class MessageFault:
    """One fault of a source's messages.

    Attributes:
        name: a few words.
        source: whose messages it befalls.
        make: a fresh change, as some faults count.
        effect: what it leads to: nothing, as the policy goes on; the safe command; or the safe command at times.
    """

    name: str
    source: Source
    make: Callable[[], Change]
    effect: Effect


def _every(kept: int) -> Callable[[], Change]:
    """Only one message of so many arrives."""

    def make() -> Change:
        count = -1

        def change(message: Message) -> list[Message]:
            nonlocal count
            count += 1
            return [] if count % kept else [message]

        return change

    return make


def _reordered() -> Change:
    held: list[Message] = []

    def change(message: Message) -> list[Message]:
        if not held:
            held.append(message)
            return []
        return [message, held.pop()]

    return change


def _stamped(shift_s: float) -> Callable[[], Change]:
    def change(message: Message) -> list[Message]:
        shifted = stamp_to_ns(message.header.stamp) + round(shift_s * 1e9)
        message.header.stamp = ns_to_stamp(max(1, shifted))
        return [message]

    return lambda: change


def _still() -> Change:
    stamps: list[Any] = []

    def change(message: Message) -> list[Message]:
        stamps.append(message.header.stamp)
        message.header.stamp = stamps[0]
        return [message]

    return change


def _edited(edit: Callable[[Message], None]) -> Callable[[], Change]:
    def change(message: Message) -> list[Message]:
        edit(message)
        return [message]

    return lambda: change


def _unstamped(message: Message) -> None:
    message.header.stamp = ns_to_stamp(0)


def _permuted(message: Message) -> None:
    message.name = list(reversed(message.name))
    message.position.reverse()
    message.velocity.reverse()


def _without_last(message: Message) -> None:
    message.name = message.name[:-1]
    message.position, message.velocity = message.position[:-1], message.velocity[:-1]


def _renamed(message: Message) -> None:
    message.name = [*message.name[:-1], "other"]


def _twice(message: Message) -> None:
    message.name = [message.name[0]] * len(message.name)


def _empty(message: Message) -> None:
    message.name, message.position, message.velocity = [], [], []


def _no_velocities(message: Message) -> None:
    message.velocity = []


def _joint_value(quantity: str, value: float) -> Callable[[Message], None]:
    def edit(message: Message) -> None:
        getattr(message, quantity)[-1] = value

    return edit


def _field(path: str, value: float | str) -> Callable[[], Change]:
    """A field of the message, by its path, has this value."""
    *owners, last = path.split(".")

    def edit(message: Message) -> None:
        setattr(reduce(getattr, owners, message), last, value)

    return _edited(edit)


def _scaled(path: str, factor: float) -> Callable[[], Change]:
    """A quaternion, by its path, is so much longer."""

    def edit(message: Message) -> None:
        q = reduce(getattr, path.split("."), message)
        q.w, q.x, q.y, q.z = (factor * part for part in (q.w, q.x, q.y, q.z))

    return _edited(edit)


def _not_given(message: Message) -> None:
    message.orientation_covariance[0] = -1.0


_EFFECTS: dict[str, Effect] = {
    "one message of 50": "safe at times",
    "every second message lost": "none",
    "duplicated messages": "none",
    "reordered messages": "none",
    "joints in another order": "none",
}
"""Of all other faults of the robot's state it is the safe command."""


def _faults(
    source: Source, table: dict[str, Callable[[], Change]], effect: Effect = "safe"
) -> tuple[MessageFault, ...]:
    return tuple(
        MessageFault(name, source, make, _EFFECTS.get(name, effect)) for name, make in table.items()
    )


def _silence() -> Change:
    return lambda message: []


JOINT_FAULTS = _faults(
    "joint_states",
    {
        "silence": _silence,
        "one message of 50": _every(50),
        "every second message lost": _every(2),
        "duplicated messages": lambda: lambda message: [message, message],
        "reordered messages": _reordered,
        "stamps two seconds late": _stamped(-2.0),
        "stamps a second ahead": _stamped(1.0),
        "clock an hour behind": _stamped(-3600.0),
        "clock an hour ahead": _stamped(3600.0),
        "a stamp that stands still": _still,
        "no stamp": _edited(_unstamped),
        "joints in another order": _edited(_permuted),
        "a joint missing": _edited(_without_last),
        "a joint renamed": _edited(_renamed),
        "a joint listed twice": _edited(_twice),
        "an empty message": _edited(_empty),
        "no velocities": _edited(_no_velocities),
        "a position that is NaN": _edited(_joint_value("position", math.nan)),
        "a position that is infinite": _edited(_joint_value("position", math.inf)),
        "a position that is huge": _edited(_joint_value("position", HUGE)),
        "a position that is implausible": _edited(_joint_value("position", 5.0)),
        "a velocity that is NaN": _edited(_joint_value("velocity", math.nan)),
        "a velocity that is infinite": _edited(_joint_value("velocity", -math.inf)),
        "a velocity that is huge": _edited(_joint_value("velocity", HUGE)),
    },
)

BASE_FAULTS = _faults(
    "odom",
    {
        "silence of odom alone": _silence,
        "odom two seconds late": _stamped(-2.0),
        "odom of another frame": _field("child_frame_id", "camera"),
        "odom in another world frame": _field("header.frame_id", "map"),
        "odom without orientation": _scaled("pose.pose.orientation", 0.0),
        "odom with an orientation that is too short": _scaled("pose.pose.orientation", 0.55),
        "odom with an orientation that is NaN": _field("pose.pose.orientation.y", math.nan),
        "odom with a position that is NaN": _field("pose.pose.position.z", math.nan),
        "odom with a position that is infinite": _field("pose.pose.position.z", -math.inf),
        "odom with a position that is huge": _field("pose.pose.position.z", HUGE),
        "odom with a velocity that is NaN": _field("twist.twist.linear.y", math.nan),
        "odom with a velocity that is infinite": _field("twist.twist.linear.y", math.inf),
        "odom with a velocity that is huge": _field("twist.twist.linear.y", HUGE),
        "odom with a turning rate that is NaN": _field("twist.twist.angular.z", math.nan),
        "odom with a turning rate that is infinite": _field("twist.twist.angular.z", math.inf),
        "odom with a turning rate that is huge": _field("twist.twist.angular.z", HUGE),
    },
)

IMU_FAULTS = _faults(
    "imu",
    {
        "silence of imu alone": _silence,
        "imu two seconds late": _stamped(-2.0),
        "imu of another frame": _field("header.frame_id", "camera"),
        "imu that gives no orientation": _edited(_not_given),
        "imu without orientation": _scaled("orientation", 0.0),
        "imu with an orientation that is too long": _scaled("orientation", 1.45),
        "imu with an orientation that is NaN": _field("orientation.x", math.nan),
        "imu with a turning rate that is NaN": _field("angular_velocity.y", math.nan),
        "imu with a turning rate that is infinite": _field("angular_velocity.y", -math.inf),
        "imu with a turning rate that is huge": _field("angular_velocity.y", HUGE),
    },
)

STATE_FAULTS = (*JOINT_FAULTS, *BASE_FAULTS, *IMU_FAULTS)
"""Of all that tells the robot's state."""

GOAL_FAULTS = _faults(
    "cmd_vel",
    {
        "no more velocity commands": _silence,
        "velocity commands two seconds late": _stamped(-2.0),
        "velocity commands an hour ahead": _stamped(3600.0),
        "velocity commands without a stamp": _edited(_unstamped),
        "reordered velocity commands": _reordered,
        "a velocity command that is NaN": _field("twist.linear.x", math.nan),
        "a velocity command that is infinite": _field("twist.linear.x", math.inf),
        "a velocity command beyond its range": _field("twist.linear.x", 3.0),
    },
    effect="none",
)
"""Of a task that is asked for ``linear_x``: none is a reason to stop."""


class StandInRobot:
    """Publishes the state of a task's robot at a steady rate, through the faults that are set.

    Args:
        node: publishes; whoever spins it also calls :meth:`pump`.
        task: decides the sources and the joints.
        state: gives the state, each time that it is published.
        rate_hz: of all sources.
        goal: what somebody asks for, whenever the state is published; None for nobody.
    """

    def __init__(
        self,
        node: Node,
        task: Task,
        state: Callable[[], RobotState],
        rate_hz: float = 50.0,
        goal: Vector | None = None,
    ) -> None:
        self._node, self._base, self._state = node, task.robot.base, state
        self._joints, self._sensors = tuple(task.robot.joints), task.sensors
        self._publishers = {
            source: node.create_publisher(STATE_MESSAGES[source], source, RELIABLE)
            for source in sorted(task.sources())
        }
        self._goal, self._asked = task.goal, goal
        if self._goal is not None and goal is not None:
            kind = type(goal_message(goal, self._goal, 0))
            self._publishers[self._goal.source] = node.create_publisher(
                kind, self._goal.source, RELIABLE
            )
        self._period_s, self._due_s = 1.0 / rate_hz, time.monotonic()
        self._changes: dict[Source, Change] = {}

    def befall(self, fault: MessageFault | None) -> None:
        """Let ``fault``, and no other, befall the messages from now on; None for none."""
        self._changes = {fault.source: fault.make()} if fault else {}

    def heard(self) -> bool:
        """Whether every source has a listener."""
        return all(p.get_subscription_count() > 0 for p in self._publishers.values())

    def pump(self) -> None:
        """Publish, when it is time to."""
        now_s = time.monotonic()
        if now_s < self._due_s:
            return
        self._due_s = max(self._due_s + self._period_s, now_s)
        self.publish()

    def publish(self) -> int:
        """Publish now; the stamp of what was sent, before any fault, in ns."""
        state, stamp_ns = self._state(), self._node.get_clock().now().nanoseconds
        for source, publisher in self._publishers.items():
            message = self._message(source, state, stamp_ns)
            change = self._changes.get(source)
            for arriving in change(message) if change else [message]:
                publisher.publish(arriving)
        return int(stamp_ns)

    def _message(self, source: Source, state: RobotState, stamp_ns: int) -> Message:
        if source == "joint_states":
            return joint_state_message(state.joints, self._joints, stamp_ns)
        if self._goal is not None and source == self._goal.source:
            assert self._asked is not None
            return goal_message(self._asked, self._goal, stamp_ns)
        if source == "sensors":
            return sensors_message(state.sensors, self._sensors, stamp_ns)
        assert self._base is not None
        if source == "imu":
            return imu_message(state, self._base.imu_frame, stamp_ns)
        return odometry_message(state, self._base.frame, stamp_ns)


def resting_state(task: Task) -> RobotState:
    """A state from which a policy moves: all joints a little off zero, upright, at rest."""
    joints = len(task.robot.joints)
    return RobotState(
        np.full(joints, 0.1),
        np.zeros(joints),
        np.array([0.0, 0.0, 0.5]),
        np.array([1.0, 0.0, 0.0, 0.0]),
        np.zeros(3),
        np.zeros(3),
        joint_effort=np.zeros(joints),
        sensors=np.zeros(len(task.sensors)),
    )
