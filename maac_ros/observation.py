"""From the state of a robot to the observation vector of a task."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from maac_ros.errors import ObservationError
from maac_ros.task import ObservationEntry, Task

Vector = NDArray[np.float64]


def _missing(size: int) -> Vector:
    return np.full(size, np.nan)


class JointReading(NamedTuple):
    """Joint positions and velocities (J,), m or rad and per second, in the order of ``task.robot.joints``.

    NaN where nothing is known.
    """

    position: Vector
    velocity: Vector


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
    """

    joint_position: Vector
    joint_velocity: Vector
    base_position: Vector = field(default_factory=lambda: _missing(3))
    base_orientation: Vector = field(default_factory=lambda: _missing(4))
    base_linear_velocity: Vector = field(default_factory=lambda: _missing(3))
    base_angular_velocity: Vector = field(default_factory=lambda: _missing(3))

    @classmethod
    def unknown(cls, joints: int) -> RobotState:
        """A state of which nothing is known yet."""
        return cls(_missing(joints), _missing(joints))

    def flat(self) -> Vector:
        """All numbers in one vector, in the order of the attributes, (2 J + 13,)."""
        return np.concatenate(
            (
                self.joint_position,
                self.joint_velocity,
                self.base_position,
                self.base_orientation,
                self.base_linear_velocity,
                self.base_angular_velocity,
            )
        )

    @classmethod
    def from_flat(cls, numbers: Vector) -> RobotState:
        """The state whose :meth:`flat` is ``numbers``."""
        joints = (len(numbers) - 13) // 2
        sizes = (joints, joints, 3, 4, 3, 3)
        return cls(*np.split(numbers.copy(), np.cumsum(sizes)[:-1]))


class ObservationBuilder:
    """Builds a task's observation vector: one gather and one clip over the flat robot state."""

    def __init__(self, task: Task) -> None:
        self.joint_names = tuple(task.robot.joints)
        self.entries: tuple[ObservationEntry, ...] = task.observation_entries()
        position_of = {name: i for i, name in enumerate(flat_names(self.joint_names))}
        self._index = np.array([position_of[entry.name] for entry in self.entries], dtype=np.intp)
        self._low = np.array([entry.low for entry in self.entries])
        self._high = np.array([entry.high for entry in self.entries])

    def build(self, state: RobotState) -> Vector:
        """Return the observation (O,), float64, in the units of ``entries``. NaN stays NaN."""
        observation = state.flat()[self._index]
        return np.clip(observation, self._low, self._high, out=observation)

    def single(self, observation: Vector) -> NDArray[np.float32]:
        """``observation`` as networks take it.

        Raises:
            ObservationError: naming every entry that is NaN, infinite or too large for single precision.
        """
        with np.errstate(over="ignore"):
            single = observation.astype(np.float32)
        bad = np.flatnonzero(~np.isfinite(single))
        if bad.size:
            raise ObservationError(
                "observation is not finite: "
                + ", ".join(f"{self.entries[i].name} = {observation[i]:g}" for i in bad)
            )
        return single


def flat_names(joints: tuple[str, ...]) -> list[str]:
    """Entry names in the order of :meth:`RobotState.flat`."""
    return [
        *(f"{joint}/position" for joint in joints),
        *(f"{joint}/velocity" for joint in joints),
        *(f"base/position_{axis}" for axis in "xyz"),
        *(f"base/orientation_{part}" for part in "wxyz"),
        *(f"base/linear_velocity_{axis}" for axis in "xyz"),
        *(f"base/angular_velocity_{axis}" for axis in "xyz"),
    ]
