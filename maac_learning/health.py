"""Signs that learning goes wrong, in plain words: early warnings, and an end where numbers are no longer finite."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from maac_learning.agent import Agent, UpdateReport
from maac_learning.config import TrainConfig
from maac_learning.replay import Transitions
from maac_ros.errors import ObservationError, TrainingError
from maac_ros.observation import ObservationBuilder, Vector

_STATES = 256
"""Real states, the latest, on which the critics are asked for their estimates."""

_ENTROPY = 5.0
"""Nats an action dimension by which a step's entropy may well differ from zero, given the policy's range of std."""

_CRITIC_ERROR = 2.0
"""Root mean square distance of critics from their targets, as a share of the range in which both belong."""

_TEMPERATURES = (1e-4, 10.0)
"""Usual range of the temperature, as a multiple of the largest reward of a step."""


@dataclass(frozen=True)
class Vitals:
    """What an evaluation looks at.

    Attributes:
        env_steps: when.
        reward: lowest and highest reward of a step so far.
        estimates: lowest and highest discounted return that any critic gives to recent real states.
        critic_error: root mean square distance of a critic from its target, as a discounted return.
        temperature: weight of the entropy.
        model_error: mean squared error on held-out transitions; 1 is that of their plain average, NaN no model.
        unstable_episodes: those since the last evaluation in which the physics broke down.
    """

    env_steps: int
    reward: tuple[float, float]
    estimates: tuple[float, float]
    critic_error: float
    temperature: float
    model_error: float
    unstable_episodes: int


@torch.no_grad()
def measure(
    env_steps: int,
    agent: Agent,
    real: Transitions,
    update: UpdateReport,
    model_error: float,
    unstable_episodes: int,
) -> Vitals:
    """Take the vitals from all ``real`` transitions, oldest first.

    Draws no random numbers, so that a run goes on as if nobody had looked.
    """
    states = real.observation[-_STATES:]
    estimates = agent.critics(states, agent.policy.act(states))
    return Vitals(
        env_steps,
        (float(real.reward.min()), float(real.reward.max())),
        (float(estimates.min()), float(estimates.max())),
        # The loss is half the squared error, summed over critics.
        math.sqrt(2.0 * float(update.critic_loss) / agent.critics.count)
        * float(agent.critics.scale),
        float(update.temperature),
        model_error,
        unstable_episodes,
    )


class Watch:
    """Tells what goes wrong, each kind of trouble once; again only after it had gone.

    Args:
        config: of the run.
        actions: A.
    """

    def __init__(self, config: TrainConfig, actions: int) -> None:
        self._config = config
        self._actions = actions
        self._known: set[str] = set()
        self._checks: dict[str, Callable[[Vitals], str]] = {
            "estimates": self._estimates,
            "critics": self._critics,
            "model": self._model,
            "temperature": self._temperature,
            "physics": self._physics,
        }

    def look(self, vitals: Vitals) -> tuple[str, ...]:
        """New warnings, a sentence or two each: what has happened, since when, and what to try."""
        new = []
        for name, check in self._checks.items():
            text = check(vitals)
            if text and name not in self._known:
                new.append(f"since env step {vitals.env_steps}: {text}")
            (self._known.add if text else self._known.discard)(name)
        return tuple(new)

    def _reachable(self, vitals: Vitals) -> tuple[float, float]:
        """Lowest and highest discounted return that the rewards so far, and the entropy, can add up to."""
        bonus = _ENTROPY * self._actions * vitals.temperature
        rest = 1.0 - self._config.agent.discount
        low = min(0.0, vitals.reward[0] - bonus) / rest
        high = max(0.0, vitals.reward[1] + bonus) / rest
        return low, max(high, low + 1.0)  # the critics' scale is no smaller

    def _estimates(self, vitals: Vitals) -> str:
        low, high = self._reachable(vitals)
        width = high - low
        if low - width <= vitals.estimates[0] and vitals.estimates[1] <= high + width:
            return ""
        return (
            f"the critics expect returns from {vitals.estimates[0]:.3g} to {vitals.estimates[1]:.3g}, but rewards "
            f"from {vitals.reward[0]:.3g} to {vitals.reward[1]:.3g} a step can only add up to between {low:.3g} and "
            f"{high:.3g} (discount {self._config.agent.discount:g}, entropy included). {self._smaller_steps()}"
        )

    def _critics(self, vitals: Vitals) -> str:
        low, high = self._reachable(vitals)
        if vitals.critic_error <= _CRITIC_ERROR * (high - low):
            return ""
        return (
            f"the critics are {vitals.critic_error:.3g} away from their targets, though every return lies between "
            f"{low:.3g} and {high:.3g}. {self._smaller_steps()}"
        )

    def _smaller_fit_steps(self) -> str:
        model = self._config.model
        return (
            f"Try a smaller model.learning_rate (now {model.learning_rate:g}) or, for later fits, "
            f"model.refit_learning_rate (now {model.refit_learning_rate:g})"
        )

    def _model(self, vitals: Vitals) -> str:
        if not vitals.model_error > 1.0:
            return ""
        return (
            f"the model predicts no better than the data's average would: its error on held-out transitions is "
            f"{vitals.model_error:.3g}, that of the average 1. {self._smaller_fit_steps()}, or more data before the "
            f"first fit (random_steps, now {self._config.random_steps})."
        )

    def _temperature(self, vitals: Vitals) -> str:
        if not self._config.agent.entropy:
            return ""
        largest = max(map(abs, vitals.reward))
        low, high = (largest * bound for bound in _TEMPERATURES)
        if largest == 0.0 or low <= vitals.temperature <= high:
            return ""
        agent = self._config.agent
        entropy = (
            f"agent.target_entropy_per_action (now {agent.target_entropy_per_action:g}), "
            f"or a smaller agent.learning_rate (now {agent.learning_rate:g})."
        )
        if vitals.temperature > high:
            return (
                f"the temperature has grown to {vitals.temperature:.3g}, so that entropy counts far more than rewards "
                f"of at most {largest:.3g} a step: the policy does not become as random as is asked. Try a lower "
                f"{entropy}"
            )
        return (
            f"the temperature has fallen to {vitals.temperature:.3g}, so that entropy no longer counts beside rewards "
            f"of up to {largest:.3g} a step: the policy stays more random than is asked. Try a higher {entropy}"
        )

    def _physics(self, vitals: Vitals) -> str:
        if not vitals.unstable_episodes:
            return ""
        return (
            f"in {vitals.unstable_episodes} episodes the physics broke down, and MuJoCo put the robot back to its "
            f"start in mid-episode. Try narrower action limits, or a smaller timestep in the robot's MJCF."
        )

    def _smaller_steps(self) -> str:
        agent = self._config.agent
        return (
            f"Try a smaller agent.learning_rate (now {agent.learning_rate:g}) or agent.target_rate "
            f"(now {agent.target_rate:g})."
        )

    def require_finite_update(self, env_steps: int, report: UpdateReport) -> None:
        """Raise :class:`TrainingError` when a loss of an update is NaN or infinite."""
        losses = {name: float(value) for name, value in report._asdict().items()}
        bad = [f"{name} = {value}" for name, value in losses.items() if not math.isfinite(value)]
        if bad:
            raise TrainingError(
                f"training diverged at env step {env_steps}: {', '.join(bad)}. {self._smaller_steps()}"
            )

    def require_finite_model(
        self, env_steps: int, error: float, weights: Mapping[str, Tensor]
    ) -> None:
        """Raise :class:`TrainingError` when a fit has left a model whose error or weights are NaN or infinite."""
        bad = _not_finite(weights)
        if bad or not math.isfinite(error):
            raise TrainingError(
                f"the model fit diverged at env step {env_steps}: "
                + (f"not finite: {_listed(bad)}" if bad else f"its error is {error}")
                + f". {self._smaller_fit_steps()}."
            )

    def require_finite_tensors(self, env_steps: int, tensors: Mapping[str, Tensor]) -> None:
        """Raise :class:`TrainingError` when any of the learner's tensors holds NaN or infinity."""
        bad = _not_finite(tensors)
        if bad:
            raise TrainingError(
                f"training diverged at env step {env_steps}: not finite: {_listed(bad)}. {self._smaller_steps()}"
            )


def require_finite_transition(
    env_steps: int, builder: ObservationBuilder, observation: Vector, reward: float
) -> None:
    """Raise :class:`TrainingError` when the simulator gave NaN or infinity, naming the entries."""
    try:
        builder.single(observation)
        if not math.isfinite(reward):
            raise ObservationError(f"reward = {reward}")
    except ObservationError as reason:
        raise TrainingError(
            f"at env step {env_steps} the simulator gave numbers that cannot be learned from: {reason}. Check the "
            "robot's MJCF (masses, limits, timestep) and the limits of the task's actions."
        ) from reason


def _not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    return [
        name
        for name, value in tensors.items()
        if value.is_floating_point() and not bool(torch.isfinite(value).all())
    ]


def _listed(names: list[str]) -> str:
    more = len(names) - 3
    return ", ".join(names[:3]) + (f" and {more} more" if more > 0 else "")
