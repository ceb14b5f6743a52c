"""What a task says of its robot: joints, floating base, mirror image."""

from __future__ import annotations

from collections import Counter
from typing import Literal

from pydantic import Field, model_validator

from maac_ros import schema


class Joint(schema.Description):
    """One joint of the robot, by its URDF/ROS type."""

    type: Literal["revolute", "prismatic"]

    @property
    def position_unit(self) -> str:
        return "rad" if self.type == "revolute" else "m"

    @property
    def effort_unit(self) -> str:
        return "N·m" if self.type == "revolute" else "N"

    def unit_of(self, quantity: Literal["position", "velocity", "effort"]) -> str:
        if quantity == "effort":
            return self.effort_unit
        return self.position_unit + ("/s" if quantity == "velocity" else "")


class FloatingBase(schema.Description):
    """The body that carries a free joint; on a robot its state comes from ``nav_msgs/Odometry``."""

    joint: str | None = None
    """Name of the free joint in the MJCF; without one the only free joint there, which many MJCFs do not name."""
    frame: str = "base_link"
    """``child_frame_id`` of the odometry."""
    imu_frame: str = "imu_link"
    """``header.frame_id`` of the IMU, whose axes are those of the base."""


class Mirror(schema.Description):
    """How to exchange left and right on a robot whose mirror image, at its x-z plane, is the same robot.

    What it did then tells as much about the mirror image: learning has twice the data. Components of the base follow
    by themselves: y, roll and yaw change sign.
    """

    swap: tuple[tuple[str, str], ...] = ()
    """Pairs of joints, or of sensors, that trade places, such as the left and the right knee."""
    flip: tuple[str, ...] = ()
    """Joints that turn or slide the other way in the mirror, such as those about a vertical axis, and sensors whose
    reading changes its sign there."""

    tolerance: float = Field(default=1e-3, gt=0, lt=1)
    """Share of a quantity's spread by which robot and mirror image may differ after a step: contacts are solved in
    another order. A robot that is not built quite alike on both sides says here by how much."""

    @model_validator(mode="after")
    def _once(self) -> Mirror:
        for field, joints in (
            ("swap", [j for pair in self.swap for j in pair]),
            ("flip", self.flip),
        ):
            twice = [joint for joint, count in Counter(joints).items() if count > 1]
            if twice:
                raise ValueError(f"{field}: listed more than once: {', '.join(twice)}")
        for pair in self.swap:
            turned = [joint for joint in pair if joint in self.flip]
            if len(turned) == 1:
                raise ValueError(
                    f"flip: '{turned[0]}' is listed and its partner is not; of {' and '.join(pair)} expected both or "
                    "neither"
                )
        return self

    def image(self, entry: str) -> tuple[str, float]:
        """The entry whose value, times this sign, is that of ``entry`` in the mirror.

        Entries are ``<joint>/<quantity>``, ``base/<component>``, ``goal/<name>`` and ``phase/<part>``, and the same of
        earlier periods.
        """
        owner, quantity = entry.split("/")
        component = quantity.partition("@")[0]
        partner = {a: b for pair in self.swap for a, b in (pair, pair[::-1])}
        if owner == "base":
            return entry, -1.0 if component in _TURNED_BASE_COMPONENTS else 1.0
        if owner == "phase":
            return entry, -1.0  # half a turn ahead
        if owner == "goal":
            turned = quantity in self.flip or quantity in _TURNED_GOALS
            return f"goal/{partner.get(quantity, quantity)}", -1.0 if turned else 1.0
        return f"{partner.get(owner, owner)}/{quantity}", -1.0 if owner in self.flip else 1.0


_TURNED_BASE_COMPONENTS = frozenset(
    (
        "position_y",
        "orientation_x",
        "orientation_z",
        "projected_gravity_y",
        "linear_velocity_y",
        "body_linear_velocity_y",
        "angular_velocity_x",
        "angular_velocity_z",
        "world_angular_velocity_x",
        "world_angular_velocity_z",
    )
)


_TURNED_GOALS = frozenset(("linear_y", "angular_x", "angular_z"))


MAX_JOINTS = 1000
"""More than any robot has. Some checks go through all pairs of joints."""


class Robot(schema.Description):
    """The joints a task reads or drives."""

    joints: dict[str, Joint] = Field(min_length=1, max_length=MAX_JOINTS)
    base: FloatingBase | None = None
    mirror: Mirror | None = None
    """Where the robot is its own mirror image."""
