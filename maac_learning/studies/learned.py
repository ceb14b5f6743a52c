"""What a study learns of a linear world from limited data: the model ensemble, and critics of one linear policy."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from maac_learning.config import AgentConfig, load_train_config
from maac_learning.draws import Draws
from maac_learning.dynamics import DynamicsEnsemble
from maac_learning.fitting import FitReport, fit
from maac_learning.networks import Critics
from maac_learning.objectives import Step, unroll
from maac_learning.studies.double_integrator import LinearQuadratic, double_integrator_task

EPISODE_STEPS = 50
"""Steps of an episode of data: 5 s."""

_TASK, _PRESET = "inverted_pendulum", "paper"
"""Networks and model fit are the paper's, for the smallest shipped task."""

_CRITIC_RATE, _CRITIC_BATCH, _TARGET_RATE = 1e-3, 256, 0.2
"""Faster than in training: here the policy stands still, and its Q-function with it."""


@dataclass(frozen=True)
class Learned:
    """What was learned from limited data."""

    model: DynamicsEnsemble
    critics: Critics
    report: FitReport

    def value(self, observation: Tensor, action: Tensor) -> Tensor:
        """The mean of the critics (B,), which guides the actor in training as well."""
        return self.critics(observation, action).mean(dim=0)

    def step(self, rows: int, horizon: int, generator: torch.Generator) -> Step:
        """``horizon`` sampled model steps for ``rows`` rows; called again with the same t, the draws are the same."""
        noise = torch.randn(horizon, rows, self.model.observations, generator=generator)
        shuffles = Draws(generator, noise.device).shuffles(horizon, rows)
        return lambda s, a, t: self.model.step(s, a, shuffles[t], noise[t])


def collect(
    world: LinearQuadratic, episodes: int, exploration: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Transitions of the noisy policy in the true world, from states uniform in [-1, 1]^O.

    Args:
        world: with the policy.
        episodes: of :data:`EPISODE_STEPS` each.
        exploration: standard deviation of the noise on actions.
        generator: random stream.

    Returns:
        (N, O + A) observation and action, and (N, O + 1) change of observation and reward.
    """
    actions, size = world.gain.shape
    start = 2.0 * torch.rand(episodes, size, generator=generator) - 1.0
    noise = exploration * torch.randn(EPISODE_STEPS + 1, episodes, actions, generator=generator)

    def act(s: Tensor, t: int) -> tuple[Tensor, Tensor]:
        return world.act(s) + noise[t], torch.zeros(len(s))

    real = unroll(start, EPISODE_STEPS, act, world.step)
    inputs = torch.cat((real.observation, real.action), dim=-1)[:-1]
    targets = torch.cat((real.observation.diff(dim=0), real.reward[..., None]), dim=-1)
    return inputs.flatten(0, 1), targets.flatten(0, 1)


def learn(
    world: LinearQuadratic,
    inputs: Tensor,
    targets: Tensor,
    critic_updates: int,
    layer_norm: bool,
    generator: torch.Generator,
) -> Learned:
    """Fit model and critics to transitions as :func:`collect` gives them."""
    norm = "before" if layer_norm else "none"
    overrides = {
        "model": {"norm": norm, "reward": "learned"},
        "agent": {"policy_norm": norm, "critic_norm": norm},
    }
    settings = load_train_config(_TASK, _PRESET, overrides)
    size = targets.shape[1] - 1
    model = DynamicsEnsemble(double_integrator_task(), size, inputs.shape[1] - size, settings.model)
    report = fit(model, inputs, targets, settings.model, settings.model.first_fit_steps, generator)
    critics = fit_critics(world, inputs, targets, settings.agent, critic_updates, generator)
    return Learned(model.requires_grad_(False), critics.requires_grad_(False), report)


def fit_critics(
    world: LinearQuadratic,
    inputs: Tensor,
    targets: Tensor,
    config: AgentConfig,
    updates: int,
    generator: torch.Generator,
) -> Critics:
    """Minimise the Bellman residual of the policy (section 3.1) on recorded transitions alone, without the model."""
    size = targets.shape[1] - 1
    observation, action = inputs[:, :size], inputs[:, size:]
    following, reward = observation + targets[:, :size], targets[:, size]
    next_action = world.act(following)
    critics = Critics(
        config.critics,
        size,
        action.shape[1],
        config.hidden,
        config.critic_activation,
        config.critic_norm,
    )
    critics.normalizer.fit(observation)
    # The range of values, as the agent takes it from the rewards.
    share = torch.tensor([0.01, 0.99])
    low, high = torch.quantile(reward, share) / (1.0 - world.discount)
    critics.center.copy_(0.5 * (low + high))
    critics.scale.copy_(0.5 * (high - low))
    delayed = copy.deepcopy(critics).requires_grad_(False)
    optimizer = torch.optim.Adam(critics.parameters(), lr=_CRITIC_RATE, fused=True)
    for pick in torch.randint(len(inputs), (updates, _CRITIC_BATCH), generator=generator):
        with torch.no_grad():
            ahead = delayed(following[pick], next_action[pick]).mean(dim=0)
            goal = (reward[pick] + world.discount * ahead - critics.center) / critics.scale
        # Summed over critics: their gradients are independent.
        residual = critics.scaled(observation[pick], action[pick]) - goal
        loss = 0.5 * (residual**2).mean(dim=1).sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(
                list(delayed.parameters()), list(critics.parameters()), _TARGET_RATE
            )
    return critics
