"""What a robot is commanded while neither policy nor plan may be: a constant, damping, or holding its joints."""

from __future__ import annotations

import numpy as np

from maac_ros.observation import JointReading, Vector
from maac_ros.task import Task


class SafeCommand:
    """The safe command of a task.

    A joint with an impedance is damped, and pushed back to where it was when the policy last acted, within the limits:
    see :class:`maac_ros.task.SafeImpedance`. While its state is not known it gets the constant.

    Attributes:
        constant: (A,) in command units: for joints without an impedance, where nothing is known of the robot, and for
            the end of commanding, since a robot goes on with the last command that it got.
        follows: whether any joint has an impedance.
    """

    def __init__(self, task: Task) -> None:
        entries = task.action_entries()
        joints = tuple(task.robot.joints)
        self._joint = np.array([joints.index(e.joint) for e in entries])
        self._low = np.array([e.low for e in entries])
        self._high = np.array([e.high for e in entries])
        self._gear = np.array([e.gear for e in entries])
        impedances = [e.impedance for e in entries]
        self._stiffness = np.array([i.stiffness if i else 0.0 for i in impedances])
        self._damping = np.array([i.damping if i else 0.0 for i in impedances])
        self._impeded = self._damping > 0
        self._held: Vector | None = None
        self.constant: Vector = np.array([e.safe for e in entries])
        self.follows = bool(self._impeded.any())

    def release(self) -> None:
        """The policy acts: what is held next is where the joints are then."""
        self._held = None

    def take_over(self, other: SafeCommand) -> None:
        """Hold what ``other``, of the same task, holds."""
        self._held = other._held

    def values(self, joints: JointReading | None = None) -> Vector:
        """(A,) in command units, finite and within the limits.

        Args:
            joints: their present state, in the order of ``task.robot.joints``; None where it is not known.
        """
        values = self.constant.copy()
        if joints is None or not self.follows:
            return values
        position, velocity = joints.position[self._joint], joints.velocity[self._joint]
        if self._held is None:
            self._held = position.copy()
        # A joint that was not known then is held where it is first known.
        self._held = np.where(np.isfinite(self._held), self._held, position)
        with np.errstate(over="ignore", invalid="ignore"):
            effort = -self._damping * velocity
            effort += np.where(self._stiffness > 0, self._stiffness * (self._held - position), 0.0)
            answer = effort / self._gear
        known = self._impeded & np.isfinite(answer)
        values[known] = np.clip(answer, self._low, self._high)[known]
        return values
