"""What a task observes, as terms, and the entries of the observation vector that they give."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from maac_ros.intervals import Interval, Numbers, PositiveNumbers, check_interval, one_each
from maac_ros.robot import Robot
from maac_ros.terms import (
    GoalSource,
    ObservationBase,
    ObservationEntry,
    ObservedTerm,
    Source,
    one_of,
)

LAST_COMMAND = "last_command"
"""What a joint was told, as an entry of the observation is named."""

READING = "reading"
"""What a sensor tells, as an entry of the observation is named."""

PHASE = ("phase/sin", "phase/cos")
"""Entries of the clock that :class:`Phase` is."""

TWIST_UNITS = {
    f"{kind}_{axis}": unit
    for kind, unit in (("linear", "m/s"), ("angular", "rad/s"))
    for axis in "xyz"
}
"""What ``cmd_vel`` can ask for, in the base's frame."""


def earlier(name: str) -> str:
    """The entry that had the value of the recalled entry ``name`` one control period ago.

    ``hip/position@2`` is the position two periods ago, and was ``hip/position@1`` then.
    """
    now, _, periods = name.partition("@")
    return now if periods == "1" else f"{now}@{int(periods) - 1}"


class _Measured(ObservedTerm):
    """What is measured, one number of each of several owners."""

    clip: Interval | None = None
    """Bounds, in the unit of the value, applied to it before the policy sees it."""
    offset: Numbers = (0.0,)
    """Taken off the value, in its unit: one number for all, or one for each, such as where a robot's joints are when it
    stands."""
    scale: PositiveNumbers = (1.0,)
    """What is left is multiplied by this: one number for all, or one for each."""

    _ordered = field_validator("clip")(check_interval)

    @property
    def _owners(self) -> tuple[str, ...]:
        """Whose numbers these are."""
        raise NotImplementedError

    @model_validator(mode="after")
    def _one_each(self) -> _Measured:
        for field in ("offset", "scale"):
            one_each(field, getattr(self, field), self._owners, "entries")
        return self

    def _entries(
        self, quantity: str, units: Sequence[str], source: Source
    ) -> list[ObservationEntry]:
        """One for each owner, of these units."""
        low, high = self.clip or (-math.inf, math.inf)
        offsets = one_each("offset", self.offset, self._owners, "entries")
        scales = one_each("scale", self.scale, self._owners, "entries")
        return [
            ObservationEntry(
                f"{owner}/{quantity}",
                unit,
                source,
                (low - offset) * scale,
                (high - offset) * scale,
                offset,
                scale,
            )
            for owner, unit, offset, scale in zip(self._owners, units, offsets, scales, strict=True)
        ]


class _JointTerm(_Measured):
    joints: tuple[str, ...] = Field(min_length=1)

    _quantity: ClassVar[Literal["position", "velocity", "effort"]]

    @property
    def _owners(self) -> tuple[str, ...]:
        return self.joints

    def entries(self, robot: Robot) -> list[ObservationEntry]:
        """One for each joint."""
        units = [robot.joints[joint].unit_of(self._quantity) for joint in self.joints]
        return self._entries(self._quantity, units, "joint_states")


class JointPosition(_JointTerm):
    """Joint positions, m or rad."""

    term: Literal["joint_position"]
    _quantity = "position"


class JointVelocity(_JointTerm):
    """Joint velocities, m/s or rad/s."""

    term: Literal["joint_velocity"]
    _quantity = "velocity"


class JointEffort(_JointTerm):
    """Efforts of the joints' actuators, N·m or N, gears included."""

    term: Literal["joint_effort"]
    _quantity = "effort"


SensorName = Annotated[str, Field(pattern=r"^[^/@\s]+$")]


class SensorReading(_Measured):
    """Readings of sensors by name, such as those of feet that touch the ground."""

    term: Literal["sensor"]
    sensors: tuple[SensorName, ...] = Field(min_length=1)
    """Sensors of the MJCF: of one with several numbers each has a name of its own, ``<sensor>_x``, ``_y``, ``_z``, or
    ``_w`` and those of a quaternion. On a robot ``sensors`` tells them by the same names."""
    unit: str = "1"
    """Of the readings, for those who read them."""

    @property
    def _owners(self) -> tuple[str, ...]:
        return self.sensors

    def entries(self, robot: Robot) -> list[ObservationEntry]:
        """One for each reading."""
        return self._entries(READING, [self.unit] * len(self.sensors), "sensors")


class LastCommand(ObservedTerm):
    """What joints were told last, of the range of their commands: -1 at its low end, 1 at its high end."""

    term: Literal["last_command"]
    joints: tuple[str, ...] = Field(min_length=1)
    """Joints that the task commands."""

    def entries(self, robot: Robot) -> list[ObservationEntry]:
        """One for each joint."""
        return [
            ObservationEntry(f"{joint}/{LAST_COMMAND}", "1", "memory", -1.0, 1.0)
            for joint in self.joints
        ]


class Phase(ObservationBase):
    """A clock that goes round once in ``period_s``, as the sine and cosine of its angle: the beat of a gait.

    It begins at angle 0 with an episode, and with the policy on a robot. Under ``robot.mirror`` it is half a turn
    ahead: what the left leg does at one angle the right one does there.
    """

    term: Literal["phase"]
    period_s: float = Field(gt=0)
    """Seconds; more than two control periods."""

    def entries(self, robot: Robot) -> list[ObservationEntry]:
        """Sine and cosine."""
        return [ObservationEntry(name, "1", "memory", -1.0, 1.0) for name in PHASE]


class BaseTerm(ObservedTerm):
    """Something of the floating base."""


class BasePosition(BaseTerm):
    """Position of the floating base in the world frame, m."""

    term: Literal["base_position"]
    axes: tuple[Literal["x", "y", "z"], ...] = Field(min_length=1)

    def entries(self, robot: Robot) -> list[ObservationEntry]:
        return _of_base("position", self.axes, "m")


class InertialTerm(BaseTerm):
    """What an inertial measurement unit tells of the floating base too."""

    source: Literal["odom", "imu"] = "odom"
    """Who tells it on a robot: nav_msgs/Odometry, or sensor_msgs/Imu."""


class BaseOrientation(InertialTerm):
    """Orientation of the floating base as a unit quaternion w, x, y, z (body to world)."""

    term: Literal["base_orientation"]

    def entries(self, robot: Robot) -> list[ObservationEntry]:
        return _of_base("orientation", "wxyz", "1", self.source)


class ProjectedGravity(InertialTerm):
    """Direction of gravity in the body frame, a unit vector: roll and pitch of the floating base, free of its yaw."""

    term: Literal["projected_gravity"]

    def entries(self, robot: Robot) -> list[ObservationEntry]:
        return _of_base("projected_gravity", "xyz", "1", self.source)


class BaseLinearVelocity(BaseTerm):
    """Linear velocity of the floating base, m/s."""

    term: Literal["base_linear_velocity"]
    frame: Literal["world", "body"]
    """``world`` is MuJoCo's convention for a free joint, ``body`` that of legged robots."""

    def entries(self, robot: Robot) -> list[ObservationEntry]:
        # Named without its frame where it is MuJoCo's, as is the angular velocity.
        name = "linear_velocity" if self.frame == "world" else "body_linear_velocity"
        return _of_base(name, "xyz", "m/s")


class BaseAngularVelocity(InertialTerm):
    """Angular velocity of the floating base, rad/s."""

    term: Literal["base_angular_velocity"]
    frame: Literal["body", "world"]
    """``body`` is MuJoCo's convention for a free joint, and what an IMU measures."""

    def entries(self, robot: Robot) -> list[ObservationEntry]:
        name = "angular_velocity" if self.frame == "body" else "world_angular_velocity"
        return _of_base(name, "xyz", "rad/s", self.source)


GoalName = Annotated[str, Field(pattern=r"^[A-Za-z]\w*$")]


class Goal(ObservationBase):
    """What the robot is asked for, by a topic: a velocity by ``cmd_vel``, or anything by name, such as where its joints
    are to be, by ``goal``. In simulation it is drawn at the start of each episode, and again within it if so wanted.
    """

    term: Literal["goal"]
    source: GoalSource
    ranges: dict[GoalName, Interval] = Field(min_length=1)
    """What can be asked for, by name: of ``cmd_vel`` ``linear_x`` and so on; of ``goal`` whatever its messages name.
    Goals are drawn from here, and one beyond is brought within."""
    rest: dict[str, float] = Field(default={})
    """While nobody asks for anything. What is not listed rests at 0, or at the end of its range next to 0."""
    timeout_s: float | None = Field(default=0.5, gt=0)
    """After so long without a message the goal is ``rest`` again; null keeps it until the next one."""
    changes_every_s: float | None = Field(default=None, gt=0)
    """In simulation another one is drawn after so long on average, at any time; null keeps it for the episode."""

    @field_validator("ranges")
    @classmethod
    def _ordered(cls, ranges: dict[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
        for interval in ranges.values():
            check_interval(interval)
        return ranges

    @model_validator(mode="after")
    def _known(self) -> Goal:
        for name in self.ranges:
            if self.source == "cmd_vel" and name not in TWIST_UNITS:
                raise ValueError(
                    f"ranges: cmd_vel has no '{name}'; expected some of: {', '.join(TWIST_UNITS)}"
                )
        for name, value in self.rest.items():
            if name not in self.ranges:
                raise ValueError(
                    f"rest: '{name}' has no range; expected some of: {', '.join(self.ranges)}"
                )
            low, high = self.ranges[name]
            if not low <= value <= high:
                raise ValueError(
                    f"rest: '{name}' is {value:g}, outside its range [{low:g}, {high:g}]"
                )
        return self

    @property
    def resting(self) -> dict[str, float]:
        """What holds while nobody asks for anything, by name, in the order of ``ranges``."""
        return {
            name: self.rest.get(name, min(max(0.0, low), high))
            for name, (low, high) in self.ranges.items()
        }

    def entries(self, robot: Robot) -> list[ObservationEntry]:
        """One for each thing that can be asked for."""
        return [
            ObservationEntry(f"goal/{name}", self._unit(name, robot), self.source, low, high)
            for name, (low, high) in self.ranges.items()
        ]

    def _unit(self, name: str, robot: Robot) -> str:
        if self.source == "cmd_vel":
            return TWIST_UNITS[name]
        return robot.joints[name].position_unit if name in robot.joints else "1"


def _of_base(
    quantity: str, parts: tuple[str, ...] | str, unit: str, source: Source = "odom"
) -> list[ObservationEntry]:
    return [ObservationEntry(f"base/{quantity}_{part}", unit, source) for part in parts]


def all_entries(term: ObservationTerm, robot: Robot) -> list[ObservationEntry]:
    """The entries of ``term``, and then those of each earlier control period."""
    now = term.entries(robot)
    periods = term.history if isinstance(term, ObservedTerm) else 0
    # Recalled as they were observed.
    recalled = [
        replace(entry, unit=entry.observed_unit, source="memory", offset=0.0, scale=1.0)
        for entry in (now if periods else ())
    ]
    return now + [
        replace(entry, name=f"{entry.name}@{period}")
        for period in range(1, periods + 1)
        for entry in recalled
    ]


if TYPE_CHECKING:
    ObservationTerm = ObservationBase
else:
    _SHIPPED = (
        JointPosition,
        JointVelocity,
        JointEffort,
        SensorReading,
        LastCommand,
        Phase,
        BasePosition,
        BaseOrientation,
        ProjectedGravity,
        BaseLinearVelocity,
        BaseAngularVelocity,
        Goal,
    )
    ObservationTerm = one_of(ObservationBase, _SHIPPED)
