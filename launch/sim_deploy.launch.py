"""Run a bundle on the simulated robot of its task."""

from launch import LaunchDescription

from maac_ros.graph import SIM_DEPLOY
from maac_ros.launching import launch_description


def generate_launch_description() -> LaunchDescription:
    """Return what `ros2 launch maac_ros sim_deploy.launch.py` starts."""
    return launch_description(SIM_DEPLOY)
