"""The learned world: an ensemble of Gaussian networks (paper, section 4.3)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from maac_learning.config import ModelConfig
from maac_learning.networks import EnsembleMLP, Normalizer
from maac_learning.symmetry import Facing, heading_frame_of, images_of
from maac_ros.memory import Memory
from maac_ros.task import Task
from maac_ros.terms import GOAL_SOURCES, Transition


class Prediction(NamedTuple):
    """One model step. ``terminated`` is 1 where the predicted observation ends the episode."""

    observation: Tensor
    reward: Tensor
    terminated: Tensor


class TerminationRule(nn.Module):
    """A task's termination terms as bounds on the observation vector."""

    low: Tensor
    high: Tensor

    def __init__(self, task: Task) -> None:
        super().__init__()
        names = [entry.name for entry in task.observation_entries()]
        low, high = torch.full((len(names),), -torch.inf), torch.full((len(names),), torch.inf)
        for rule in task.termination:
            index = names.index(rule.entry)
            low[index] = -torch.inf if rule.min is None else rule.min
            high[index] = torch.inf if rule.max is None else rule.max
        self.register_buffer("low", low)
        self.register_buffer("high", high)
        self._bounded = [i for i in range(len(names)) if low[i] > -torch.inf or high[i] < torch.inf]

    def forward(self, observation: Tensor, margin: Tensor | None = None) -> Tensor:
        """1.0 where (..., O) lies outside the bounds, else 0.0; shape (...).

        With a ``margin`` (O,), in units of the observation, what lies so near to them counts as outside too.
        """
        if margin is None:
            outside = (observation < self.low) | (observation > self.high)
        else:
            outside = (observation < self.low + margin) | (observation > self.high - margin)
        return outside.any(dim=-1).to(observation.dtype)

    def differentiable(self, observation: Tensor, margin: Tensor | None, width: Tensor) -> Tensor:
        """:meth:`forward`, with the gradient of a logistic function of the distance to the nearest bound.

        A step's own gradient is zero, so that a pathwise gradient through it does not see that episodes end sooner
        or later as the policy changes: in expectation that change is the density of the rows at the bound, which the
        logistic's slope estimates, as a kernel does.

        Args:
            observation: (..., O).
            margin: as in :meth:`forward`.
            width: (O,) scale of the logistic, in units of the observation.
        """
        terminated = self(observation, margin)
        if not self._bounded:
            return terminated
        near, width = observation[..., self._bounded], width[self._bounded]
        within = 0.0 if margin is None else margin[self._bounded]
        low, high = self.low[self._bounded] + within, self.high[self._bounded] - within
        inside = torch.minimum((near - low) / width, (high - near) / width).amin(dim=-1)
        smooth = torch.sigmoid(-inside)
        return terminated + (smooth - smooth.detach())


class RewardRule(nn.Module):
    """A task's analytic reward as a function of state, action and next state; differentiable."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self._index = {entry.name: i for i, entry in enumerate(task.observation_entries())}
        self._reward = task.reward

    def forward(
        self, observation: Tensor, action: Tensor, following: Tensor, terminated: Tensor
    ) -> Tensor:
        """Reward (...) for (..., O), normalised actions (..., A), next observations (..., O) and their end (...)."""
        step = Transition(self._index, observation, action, following, terminated)
        total: Tensor = self._reward.total(step)
        return total


class Shuffle(NamedTuple):
    """How B rows are dealt to the members: ``deal`` (B,) is a permutation, ``back`` (B,) its inverse."""

    deal: Tensor
    back: Tensor


class DynamicsEnsemble(nn.Module):
    """E diagonal-Gaussian networks: (observation, normalised action) to change of observation, and reward.

    Inputs and targets are normalised by the data's statistics. With ``noise: state_dependent`` the networks also
    give log-variances, softly bounded by trained limits, and maximise the likelihood (paper, section 4.3), weighted
    as ``variance_power`` says; with ``trained`` log-variances are parameters, the same in all states. With
    ``residual`` they minimise the squared error, and the variance is that of the held-out residuals.

    What the observation recalls, such as the last command, is not learned: it follows. Neither is what the robot is
    asked for: nothing tells when that changes, and it stays. Nor is where the robot faces, where that makes no
    difference: inputs and targets are normalised in the frame of its heading then.

    Dropout is for :func:`maac_learning.fitting.fit`: everywhere else the model is in evaluation mode.
    """

    residual_variance: Tensor
    _arrangement: Tensor
    _gain: Tensor
    _partner: Tensor
    _partner_gain: Tensor
    _learned: Tensor

    def __init__(self, task: Task, observations: int, actions: int, config: ModelConfig) -> None:
        super().__init__()
        self.members = config.members
        self.observations = observations
        self.input = Normalizer(observations + actions)
        # What has never changed, such as the goal of an episode, is predicted not to.
        self.target = Normalizer(observations + 1, constant_scale=0.0)
        self.termination = TerminationRule(task)
        self._termination_margin = config.termination_margin
        memory = Memory(task)
        self.recalls = bool(memory)
        # Of the following observation and what the step began with: what is recalled follows exactly.
        arrangement = np.arange(observations)
        arrangement[memory.entries] = observations + memory.sources
        gain, partner = np.ones(observations, np.float32), np.arange(observations)
        partner_gain = np.zeros(observations, np.float32)
        gain[memory.entries], partner_gain[memory.entries] = memory.gain, memory.partner_gain
        partner[memory.entries] = memory.entries[memory.partner]
        self._turns = memory.turning
        learned = np.ones(observations + 1, np.float32)
        learned[memory.entries] = 0.0
        entries = task.observation_entries()
        learned[[i for i, entry in enumerate(entries) if entry.source in GOAL_SOURCES]] = 0.0
        self._learns_all = bool(learned.all())
        self.register_buffer("_arrangement", torch.from_numpy(arrangement), persistent=False)
        for name, values in (("gain", gain), ("partner", partner), ("partner_gain", partner_gain)):
            self.register_buffer(f"_{name}", torch.from_numpy(values), persistent=False)
        self.register_buffer("_learned", torch.from_numpy(learned), persistent=False)
        self.reward = RewardRule(task) if config.reward == "analytic" else None
        self.images = images_of(task, config)
        self.heading = heading_frame_of(task, config)
        self.noise = config.noise
        self.drops_out = config.dropout > 0.0
        state_dependent = config.noise == "state_dependent"
        outputs = observations + 1
        self._mlp = EnsembleMLP(
            config.members,
            (
                observations + actions,
                *config.hidden,
                2 * outputs if state_dependent else outputs,
            ),
            config.activation,
            config.norm,
            norm_epsilon=config.norm_epsilon,
            dropout=config.dropout,
        )
        if state_dependent:
            self.max_log_var = nn.Parameter(torch.full((outputs,), 0.5))
            self.min_log_var = nn.Parameter(torch.full((outputs,), -10.0))
        elif config.noise == "trained":
            # Of the deviation and not the variance: Adam's steps are as large either way, and this goes twice as far.
            self.log_std = nn.Parameter(torch.zeros(config.members, 1, outputs))
        else:
            self.register_buffer("residual_variance", torch.ones(config.members, 1, outputs))
        self.eval()

    @property
    def hidden(self) -> tuple[int, ...]:
        """Widths of the hidden layers."""
        return self._mlp.hidden

    def networks(self) -> list[nn.Parameter]:
        """The networks' own parameters."""
        return list(self._mlp.parameters())

    def stacked(self) -> dict[str, Tensor]:
        """Parameters whose first axis is the member."""
        return {n: p for n, p in self.named_parameters() if p.dim() == 3}

    def framed(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Raw inputs (..., O + A) and targets (..., O + 1) in the frame in which they are learned."""
        if self.heading is None:
            return inputs, targets
        facing = self.heading.facing(inputs)
        return self.heading.into(inputs, facing), self.heading.into(targets, facing)

    def normalized(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance (E, B, O + 1) of the normalised target for inputs (E, B, O + A).

        Both are in the frame of :meth:`framed`. A constant variance comes as (E, 1, O + 1).
        """
        out = self._mlp(self.input.normalize(inputs))
        if self.noise == "residual":
            return out, self.residual_variance
        if self.noise == "trained":
            return out, (2.0 * self.log_std).exp()
        mean, log_var = out.chunk(2, dim=-1)
        log_var = self.max_log_var - nn.functional.softplus(self.max_log_var - log_var)
        log_var = self.min_log_var + nn.functional.softplus(log_var - self.min_log_var)
        return mean, log_var.exp()

    def _foreseen(self, inputs: Tensor) -> tuple[Tensor, Tensor, Facing | None]:
        """Mean change and its spread (E, B, O + 1) for raw inputs (E, B, O + A), and the frame that those are in."""
        facing = None
        if self.heading is not None:
            facing = self.heading.facing(inputs)
            inputs = self.heading.into(inputs, facing)
        mean, variance = self.normalized(inputs)
        return self.target.denormalize(mean), self.target.std * variance.sqrt(), facing

    def outcome(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and std (E, B, O + 1) of the change of observation, and of the reward, for raw inputs (E, B, O + A)."""
        change, std, facing = self._foreseen(inputs)
        std = std.expand_as(change)
        if self.heading is None or facing is None:
            return change, std
        variance = self.heading.variance_out_of(std.square(), facing)
        return self.heading.out_of(change, facing), variance.sqrt()

    @property
    def not_learned(self) -> Tensor:
        """(O,) true where an entry of the observation is recalled, or asked for."""
        return self._learned[:-1] == 0.0

    def learned(self, targets: Tensor) -> Tensor:
        """``targets`` (..., O + 1) with nothing to be learned of what is recalled or asked for."""
        return targets if self._learns_all else targets * self._learned

    def _recalling(self, following: Tensor, inputs: Tensor) -> Tensor:
        """``following`` (..., O) with what it recalls of ``inputs`` (..., O + A), which led to it."""
        if not self.recalls:
            return following
        arranged = torch.cat((following, inputs), dim=-1).index_select(-1, self._arrangement)
        if not self._turns:
            return arranged
        partner = arranged.index_select(-1, self._partner)
        return self._gain * arranged + self._partner_gain * partner

    def moments(self, observation: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Every member's next-observation mean and std (E, B, O), and reward mean and std (E, B).

        ``observation`` is (B, O) for all members, or (E, B, O) with rows of their own; ``action`` likewise.
        """
        inputs = torch.cat((observation, action), dim=-1)
        if inputs.dim() == 2:
            inputs = inputs.expand(self.members, *inputs.shape)
        change, std = self.outcome(inputs)
        size = self.observations
        following = self._recalling(inputs[..., :size] + change[..., :size], inputs)
        reward, reward_std = change[..., size], std[..., size]
        if self.reward is not None:
            ended = self.termination(following)
            reward = self.reward(inputs[..., :size], inputs[..., size:], following, ended)
            reward_std = torch.zeros_like(reward)
        return following, std[..., :size], reward, reward_std

    def ended(self, following: Tensor) -> Tensor:
        """1.0 where imagined episodes end, (...) of (..., O): out of the task's bounds, or within a margin of them."""
        return self.termination(following, self._margin())

    def _margin(self) -> Tensor | None:
        """(O,) in units of the observation; None for none."""
        if self._termination_margin == 0.0:
            return None
        return self._termination_margin * self.input.std[: self.observations]

    def step(
        self,
        observation: Tensor,
        action: Tensor,
        shuffle: Shuffle | None,
        noise: Tensor,
        termination_width: float = 0.0,
    ) -> Prediction:
        """One reparameterised step in which each row follows one member (TS1), ended by the margin of the settings.

        Args:
            observation: (B, O), with B a multiple of E.
            action: (B, A), normalised.
            shuffle: deals the rows to the members; None deals the first B / E rows to the first, and so on.
            noise: (B, O) standard normal, in the order in which the rows are dealt.
            termination_width: of :meth:`TerminationRule.differentiable`, in standard deviations of the observation;
                0 for no gradient through terminations.
        """
        rows, size = observation.shape
        inputs = torch.cat((observation, action), dim=-1)
        if shuffle is not None:
            inputs = inputs.index_select(0, shuffle.deal)
        dealt = inputs.view(self.members, rows // self.members, -1)
        change, spread, facing = self._foreseen(dealt)
        # The reward's own noise averages out in any return; its mean is all that is needed.
        noise = spread[..., :size] * noise.view(*change.shape[:2], size)
        sample = change + nn.functional.pad(noise, (0, 1))
        if self.heading is not None and facing is not None:
            sample = self.heading.out_of(sample, facing)
        sample = sample.view(rows, size + 1)
        if shuffle is not None:
            sample = sample.index_select(0, shuffle.back)
        following = observation + sample[:, :size]
        if self.recalls:
            following = self._recalling(following, torch.cat((observation, action), dim=-1))
        if termination_width > 0.0 and torch.is_grad_enabled():
            width = termination_width * self.input.std[:size]
            terminated = self.termination.differentiable(following, self._margin(), width)
        else:
            terminated = self.ended(following)
        if self.reward is None:
            return Prediction(following, sample[:, size], terminated)
        reward = self.reward(observation, action, following, terminated)
        return Prediction(following, reward, terminated)
