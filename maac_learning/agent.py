"""The MAAC learner: policy, critics, temperature and the update that trains them through the model."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from maac_learning.checkpoint import optimizer_tensors
from maac_learning.config import AgentConfig
from maac_learning.draws import Draws
from maac_learning.dynamics import DynamicsEnsemble, Prediction
from maac_learning.networks import Critics, Policy
from maac_learning.objectives import (
    Rollout,
    Step,
    expanded_return,
    expanded_returns,
    steve_target,
    unroll,
)
from maac_learning.replay import Transitions

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

    Attributes:
        policy: explores, and is trained.
        averaged_policy: its moving average, without the jitter of single updates: to be evaluated and deployed.
        critics: Q-functions.
        targets: their moving averages, which close the critics' own targets.
        log_temperature: weight of the entropy, as a logarithm.
    """

    def __init__(
        self, observations: int, actions: int, config: AgentConfig, device: torch.device
    ) -> None:
        self.config = config
        self.policy = Policy(
            observations,
            actions,
            config.hidden,
            config.policy_activation,
            config.policy_norm,
            config.policy_spread,
            config.policy_start,
        ).to(device)
        self.critics = Critics(
            config.critics,
            observations,
            actions,
            config.hidden,
            config.critic_activation,
            config.critic_norm,
            config.critic_start,
        ).to(device)
        self.targets = copy.deepcopy(self.critics).requires_grad_(False)
        self.averaged_policy = copy.deepcopy(self.policy).requires_grad_(False)
        self.log_temperature = torch.tensor(
            math.log(config.initial_temperature), device=device, requires_grad=True
        )
        self._target_entropy = config.target_entropy_per_action * actions
        # The bounds of the values jump to those of the first batch, then follow slowly.
        self._bound_rate = torch.ones((), device=device)

        def adam(parameters: Iterable[Tensor]) -> torch.optim.Adam:
            # A captured graph needs rate and step count on the device.
            captured = device.type == "cuda"
            rate = (
                torch.tensor(config.learning_rate, device=device)
                if captured
                else config.learning_rate
            )
            return torch.optim.Adam(parameters, rate, fused=True, capturable=captured)

        self._policy_optimizer = adam(self.policy.parameters())
        self._critic_optimizer = adam(self.critics.parameters())
        self._temperature_optimizer = adam([self.log_temperature])

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """The optimisers by name, for checkpoints."""
        return {
            "policy": self._policy_optimizer,
            "critics": self._critic_optimizer,
            "temperature": self._temperature_optimizer,
        }

    def set_learning_rate(self, rate: float) -> None:
        """Let updates from now on be of this step size."""
        for optimizer in self.optimizers().values():
            for group in optimizer.param_groups:
                if isinstance(group["lr"], Tensor):
                    group["lr"].fill_(rate)
                else:
                    group["lr"] = rate

    @torch.no_grad()
    def forget_momentum(self) -> None:
        """Let the optimisers begin anew, in place."""
        for tensor in self._optimizer_state().values():
            tensor.zero_()

    @torch.no_grad()
    def normalize(self, observations: Tensor) -> None:
        """Normalise by the data (N, O) seen so far."""
        for network in self._networks().values():
            network.normalizer.fit(observations)

    def update(
        self,
        model: DynamicsEnsemble,
        batch: Transitions,
        generator: torch.Generator,
        train_actor: bool = True,
    ) -> UpdateReport:
        """One step of Algorithm 1's inner loop.

        Args:
            model: the ensemble; its weights stay as they are.
            batch: B transitions, with B a multiple of the ensemble's members. Where ``critic_data`` is ``rollout``
                only their observations count.
            generator: CPU random stream.
            train_actor: False updates the critics alone.
        """
        draws = Draws(generator, batch.reward.device)
        return self.learn(model, batch, draws, train_actor)

    def learn(
        self, model: DynamicsEnsemble, batch: Transitions, draws: Draws, train_actor: bool
    ) -> UpdateReport:
        """:meth:`update` with its random numbers given; does not wait for the device."""
        config = self.config
        shared = config.critic_data == "rollout"
        steps = config.horizon if train_actor else 0
        rollout = None
        if train_actor or shared:
            steps = max(steps, config.critic_horizon) if shared else steps
            with torch.set_grad_enabled(train_actor):
                rollout = self.rollout(model, batch.observation, steps, draws, config.horizon)
        temperature = self.log_temperature.detach().exp() * float(config.entropy)
        if shared:
            assert rollout is not None
            critic_loss, value = self._learn_from_rollout(rollout, temperature, draws)
        else:
            critic_loss, value = self._learn_from_transitions(model, batch, temperature, draws)
        actor_loss = torch.zeros_like(critic_loss)
        if train_actor and rollout is not None:
            rollout = rollout.first(config.horizon)
            actor_loss = self._update_actor(rollout, temperature, draws)
            if config.entropy:
                self._update_temperature(rollout)
            _follow(self.averaged_policy, self.policy, config.policy_average_rate)
        _follow(self.targets, self.critics, config.target_rate)
        return UpdateReport(actor_loss.detach(), critic_loss.detach(), temperature, value.mean())

    @torch.no_grad()
    def imagine(
        self, model: DynamicsEnsemble, start: Tensor, length: int, generator: torch.Generator
    ) -> Transitions:
        """Transitions of chained model rollouts of ``length`` steps from ``start`` (B, O), to their terminations."""
        return self.rollout(model, start, length, Draws(generator, start.device)).transitions()

    def rollout(
        self,
        model: DynamicsEnsemble,
        start: Tensor,
        horizon: int,
        draws: Draws,
        differentiable: int | None = None,
    ) -> Rollout:
        """Unroll policy and ensemble from (B, O), B a multiple of E; a row follows one member, redrawn every step.

        ``differentiable`` as for :func:`maac_learning.objectives.unroll`.
        """
        rows, observations = start.shape
        action_noise = draws.normal(horizon + 1, rows, self.policy.actions)
        state_noise = draws.normal(horizon, rows, observations)
        shuffles = draws.shuffles(horizon, rows)

        def step(observation: Tensor, action: Tensor, t: int) -> Prediction:
            width = self.config.termination_width
            return model.step(observation, action, shuffles[t], state_noise[t], width)

        return self._unroll(model, start, horizon, action_noise, step, differentiable)

    def _unroll(
        self,
        model: DynamicsEnsemble,
        start: Tensor,
        horizon: int,
        noise: Tensor,
        step: Step,
        differentiable: int | None = None,
    ) -> Rollout:
        """Unroll with the actions' noise (H + 1, B, A) given; no gradient enters the model's weights."""

        def act(observation: Tensor, t: int) -> tuple[Tensor, Tensor]:
            outputs = self.policy.outputs(observation)
            return self.policy.squashed(outputs, noise[t]), outputs

        with _frozen(model):
            return unroll(
                start,
                horizon,
                act,
                step,
                lambda outputs: self.policy.log_density(outputs, noise),
                differentiable,
            )

    def _learn_from_rollout(
        self, rollout: Rollout, temperature: Tensor, draws: Draws
    ) -> tuple[Tensor, Tensor]:
        """Regress Q(s_0, a_0) on the rollout's own expanded return."""
        with torch.no_grad():
            rollout = rollout.first(self.config.critic_horizon)
            self._follow_reward((rollout.reward - temperature * rollout.log_density[:-1]).flatten())
            target = self._expanded_target(rollout, temperature, draws, first_entropy=False)
        start, first = rollout.observation[0].detach(), rollout.action[0].detach()
        return self._regress(start, first, target)

    def _learn_from_transitions(
        self,
        model: DynamicsEnsemble,
        batch: Transitions,
        temperature: Tensor,
        draws: Draws,
    ) -> tuple[Tensor, Tensor]:
        """Regress Q(s, a) on r + gamma times the value of s', expanded over ``critic_horizon`` model steps."""
        config = self.config
        with torch.no_grad():
            if config.steve:
                value = self._steve_value(model, batch.next_observation, temperature, draws)
            else:
                rollout = self.rollout(model, batch.next_observation, config.critic_horizon, draws)
                value = self._expanded_target(rollout, temperature, draws, first_entropy=True)
            target = batch.reward + config.discount * (1.0 - batch.terminated) * value
            noise = draws.normal(*batch.action.shape)
            _, density = self.policy.sample(batch.observation, noise)
            self._follow_reward(batch.reward - temperature * density)
        return self._regress(batch.observation, batch.action, target)

    def _expanded_target(
        self, rollout: Rollout, temperature: Tensor, draws: Draws, first_entropy: bool
    ) -> Tensor:
        """Expanded return (B,) of the rollout, closed by the smaller of two target critics."""
        terminal = self._target_values(rollout.observation[-1], rollout.action[-1], draws)
        return expanded_return(
            rollout, terminal.amin(dim=0), self.config.discount, temperature, first_entropy
        )

    def _steve_value(
        self,
        model: DynamicsEnsemble,
        start: Tensor,
        temperature: Tensor,
        draws: Draws,
    ) -> Tensor:
        """STEVE estimate (B,) of the soft value of ``start`` (B, O): every state through every member."""
        horizon, members = self.config.critic_horizon, model.members
        rows, observations = start.shape
        # All members share a row's noise, so that their disagreement is theirs alone.
        action_noise = draws.normal(horizon + 1, rows, self.policy.actions).repeat(1, members, 1)
        state_noise = draws.normal(horizon, rows, observations).repeat(1, members, 1)
        rollout = self._unroll(
            model,
            start.repeat(members, 1),
            horizon,
            action_noise,
            lambda s, a, t: model.step(s, a, None, state_noise[t]),
        )
        values = self._target_values(
            rollout.observation.flatten(0, 1), rollout.action.flatten(0, 1), draws
        )
        critics = values.shape[0]
        values = values.view(critics, horizon + 1, -1).transpose(0, 1)
        estimates = expanded_returns(rollout, values, self.config.discount, temperature)
        estimates = estimates.view(horizon + 1, critics, members, rows).transpose(1, 2)
        # Before the first model step all members are alike.
        return steve_target([estimates[0, :1], *estimates[1:]])

    def _target_values(self, observation: Tensor, action: Tensor, draws: Draws) -> Tensor:
        """Values (2, B) of two target critics drawn at random (Chen et al., 2021): of two, the usual twins."""
        value = self.targets(observation, action, draws.pair(self.targets.count))
        if not self.config.bounded_values:
            return value
        center, scale = self.critics.center, self.critics.scale
        return value.clamp(center - scale, center + scale)

    def _regress(
        self, observation: Tensor, action: Tensor, target: Tensor
    ) -> tuple[Tensor, Tensor]:
        goal = (target - self.critics.center) / self.critics.scale
        predicted = self.critics.scaled(observation, action)
        # Summed over critics: their gradients are independent.
        loss = 0.5 * ((predicted - goal) ** 2).mean(dim=1).sum()
        self._critic_optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._clip(self.critics)
        self._critic_optimizer.step()
        return loss, target

    def _update_actor(self, rollout: Rollout, temperature: Tensor, draws: Draws) -> Tensor:
        """Ascend the pathwise gradient of the MAAC objective (section 4.1)."""
        config = self.config
        state, action = rollout.observation[-1], rollout.action[-1]
        if config.terminal_samples > 1:
            state = state.repeat(config.terminal_samples, 1)
            noise = draws.normal(len(state), self.policy.actions)
            action, density = self.policy.sample(state, noise)
            density = density.view(config.terminal_samples, -1).mean(dim=0)
            densities = torch.cat((rollout.log_density[:-1], density[None]))
            rollout = replace(rollout, log_density=densities)
        with _frozen(self.critics):
            value = self.critics(state, action, draws.pair(self.critics.count))
        if config.terminal_samples > 1:
            value = value.view(len(value), config.terminal_samples, -1).mean(dim=1)
        value = value.mean(dim=0) if config.actor_critic == "mean" else value.amin(dim=0)
        objective = expanded_return(
            rollout, value, config.discount, temperature, first_entropy=True
        )
        # In the critics' units, so that the step does not depend on the reward's scale.
        loss = -objective.mean() / self.critics.scale
        self._policy_optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._clip(self.policy)
        self._policy_optimizer.step()
        return loss

    def _clip(self, network: torch.nn.Module) -> None:
        if self.config.max_gradient_norm is not None:
            torch.nn.utils.clip_grad_norm_(network.parameters(), self.config.max_gradient_norm)

    def _follow_reward(self, soft_reward: Tensor) -> None:
        """Let centre and scale of the critics follow the range of soft rewards (N,), divided by 1 - gamma.

        Zero belongs to the range: nothing follows a termination, so a robot about to fall is worth next to nothing
        even where every single reward is large. Values lie in that range, so target critics are clamped to it.
        """
        if not self.config.bounded_values:
            return
        ordered = soft_reward.sort().values / (1.0 - self.config.discount)
        tail = len(ordered) // 100
        low, high = ordered[tail].clamp(max=0.0), ordered[-1 - tail].clamp(min=0.0)
        center, scale = 0.5 * (low + high), torch.clamp(0.5 * (high - low), min=1.0)
        self.critics.center.lerp_(center, self._bound_rate)
        self.critics.scale.lerp_(scale, self._bound_rate)
        self._bound_rate.fill_(_VALUE_BOUND_RATE)
        self.targets.center.copy_(self.critics.center)
        self.targets.scale.copy_(self.critics.scale)

    def _update_temperature(self, rollout: Rollout) -> None:
        """Drive the entropy of the policy towards its target (Haarnoja et al., 2018)."""
        density = rollout.log_density.detach()
        if self.config.temperature_data == "start":
            density = density[0]
        excess = (density + self._target_entropy).mean()
        loss = -self.log_temperature * excess
        self._temperature_optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._temperature_optimizer.step()

    def state(self) -> dict[str, Tensor]:
        """All tensors by name, for checkpoints (optimisers apart)."""
        tensors = {
            "log_temperature": self.log_temperature.detach(),
            "bound_rate": self._bound_rate,
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
        self._bound_rate.copy_(tensors["bound_rate"])

    def snapshot(self) -> dict[str, Tensor]:
        """A copy of everything that an update changes."""
        return {k: v.clone() for k, v in (self.state() | self._optimizer_state()).items()}

    @torch.no_grad()
    def restore(self, snapshot: dict[str, Tensor]) -> None:
        """Go back to a :meth:`snapshot`, in place; an optimiser that had not begun then begins anew."""
        for name, tensor in (self.state() | self._optimizer_state()).items():
            if name in snapshot:
                tensor.copy_(snapshot[name])
            else:
                tensor.zero_()

    def _optimizer_state(self) -> dict[str, Tensor]:
        parts = (optimizer_tensors(name, each) for name, each in self.optimizers().items())
        return {name: tensor for part in parts for name, tensor in part.items()}

    def _networks(self) -> dict[str, Policy | Critics]:
        return {
            "policy": self.policy,
            "averaged_policy": self.averaged_policy,
            "critics": self.critics,
            "targets": self.targets,
        }


@torch.no_grad()
def _follow(network: torch.nn.Module, leader: torch.nn.Module, rate: float) -> None:
    """Move the weights of ``network`` by ``rate`` towards those of ``leader``."""
    torch._foreach_lerp_(list(network.parameters()), list(leader.parameters()), rate)


@contextlib.contextmanager
def _frozen(network: torch.nn.Module) -> Iterator[None]:
    """Let gradients flow through ``network`` and not into its weights."""
    network.requires_grad_(False)
    try:
        yield
    finally:
        network.requires_grad_(True)
