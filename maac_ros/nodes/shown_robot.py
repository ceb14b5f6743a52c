"""A robot as its topics tell it, placed in its task's simulated world to be looked at."""

from __future__ import annotations

from typing import Any

import numpy as np
from rclpy.node import Node

from maac_ros.binding import Binding
from maac_ros.errors import ObservationError
from maac_ros.nodes import messages
from maac_ros.nodes.common import BEST_EFFORT, open_subscription
from maac_ros.nodes.messages import BaseReading, InertialReading, Reading
from maac_ros.observation import JointReading
from maac_ros.simulation import Simulation
from maac_ros.terms import Source

_TOLD: dict[type, dict[str, str]] = {
    JointReading: {"joint_position": "position", "joint_velocity": "velocity"},
    BaseReading: {f"base_{quantity}": quantity for quantity in BaseReading._fields},
    InertialReading: {f"base_{quantity}": quantity for quantity in InertialReading._fields},
}
"""What of a robot's state shows, and the fields of readings that tell it."""


class ShownRobot:
    """Listens to the topics of a robot, real or simulated; what they do not tell is as the MJCF has it.

    Args:
        node: that subscribes.
        binding: of the robot, or of the simulator.
        render_mode: of :class:`maac_ros.simulation.Simulation`.

    Attributes:
        simulation: its world.
        stamp_ns: of the newest joint states; None before the first.
    """

    def __init__(self, node: Node, binding: Binding, render_mode: str | None = None) -> None:
        self._node = node
        self.simulation = Simulation(binding.task, render_mode)
        self._state = self.simulation.reset(0)
        self.stamp_ns: int | None = None
        sources: tuple[Source, ...] = ("joint_states",)
        if binding.task.robot.base is not None:
            sources += ("odom", "imu")
        for source in sources:
            self._subscribe(source, binding)

    def place(self) -> None:
        """Put the robot where it was last said to be."""
        self.simulation.place(self._state)

    def _subscribe(self, source: Source, binding: Binding) -> None:
        read = messages.state_reader(source, binding)

        def take(message: Any) -> None:
            try:
                self._take(read(message))
            except ObservationError as reason:
                self._node.get_logger().error(f"refused: {reason}", throttle_duration_sec=1.0)
                return
            if source == "joint_states":
                self.stamp_ns = messages.stamp_to_ns(message.header.stamp)

        topic = getattr(binding.topics, source)
        open_subscription(self._node, messages.STATE_MESSAGES[source], topic, take, BEST_EFFORT)

    def _take(self, reading: Reading) -> None:
        for name, field in _TOLD[type(reading)].items():
            values, known = getattr(reading, field), getattr(self._state, name)
            setattr(self._state, name, np.where(np.isfinite(values), values, known))
