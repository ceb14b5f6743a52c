"""The MAAC learner: policy, critics, temperature and the update that trains them through the model."""

from __future__ import annotations

import copy
import math
from typing import NamedTuple

import torch
from torch import Tensor

from maac_learning.config import AgentConfig
from maac_learning.dynamics import DynamicsEnsemble, Prediction
from maac_learning.networks import Critics, Policy
from maac_learning.objectives import Rollout, expanded_return, unroll

_VALUE_BOUND_RATE = 0.001
"""Rate at which the bounds of the value follow those of the reward: slowly, since they also hold back optimism."""


class UpdateReport(NamedTuple):
    """Losses of an update as scalars on the device (reading them synchronises)."""

    actor_loss: Tensor
    critic_loss: Tensor
    temperature: Tensor
    value: Tensor


class Agent:
    """Policy, critics and temperature with their optimisers.

    Args:
        observations: O.
        actions: A.
        config: see :class:`AgentConfig`.
        device: where the networks live.
    """

    def __init__(
        self, observations: int, actions: int, config: AgentConfig, device: torch.device
    ) -> None:
        self.config = config
        self.policy = Policy(
            observations, actions, config.hidden, config.policy_activation, config.layer_norm
        ).to(device)
        self.critics = Critics(
            config.critics,
            observations,
            actions,
            config.hidden,
            config.critic_activation,
            config.layer_norm,
        ).to(device)
        self.targets = copy.deepcopy(self.critics).requires_grad_(False)
        self.log_temperature = torch.tensor(
            math.log(config.initial_temperature), device=device, requires_grad=True
        )
        self._target_entropy = config.target_entropy_per_action * actions
        self._bounds_known = False
        self._make_optimizers()

    def _make_optimizers(self) -> None:
        rate = self.config.learning_rate
        self._policy_optimizer = torch.optim.Adam(self.policy.parameters(), lr=rate, fused=True)
        self._critic_optimizer = torch.optim.Adam(self.critics.parameters(), lr=rate, fused=True)
        self._temperature_optimizer = torch.optim.Adam([self.log_temperature], lr=rate, fused=True)

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """The optimisers by name, for checkpoints."""
        return {
            "policy": self._policy_optimizer,
            "critics": self._critic_optimizer,
            "temperature": self._temperature_optimizer,
        }

    @torch.no_grad()
    def renew(self, observations: Tensor) -> None:
        """After a model fit: normalise by the data (N, O) seen so far, and restart the optimisers."""
        for network in (self.policy, self.critics, self.targets):
            network.normalizer.fit(observations)
        self._make_optimizers()

    def update(
        self,
        model: DynamicsEnsemble,
        start: Tensor,
        generator: torch.Generator,
        train_actor: bool = True,
    ) -> UpdateReport:
        """One step of Algorithm 1's inner loop, on one rollout shared by critics and actor.

        Args:
            model: the ensemble; its weights stay as they are.
            start: s_0 (B, O), with B a multiple of the ensemble's members.
            generator: CPU random stream.
            train_actor: False updates the critics alone.
        """
        config = self.config
        with torch.set_grad_enabled(train_actor):
            rollout = self._rollout(model, start, generator)
        temperature = self.log_temperature.detach().exp()
        critic_loss, target = self._update_critics(rollout, temperature, generator)
        actor_loss = torch.zeros_like(critic_loss)
        if train_actor:
            for parameter in self.critics.parameters():
                parameter.requires_grad_(False)
            value = self.critics(rollout.observation[-1], rollout.action[-1]).mean(dim=0)
            objective = expanded_return(
                rollout, value, config.discount, temperature, first_entropy=True
            )
            # In the critics' units, so that the step does not depend on the reward's scale.
            actor_loss = -objective.mean() / self.critics.scale
            self._policy_optimizer.zero_grad(set_to_none=True)
            actor_loss.backward()
            torch.nn.utils.clip_grad_norm_(self.policy.parameters(), config.max_gradient_norm)
            self._policy_optimizer.step()
            for parameter in self.critics.parameters():
                parameter.requires_grad_(True)
            self._update_temperature(rollout)
        with torch.no_grad():
            torch._foreach_lerp_(
                list(self.targets.parameters()), list(self.critics.parameters()), config.target_rate
            )
        return UpdateReport(actor_loss.detach(), critic_loss.detach(), temperature, target.mean())

    @torch.no_grad()
    def imagine(
        self, model: DynamicsEnsemble, start: Tensor, length: int, generator: torch.Generator
    ) -> Tensor:
        """States (N, O) of chained model rollouts from ``start`` (B, O), before any of them terminated."""
        rollout = self._rollout(model, start, generator, length)
        return rollout.observation[rollout.alive > 0]

    def _rollout(
        self,
        model: DynamicsEnsemble,
        start: Tensor,
        generator: torch.Generator,
        length: int | None = None,
    ) -> Rollout:
        horizon = self.config.horizon if length is None else length
        rows, observations = start.shape
        device = start.device
        action_noise = torch.randn(horizon + 1, rows, self.policy.actions, generator=generator).to(
            device
        )
        state_noise = torch.randn(horizon, rows, observations, generator=generator).to(device)
        order = torch.argsort(torch.rand(max(horizon, 1), rows, generator=generator), dim=1).to(
            device
        )

        def step(observation: Tensor, action: Tensor, t: int) -> Prediction:
            return model.step(observation, action, order[t], state_noise[t])

        model.requires_grad_(False)
        try:
            return unroll(start, horizon, lambda s, t: self.policy.sample(s, action_noise[t]), step)
        finally:
            model.requires_grad_(True)

    def _update_critics(
        self, rollout: Rollout, temperature: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            self._follow_reward(rollout, temperature)
            # The smaller of two critics drawn at random (Chen et al., 2021): with two, the usual twin minimum.
            pair = torch.randperm(self.targets.count, generator=generator)[:2]
            terminal = self.targets(rollout.observation[-1], rollout.action[-1])[pair].amin(dim=0)
            center, scale = self.critics.center, self.critics.scale
            target = expanded_return(
                rollout,
                terminal.clamp(center - scale, center + scale),
                self.config.discount,
                temperature,
                first_entropy=False,
            )
            goal = (target - center) / scale
        predicted = self.critics.scaled(rollout.observation[0].detach(), rollout.action[0].detach())
        # Summed over critics: their gradients are independent.
        loss = 0.5 * ((predicted - goal) ** 2).mean(dim=1).sum()
        self._critic_optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.critics.parameters(), self.config.max_gradient_norm)
        self._critic_optimizer.step()
        return loss, target

    def _follow_reward(self, rollout: Rollout, temperature: Tensor) -> None:
        """Let centre and scale of the critics follow the range of soft rewards, divided by 1 - gamma.

        The value of a state in which the episode goes on lies there, so the target critics are clamped to it.
        """
        reward = rollout.reward - temperature * rollout.log_density[:-1]
        if reward.numel() == 0:
            return
        share = reward.new_tensor([0.01, 0.99])
        low, high = torch.quantile(reward.flatten(), share) / (1.0 - self.config.discount)
        center, scale = 0.5 * (low + high), torch.clamp(0.5 * (high - low), min=1.0)
        rate = _VALUE_BOUND_RATE if self._bounds_known else 1.0
        self._bounds_known = True
        self.critics.center.lerp_(center, rate)
        self.critics.scale.lerp_(scale, rate)
        self.targets.center.copy_(self.critics.center)
        self.targets.scale.copy_(self.critics.scale)

    def _update_temperature(self, rollout: Rollout) -> None:
        """Drive the entropy of the policy towards its target (Haarnoja et al., 2018)."""
        excess = (rollout.log_density.detach() + self._target_entropy).mean()
        loss = -self.log_temperature * excess
        self._temperature_optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._temperature_optimizer.step()

    def state(self) -> dict[str, Tensor]:
        """All tensors by name, for checkpoints (optimisers apart)."""
        tensors = {
            "log_temperature": self.log_temperature.detach(),
            "bounds_known": torch.tensor(self._bounds_known),
        }
        for name, network in self._networks().items():
            tensors |= {f"{name}.{key}": value for key, value in network.state_dict().items()}
        return tensors

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take back what :meth:`state` gave."""
        for name, network in self._networks().items():
            prefix = f"{name}."
            network.load_state_dict(
                {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
            )
        with torch.no_grad():
            self.log_temperature.copy_(tensors["log_temperature"])
        self._bounds_known = bool(tensors["bounds_known"])

    def _networks(self) -> dict[str, torch.nn.Module]:
        return {"policy": self.policy, "critics": self.critics, "targets": self.targets}
