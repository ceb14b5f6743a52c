"""The mathematics of MAAC as pure functions beside the paper's equations.

Shapes: H model steps, B rows, C critics. ``alive`` (H + 1, B) is 1 until the rollout has terminated: a terminal
step's own reward counts, what follows does not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from maac_learning.dynamics import Prediction


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


Act = Callable[[Tensor, int], tuple[Tensor, Tensor]]
Step = Callable[[Tensor, Tensor, int], Prediction]


def unroll(observation: Tensor, horizon: int, act: Act, step: Step) -> Rollout:
    """Chain policy and model for ``horizon`` steps from (B, O); gradients flow wherever the functions let them.

    Args:
        observation: s_0.
        horizon: H.
        act: (observation, t) to reparameterised action and its log-density.
        step: (observation, action, t) to the model's sample.
    """
    observations, actions, densities, rewards = [observation], [], [], []
    alive = [torch.ones_like(observation[:, 0])]
    for t in range(horizon):
        action, density = act(observations[-1], t)
        actions.append(action)
        densities.append(density)
        outcome = step(observations[-1], action, t)
        observations.append(outcome.observation)
        rewards.append(outcome.reward)
        alive.append(alive[-1] * (1.0 - outcome.terminated))
    action, density = act(observations[-1], horizon)
    reward = torch.stack(rewards) if rewards else observation.new_zeros((0, len(observation)))
    return Rollout(
        torch.stack(observations),
        torch.stack([*actions, action]),
        torch.stack([*densities, density]),
        reward,
        torch.stack(alive),
    )


def expanded_return(
    rollout: Rollout,
    terminal_value: Tensor,
    discount: float,
    temperature: Tensor,
    first_entropy: bool,
) -> Tensor:
    """Soft H-step return (B,), closed by ``terminal_value`` (B,) of (s_H, a_H).

    sum_{t<H} gamma^t alive_t (r_t - temperature log pi_t) + gamma^H alive_H (Q - temperature log pi_H): the actor's
    objective (section 4.1, with the entropy bonus of section 4.3) when ``first_entropy``, and the target of
    Q(s_0, a_0), which does not count the entropy of a_0 itself, when not.
    """
    horizon = rollout.horizon
    powers = discount ** torch.arange(
        horizon + 1, device=terminal_value.device, dtype=terminal_value.dtype
    )
    weight = powers[:, None] * rollout.alive
    entropy = -temperature * rollout.log_density
    if not first_entropy:
        entropy = torch.cat((torch.zeros_like(entropy[:1]), entropy[1:]))
    gains = torch.cat((rollout.reward, terminal_value[None])) + entropy
    return (weight * gains).sum(dim=0)
