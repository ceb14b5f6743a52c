"""What a task says of its robot: joints, floating base, symmetry."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from maac_ros import schema
from maac_ros.symmetry import Mirror, Symmetry, Turn


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
    any_heading: bool = False
    """Whether the robot moves the same whichever way it faces, as on level ground."""


MAX_JOINTS = 1000
"""More than any robot has. Some checks go through all pairs of joints."""


class Robot(schema.Description):
    """The joints a task reads or drives."""

    joints: dict[str, Joint] = Field(min_length=1, max_length=MAX_JOINTS)
    base: FloatingBase | None = None
    mirror: Mirror | None = None
    """Where the robot is its own mirror image."""
    turn: Turn | None = None
    """Where the robot is the same after a part of a turn."""

    @property
    def symmetries(self) -> dict[str, Symmetry]:
        """Mirror and turn, by their names here, where the robot has them."""
        both: dict[str, Symmetry | None] = {"mirror": self.mirror, "turn": self.turn}
        return {name: symmetry for name, symmetry in both.items() if symmetry is not None}
