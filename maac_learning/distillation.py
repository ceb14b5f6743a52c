"""Small networks for planning, learned from a bundle's own: what each member and the policy do, and V(s).

A plan asks the networks thousands of times where the policy alone is asked once. Small ones answer several times as
fast. Each member has one of its own, so that members still differ where the ensemble does not know better: candidates
that are rolled out through one network find its errors.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from maac_learning.candidates import Candidates, draw_candidates
from maac_learning.config import ModelConfig, PlanningConfig
from maac_learning.descent import descend
from maac_learning.dynamics import DynamicsEnsemble
from maac_learning.graphs import ActionScaling, PolicyGraph, StepGraph, ValueGraph
from maac_learning.networks import Policy
from maac_learning.state_value import learn_state_value
from maac_ros.bundle import DistillationError
from maac_ros.task import Task

_WORTH_IT = 2.0
"""How many times as many weights a network has to have for a smaller one to be learned from it."""
_BATCH = 512
_LEARNING_RATE = 2e-3
_LEAST_VARIANCE = 1e-12


def learn_planning_networks(
    graphs: Mapping[str, nn.Module],
    task: Task,
    observations: Tensor,
    discount: float,
    config: PlanningConfig,
    seed: int,
) -> tuple[dict[str, nn.Module], dict[str, Any]]:
    """Learn V(s), and small networks where they are much smaller than those of ``graphs``.

    No global random stream is touched.

    Args:
        graphs: ``policy``, ``step`` and ``value`` of a bundle, of :mod:`maac_learning.graphs`, on the CPU.
        task: of the bundle.
        observations: (N, O) of the robot, the newest last.
        discount: of the bundle.
        config: sizes and gradient steps, at least 1.
        seed: of its own random stream.

    Returns:
        Modules by the names of their graphs, and what the manifest says of them.
    """
    policy, step, value = (graphs[name] for name in ("policy", "step", "value"))
    assert isinstance(policy, PolicyGraph)
    assert isinstance(step, StepGraph)
    assert isinstance(value, ValueGraph)
    members = step.model.members
    modules: dict[str, nn.Module] = {}
    told: dict[str, Any] = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        known, unknown = draw_candidates(
            graphs, task, members, observations, config.steps, discount, config.value_steps
        )
        hidden = _no_wider(config.hidden, value.critics.hidden)
        modules["state_value"], told["state_value"] = learn_state_value(
            known, unknown, hidden, config.steps
        )
        hidden = _no_wider(config.hidden, step.model.hidden)
        if _weights(step.model, step.model.hidden) >= _WORTH_IT * _weights(step.model, hidden):
            small_step = _learn_step(step, task, known, hidden, config.steps)
            hidden = _no_wider(config.hidden, policy.policy.hidden)
            small_policy = _learn_policy(task, known, hidden, config.steps)
            told["distilled"] = _error(small_step, small_policy, unknown)
            modules |= {"distilled_step": small_step, "distilled_policy": small_policy}
    return {name: module.eval().requires_grad_(False) for name, module in modules.items()}, told


def _no_wider(wanted: Sequence[int], own: Sequence[int]) -> tuple[int, ...]:
    return tuple(min(pair) for pair in zip(wanted, own, strict=False))


def _weights(model: DynamicsEnsemble, hidden: Sequence[int]) -> int:
    """Of a member of ``model`` with hidden layers of these widths."""
    observations, inputs = model.observations, len(model.input.mean)
    return sum(a * b for a, b in itertools.pairwise((inputs, *hidden, observations + 1)))


def _learn_step(
    own: StepGraph, task: Task, data: Candidates, hidden: tuple[int, ...], steps: int
) -> StepGraph:
    """Of each member of ``own``, by squared errors in units of the changes' own spread."""
    members, rows, observations = data.states.shape
    config = ModelConfig(
        members=members,
        hidden=hidden,
        activation="relu",
        norm="none",
        noise="residual",
        reward="learned" if own.model.reward is None else "analytic",
    )
    model = DynamicsEnsemble(task, observations, data.actions.shape[-1], config)
    scaling = ActionScaling(task)
    inputs = torch.cat((data.states, scaling.to_action(data.actions, data.states)), dim=-1)
    inputs, targets = model.framed(inputs, model.learned(_outcomes(data)))
    model.input.fit(inputs.flatten(0, 1))
    model.target.fit(targets.flatten(0, 1))
    wanted = model.target.normalize(targets)
    member = torch.arange(members)[:, None]

    def loss() -> Tensor:
        picks = torch.randint(rows, (members, _BATCH))
        # Every member learns as fast as it would alone.
        error = model.normalized(inputs[member, picks])[0] - wanted[member, picks]
        return members * error.square().mean()

    descend(model.networks(), loss, _LEARNING_RATE, steps)
    return StepGraph(model, scaling)


def _learn_policy(task: Task, data: Candidates, hidden: tuple[int, ...], steps: int) -> PolicyGraph:
    """By squared errors of action and spread, in units of what may be commanded."""
    states, actions, stds = (
        each.flatten(0, 1) for each in (data.states, data.policy_actions, data.policy_stds)
    )
    network = Policy(
        states.shape[1], actions.shape[1], hidden, "relu", "none", "softplus", "orthogonal"
    )
    network.normalizer.fit(states)
    graph = PolicyGraph(network, ActionScaling(task))
    unit = graph.scaling.half_range

    def loss() -> Tensor:
        picks = torch.randint(len(states), (_BATCH,))
        action, std = graph(states[picks])
        errors = torch.stack((action - actions[picks], std - stds[picks])) / unit
        return errors.square().mean()

    descend(network.parameters(), loss, _LEARNING_RATE, steps)
    return graph


def _outcomes(data: Candidates) -> Tensor:
    """(E, R, O + 1): change of the observation, and reward."""
    return torch.cat((data.following - data.states, data.rewards.unsqueeze(-1)), dim=-1)


@torch.no_grad()
def _error(step: StepGraph, policy: PolicyGraph, data: Candidates) -> DistillationError:
    following, reward, _ = step(data.states, data.actions)
    wanted = _outcomes(data)
    got = torch.cat((following - data.states, reward.unsqueeze(-1)), dim=-1)
    states = data.states.flatten(0, 1)
    return DistillationError(
        rows=len(states),
        step=_unexplained(got.flatten(0, 1), wanted.flatten(0, 1)),
        policy=_unexplained(policy(states)[0], data.policy_actions.flatten(0, 1)),
    )


def _unexplained(got: Tensor, wanted: Tensor) -> float:
    """Mean over the columns that vary of their squared error over their variance."""
    variance = wanted.var(dim=0)
    varies = variance > _LEAST_VARIANCE
    error = (got - wanted).square().mean(dim=0)
    return float((error[varies] / variance[varies]).mean()) if bool(varies.any()) else 0.0
