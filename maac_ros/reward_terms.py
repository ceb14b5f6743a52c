"""Reward as a sum of terms, of NumPy arrays in the simulator and of PyTorch tensors in the learned model alike."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from maac_ros import schema
from maac_ros.terms import RewardBase, Transition, Values, one_of


class AliveReward(RewardBase):
    """1 for each step that does not terminate the episode."""

    term: Literal["alive"]

    def value(self, step: Transition) -> Values:
        return 1.0 - step.terminated


class VelocityReward(RewardBase):
    """A velocity, an observation entry in m/s or rad/s, averaged over the step."""

    term: Literal["velocity"]
    entry: str
    """Name of an observation entry, for example ``rootx/velocity``."""

    def entries(self) -> tuple[str, ...]:
        return (self.entry,)

    def value(self, step: Transition) -> Values:
        at = step.index[self.entry]
        # The mean over the step moves the robot by as much.
        return 0.5 * (step.observation[..., at] + step.following[..., at])


class EffortReward(RewardBase):
    """The sum of squares of the normalised action; its weight is negative where effort costs."""

    term: Literal["effort"]

    def value(self, step: Transition) -> Values:
        return (step.action**2).sum(-1)


class _DistanceTerm(RewardBase):
    entry: str
    """Name of an observation entry, for example ``elbow/position``."""
    target: float | str
    """In the entry's unit; or the name of another entry, such as ``goal/elbow``."""

    def entries(self) -> tuple[str, ...]:
        return (self.entry, self.target) if isinstance(self.target, str) else (self.entry,)

    def _distance(self, step: Transition) -> Values:
        target = self.target
        if isinstance(target, str):
            target = step.following[..., step.index[target]]
        return step.following[..., step.index[self.entry]] - target


class ClosenessReward(_DistanceTerm):
    """How near an observation entry is to a target: 1 there, 1/2 at a distance of ``scale``, towards 0 far away."""

    term: Literal["closeness"]
    scale: float = Field(gt=0)
    """In the entry's unit."""

    def value(self, step: Transition) -> Values:
        distance = self._distance(step) / self.scale
        return 1.0 / (1.0 + distance * distance)


class SquareReward(_DistanceTerm):
    """The square of an observation entry's distance from a target; its weight is negative where distance costs."""

    term: Literal["square"]
    target: float | str = 0.0
    """As above."""

    def value(self, step: Transition) -> Values:
        distance = self._distance(step)
        return distance * distance


class ChangeReward(RewardBase):
    """The square of an observation entry's change within a step; its weight is negative where change costs.

    Of a ``last_command`` it makes commands smooth.
    """

    term: Literal["change"]
    entry: str
    """Name of an observation entry, for example ``elbow/last_command``."""

    def entries(self) -> tuple[str, ...]:
        return (self.entry,)

    def value(self, step: Transition) -> Values:
        at = step.index[self.entry]
        change = step.following[..., at] - step.observation[..., at]
        return change * change


if TYPE_CHECKING:
    RewardTerm = RewardBase
else:
    _SHIPPED = (
        AliveReward,
        VelocityReward,
        EffortReward,
        ClosenessReward,
        SquareReward,
        ChangeReward,
    )
    RewardTerm = one_of(RewardBase, _SHIPPED)


class Reward(schema.Description):
    """Where reward comes from: a Gymnasium environment's own, or terms."""

    source: Literal["environment", "analytic"]
    analytic: tuple[RewardTerm, ...] = ()
    """The reward as a sum of terms; beside an environment's own the same once more, for learning settings that ask for
    ``model.reward: analytic``."""

    @model_validator(mode="after")
    def _given(self) -> Reward:
        if self.source == "analytic" and not self.analytic:
            raise ValueError(
                "analytic: got no terms; expected at least one where source is 'analytic'"
            )
        return self

    def total(self, step: Transition) -> Values:
        """The weighted sum (...,) of the terms."""
        return sum(term.weight * term.value(step) for term in self.analytic)
