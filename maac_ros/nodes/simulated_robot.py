"""A simulated robot in simulated time: what the simulator node steps. Free of ROS, not thread-safe."""

from __future__ import annotations

import math
from dataclasses import dataclass

from maac_ros.memory import FORGET_S, Memory
from maac_ros.observation import RobotState, Vector
from maac_ros.simulation import Simulation


@dataclass(frozen=True)
class EpisodeSummary:
    """A finished episode; the return is undiscounted, on the task's reward scale."""

    episode: int
    steps: int
    episode_return: float
    terminated: bool


class SimulatedRobot:
    """One simulation, its time and its episodes.

    Time is counted in control periods over all episodes and never goes back. It starts at 1, because a stamp of
    0 means "not set" in ROS. A finished episode gives way to the next one at once: the state of that moment is
    the new initial state, since nobody has to act on a final one. Where the observation recalls, time enough passes
    between them for what was recalled to be forgotten.

    Args:
        simulation: of the task.
        seed: of the first initial state; the later ones go on in the same random stream.
    """

    def __init__(self, simulation: Simulation, seed: int) -> None:
        self._simulation = simulation
        self._period_ns = round(simulation.task.control.period_s * 1e9)
        recalls = Memory(simulation.task)
        self._pause = math.ceil(FORGET_S / simulation.task.control.period_s) + 1 if recalls else 0
        self._time = 1
        self._episode = 0
        self._begin(simulation.reset(seed))

    def _begin(self, state: RobotState) -> None:
        self.state = state
        self._episode += 1
        self._began = self._time
        self._steps = 0
        self._return = 0.0

    @property
    def stamp_ns(self) -> int:
        """Present simulated time."""
        return self._time * self._period_ns

    @property
    def episode_stamp_ns(self) -> int:
        """Simulated time at which the present episode began."""
        return self._began * self._period_ns

    def hold(self) -> None:
        """Let one control period pass in which the robot does not move."""
        self._time += 1

    def step(self, command: Vector) -> EpisodeSummary | None:
        """Hold ``command`` (A,) for one control period. Returns the summary of an episode that ended with it."""
        result = self._simulation.step(command)
        self._time += 1
        self._steps += 1
        self._return += result.reward
        self.state = result.state
        if not result.done:
            return None
        summary = EpisodeSummary(self._episode, self._steps, self._return, result.terminated)
        self._time += self._pause
        self._begin(self._simulation.reset())
        return summary

    def restart(self) -> None:
        """Give up the present episode for a new one, with a stamp of its own."""
        self._time += 1 + self._pause
        self._begin(self._simulation.reset())
