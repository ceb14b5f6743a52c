"""What may be commanded, and commands as the policy sees them: normalised to [-1, 1]."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from maac_ros.observation import Vector
from maac_ros.task import Task


class CommandRange:
    """The limits of a task's command; of position steps they move with the joints.

    Args:
        task: whose actions they are.

    Attributes:
        entries: of the command.
        low, high: (A,) in command units, wherever the robot is.
        stepped: (S,) which entries are position steps.
        origin: (S,) where the observation has the positions that those set out from.
        step: (S,) the largest of them.
    """

    def __init__(self, task: Task) -> None:
        self.entries = task.action_entries()
        self.low = np.array([entry.low for entry in self.entries])
        self.high = np.array([entry.high for entry in self.entries])
        place = {entry.name: i for i, entry in enumerate(task.observation_entries())}
        stepped = [(i, e) for i, e in enumerate(self.entries) if e.step is not None]
        self.stepped = np.array([i for i, _ in stepped], dtype=np.intp)
        self.origin = np.array([place[f"{e.joint}/position"] for _, e in stepped], dtype=np.intp)
        self.step = np.array([e.step for _, e in stepped], dtype=np.float64)

    def limits(self, observation: NDArray[np.floating]) -> tuple[Vector, Vector]:
        """Lowest and highest command (A,) where the robot is as ``observation`` (O,) says."""
        if not self.stepped.size:
            return self.low, self.high
        low, high = self.low.copy(), self.high.copy()
        position = observation[self.origin].astype(np.float64)
        least, most = self.low[self.stepped], self.high[self.stepped]
        low[self.stepped] = np.clip(position - self.step, least, most)
        high[self.stepped] = np.clip(position + self.step, least, most)
        return low, high

    def normalized(self, command: Vector, observation: NDArray[np.floating]) -> Vector:
        """``command`` (A,), within the limits, from -1 at the low ones to 1 at the high ones; that of a position step
        from a step back from where ``observation`` (O,) has the joint to a step ahead."""
        middle, half = (self.low + self.high) / 2, (self.high - self.low) / 2
        within = np.clip(command, self.low, self.high)
        if not self.stepped.size:
            return (within - middle) / half
        middle[self.stepped], half[self.stepped] = observation[self.origin], self.step
        return np.clip((within - middle) / half, -1.0, 1.0)
