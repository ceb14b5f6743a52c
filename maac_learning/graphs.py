"""What the graphs of a bundle compute, as modules: raw observations and commands go in and come out."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from maac_learning.agent import Agent
from maac_learning.dynamics import DynamicsEnsemble
from maac_learning.networks import Critics, Policy
from maac_ros.command_range import CommandRange
from maac_ros.task import Task


class ActionScaling(nn.Module):
    """Between normalised actions in [-1, 1] and commands within the task's limits.

    Observations are (..., O), actions and commands (..., A), of the same leading axes.
    """

    half_range: Tensor
    middle: Tensor
    _low: Tensor
    _high: Tensor
    _middle_from: Tensor

    def __init__(self, task: Task) -> None:
        super().__init__()
        commands, observations = CommandRange(task), len(task.observation_entries())
        half_range, middle = (commands.high - commands.low) / 2, (commands.high + commands.low) / 2
        half_range[commands.stepped] = commands.step
        # Of the observation followed by the middles of the limits: position steps set out from the joint.
        middle_from = observations + np.arange(len(commands.entries))
        middle_from[commands.stepped] = commands.origin
        self._steps = bool(commands.stepped.size)
        for name, values in (
            ("half_range", half_range),
            ("middle", middle),
            ("_low", commands.low),
            ("_high", commands.high),
        ):
            self.register_buffer(name, torch.from_numpy(values).float())
        self.register_buffer("_middle_from", torch.from_numpy(middle_from))

    def to_command(self, action: Tensor, observation: Tensor) -> Tensor:
        command = self._middle(observation) + self.half_range * action
        return torch.clamp(command, self._low, self._high) if self._steps else command

    def to_action(self, command: Tensor, observation: Tensor) -> Tensor:
        action = (command - self._middle(observation)) / self.half_range
        # A plan may ask for more than a step.
        return action.clamp(-1.0, 1.0) if self._steps else action

    def _middle(self, observation: Tensor) -> Tensor:
        if not self._steps:
            return self.middle
        middle = self.middle.expand(*observation.shape[:-1], -1)
        return torch.cat((observation, middle), dim=-1).index_select(-1, self._middle_from)


class PolicyGraph(nn.Module):
    """See :func:`maac_ros.inference.policy_signature`."""

    def __init__(self, policy: Policy, scaling: ActionScaling) -> None:
        super().__init__()
        self.policy, self.scaling = policy, scaling

    def forward(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = self.policy.distribution(observation)
        action = torch.tanh(mean)
        # First order: the slope of tanh at the mean carries the spread through the squashing.
        std = self.scaling.half_range * (1.0 - action * action) * log_std.exp()
        return self.scaling.to_command(action, observation), std


class ModelGraph(nn.Module):
    """See :func:`maac_ros.inference.model_signature`."""

    def __init__(self, model: DynamicsEnsemble, scaling: ActionScaling) -> None:
        super().__init__()
        self.model, self.scaling = model, scaling

    def forward(self, observation: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        action = self.scaling.to_action(action, observation)
        mean, std, reward, _ = self.model.moments(observation, action)
        return mean, std, reward, self.model.termination(mean)


class StepGraph(nn.Module):
    """See :func:`maac_ros.inference.step_signature`."""

    def __init__(self, model: DynamicsEnsemble, scaling: ActionScaling) -> None:
        super().__init__()
        self.model, self.scaling = model, scaling

    def forward(self, observation: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        action = self.scaling.to_action(action, observation)
        mean, _, reward, _ = self.model.moments(observation, action)
        # Plans keep the distance to the bounds that the policy has learned to keep.
        return mean, reward, 1.0 - self.model.ended(mean)


class ValueGraph(nn.Module):
    """See :func:`maac_ros.inference.value_signature`."""

    def __init__(self, critics: Critics, scaling: ActionScaling) -> None:
        super().__init__()
        self.critics, self.scaling = critics, scaling

    def forward(self, observation: Tensor, action: Tensor) -> Tensor:
        values: Tensor = self.critics(observation, self.scaling.to_action(action, observation))
        return values


def graph_modules(agent: Agent, model: DynamicsEnsemble, task: Task) -> dict[str, nn.Module]:
    """The modules that a bundle holds, by the names of their graphs, on the CPU."""
    scaling = ActionScaling(task)
    modules: dict[str, nn.Module] = {
        "policy": PolicyGraph(agent.averaged_policy, scaling),
        "model": ModelGraph(model, scaling),
        "step": StepGraph(model, scaling),
        "value": ValueGraph(agent.critics, scaling),
    }
    return {name: module.eval() for name, module in modules.items()}
