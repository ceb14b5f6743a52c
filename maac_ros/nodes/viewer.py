"""``maac view``: MuJoCo's viewer on a running robot, real or simulated."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

import mujoco.viewer
from rclpy.executors import Executor

from maac_ros.binding import Binding, load_robot
from maac_ros.errors import ConfigError
from maac_ros.nodes.common import confine, listening_node
from maac_ros.nodes.shown_robot import ShownRobot
from maac_ros.task import load_task

_FRAME_SECONDS = 1 / 60


def view(arguments: Sequence[str]) -> int:
    """``maac view``. Shows the robot until its window is closed.

    Raises:
        ConfigError: where there is no screen, or robot and task do not go together.
    """
    parser = argparse.ArgumentParser(
        prog="maac view", description=(__doc__ or "").partition(": ")[2]
    )
    parser.add_argument(
        "--task", required=True, help="task of the robot: a shipped name, or path to a YAML file"
    )
    parser.add_argument(
        "--robot", help="how the robot is wired: a shipped name, or path to a YAML file"
    )
    chosen = parser.parse_args(arguments)
    binding = Binding(load_task(chosen.task), load_robot(chosen.robot) if chosen.robot else None)
    if sys.platform == "linux" and not {"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys():
        raise ConfigError(
            "neither DISPLAY nor WAYLAND_DISPLAY is set: there is no screen to show the robot on; camera_node needs "
            "none"
        )
    confine(os.environ)
    with listening_node("viewer") as (node, executor):
        try:
            _show(executor, ShownRobot(node, binding))
        except RuntimeError as reason:  # MuJoCo's, of what its window needs
            raise ConfigError(f"MuJoCo's viewer cannot be opened: {reason}") from reason
    return 0


def _show(executor: Executor, shown: ShownRobot) -> None:
    simulation = shown.simulation
    with mujoco.viewer.launch_passive(simulation.model, simulation.data) as window:
        while window.is_running():
            executor.spin_once(timeout_sec=_FRAME_SECONDS)
            with window.lock():
                shown.place()
            window.sync()
