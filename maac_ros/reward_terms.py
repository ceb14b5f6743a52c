"""Reward as a sum of terms, of NumPy arrays in the simulator and of PyTorch tensors in the learned model alike."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from maac_ros import schema
from maac_ros.terms import RewardBase, Transition, Values, one_of


class AliveReward(RewardBase):
    """1 for each step that does not terminate the episode."""

    term: Literal["alive"]

    def value(self, step: Transition) -> Values:
        return 1.0 - step.terminated


class _EntryTerm(RewardBase):
    """What a term gives for one observation entry, or summed over several."""

    entry: str | Annotated[tuple[str, ...], Field(min_length=1)]
    """Name of an observation entry, for example ``rootx/velocity``, or a list of several."""

    def entries(self) -> tuple[str, ...]:
        return (self.entry,) if isinstance(self.entry, str) else self.entry

    def value(self, step: Transition) -> Values:
        if isinstance(self.entry, str):
            at = step.index[self.entry]
            return self._of(step, step.observation[..., at], step.following[..., at])
        each = [step.index[name] for name in self.entry]
        return self._of(step, step.observation[..., each], step.following[..., each]).sum(-1)

    def _of(self, step: Transition, before: Values, after: Values) -> Values:
        """The value of an entry (...,), or of each of N entries (..., N)."""
        raise NotImplementedError


class VelocityReward(_EntryTerm):
    """A velocity, an observation entry in m/s or rad/s, averaged over the step."""

    term: Literal["velocity"]

    def _of(self, step: Transition, before: Values, after: Values) -> Values:
        # The mean over the step moves the robot by as much.
        return 0.5 * (before + after)


class EffortReward(RewardBase):
    """The sum of squares of the normalised action; its weight is negative where effort costs."""

    term: Literal["effort"]

    def value(self, step: Transition) -> Values:
        return (step.action**2).sum(-1)


class DistanceTerm(_EntryTerm):
    """What a term gives for the distance of an observation entry, as it is observed, from a target."""

    target: float | str
    """In the entry's unit; or the name of another entry, such as ``goal/elbow``."""

    def entries(self) -> tuple[str, ...]:
        of = super().entries()
        return (*of, self.target) if isinstance(self.target, str) else of

    def compared(self) -> tuple[str, ...]:
        """Entries that are set off against one another, and must be observed alike."""
        return self.entries() if isinstance(self.target, str) else ()

    def _distance(self, step: Transition, after: Values) -> Values:
        target = self.target
        if isinstance(target, str):
            target = step.following[..., step.index[target]]
            target = target if isinstance(self.entry, str) else target[..., None]
        return after - target


class ClosenessReward(DistanceTerm):
    """How near an observation entry is to a target: 1 there, 1/2 at a distance of ``scale``, towards 0 far away."""

    term: Literal["closeness"]
    scale: float = Field(gt=0)
    """In the entry's unit."""

    def _of(self, step: Transition, before: Values, after: Values) -> Values:
        distance = self._distance(step, after) / self.scale
        return 1.0 / (1.0 + distance * distance)


class SquareReward(DistanceTerm):
    """The square of an observation entry's distance from a target; its weight is negative where distance costs."""

    term: Literal["square"]
    target: float | str = 0.0
    """As above."""

    def _of(self, step: Transition, before: Values, after: Values) -> Values:
        distance = self._distance(step, after)
        return distance * distance


class ChangeReward(_EntryTerm):
    """The square of an observation entry's change within a step; its weight is negative where change costs.

    Of a ``last_command`` it makes commands smooth.
    """

    term: Literal["change"]

    def _of(self, step: Transition, before: Values, after: Values) -> Values:
        change = after - before
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
