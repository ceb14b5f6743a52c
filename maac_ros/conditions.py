"""What a simulated robot is like and how it is seen, beside the robot that the task describes."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field, field_validator, model_validator

from maac_ros import schema
from maac_ros.intervals import Interval, check_interval

MAX_DELAY_STEPS = 100

Steps = Annotated[int, Field(ge=0, le=MAX_DELAY_STEPS)]


class Noise(schema.Description):
    """Standard deviation of what is added to each number that is observed; reward and termination do not see it."""

    joint_position: float = Field(default=0.0, ge=0)
    """rad or m."""
    joint_velocity: float = Field(default=0.0, ge=0)
    """rad/s or m/s."""
    joint_effort: float = Field(default=0.0, ge=0)
    """N·m or N."""
    sensors: float = Field(default=0.0, ge=0)
    """In the unit of each reading."""
    base_position: float = Field(default=0.0, ge=0)
    """m."""
    base_linear_velocity: float = Field(default=0.0, ge=0)
    """m/s."""
    base_angular_velocity: float = Field(default=0.0, ge=0)
    """rad/s."""


class Conditions(schema.Description):
    """A robot that differs from the task's own, and how it is seen."""

    mass: float = Field(default=1.0, gt=0, le=100)
    """Factor of all masses and inertias."""
    friction: float = Field(default=1.0, ge=0, le=100)
    """Factor of the friction of all surfaces."""
    gain: float = Field(default=1.0, gt=0, le=100)
    """Factor of the force of all actuators."""
    delay_steps: Steps = 0
    """Control periods by which commands act late."""
    noise: Noise = Noise()
    """Of observations."""


class Randomization(schema.Description):
    """Conditions that are drawn for each episode, uniformly; what is not listed is the task's own."""

    mass: Interval | None = None
    friction: Interval | None = None
    gain: Interval | None = None
    delay_steps: tuple[Steps, Steps] | None = None
    """Lowest and highest."""
    noise: Noise = Noise()
    """The same in all episodes."""

    _ordered = field_validator("mass", "friction", "gain")(check_interval)

    @model_validator(mode="after")
    def _possible(self) -> Randomization:
        for end in (0, 1):
            # Both ends must be conditions that there can be; the message names field and value.
            self._conditions(
                {
                    name: interval[end]
                    for name in _FACTORS
                    if (interval := getattr(self, name)) is not None
                }
            )
        if self.delay_steps is not None and self.delay_steps[0] > self.delay_steps[1]:
            raise ValueError(
                f"delay_steps: expected [low, high] with low <= high, got {list(self.delay_steps)}"
            )
        return self

    def draw(self, random: np.random.Generator) -> Conditions:
        """The conditions of one episode."""
        drawn: dict[str, float] = {}
        for name in _FACTORS:
            if (interval := getattr(self, name)) is not None:
                drawn[name] = random.uniform(*interval)
        if self.delay_steps is not None:
            low, high = self.delay_steps
            drawn["delay_steps"] = int(random.integers(low, high, endpoint=True))
        return self._conditions(drawn)

    def _conditions(self, values: dict[str, float]) -> Conditions:
        return Conditions.model_validate({**values, "noise": self.noise})


_FACTORS: tuple[Literal["mass", "friction", "gain"], ...] = ("mass", "friction", "gain")
