"""What a robot is commanded while neither policy nor plan may be: a constant, damping, or holding its joints."""

from __future__ import annotations

import numpy as np

from maac_ros.command_range import CommandRange
from maac_ros.observation import JointReading, Vector
from maac_ros.task import Task


class SafeCommand:
    """The safe command of a task.

    A joint with an impedance is damped, and pushed back to where it was when the policy last acted, within the limits:
    see :class:`maac_ros.action_terms.SafeImpedance`. While its state is not known it gets the constant.

    A joint that follows position targets is told to stay where it was when the policy last acted; where that is not
    known, to go on to the last target. Before either is known there is no safe target.

    Attributes:
        follows: whether any joint's command depends on its state.
    """

    def __init__(self, task: Task) -> None:
        commands = CommandRange(task)
        entries = commands.entries
        joints = tuple(task.robot.joints)
        self._joint = np.array([joints.index(e.joint) for e in entries])
        self._low, self._high = commands.low, commands.high
        self._gear = np.array([e.gear for e in entries])
        impedances = [e.impedance for e in entries]
        self._stiffness = np.array([i.stiffness if i else 0.0 for i in impedances])
        self._damping = np.array([i.damping if i else 0.0 for i in impedances])
        self._impeded = self._damping > 0
        self._targets = np.array([e.safe is None for e in entries])
        self._constant: Vector = np.array([np.nan if e.safe is None else e.safe for e in entries])
        self._held: Vector | None = None
        self._commanded = np.full(len(entries), np.nan)
        self.follows = bool((self._impeded | self._targets).any())

    @property
    def blind(self) -> Vector:
        """(A,) in command units: while nothing more is known of the robot, and for the end of commanding, since a robot
        goes on with the last command that it got. NaN for position targets before anything was known."""
        values = self._constant.copy()
        values[self._targets] = self._commanded[self._targets]
        if self._held is not None:
            values[self._targets] = self._within_limits(self._held)[self._targets]
        return values

    def release(self, commanded: Vector) -> None:
        """The policy acts, and ``commanded`` (A,): what is held next is where the joints are then."""
        self._held = None
        self._commanded = commanded.copy()

    def forget(self) -> None:
        """Nothing was commanded, and nothing is held."""
        self.release(np.full_like(self._constant, np.nan))

    def take_over(self, other: SafeCommand) -> None:
        """Hold what ``other``, of the same task, holds."""
        self._held, self._commanded = other._held, other._commanded

    def values(self, joints: JointReading | None = None) -> Vector:
        """(A,) in command units, within the limits, and finite but where :attr:`blind` is not.

        Args:
            joints: their present state, in the order of ``task.robot.joints``, NaN where it is not to be believed; None
                where nothing is known.
        """
        if not self.follows:
            return self._constant.copy()
        unknown = np.full(self._joint.shape, np.nan)
        position = unknown if joints is None else joints.position[self._joint]
        velocity = unknown if joints is None else joints.velocity[self._joint]
        self._hold(position)
        values = self.blind
        assert self._held is not None
        with np.errstate(over="ignore", invalid="ignore"):
            effort = -self._damping * velocity
            effort += np.where(self._stiffness > 0, self._stiffness * (self._held - position), 0.0)
            answer = effort / self._gear
        known = self._impeded & np.isfinite(answer)
        values[known] = self._within_limits(answer)[known]
        return values

    def _hold(self, position: Vector) -> None:
        """From now on hold ``position`` (A,), or where each joint is first known; a target once held is kept."""
        held = np.full_like(position, np.nan) if self._held is None else self._held
        held = np.where(np.isfinite(held), held, position)
        # A joint on its way to a target that cannot be asked where it is goes on to it.
        lost = self._targets & ~np.isfinite(held)
        held[lost] = self._commanded[lost]
        self._held = held

    def _within_limits(self, values: Vector) -> Vector:
        return np.clip(values, self._low, self._high)
