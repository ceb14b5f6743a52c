"""What candidates of plans come through, as a bundle's own networks tell it: what smaller networks learn from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from maac_ros.command_range import CommandRange
from maac_ros.task import Task

_CANDIDATES = 16
"""Rollouts from one observation."""
_STARTS = 4000
_LEAST_DEPTH = 5
_NEWEST = 10_000
"""The policy is seldom where it was long ago."""
_HELD_OUT = 0.1
_ROWS_AT_ONCE = 4096


@dataclass(frozen=True)
class Candidates:
    """S starts, K candidates from each, D model steps, R rows for each of the E members, of which R E are all of them.

    Attributes:
        reached: (D S, K, O) states after each step; those of a group compete with each other.
        values: (D S, K) of them, see :func:`acting_values`.
        value_steps: the model steps in these.
        states: (E, R, O) that each member was asked about.
        policy_actions, policy_stds: (E, R, A) of the policy there, in command units.
        actions: (E, R, A) that were taken there, in command units.
        following: (E, R, O) that the member said came of it.
        rewards: (E, R) likewise.
    """

    reached: Tensor
    values: Tensor
    value_steps: int
    states: Tensor
    policy_actions: Tensor
    policy_stds: Tensor
    actions: Tensor
    following: Tensor
    rewards: Tensor


def draw_candidates(
    graphs: Mapping[str, nn.Module],
    task: Task,
    members: int,
    observations: Tensor,
    steps: int,
    discount: float,
    value_steps: int,
) -> tuple[Candidates, Candidates]:
    """Candidates to learn from, and others from observations that those do not start from.

    Args:
        graphs: ``policy``, ``step`` and ``value`` of a bundle as modules on the CPU, of the signatures in
            :mod:`maac_ros.inference`.
        task, members, discount: of the bundle.
        observations: (N, O) of the robot, the newest last; rollouts start from some of them.
        steps: gradient steps that will be made; few need few.
        value_steps: model steps before the critics are asked what comes after, see :func:`acting_values`.
    """
    newest = observations[-_NEWEST:].float()
    starts = newest[torch.randperm(len(newest))[: max(2, min(_STARTS, steps))]]
    held_out = max(1, round(_HELD_OUT * len(starts)))
    known, unknown = (
        _roll_out(graphs, task, members, part, discount, value_steps)
        for part in (starts[held_out:], starts[:held_out])
    )
    return known, unknown


@torch.no_grad()
def acting_values(
    graphs: Mapping[str, nn.Module],
    states: Tensor,
    members: int,
    discount: float,
    value_steps: int,
) -> Tensor:
    """What the policy will collect from ``states`` (G, K, O) as it acts on the robot, without noise: (G, K).

    It is followed through the model for ``value_steps`` steps, and the critics' mean closes the sum. The critics alone
    tell the value of the policy that explores, its entropy counted as reward. States of a group compete with each
    other and follow the same member, so that they differ only by what they are.
    """
    policy, step, value = (graphs[name] for name in ("policy", "step", "value"))
    groups, count, width = states.shape
    # Each member follows as many groups: some are followed twice where they do not divide.
    rows = torch.cat((states, states[torch.arange(-groups % members) % groups]))
    at_once = max(1, _ROWS_AT_ONCE // (members * count))
    values = []
    for part in rows.view(-1, members, count, width).transpose(0, 1).split(at_once, dim=1):
        state = part.reshape(members, -1, width)
        total, weight = torch.zeros(state.shape[:2]), torch.ones(state.shape[:2])
        for _ in range(value_steps):
            action = policy(state.flatten(0, 1))[0].view(*state.shape[:2], -1)
            state, reward, alive = step(state, action)
            total += weight * reward
            weight *= discount * alive
        reached = state.flatten(0, 1)
        closing = value(reached, policy(reached)[0]).mean(dim=0).view_as(total)
        values.append((total + weight * closing).view(members, -1, count))
    return torch.cat(values, dim=1).transpose(0, 1).flatten(0, 1)[:groups]


@torch.no_grad()
def _roll_out(
    graphs: Mapping[str, nn.Module],
    task: Task,
    members: int,
    starts: Tensor,
    discount: float,
    value_steps: int,
) -> Candidates:
    """Roll candidates out from ``starts`` (N, O) as a plan draws its first ones, every row through a random member."""
    policy, step = graphs["policy"], graphs["step"]
    commands = CommandRange(task)
    low, high = (torch.from_numpy(limit).float() for limit in (commands.low, commands.high))
    states = starts.repeat_interleave(_CANDIDATES, dim=0)
    reached: list[Tensor] = []
    asked: list[tuple[Tensor, ...]] = []
    for _ in range(max(_LEAST_DEPTH, task.planner.horizon)):
        wanted, std = policy(states)
        action = torch.clamp(wanted + std * torch.randn_like(wanted), low, high)
        dealt = torch.randperm(len(states))
        # A group is whole: rows are added to fill the members.
        filled = torch.cat((dealt, dealt[: -len(dealt) % members]))
        begun = tuple(
            each[filled].view(members, -1, each.shape[1]) for each in (states, wanted, std, action)
        )
        following, reward = step(begun[0], begun[3])[:2]
        asked.append((*begun, following, reward))
        states = torch.empty_like(states).index_copy_(
            0, dealt, following.flatten(0, 1)[: len(dealt)]
        )
        reached.append(states)
    competing = torch.cat(reached).view(-1, _CANDIDATES, starts.shape[1])
    return Candidates(
        competing,
        acting_values(graphs, competing, members, discount, value_steps),
        value_steps,
        *(torch.cat(each, dim=1) for each in zip(*asked, strict=True)),
    )
