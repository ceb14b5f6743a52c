"""Run what MAAC learned on a robot: task and bundle descriptions, controller core, ROS 2 nodes.

Everything outside :mod:`maac_ros.nodes` is free of ROS, and nothing here imports PyTorch.
"""

from maac_ros.version import __version__

__all__ = ["__version__"]
