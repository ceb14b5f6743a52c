"""Learn a task in simulation, with progress on topics."""

from launch import LaunchDescription

from maac_ros.graph import SIM_TRAIN
from maac_ros.launching import launch_description


def generate_launch_description() -> LaunchDescription:
    """Return what `ros2 launch maac_ros sim_train.launch.py` starts."""
    return launch_description(SIM_TRAIN)
