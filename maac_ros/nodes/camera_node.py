"""``camera_node``: pictures of a robot, real or simulated, as MuJoCo draws what its topics tell.

Out: ``~/image`` (sensor_msgs/Image, rgb8), stamped as the joint states that it shows, where somebody listens to it.
In: ``joint_states``, and for a robot with a floating base ``odom`` and ``imu``. The robot is seen by the first camera
of its MJCF, where that has one. Needs no screen.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from rclpy.node import Node
from sensor_msgs.msg import Image

from maac_ros.binding import Binding, load_robot
from maac_ros.nodes.common import (
    RELIABLE,
    Exit,
    ParameterSpec,
    declare,
    open_publisher,
    run_node,
    steady_clock,
)
from maac_ros.nodes.messages import ns_to_stamp
from maac_ros.rendering import choose_backend
from maac_ros.task import load_task

PARAMETERS = (
    ParameterSpec(
        "task",
        "inverted_pendulum",
        "Task of the robot: a shipped name, or a path to a YAML file.",
        fixed=True,
    ),
    ParameterSpec(
        "robot",
        "",
        "How the robot is wired (shipped name, or path to a YAML file); empty for the simulator's topics and names.",
        fixed=True,
    ),
    ParameterSpec("rate_hz", 10.0, "Pictures a second, at most.", low=0.1, high=100, fixed=True),
    ParameterSpec("frame_id", "camera", "header.frame_id of the pictures.", fixed=True),
)


class CameraNode(Node):
    """See the module's docstring.

    Args:
        _: this node never ends by itself.
        arguments: of :class:`rclpy.node.Node`.

    Raises:
        ConfigError: when nothing renders on this machine, or robot and task do not go together.
    """

    def __init__(self, _: Exit, **arguments: Any) -> None:
        super().__init__("camera_node", **arguments)
        values = declare(self, PARAMETERS)
        robot = load_robot(values["robot"]) if values["robot"] else None
        binding = Binding(load_task(values["task"]), robot)
        choose_backend()
        # Imports MuJoCo, which must know by then how to render.
        from maac_ros.nodes.shown_robot import ShownRobot

        self._shown = ShownRobot(self, binding, "rgb_array")
        self._frame_id = values["frame_id"]
        self._last_ns: int | None = None
        self._images = open_publisher(self, Image, "~/image", RELIABLE)
        self.create_timer(1.0 / values["rate_hz"], self._show, clock=steady_clock())

    def _show(self) -> None:
        stamp_ns = self._shown.stamp_ns
        if stamp_ns in (None, self._last_ns) or not self._images.get_subscription_count():
            return
        self._last_ns = stamp_ns
        self._shown.place()
        frame = np.ascontiguousarray(self._shown.simulation.render(), dtype=np.uint8)
        height, width, channels = frame.shape
        image = Image(height=height, width=width, encoding="rgb8", step=width * channels)
        image.header.stamp = ns_to_stamp(stamp_ns or 0)
        image.header.frame_id = self._frame_id
        image.data = frame.tobytes()
        self._images.publish(image)

    def close(self) -> None:
        self._shown.simulation.close()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM."""
    return run_node(CameraNode, arguments)


if __name__ == "__main__":
    sys.exit(main())
