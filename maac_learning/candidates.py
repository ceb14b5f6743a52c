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
        values: (D S, K) of them, the critics' mean at the policy's own action.
        states: (E, R, O) that each member was asked about.
        policy_actions, policy_stds: (E, R, A) of the policy there, in command units.
        actions: (E, R, A) that were taken there, in command units.
        following: (E, R, O) that the member said came of it.
        rewards: (E, R) likewise.
    """

    reached: Tensor
    values: Tensor
    states: Tensor
    policy_actions: Tensor
    policy_stds: Tensor
    actions: Tensor
    following: Tensor
    rewards: Tensor


def draw_candidates(
    graphs: Mapping[str, nn.Module], task: Task, members: int, observations: Tensor, steps: int
) -> tuple[Candidates, Candidates]:
    """Candidates to learn from, and others from observations that those do not start from.

    Args:
        graphs: ``policy``, ``step`` and ``value`` of a bundle as modules on the CPU, of the signatures in
            :mod:`maac_ros.inference`.
        task, members: of the bundle.
        observations: (N, O) of the robot, the newest last; rollouts start from some of them.
        steps: gradient steps that will be made; few need few.
    """
    newest = observations[-_NEWEST:].float()
    starts = newest[torch.randperm(len(newest))[: max(2, min(_STARTS, steps))]]
    held_out = max(1, round(_HELD_OUT * len(starts)))
    known, unknown = (
        _roll_out(graphs, task, members, part) for part in (starts[held_out:], starts[:held_out])
    )
    return known, unknown


@torch.no_grad()
def _roll_out(
    graphs: Mapping[str, nn.Module], task: Task, members: int, starts: Tensor
) -> Candidates:
    """Roll candidates out from ``starts`` (N, O) as a plan draws its first ones, every row through a random member."""
    policy, step, value = (graphs[name] for name in ("policy", "step", "value"))
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
    rows = torch.cat(reached)
    values = [value(part, policy(part)[0]).mean(dim=0) for part in rows.split(_ROWS_AT_ONCE)]
    return Candidates(
        rows.view(-1, _CANDIDATES, rows.shape[1]),
        torch.cat(values).view(-1, _CANDIDATES),
        *(torch.cat(each, dim=1) for each in zip(*asked, strict=True)),
    )
