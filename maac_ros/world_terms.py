"""What a task says of its simulated world: where it comes from, and how episodes begin."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from maac_ros import schema

Interval = Annotated[tuple[float, float], Field(description="[low, high]")]


def check_interval(interval: tuple[float, float] | None) -> tuple[float, float] | None:
    """``interval`` as it is.

    Raises:
        ValueError: when its ends are not in order.
    """
    if interval is not None and not interval[0] < interval[1]:
        raise ValueError(f"expected [low, high] with low < high, got {list(interval)}")
    return interval


class ResetTerm(schema.Description):
    """A random offset to where an episode begins, uniform and drawn for each joint."""

    term: Literal["joint_position", "joint_velocity"]
    """Of positions (m or rad), or velocities (m/s or rad/s)."""
    joints: tuple[str, ...] = Field(min_length=1)
    offset: Interval
    """Added to the keyframe's value, or without a keyframe to the MJCF's own."""

    _ordered = field_validator("offset")(check_interval)


class Simulation(schema.Description):
    """The simulated world: a Gymnasium environment, or an MJCF file of one's own."""

    gymnasium_id: str | None = None
    """Id of a Gymnasium MuJoCo environment, which brings rewards and initial states of its own."""
    kwargs: dict[str, bool | int | float | str] = Field(default={})
    """Further arguments for ``gymnasium.make``."""
    mjcf: str | None = None
    """An MJCF file: a path, relative to the task's file, or the name of a file of ``sim/``."""
    keyframe: str | None = None
    """Keyframe of the MJCF at which episodes begin; without one at its initial positions, at rest."""
    reset: tuple[ResetTerm, ...] = ()
    """How initial states differ from that."""
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
