"""Gradients of the MAAC objective against their closed form, for a linear policy in a linear world.

A critic is a fixed function of s_H and a_H: it does not tell that the actions after step H depend on the policy's
weights too. From an initial state alone, even exact dynamics and an exact Q therefore give the gradient of the return
only up to step H: ``-2 E sum_{t<=H} gamma^t E[s_t s_t']``, with the E of ``double_integrator.py``. Hence two errors:

* :func:`return_errors` against the gradient of the return. Rollouts start from the policy's own states at times 0,
  H + 1, 2 (H + 1), ..., discounted by their time, so that each action counts once: with exact functions the gradient is
  that of the return, whatever H is (for H = 0 this is the deterministic policy gradient theorem).
* :func:`lemma_errors` against the same objective with exact functions, from the initial states: what Lemma 4.1 bounds.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from maac_learning.objectives import Rollout, Step, expanded_return, unroll
from maac_learning.studies.double_integrator import LinearQuadratic
from maac_learning.studies.learned import Learned

_GRID = 6
"""Initial states an axis. They are a grid over [-1, 1]^2, so that expectations over them are exact."""

_TAIL = 1e-8
"""The policy's states are followed until their discounted square has fallen to about this share."""

_DRAWS = 8
"""Imagined rollouts from each initial state through each member, for Lemma 4.1."""

Value = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class ReturnErrors:
    """L1 distances from the gradient of the return, at one horizon.

    Attributes:
        exact_l1: true dynamics and true Q: what rounding and the finite sum over states leave.
        true_l1: true dynamics and reward, learned critics.
        learned_l1: learned dynamics and reward, learned critics: what training uses.
        known_reward_l1: learned dynamics, true reward, learned critics.
    """

    exact_l1: float
    true_l1: float
    learned_l1: float
    known_reward_l1: float


@dataclass(frozen=True)
class LemmaErrors:
    """The error that Lemma 4.1 bounds, as L1 norms, its parts, and the slope errors it is bounded by, at one horizon.

    Attributes:
        both_l1: learned model and learned critics.
        model_l1: learned model, true Q: the part of c1.
        critics_l1: true dynamics, learned critics: the part of c2.
        eps_f: max over t of the spectral norm of the error of the sampled next state's slope; mean over rollouts.
        eps_r: the same of the reward, which the lemma takes for known.
        eps_q: norm of the error of the slope of Q at the end of the rollout; mean over rollouts.
    """

    both_l1: float
    model_l1: float
    critics_l1: float
    eps_f: float | None
    eps_r: float | None
    eps_q: float


@dataclass(frozen=True)
class Fitness:
    """RMS errors of the learned functions on the policy's states, as shares of the true values' standard deviation."""

    dynamics: float
    reward: float
    critics: float


def initial_states() -> Tensor:
    """The distribution of s_0: equal shares of the states (B, 2) of a grid."""
    axis = torch.linspace(-1.0, 1.0, _GRID)
    return torch.cartesian_prod(axis, axis)


def policy_gradient(world: LinearQuadratic) -> Tensor:
    """Closed form (A, O) of the gradient of the expected return by the policy's weights."""
    start = initial_states().to(world.gain.dtype)
    return world.return_gradient(start.T @ start / len(start))


def policy_states(world: LinearQuadratic) -> Tensor:
    """The policy's states (T + 1, B, O) in the true world, until they no longer count."""
    decay = 2.0 * math.log(world.spectral_radius * math.sqrt(world.discount))
    steps = math.ceil(math.log(_TAIL) / decay)
    return unroll(initial_states(), steps, world.actor(world.gain), world.step).observation


def rollout_starts(states: Tensor, horizon: int, discount: float) -> tuple[Tensor, Tensor]:
    """Every (H + 1)-th of ``states`` (T + 1, B, O) as rows (N, O), and their weights (N,)."""
    picked = states[:: horizon + 1]
    times = torch.arange(len(picked), dtype=states.dtype) * (horizon + 1)
    weight = discount**times / states.shape[1]
    return picked.flatten(0, 1), weight.repeat_interleave(states.shape[1])


def fitness(world: LinearQuadratic, learned: Learned, states: Tensor) -> Fitness:
    """How well the learned functions do on the policy's ``states`` (T + 1, B, O), discounted by their time."""
    start, weight = rollout_starts(states, 0, world.discount)
    action = world.act(start)
    truth = world.step(start, action)
    with torch.no_grad():
        following, _, reward, _ = learned.model.moments(start, action)
        value = learned.value(start, action)
    true_value = world.action_value(start, action)
    return Fitness(
        dynamics=_relative_error(following - start, truth.observation - start, weight),
        reward=_relative_error(reward[..., None], truth.reward[:, None], weight),
        critics=_relative_error(value[:, None], true_value[:, None], weight),
    )


def return_errors(
    world: LinearQuadratic,
    learned: Learned,
    states: Tensor,
    horizon: int,
    generator: torch.Generator,
) -> ReturnErrors:
    """Errors of the policy gradient for rollouts of ``horizon`` steps from the policy's ``states`` (T + 1, B, O)."""
    start, weight = rollout_starts(states, horizon, world.discount)
    pair = _Pair(world, learned, start, weight, 1, horizon, generator)
    reward = world.reward(pair.imagined.observation[:-1], pair.imagined.action[:-1])
    reference = policy_gradient(world)
    return ReturnErrors(
        exact_l1=_l1(pair.gradient(pair.real, world.action_value), reference),
        true_l1=_l1(pair.gradient(pair.real, learned.value), reference),
        learned_l1=_l1(pair.gradient(pair.imagined, learned.value), reference),
        known_reward_l1=_l1(
            pair.gradient(replace(pair.imagined, reward=reward), learned.value), reference
        ),
    )


def lemma_errors(
    world: LinearQuadratic, learned: Learned, horizon: int, generator: torch.Generator
) -> LemmaErrors:
    """Errors of the gradient of the ``horizon``-step objective from the initial states (Lemma 4.1)."""
    start = initial_states()
    weight = torch.full((len(start),), 1.0 / len(start))
    pair = _Pair(world, learned, start, weight, _DRAWS, horizon, generator)
    eps_f, eps_r = torch.zeros_like(pair.weight), torch.zeros_like(pair.weight)
    for t in range(horizon):
        error = _model_slopes(pair.step, pair.imagined, t) - _model_slopes(world.step, pair.real, t)
        eps_f = torch.maximum(eps_f, torch.linalg.matrix_norm(error[:, :-1], 2))
        eps_r = torch.maximum(eps_r, error[:, -1].norm(dim=1))
    learned_end = _slopes(learned.value, pair.imagined.observation[-1], pair.imagined.action[-1])
    true_end = _slopes(world.action_value, pair.real.observation[-1], pair.real.action[-1])
    reference = pair.gradient(pair.real, world.action_value)
    return LemmaErrors(
        both_l1=_l1(pair.gradient(pair.imagined, learned.value), reference),
        model_l1=_l1(pair.gradient(pair.imagined, world.action_value), reference),
        critics_l1=_l1(pair.gradient(pair.real, learned.value), reference),
        eps_f=float(eps_f.mean()) if horizon else None,
        eps_r=float(eps_r.mean()) if horizon else None,
        eps_q=float((learned_end - true_end).flatten(1).norm(dim=1).mean()),
    )


class _Pair:
    """Rollouts of the same starts in the true and in the learned world, differentiable by the policy's weights.

    Args:
        world: with the policy.
        learned: the model.
        start: (N, O).
        weight: (N,) of each start in the objective.
        draws: rollouts from each start through each member of the model.
        horizon: H.
        generator: random stream of the model's samples.
    """

    def __init__(
        self,
        world: LinearQuadratic,
        learned: Learned,
        start: Tensor,
        weight: Tensor,
        draws: int,
        horizon: int,
        generator: torch.Generator,
    ) -> None:
        copies = draws * learned.model.members
        start = start.repeat(copies, 1)
        self.weight = weight.repeat(copies) / copies
        self._discount = world.discount
        self._gain = world.gain.clone().requires_grad_()
        self.step = learned.step(len(start), horizon, generator)
        self.real = unroll(start, horizon, world.actor(self._gain), world.step)
        self.imagined = unroll(start, horizon, world.actor(self._gain), self.step)

    def gradient(self, rollout: Rollout, value: Value) -> Tensor:
        """Gradient (A, O) of the MAAC objective, without entropy, closed by ``value``."""
        terminal = value(rollout.observation[-1], rollout.action[-1])
        no_entropy = torch.zeros(())
        returns = expanded_return(rollout, terminal, self._discount, no_entropy, first_entropy=True)
        (slope,) = torch.autograd.grad((self.weight * returns).sum(), self._gain, retain_graph=True)
        return slope


def _l1(gradient: Tensor, reference: Tensor) -> float:
    return float((gradient - reference).abs().sum())


def _slopes(function: Value, observation: Tensor, action: Tensor) -> Tensor:
    """Derivatives (N, out, O + A) of a row-wise function of (N, O) and (N, A) to (N,) or (N, out)."""
    inputs = (observation.detach().requires_grad_(), action.detach().requires_grad_())
    outputs = function(*inputs).view(len(observation), -1)
    rows = [torch.autograd.grad(o.sum(), inputs, retain_graph=True) for o in outputs.unbind(dim=1)]
    return torch.stack([torch.cat(row, dim=1) for row in rows], dim=1)


def _model_slopes(step: Step, rollout: Rollout, t: int) -> Tensor:
    """Derivatives (N, O + 1, O + A) of next state and reward at time t of a rollout."""

    def outcome(observation: Tensor, action: Tensor) -> Tensor:
        following, reward, _ = step(observation, action, t)
        return torch.cat((following, reward[:, None]), dim=1)

    return _slopes(outcome, rollout.observation[t], rollout.action[t])


def _relative_error(predicted: Tensor, true: Tensor, weight: Tensor) -> float:
    """RMS of (..., N, n) - (N, n), as a share of the standard deviation of ``true``; rows count with ``weight``."""
    share = (weight / weight.sum())[:, None]
    error = ((predicted - true) ** 2 * share).sum(dim=(-2, -1)).mean()
    spread = ((true - (true * share).sum(dim=0)) ** 2 * share).sum()
    return math.sqrt(error / spread)
