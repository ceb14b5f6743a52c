"""What can befall the messages of a robot: a stand-in robot, and faults between it and whoever listens."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from rclpy.node import Node

from maac_ros.nodes.common import RELIABLE
from maac_ros.nodes.messages import (
    STATE_MESSAGES,
    imu_message,
    joint_state_message,
    ns_to_stamp,
    odometry_message,
    stamp_to_ns,
)
from maac_ros.observation import RobotState
from maac_ros.task import Task
from maac_ros.terms import Source

Message = Any
"""A JointState or an Odometry."""

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


def _base_speed(value: float) -> Callable[[Message], None]:
    def edit(message: Message) -> None:
        message.twist.twist.linear.x = value

    return edit


def _base_height(message: Message) -> None:
    message.pose.pose.position.z = math.nan


def _other_frame(message: Message) -> None:
    message.child_frame_id = "camera"


def _no_orientation(message: Message) -> None:
    orientation = message.pose.pose.orientation
    orientation.w = orientation.x = orientation.y = orientation.z = 0.0


_EFFECTS: dict[str, Effect] = {
    "one message of 50": "safe at times",
    "every second message lost": "none",
    "duplicated messages": "none",
    "reordered messages": "none",
    "joints in another order": "none",
}
"""Of all other faults it is the safe command."""


def _faults(source: Source, table: dict[str, Callable[[], Change]]) -> tuple[MessageFault, ...]:
    return tuple(
        MessageFault(name, source, make, _EFFECTS.get(name, "safe")) for name, make in table.items()
    )


JOINT_FAULTS = _faults(
    "joint_states",
    {
        "silence": lambda: lambda message: [],
        "one message of 50": _every(50),
        "every second message lost": _every(2),
        "duplicated messages": lambda: lambda message: [message, message],
        "reordered messages": _reordered,
        "stamps two seconds late": _stamped(-2.0),
        "stamps a second ahead": _stamped(1.0),
        "clock an hour behind": _stamped(-3600.0),
        "clock an hour ahead": _stamped(3600.0),
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
        "silence of odom alone": lambda: lambda message: [],
        "odom of another frame": _edited(_other_frame),
        "odom without orientation": _edited(_no_orientation),
        "a base position that is NaN": _edited(_base_height),
        "a base velocity that is NaN": _edited(_base_speed(math.nan)),
        "a base velocity that is infinite": _edited(_base_speed(math.inf)),
    },
)


class StandInRobot:
    """Publishes the state of a task's robot at a steady rate, through the faults that are set.

    Args:
        node: publishes; whoever spins it also calls :meth:`pump`.
        task: decides the sources and the joints.
        state: gives the state, each time that it is published.
        rate_hz: of all sources.
    """

    def __init__(
        self, node: Node, task: Task, state: Callable[[], RobotState], rate_hz: float = 50.0
    ) -> None:
        self._node, self._base, self._state = node, task.robot.base, state
        self._joints = tuple(task.robot.joints)
        self._publishers = {
            source: node.create_publisher(STATE_MESSAGES[source], source, RELIABLE)
            for source in sorted(task.sources())
        }
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
            if source == "joint_states":
                message = joint_state_message(state.joints, self._joints, stamp_ns)
            else:
                assert self._base is not None
                if source == "imu":
                    message = imu_message(state, self._base.imu_frame, stamp_ns)
                else:
                    message = odometry_message(state, self._base.frame, stamp_ns)
            change = self._changes.get(source)
            for arriving in change(message) if change else [message]:
                publisher.publish(arriving)
        return int(stamp_ns)


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
    )
