"""Run a bundle on a robot."""

from launch import LaunchDescription

from maac_ros.graph import ROBOT
from maac_ros.launching import launch_description


def generate_launch_description() -> LaunchDescription:
    """Return what `ros2 launch maac_ros robot.launch.py` starts."""
    return launch_description(ROBOT)
