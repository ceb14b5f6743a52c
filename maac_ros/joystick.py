"""A joystick that asks the robot for something. Free of ROS."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BeforeValidator, Field

from maac_ros import schema
from maac_ros.errors import ObservationError
from maac_ros.observation import Vector
from maac_ros.observation_terms import Goal


class JoystickAxis(schema.Description):
    """One axis of the joystick."""

    axis: int = Field(ge=0)
    """Place in the message's ``axes``."""
    sign: Literal[1, -1] = 1
    """-1 where the axis counts the other way."""


def _described(axis: Any) -> Any:
    """The place alone as an axis that counts as it does; anything else as it is."""
    return {"axis": axis} if isinstance(axis, int) else axis


class Joystick(schema.Description):
    """Which axes of a joystick ask for which part of the goal.

    An axis in its middle asks for what rests, at its end for the end of the range, and in between for what is in
    between.
    """

    axes: dict[str, Annotated[JoystickAxis, BeforeValidator(_described)]] = Field(min_length=1)
    """By the name that the task's goal has for it; what is not listed rests."""
    hold_button: int | None = Field(default=None, ge=0)
    """Place in the message's ``buttons`` of one that must be held: while it is not, all rests. Null for none."""
    deadband: float = Field(default=0.05, ge=0, lt=1)
    """Share of an axis's way, about its middle, that counts as the middle."""
    timeout_s: float = Field(default=0.5, gt=0)
    """After so long without a message all rests, whatever the task says: a joystick that is there repeats itself."""

    def goal(self, axes: Sequence[float], buttons: Sequence[int], goal: Goal) -> Vector:
        """What is asked for, (G,), in the order of ``goal``.

        Args:
            axes: of the message, each from -1 to 1.
            buttons: of the message, 1 for those that are held.
            goal: the task's goal term.

        Raises:
            ObservationError: naming the axis or button that the message lacks, or the axis that is no number.
        """
        if self.hold_button is not None and self.hold_button >= len(buttons):
            raise ObservationError(
                f"joy: button {self.hold_button} is missing; the message has {len(buttons)} buttons"
            )
        held = self.hold_button is None or buttons[self.hold_button] != 0
        return np.array(
            [
                self._part(name, axes, rest, goal.ranges[name]) if held else rest
                for name, rest in goal.resting.items()
            ]
        )

    def _part(
        self, name: str, axes: Sequence[float], rest: float, limits: tuple[float, float]
    ) -> float:
        if (wired := self.axes.get(name)) is None:
            return rest
        if wired.axis >= len(axes):
            raise ObservationError(
                f"joy: axis {wired.axis} ({name}) is missing; the message has {len(axes)} axes"
            )
        if not np.isfinite(at := wired.sign * axes[wired.axis]):
            raise ObservationError(
                f"joy: axis {wired.axis} ({name}) = {at:g}; expected a finite number"
            )
        way = min(max(abs(at) - self.deadband, 0.0) / (1.0 - self.deadband), 1.0)
        low, high = limits
        return rest + way * ((high - rest) if at > 0.0 else (low - rest))
