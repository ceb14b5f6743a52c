"""The mathematics of MAAC as pure functions beside the paper's equations.

Shapes: H model steps, B rows, C critics. ``alive`` (H + 1, B) is 1 until the rollout has terminated: a terminal
step's own reward counts, what follows does not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from maac_learning.dynamics import Prediction
from maac_learning.replay import Transitions


@dataclass(frozen=True)
class Rollout:
    """H model steps from s_0 under the policy, and the action at s_H.

    Attributes:
        observation: (H + 1, B, O).
        action: (H + 1, B, A), normalised.
        log_density: (H + 1, B) of the actions.
        reward: (H, B).
        alive: (H + 1, B).
    """

    observation: Tensor
    action: Tensor
    log_density: Tensor
    reward: Tensor
    alive: Tensor

    @property
    def horizon(self) -> int:
        return self.reward.shape[0]

    def first(self, horizon: int) -> Rollout:
        """The rollout's first ``horizon`` steps."""
        if horizon == self.horizon:
            return self
        states = slice(horizon + 1)
        return Rollout(
            self.observation[states],
            self.action[states],
            self.log_density[states],
            self.reward[:horizon],
            self.alive[states],
        )

    def transitions(self) -> Transitions:
        """Its steps (at most H B rows), without those after a termination."""
        alive = self.alive[:-1] > 0
        return Transitions(
            self.observation[:-1][alive],
            self.action[:-1][alive],
            self.reward[alive],
            self.observation[1:][alive],
            1.0 - self.alive[1:][alive],
        )


Act = Callable[[Tensor, int], tuple[Tensor, Tensor]]
Density = Callable[[Tensor], Tensor]
Step = Callable[[Tensor, Tensor, int], Prediction]


def unroll(
    observation: Tensor,
    horizon: int,
    act: Act,
    step: Step,
    density: Density | None = None,
    differentiable: int | None = None,
) -> Rollout:
    """Chain policy and model for ``horizon`` steps from (B, O); gradients flow wherever the functions let them.

    Args:
        observation: s_0.
        horizon: H.
        act: (observation, t) to reparameterised action (B, A) and its log-density (B,).
        step: (observation, action, t) to the model's sample.
        density: where given, ``act`` returns in place of the log-density what it follows from, (B, ...), and this
            maps all of it, (H + 1, B, ...), to the log-densities (H + 1, B) at once.
        differentiable: model steps that gradients flow through, and the action after them; by default all. Those of
            :meth:`Rollout.first` would else pass through all later ones too, as zeros.
    """
    wanted = torch.is_grad_enabled()
    last = horizon if differentiable is None else differentiable
    observations, actions, origins, rewards = [observation], [], [], []
    alive = [torch.ones_like(observation[:, 0])]
    for t in range(horizon):
        with torch.set_grad_enabled(wanted and t <= last):
            action, origin = act(observations[-1], t)
        actions.append(action)
        origins.append(origin)
        with torch.set_grad_enabled(wanted and t < last):
            outcome = step(observations[-1], action, t)
            alive.append(alive[-1] * (1.0 - outcome.terminated))
        observations.append(outcome.observation)
        rewards.append(outcome.reward)
    with torch.set_grad_enabled(wanted and horizon <= last):
        action, origin = act(observations[-1], horizon)
    reward = torch.stack(rewards) if rewards else observation.new_zeros((0, len(observation)))
    log_density = torch.stack([*origins, origin])
    return Rollout(
        torch.stack(observations),
        torch.stack([*actions, action]),
        log_density if density is None else density(log_density),
        reward,
        torch.stack(alive),
    )


def _powers(discount: float, count: int, like: Tensor) -> Tensor:
    exponent = torch.arange(count, device=like.device, dtype=like.dtype)
    powers: Tensor = discount**exponent
    return powers


def expanded_return(
    rollout: Rollout,
    terminal_value: Tensor,
    discount: float,
    temperature: Tensor,
    first_entropy: bool,
) -> Tensor:
    """Soft H-step return (..., B), closed by ``terminal_value`` (..., B) of (s_H, a_H).

    sum_{t<H} gamma^t alive_t (r_t - temperature log pi_t) + gamma^H alive_H (Q - temperature log pi_H): the actor's
    objective (section 4.1, with the entropy bonus of section 4.3) when ``first_entropy``, and the target of
    Q(s_0, a_0), which does not count the entropy of a_0 itself, when not.
    """
    horizon = rollout.horizon
    weight = _powers(discount, horizon + 1, terminal_value)[:, None] * rollout.alive
    entropy = weight * rollout.log_density * -temperature
    if not first_entropy:
        entropy = entropy[1:]
    gains = (weight[:-1] * rollout.reward).sum(dim=0) + entropy.sum(dim=0)
    return gains + weight[-1] * terminal_value


def expanded_returns(
    rollout: Rollout, values: Tensor, discount: float, temperature: Tensor
) -> Tensor:
    """:func:`expanded_return` with the first entropy, for every horizon 0..H at once: (H + 1, C, B).

    Args:
        rollout: H steps.
        values: (H + 1, C, B) of every state and action of the rollout.
        discount: gamma.
        temperature: weight of the entropy.
    """
    weight = _powers(discount, rollout.horizon + 1, values)[:, None] * rollout.alive
    entropy = weight * rollout.log_density * -temperature
    collected = torch.cumsum(entropy, dim=0)
    collected = collected + torch.nn.functional.pad(
        torch.cumsum(weight[:-1] * rollout.reward, dim=0), (0, 0, 1, 0)
    )
    return collected[:, None] + weight[:, None] * values


def steve_target(estimates: Sequence[Tensor]) -> Tensor:
    """Stochastic ensemble value expansion: estimates of several horizons, weighted by the inverse of their variance.

    Args:
        estimates: one (E, C, B) a horizon: samples of the target over E models (1 where none is involved) and C
            critics, over both of which the variance is taken.

    Returns:
        (B,): the weighted sum of each horizon's estimate, which is the mean over models of the minimum over critics.

    Buckman et al., 2018, equations 8 and 9, with the twin minimum of section 4.3 of the paper.
    """
    means = torch.stack([e.amin(dim=1).mean(dim=0) for e in estimates])
    variances = torch.stack([e.flatten(0, 1).var(dim=0, unbiased=False) for e in estimates])
    # Relative floor: agreement to the last digit must not decide alone.
    floor = 1e-6 + 1e-3 * variances.mean(dim=0, keepdim=True)
    weights = 1.0 / (variances + floor)
    return (weights * means).sum(dim=0) / weights.sum(dim=0)
