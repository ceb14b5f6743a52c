"""What a task commands, as terms, and the entries of the command that they give."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, field_validator, model_validator

from maac_ros import schema
from maac_ros.intervals import Interval, PositiveNumbers, check_interval, one_each
from maac_ros.robot import Robot

Quantity = Literal["effort", "position", "velocity"]
"""What a joint is told, by the name of ros2_control's command interface."""


class SafeImpedance(schema.Description):
    """A safe command that keeps a joint from moving: effort = stiffness (held - position) - damping velocity.

    ``held`` is where the joint was when the policy last acted. The damping must suit the control period: one that
    stops the joint within a period shakes it.
    """

    stiffness: float = Field(default=0.0, ge=0)
    """N·m/rad or N/m; at 0 the joint is damped only."""
    damping: float = Field(gt=0)
    """N·m·s/rad or N·s/m."""
    otherwise: float = 0.0
    """Command published while the joint's state is not known, and last when commanding ends."""


SafeValue = Annotated[
    Annotated[float, Tag("constant")] | Annotated[SafeImpedance, Tag("impedance")],
    # One of the two is meant, and only its problems are told.
    Discriminator(lambda v: "impedance" if isinstance(v, dict | SafeImpedance) else "constant"),
]


@dataclass(frozen=True)
class ActionEntry:
    """One number of the command.

    Attributes:
        name: ``<joint>/<quantity>``.
        joint: that it is for.
        quantity: what the joint is told.
        unit: of a command of 1.
        low, high: limits.
        safe: what is commanded when the policy must not act; None where the joint holds its position.
        gear: N or N·m for a command of 1; 1 where the command is no effort.
        impedance: of the safe command; without one that is ``safe``.
        step: how far from the joint's position a target may be, in its unit; None for anywhere within the limits.
    """

    name: str
    joint: str
    quantity: Quantity
    unit: str
    low: float
    high: float
    safe: float | None
    gear: float = 1.0
    impedance: SafeImpedance | None = None
    step: float | None = None


class _ActionTerm(schema.Description):
    joints: tuple[str, ...] = Field(min_length=1)

    _quantity: ClassVar[Quantity]


class Effort(_ActionTerm):
    """Normalised effort: the force or torque on the joint is ``gear`` times the command."""

    term: Literal["effort"]
    gear: tuple[float, ...]
    """N or N·m for a command of 1, one number a joint; must equal the MJCF actuator's gear."""
    limits: Interval
    """Lowest and highest command."""
    safe: SafeValue = 0.0
    """Command published when the policy must not act."""

    _ordered = field_validator("limits")(check_interval)
    _quantity = "effort"

    @model_validator(mode="after")
    def _consistent(self) -> Effort:
        if len(self.gear) != len(self.joints):
            raise ValueError(f"{len(self.gear)} gears for {len(self.joints)} joints")
        _require_within(self._safe_constant, [self.limits])
        return self

    @property
    def _safe_constant(self) -> float:
        """The safe command where nothing is known of the joint."""
        return self.safe.otherwise if isinstance(self.safe, SafeImpedance) else self.safe

    def entries(self, robot: Robot) -> list[ActionEntry]:
        """One for each joint."""
        return [
            ActionEntry(
                name=f"{joint}/{self._quantity}",
                joint=joint,
                quantity=self._quantity,
                unit=f"{gear:g} {robot.joints[joint].effort_unit}",
                low=self.limits[0],
                high=self.limits[1],
                safe=self._safe_constant,
                gear=gear,
                impedance=self.safe if isinstance(self.safe, SafeImpedance) else None,
            )
            for joint, gear in zip(self.joints, self.gear, strict=True)
        ]


def _pairs(limits: Any) -> Any:
    """``[low, high]`` as a list of one pair; anything else as it is."""
    is_pair = isinstance(limits, list | tuple) and not any(
        isinstance(part, list | tuple) for part in limits
    )
    return [limits] if is_pair else limits


class _TargetTerm(_ActionTerm):
    """A target that the robot's own controller, or the MJCF's actuator, makes the joint follow."""

    limits: Annotated[tuple[Interval, ...], BeforeValidator(_pairs)]
    """Lowest and highest target, in the joint's unit: ``[low, high]`` for all joints, or one such pair for each."""

    @field_validator("limits")
    @classmethod
    def _ordered(cls, limits: tuple[tuple[float, float], ...]) -> tuple[tuple[float, float], ...]:
        for interval in limits:
            check_interval(interval)
        return limits

    @model_validator(mode="after")
    def _one_each(self) -> _TargetTerm:
        if len(self.limits) not in (1, len(self.joints)):
            raise ValueError(
                f"limits: got {len(self.limits)} pairs; expected one for each of {len(self.joints)} joints, or one "
                "for all"
            )
        return self

    def _entries(self, robot: Robot, per_second: str, safe: float | None) -> list[ActionEntry]:
        limits = self.limits if len(self.limits) > 1 else self.limits * len(self.joints)
        return [
            ActionEntry(
                name=f"{joint}/{self._quantity}",
                joint=joint,
                quantity=self._quantity,
                unit=robot.joints[joint].position_unit + per_second,
                low=low,
                high=high,
                safe=safe,
            )
            for joint, (low, high) in zip(self.joints, limits, strict=True)
        ]


class PositionTarget(_TargetTerm):
    """Joint positions to be reached, m or rad.

    When the policy must not act, each joint is told to stay where it was when the policy last acted. Nothing is
    commanded before the joints have been heard, since any target would move the robot.
    """

    term: Literal["position"]
    _quantity = "position"

    def entries(self, robot: Robot) -> list[ActionEntry]:
        """One for each joint."""
        return self._entries(robot, "", None)


class PositionStep(_TargetTerm):
    """Joint positions to be reached, m or rad, each at most a ``step`` from where the joint is observed to be.

    The policy says how far to go from there: -1 a step back, 1 a step ahead. What is commanded is the position, so that
    controllers, limits and the safe command are those of a ``position`` term. The observation must have the joints'
    positions as they are: without clip, offset or scale.
    """

    term: Literal["position_step"]
    step: PositiveNumbers
    """Largest step, in the joint's unit: one number for all joints, or one for each."""
    _quantity = "position"

    @model_validator(mode="after")
    def _one_step_each(self) -> PositionStep:
        one_each("step", self.step, self.joints, "joints")
        return self

    def entries(self, robot: Robot) -> list[ActionEntry]:
        """One for each joint."""
        steps = one_each("step", self.step, self.joints, "joints")
        targets = self._entries(robot, "", None)
        return [replace(entry, step=step) for entry, step in zip(targets, steps, strict=True)]


class VelocityTarget(_TargetTerm):
    """Joint velocities to be reached, m/s or rad/s."""

    term: Literal["velocity"]
    safe: float = 0.0
    """Velocity commanded when the policy must not act."""
    _quantity = "velocity"

    @model_validator(mode="after")
    def _safe_within(self) -> VelocityTarget:
        _require_within(self.safe, self.limits)
        return self

    def entries(self, robot: Robot) -> list[ActionEntry]:
        """One for each joint."""
        return self._entries(robot, "/s", self.safe)


ActionTerm = Annotated[
    Effort | PositionTarget | PositionStep | VelocityTarget, Field(discriminator="term")
]


def _require_within(safe: float, limits: Iterable[tuple[float, float]]) -> None:
    for interval in limits:
        if not interval[0] <= safe <= interval[1]:
            raise ValueError(f"safe command {safe} is outside limits {list(interval)}")
