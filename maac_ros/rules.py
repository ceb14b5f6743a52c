"""A task's own reward and termination, as the simulator judges a control step."""

from __future__ import annotations

from maac_ros.command_range import CommandRange
from maac_ros.observation import ObservationBuilder, RobotState, Vector
from maac_ros.task import Task
from maac_ros.terms import Transition


class Rules:
    """Reward and termination of ``task``, from its terms."""

    def __init__(self, task: Task) -> None:
        self._builder = ObservationBuilder(task)
        self._index = {entry.name: i for i, entry in enumerate(self._builder.entries)}
        self._reward = task.reward
        self._termination = task.termination
        self._range = CommandRange(task)

    def judge(self, before: RobotState, command: Vector, after: RobotState) -> tuple[float, bool]:
        """Reward and termination of the step from ``before`` to ``after`` under ``command`` (A,), in command units."""
        following = self._builder.build(after)
        terminated = any(
            not _within(following[self._index[rule.entry]], rule.min, rule.max)
            for rule in self._termination
        )
        observation = self._builder.build(before)
        step = Transition(
            self._index,
            observation,
            self._range.normalized(command, observation),
            following,
            float(terminated),
        )
        return float(self._reward.total(step)), terminated


def _within(value: float, low: float | None, high: float | None) -> bool:
    return (low is None or value >= low) and (high is None or value <= high)
