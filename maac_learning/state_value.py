"""V(s), learned from the critics: their mean at the policy's own action, as one network of the state alone.

A plan closes each candidate's rollout with it, where it would else ask the policy and then every critic: about half
of what a plan computes. What it must tell apart are the candidates of one plan, which differ by a hundredth of the
variance over all states, so that this is part of its loss.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from maac_learning.networks import StateValue
from maac_ros.bundle import StateValueError
from maac_ros.command_range import CommandRange
from maac_ros.task import Task

_CANDIDATES = 16
"""Rollouts from one observation."""
_STARTS = 4000
_LEAST_DEPTH = 5
_NEWEST = 10_000
"""The policy is seldom where it was long ago."""
_HELD_OUT = 0.1
_GROUPS = 32
"""Groups of candidates in a gradient step."""
_LEARNING_RATE = 1e-3
_AMONG_WEIGHT = 3.0
"""Weight of the differences among candidates, beside that of the values."""
_ROWS_AT_ONCE = 4096
_LEAST_VARIANCE = 1e-12


@dataclass(frozen=True)
class _Reached:
    """States (G, K, O) that K candidates reach, and their values (G, K); those of a group compete with each other."""

    states: Tensor
    values: Tensor


def learn_state_value(
    graphs: Mapping[str, nn.Module],
    task: Task,
    members: int,
    observations: Tensor,
    hidden: tuple[int, ...],
    steps: int,
    seed: int,
) -> tuple[StateValue, StateValueError]:
    """Learn V(s) on states that plans reach.

    No global random stream is touched.

    Args:
        graphs: ``policy``, ``step`` and ``value`` of a bundle as modules on the CPU, of the signatures in
            :mod:`maac_ros.inference`.
        task, members: of the bundle.
        observations: (N, O) of the robot, the newest last; rollouts start from some of them.
        hidden: widths of its hidden layers.
        steps: gradient steps, at least 1.
        seed: of its own random stream.

    Returns:
        The network, and how far it is from the critics on states of starts that it has not learned from.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        newest = observations[-_NEWEST:].float()
        starts = newest[torch.randperm(len(newest))[: max(2, min(_STARTS, steps))]]
        held_out = max(1, round(_HELD_OUT * len(starts)))
        known, unknown = (
            _reach(graphs, task, members, part) for part in (starts[held_out:], starts[:held_out])
        )
        network = StateValue(observations.shape[1], hidden)
        _fit(network, known, steps)
    return network.eval().requires_grad_(False), _error(network, unknown)


@torch.no_grad()
def _reach(graphs: Mapping[str, nn.Module], task: Task, members: int, starts: Tensor) -> _Reached:
    """Roll candidates out from ``starts`` (N, O) as a plan draws its first ones, every row through a random member."""
    policy, step, value = (graphs[name] for name in ("policy", "step", "value"))
    commands = CommandRange(task)
    low, high = (torch.from_numpy(limit).float() for limit in (commands.low, commands.high))
    # A group is whole: rows are added to fill the members.
    states = starts.repeat_interleave(_CANDIDATES, dim=0)
    reached = []
    for _ in range(max(_LEAST_DEPTH, task.planner.horizon)):
        action, std = policy(states)
        action = torch.clamp(action + std * torch.randn_like(action), low, high)
        dealt = torch.randperm(len(states))
        filled = torch.cat((dealt, dealt[: -len(dealt) % members]))
        following = step(
            states[filled].view(members, -1, states.shape[1]),
            action[filled].view(members, -1, action.shape[1]),
        )[0]
        states = torch.empty_like(states).index_copy_(
            0, dealt, following.flatten(0, 1)[: len(dealt)]
        )
        reached.append(states)
    rows = torch.cat(reached)
    values = [value(part, policy(part)[0]).mean(dim=0) for part in rows.split(_ROWS_AT_ONCE)]
    return _Reached(
        rows.view(-1, _CANDIDATES, rows.shape[1]), torch.cat(values).view(-1, _CANDIDATES)
    )


def _fit(network: StateValue, data: _Reached, steps: int) -> None:
    network.normalizer.fit(data.states.flatten(0, 1))
    network.center.copy_(data.values.mean())
    network.scale.copy_(data.values.std().clamp(min=_LEAST_VARIANCE**0.5))
    goals = (data.values - network.center) / network.scale
    weight = _AMONG_WEIGHT / _among(goals).square().mean().clamp(min=_LEAST_VARIANCE)
    optimizer = torch.optim.Adam(network.parameters(), fused=True)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = _LEARNING_RATE * (1.0 - step / steps)
        picks = torch.randint(len(goals), (_GROUPS,))
        wanted = goals[picks]
        error = network.scaled(data.states[picks].flatten(0, 1)).view_as(wanted) - wanted
        loss = error.square().mean() + weight * _among(error).square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()


@torch.no_grad()
def _error(network: StateValue, data: _Reached) -> StateValueError:
    error = network(data.states.flatten(0, 1)).view_as(data.values) - data.values

    def share(of: Tensor, all_of: Tensor) -> float:
        return float(of.square().mean() / all_of.square().mean().clamp(min=_LEAST_VARIANCE))

    return StateValueError(
        rows=error.numel(),
        unexplained=share(error, data.values - data.values.mean()),
        unexplained_among_candidates=share(_among(error), _among(data.values)),
    )


def _among(values: Tensor) -> Tensor:
    """What sets (G, K) apart from the mean of their group."""
    return values - values.mean(dim=1, keepdim=True)
