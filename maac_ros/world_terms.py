"""What a task says of its simulated world: where it comes from, and how episodes begin."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from maac_ros import schema
from maac_ros.conditions import Randomization
from maac_ros.intervals import Interval, check_interval


class _Reset(schema.Description):
    offset: Interval
    """Added to the keyframe's value, or without a keyframe to the MJCF's own."""

    _ordered = field_validator("offset")(check_interval)


class JointReset(_Reset):
    """A random offset to where joints begin an episode, uniform and drawn for each of them."""

    term: Literal["joint_position", "joint_velocity"]
    """Of positions (m or rad), or velocities (m/s or rad/s)."""
    joints: tuple[str, ...] = Field(min_length=1)


class BaseReset(_Reset):
    """A random offset to how the floating base begins an episode, uniform and drawn for each of the axes."""

    term: Literal["base_position", "base_rotation", "base_linear_velocity", "base_angular_velocity"]
    """Of its position (m, world frame), its orientation (rad, about its own axes, one after the other), its linear
    velocity (m/s, world frame) or its angular velocity (rad/s, its own axes)."""
    axes: tuple[Literal["x", "y", "z"], ...] = Field(min_length=1)


ResetTerm = Annotated[JointReset | BaseReset, Field(discriminator="term")]


class Simulation(schema.Description):
    """The simulated world: a Gymnasium environment, or an MJCF file of one's own."""

    gymnasium_id: str | None = None
    """Id of a Gymnasium MuJoCo environment, which brings rewards and initial states of its own."""
    kwargs: dict[str, bool | int | float | str] = Field(default={})
    """Further arguments for ``gymnasium.make``."""
    mjcf: str | None = None
    """An MJCF file: a path, relative to the task's file; the name of a file of ``sim/``; or ``menagerie:<robot>``, with
    ``/<entry>`` for another file than its scene, of MuJoCo Menagerie."""
    keyframe: str | None = None
    """Keyframe of the MJCF at which episodes begin; without one at its initial positions, at rest."""
    reset: tuple[ResetTerm, ...] = ()
    """How initial states differ from that."""
    randomize: Randomization = Randomization()
    """What the robot is like and how it is seen, drawn for each episode."""
    episode_steps: int = Field(gt=0)
    """Control steps after which an episode is truncated."""

    @model_validator(mode="after")
    def _one_world(self) -> Simulation:
        if (self.gymnasium_id is None) == (self.mjcf is None):
            raise ValueError("give either gymnasium_id or mjcf")
        owner, fields = (
            ("gymnasium_id", ("kwargs",))
            if self.mjcf is not None
            else ("mjcf", ("keyframe", "reset"))
        )
        for field in fields:
            if field in self.model_fields_set and getattr(self, field):
                raise ValueError(f"{field}: belongs to {owner}, which is not given")
        return self
