"""V(s): what the policy collects from a state on as it acts on the robot, as one network of the state alone.

A plan closes each candidate's rollout with it, where it would else ask the policy and then every critic: about half
of what a plan computes. These tell the value of another policy, one that explores and is paid for it, and a plan that
goes by them need not be better than the policy. By the policy's own value it is, as far as model and value are right
(rollout algorithms: Bertsekas, Dynamic Programming and Optimal Control, volume I).

What it must tell apart are the candidates of one plan, which differ by a hundredth of the variance over all states, so
that this is part of its loss.
"""

from __future__ import annotations

import torch
from torch import Tensor

from maac_learning.candidates import Candidates
from maac_learning.descent import descend
from maac_learning.networks import StateValue
from maac_ros.bundle import StateValueError

_GROUPS = 32
"""Groups of candidates in a gradient step."""
_LEARNING_RATE = 1e-3
_AMONG_WEIGHT = 3.0
"""Weight of the differences among candidates, beside that of the values."""
_LEAST_VARIANCE = 1e-12


def learn_state_value(
    known: Candidates, unknown: Candidates, hidden: tuple[int, ...], steps: int
) -> tuple[StateValue, StateValueError]:
    """Learn V(s) on states that plans reach, from the global random stream.

    Args:
        known: to learn from.
        unknown: to measure by.
        hidden: widths of its hidden layers.
        steps: gradient steps, at least 1.

    Returns:
        The network, and how far it is from what it has learned on ``unknown``.
    """
    network = StateValue(known.reached.shape[-1], hidden)
    _fit(network, known, steps)
    return network.eval().requires_grad_(False), _error(network, unknown)


def _fit(network: StateValue, data: Candidates, steps: int) -> None:
    network.normalizer.fit(data.reached.flatten(0, 1))
    network.center.copy_(data.values.mean())
    network.scale.copy_(data.values.std().clamp(min=_LEAST_VARIANCE**0.5))
    goals = (data.values - network.center) / network.scale
    weight = _AMONG_WEIGHT / _among(goals).square().mean().clamp(min=_LEAST_VARIANCE)

    def loss() -> Tensor:
        picks = torch.randint(len(goals), (_GROUPS,))
        wanted = goals[picks]
        error = network.scaled(data.reached[picks].flatten(0, 1)).view_as(wanted) - wanted
        return error.square().mean() + weight * _among(error).square().mean()

    descend(network.parameters(), loss, _LEARNING_RATE, steps)


@torch.no_grad()
def _error(network: StateValue, data: Candidates) -> StateValueError:
    error = network(data.reached.flatten(0, 1)).view_as(data.values) - data.values

    def share(of: Tensor, all_of: Tensor) -> float:
        return float(of.square().mean() / all_of.square().mean().clamp(min=_LEAST_VARIANCE))

    return StateValueError(
        model_steps=data.value_steps,
        rows=error.numel(),
        unexplained=share(error, data.values - data.values.mean()),
        unexplained_among_candidates=share(_among(error), _among(data.values)),
    )


def _among(values: Tensor) -> Tensor:
    """What sets (G, K) apart from the mean of their group."""
    return values - values.mean(dim=1, keepdim=True)
