"""How a task's robot is wired: names, signs and units of the real one's topics. Free of ROS.

A task speaks of its simulated robot. A binding (``config/robots/<name>.yaml``) tells what the real robot calls its
joints, which way they turn, where its topics are, and what its controller takes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, model_validator

from maac_ros import schema
from maac_ros.action_terms import ActionEntry
from maac_ros.errors import ConfigError
from maac_ros.intervals import Interval
from maac_ros.joystick import Joystick
from maac_ros.observation import JointReading, Vector
from maac_ros.resources import named_file
from maac_ros.task import Task

Interface = Literal["forward", "trajectory"]
"""std_msgs/Float64MultiArray for a forward_command_controller, or trajectory_msgs/JointTrajectory for a
joint_trajectory_controller."""

ODOM_FRAME = "odom"
"""The world frame of odometry, as REP 105 names it."""

TopicName = Annotated[str, Field(pattern=r"^[~/]?[A-Za-z_][A-Za-z0-9_/]*$")]


class JointLimits(schema.Description):
    """What a joint can do, in units of the robot."""

    position: Interval | None = None
    """rad or m."""
    velocity: float | None = Field(default=None, gt=0)
    """rad/s or m/s."""
    effort: float | None = Field(default=None, gt=0)
    """N·m or N."""


class JointWiring(schema.Description):
    """One joint of the task on the robot: robot's position = sign * task's position + offset."""

    name: str | None = None
    """What the robot calls it; by default as the task does."""
    sign: Literal[1, -1] = 1
    """-1 where the robot's joint turns the other way."""
    offset: float = 0.0
    """Robot's position, rad or m, where the task's is 0."""
    limits: JointLimits = JointLimits()
    """A task that may command more than these is refused."""


class Controller(schema.Description):
    """What takes the commands."""

    interface: Interface = "forward"
    topic: TopicName = "policy_controller/commands"
    joints: tuple[str, ...] = ()
    """The robot's names of its joints, in the controller's order; by default the task's order."""


class Topics(schema.Description):
    """Where the robot's messages come from."""

    joint_states: TopicName = "joint_states"
    odom: TopicName = "odom"
    imu: TopicName = "imu"
    sensors: TopicName = "sensors"
    cmd_vel: TopicName = "cmd_vel"
    goal: TopicName = "goal"
    joy: TopicName = "joy"


class Robot(schema.Description):
    """Contents of a file of ``config/robots/``."""

    schema_version: Literal[1]
    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    description: str
    joints: dict[str, JointWiring] = Field(default={})
    """By the task's name of the joint; those that are not listed are named and turn as in the task."""
    controller: Controller = Controller()
    topics: Topics = Topics()
    joystick: Joystick | None = None
    """Asks for the goal, by sensor_msgs/Joy, in place of ``cmd_vel`` or ``goal``."""
    base_frame: str | None = None
    """``child_frame_id`` of the odometry, where it is not the task's."""
    odom_frame: str | None = None
    """``header.frame_id`` of the odometry, where it is not ``odom``; empty for any."""
    imu_frame: str | None = None
    """``header.frame_id`` of the IMU, where it is not the task's."""
    rates_hz: dict[Literal["joint_states", "odom", "imu", "sensors"], float] = Field(default={})
    """How often messages come, for ``maac check``."""

    def wiring(self, joint: str) -> JointWiring:
        """Of a joint by the task's name."""
        return self.joints.get(joint) or JointWiring()

    def name_of(self, joint: str) -> str:
        """What the robot calls a joint that the task names ``joint``."""
        return self.wiring(joint).name or joint

    @model_validator(mode="after")
    def _once(self) -> Robot:
        named = [self.name_of(joint) for joint in self.joints]
        for field, names in (("joints", named), ("controller.joints", self.controller.joints)):
            twice = [name for name, count in Counter(names).items() if count > 1]
            if twice:
                raise ValueError(f"{field}: listed more than once: {', '.join(twice)}")
        for source, rate in self.rates_hz.items():
            if not rate > 0:
                raise ValueError(f"rates_hz.{source}: got {rate:g}; expected more than 0")
        return self


def load_robot(name: str | Path) -> Robot:
    """Load a binding by shipped name, or by path to a YAML file.

    Raises:
        ConfigError: when there is no such file, or it is malformed; one line a problem, naming file, key and value.
    """
    return schema.load(named_file("robots", str(name), "robot"), Robot, ConfigError)


class Binding:
    """A task on a robot. Without a robot everything is as the simulator has it: efforts are normalised commands.

    Attributes:
        task, robot: what is bound; the robot is None where there is none.
        names: the robot's names of ``task.robot.joints``, in that order.
        controller, topics, joystick: see there.
        base_frame: ``child_frame_id`` of the odometry; empty where the task has no floating base.
        odom_frame: ``header.frame_id`` of the odometry; empty for any.
        imu_frame: ``header.frame_id`` of the IMU; empty where the task has no floating base.

    Raises:
        ConfigError: where robot and task do not go together; one line a problem.
    """

    def __init__(self, task: Task, robot: Robot | None = None) -> None:
        self.task, self.robot = task, robot
        self.controller = robot.controller if robot else Controller()
        self.topics = robot.topics if robot else Topics()
        self.joystick = robot.joystick if robot else None
        base = task.robot.base
        self.base_frame = ((robot and robot.base_frame) or base.frame) if base else ""
        given = robot.odom_frame if robot else None
        self.odom_frame = ODOM_FRAME if given is None else given
        self.imu_frame = ((robot and robot.imu_frame) or base.imu_frame) if base else ""
        if problems := [] if robot is None else misfits(task, robot):
            raise ConfigError("\n".join(problems))
        joints = list(task.robot.joints)
        wirings = [robot.wiring(joint) if robot else JointWiring() for joint in joints]
        self.names = tuple(robot.name_of(joint) if robot else joint for joint in joints)
        self._sign = np.array([float(wiring.sign) for wiring in wirings])
        self._offset = np.array([wiring.offset for wiring in wirings])
        entries = task.action_entries()
        driven = np.array([joints.index(entry.joint) for entry in entries])
        position = np.array([entry.quantity == "position" for entry in entries])
        sign, gear = self._sign[driven], np.array([entry.gear for entry in entries])
        self._physical = sign * gear
        # Efforts are normalised in simulation, and N·m or N on a robot.
        self._factor = self._physical if robot else sign
        self._summand = np.where(position, self._offset[driven], 0.0)
        self.driven_names = tuple(self.names[i] for i in driven)
        order = self.controller.joints or self.driven_names
        self._order = np.array([self.driven_names.index(name) for name in order])

    @property
    def command_names(self) -> tuple[str, ...]:
        """The robot's names of the joints that are commanded, in the controller's order."""
        return tuple(self.driven_names[i] for i in self._order)

    def from_robot(self, reading: JointReading) -> JointReading:
        """What the robot says of its joints (J,), in the order of the task, as the task's robot would."""
        return JointReading(
            self._sign * (reading.position - self._offset),
            self._sign * reading.velocity,
            self._turned(reading.effort),
        )

    def to_robot(self, reading: JointReading) -> JointReading:
        """The inverse of :meth:`from_robot`: what a simulator says in the robot's place."""
        return JointReading(
            self._sign * reading.position + self._offset,
            self._sign * reading.velocity,
            self._turned(reading.effort),
        )

    def _turned(self, effort: Vector | None) -> Vector | None:
        return None if effort is None else self._sign * effort

    def command_to_robot(self, command: Vector) -> Vector:
        """A command (..., A) of the task in the controller's order and the robot's units."""
        answer: Vector = (self._factor * command + self._summand)[..., self._order]
        return answer

    def physical(self, command: Vector) -> Vector:
        """A command (..., A) of the task, in its order, in the robot's rad, N·m and so on."""
        answer: Vector = self._physical * command + self._summand
        return answer

    def command_from_robot(self, command: Vector) -> Vector:
        """The inverse of :meth:`command_to_robot`."""
        answer = np.empty_like(command)
        answer[..., self._order] = command
        return (answer - self._summand) / self._factor


@dataclass(frozen=True)
class Demand:
    """What a task may command of a joint, in the robot's signs and units.

    Attributes:
        commanded: least and most.
        allowed: least and most that the robot's limits allow; None where they are not given.
        unit: of both.
    """

    commanded: tuple[float, float]
    allowed: tuple[float, float] | None
    unit: str

    @classmethod
    def of(cls, entry: ActionEntry, wiring: JointWiring) -> Demand:
        """Of one entry of the action."""
        offset = wiring.offset if entry.quantity == "position" else 0.0
        bounds = [wiring.sign * entry.gear * bound + offset for bound in (entry.low, entry.high)]
        limits = wiring.limits
        allowed: tuple[float, float] | None
        if entry.quantity == "position":
            allowed = limits.position
        else:
            most = limits.effort if entry.quantity == "effort" else limits.velocity
            allowed = None if most is None else (-most, most)
        return cls((min(bounds), max(bounds)), allowed, entry.unit.rpartition(" ")[2])

    @property
    def fits(self) -> bool:
        """Whether nothing beyond the limits may be commanded, rounding aside."""
        if self.allowed is None:
            return True
        (low, high), (least, most) = self.commanded, self.allowed
        slack = 1e-9 * max(abs(least), abs(most))
        return least - slack <= low and high <= most + slack

    def __str__(self) -> str:
        low, high = self.commanded
        told = f"[{low:g}, {high:g}] {self.unit} may be commanded; the robot's limits are "
        if self.allowed is None:
            return told + "not given"
        return told + f"[{self.allowed[0]:g}, {self.allowed[1]:g}] {self.unit}"


def misfits(task: Task, robot: Robot) -> list[str]:
    """Why ``robot`` cannot be bound to ``task``, one line a problem; empty where it can."""
    where = f"robot '{robot.name}'"
    problems = [
        f"{where}: joints.{joint}: task '{task.name}' has no such joint; "
        f"expected some of: {', '.join(task.robot.joints)}"
        for joint in robot.joints
        if joint not in task.robot.joints
    ]
    names = {joint: robot.name_of(joint) for joint in task.robot.joints}
    problems += [
        f"{where}: joints: '{name}' stands for more than one joint of task '{task.name}'"
        for name, count in Counter(names.values()).items()
        if count > 1
    ]
    entries = task.action_entries()
    for entry in entries:
        demand = Demand.of(entry, robot.wiring(entry.joint))
        if not demand.fits:
            problems.append(f"{where}: joints.{entry.joint}.limits.{entry.quantity}: {demand}")
    driven = [names[entry.joint] for entry in entries]
    if (order := robot.controller.joints) and set(order) != set(driven):
        problems.append(
            f"{where}: controller.joints: got {_listed(order)}; expected, in the controller's order, {_listed(driven)}"
        )
    if robot.controller.interface == "trajectory":
        problems += [
            f"{where}: controller.interface: 'trajectory' takes positions only, and task '{task.name}' commands "
            f"{entry.name}; expected 'forward'"
            for entry in entries
            if entry.quantity != "position"
        ]
    if robot.joystick is not None:
        asked = tuple(task.goal.ranges) if task.goal else ()
        problems += [
            f"{where}: joystick.axes.{name}: task '{task.name}' cannot be asked for that; expected some of: "
            + (_listed(asked) or "none, it has no goal")
            for name in robot.joystick.axes
            if name not in asked
        ]
    problems += [
        f"{where}: {field}: task '{task.name}' has no floating base"
        for field in ("base_frame", "odom_frame", "imu_frame")
        if getattr(robot, field) and task.robot.base is None
    ]
    return problems


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)
