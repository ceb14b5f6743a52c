"""From the state of a robot to the observation vector of a task."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from maac_ros.errors import ObservationError, TaskError
from maac_ros.observation_terms import READING
from maac_ros.task import Task
from maac_ros.terms import DerivedTerm, ObservationEntry

Vector = NDArray[np.float64]

LARGEST = float(np.finfo(np.float32).max)
"""What networks can take."""

_BELIEVED = 10.0
"""How far beyond a clip a number may lie, in widths of the clip, and still be what the robot does and not a fault."""


def believed(low: float, high: float) -> tuple[float, float]:
    """Bounds of what a robot may do where the observation is clipped at ``low`` and ``high``; beyond is a fault."""
    room = _BELIEVED * (high - low)
    return low - room, high + room


def _missing(size: int) -> Vector:
    return np.full(size, np.nan)


class JointReading(NamedTuple):
    """Joint positions and velocities (J,), m or rad and per second, in the order of ``task.robot.joints``.

    Efforts (J,), N or N·m, where they are told at all. NaN where nothing is known.
    """

    position: Vector
    velocity: Vector
    effort: Vector | None = None


@dataclass
class RobotState:
    """What is known of a robot at one moment. A number that no source has given is NaN.

    Attributes:
        joint_position: (J,) m or rad, in the order of ``task.robot.joints``.
        joint_velocity: (J,) m/s or rad/s, same order.
        base_position: (3,) m, world frame.
        base_orientation: (4,) unit quaternion w, x, y, z, body to world.
        base_linear_velocity: (3,) m/s, world frame.
        base_angular_velocity: (3,) rad/s, body frame.
        goal: (G,) what the robot is asked for, in the order of the task's goal term.
        memory: (K,) what is recalled, in the order of the task's observation; empty for nothing known of it.
        joint_effort: (J,) N or N·m, same order as the positions.
        sensors: (S,) readings, in the order of ``task.sensors``; empty for nothing known of them.
    """

    joint_position: Vector
    joint_velocity: Vector
    base_position: Vector = field(default_factory=lambda: _missing(3))
    base_orientation: Vector = field(default_factory=lambda: _missing(4))
    base_linear_velocity: Vector = field(default_factory=lambda: _missing(3))
    base_angular_velocity: Vector = field(default_factory=lambda: _missing(3))
    goal: Vector = field(default_factory=lambda: _missing(0))
    memory: Vector = field(default_factory=lambda: _missing(0))
    joint_effort: Vector = field(default_factory=lambda: _missing(0))
    sensors: Vector = field(default_factory=lambda: _missing(0))

    def __post_init__(self) -> None:
        if not self.joint_effort.size:
            self.joint_effort = _missing(len(self.joint_position))

    @classmethod
    def unknown(cls, joints: int) -> RobotState:
        """A state of which nothing is known yet."""
        numbers, parts, at = _missing(2 * joints + 13), [], 0
        for size in (joints, joints, 3, 4, 3, 3, 0, 0):
            parts.append(numbers[at : at + size])
            at += size
        return cls(*parts)

    @property
    def joints(self) -> JointReading:
        """What is known of the joints."""
        return JointReading(self.joint_position, self.joint_velocity, self.joint_effort)

    def flat(self) -> Vector:
        """All numbers in one vector, in the order of :func:`flat_names`, (3 J + 13 + S + G + K,)."""
        return np.concatenate(
            (
                self.joint_position,
                self.joint_velocity,
                self.joint_effort,
                self.base_position,
                self.base_orientation,
                self.base_linear_velocity,
                self.base_angular_velocity,
                self.sensors,
                self.goal,
                self.memory,
            )
        )

    @classmethod
    def from_flat(cls, numbers: Vector, task: Task) -> RobotState:
        """The state of a robot of ``task`` whose :meth:`flat` is ``numbers``."""
        joints, goal = len(task.robot.joints), task.goal
        sizes = (
            joints,
            joints,
            joints,
            3,
            4,
            3,
            3,
            len(task.sensors),
            len(goal.ranges) if goal else 0,
        )
        parts = np.split(numbers.copy(), np.cumsum(sizes))
        position, velocity, effort, place, turn, linear, angular, sensors, asked, memory = parts
        return cls(position, velocity, place, turn, linear, angular, asked, memory, effort, sensors)


def body_to_world(orientation: Vector) -> Vector:
    """Rotation matrix (3, 3) of a quaternion w, x, y, z of any length but zero."""
    w, x, y, z = orientation / np.linalg.norm(orientation)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def turned(state: RobotState) -> Vector:
    """What follows from the base's state in another frame, (9,), in the order of :data:`TURNED_NAMES`."""
    rotation = body_to_world(state.base_orientation)
    return np.concatenate(
        (
            -rotation[2],
            rotation.T @ state.base_linear_velocity,
            rotation @ state.base_angular_velocity,
        )
    )


TURNED_NAMES = tuple(
    f"base/{quantity}_{axis}"
    for quantity in ("projected_gravity", "body_linear_velocity", "world_angular_velocity")
    for axis in "xyz"
)


class ObservationBuilder:
    """Builds a task's observation vector: one gather, and where the task says so an offset, a scale and a clip, over
    the numbers of the robot's state.

    Raises:
        TaskError: when a term of another package does not derive what its entries say.
    """

    def __init__(self, task: Task) -> None:
        self.joint_names = tuple(task.robot.joints)
        self.entries: tuple[ObservationEntry, ...] = task.observation_entries()
        own = [term for term in task.observation if isinstance(term, DerivedTerm)]
        self._derived = [term.derive for term in own]
        self._joints = {name: i for i, name in enumerate(self.joint_names)}
        for term in own:
            self._check_derived(task, term)
        derived = [entry.name for term in own for entry in term.entries(task.robot)]
        names = [*flat_names(task), *TURNED_NAMES, *derived]
        self._recalled = sum(entry.source == "memory" for entry in self.entries)
        self._sensors = len(task.sensors)
        position_of = {name: i for i, name in enumerate(names)}
        self._turns = bool(own) or any(entry.name in TURNED_NAMES for entry in self.entries)
        self._index = np.array([position_of[entry.name] for entry in self.entries], dtype=np.intp)
        self._offset = np.array([entry.offset for entry in self.entries])
        self._scale = np.array([entry.scale for entry in self.entries])
        self._scales = bool(self._offset.any() or (self._scale != 1.0).any())
        self._low = np.array([entry.low for entry in self.entries])
        self._high = np.array([entry.high for entry in self.entries])
        bounds = [believed(entry.low, entry.high) for entry in self.entries]
        self._least, self._most = np.array(bounds).reshape(-1, 2).T.copy()
        self._clips = bool(np.isfinite(self._low).any() or np.isfinite(self._high).any())

    def _check_derived(self, task: Task, term: DerivedTerm) -> None:
        """Ask once, before a robot depends on it."""
        wanted, name = len(term.entries(task.robot)), f"task '{task.name}': term '{term.term}'"
        try:
            got = np.shape(term.derive(RobotState.unknown(len(self._joints)), self._joints))
        except Exception as reason:  # another package's code
            raise TaskError(f"{name}: cannot be derived: {reason!r}") from reason
        if got != (wanted,):
            raise TaskError(f"{name}: derives an array of shape {got}; expected ({wanted},)")

    def build(self, state: RobotState) -> Vector:
        """Return the observation (O,), float64, in the units of ``entries``. What is not finite stays as it is."""
        return self._clipped(self._gathered(state))

    def read(self, state: RobotState) -> Vector | ObservationError:
        """:meth:`build` of what sensors tell, or why it cannot be believed: a clip would hide that."""
        numbers = self._gathered(state)
        beyond = (numbers < self._least) | (numbers > self._most)
        if not beyond.any():
            return self._clipped(numbers)
        return ObservationError(
            "observation is implausible: "
            + ", ".join(
                f"{self._named(i, numbers)}, expected {self._least[i]:g} to {self._most[i]:g} "
                f"(clipped at {self._low[i]:g} and {self._high[i]:g})"
                for i in np.flatnonzero(beyond)
            )
        )

    def _clipped(self, numbers: Vector) -> Vector:
        if not self._clips:
            return numbers
        return np.clip(numbers, self._low, self._high, out=numbers, where=np.isfinite(numbers))

    def _named(self, index: int | np.integer[Any], numbers: Vector) -> str:
        entry = self.entries[index]
        return f"{entry.source} {entry.name} = {numbers[index]:g} {entry.observed_unit}"

    def _gathered(self, state: RobotState) -> Vector:
        if self._sensors and not state.sensors.size:
            state = replace(state, sensors=_missing(self._sensors))
        numbers = state.flat()
        if self._recalled and not state.memory.size:
            numbers = np.concatenate((numbers, _missing(self._recalled)))
        if self._turns:
            derived = (derive(state, self._joints) for derive in self._derived)
            numbers = np.concatenate((numbers, turned(state), *derived))
        observed: Vector = numbers[self._index]
        return (observed - self._offset) * self._scale if self._scales else observed

    def single(self, observation: Vector) -> NDArray[np.float32]:
        """``observation`` as networks take it.

        Raises:
            ObservationError: naming every entry that is NaN, infinite or too large for single precision.
        """
        usable = np.abs(observation) <= LARGEST
        if not usable.all():
            raise ObservationError(
                "observation is not finite: "
                + ", ".join(self._named(i, observation) for i in np.flatnonzero(~usable))
            )
        return observation.astype(np.float32)


def flat_names(task: Task) -> list[str]:
    """Entry names in the order of :meth:`RobotState.flat`."""
    joints = tuple(task.robot.joints)
    goal = task.goal
    return [
        *(f"{joint}/position" for joint in joints),
        *(f"{joint}/velocity" for joint in joints),
        *(f"{joint}/effort" for joint in joints),
        *(f"base/position_{axis}" for axis in "xyz"),
        *(f"base/orientation_{part}" for part in "wxyz"),
        *(f"base/linear_velocity_{axis}" for axis in "xyz"),
        *(f"base/angular_velocity_{axis}" for axis in "xyz"),
        *(f"{sensor}/{READING}" for sensor in task.sensors),
        *(f"goal/{name}" for name in (goal.ranges if goal else ())),
        *(entry.name for entry in task.observation_entries() if entry.source == "memory"),
    ]
