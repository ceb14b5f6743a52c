"""How a policy is judged while it is learned, whatever it is learned by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from maac_ros.observation import ObservationBuilder, Vector
from maac_ros.simulation import Simulation

EVALUATION_SEED = 1_000_000
"""Evaluation episodes are seeded from here on, apart from the training episodes."""


class Evaluation(NamedTuple):
    """Some episodes: undiscounted returns (episodes,), and their lengths (episodes,) in control steps."""

    returns: Vector
    steps: Vector


def evaluate(
    simulations: Sequence[Simulation],
    builder: ObservationBuilder,
    commands: Callable[[Vector], Vector],
) -> Evaluation:
    """One episode in each simulation, always from the same initial states.

    Args:
        simulations: of one task; the episodes run side by side.
        builder: of the same task.
        commands: the policy: commands (B, A) within the limits for observations (B, O).
    """
    running = list(range(len(simulations)))
    returns, steps = np.zeros(len(simulations)), np.zeros(len(simulations))
    observations = {
        i: builder.build(simulations[i].reset(seed=EVALUATION_SEED + i)) for i in running
    }
    while running:
        chosen = commands(np.stack([observations[i] for i in running]))
        for i, command in zip(list(running), chosen, strict=True):
            result = simulations[i].step(command)
            returns[i] += result.reward
            steps[i] += 1
            observations[i] = builder.build(result.state)
            if result.done:
                running.remove(i)
    return Evaluation(returns, steps)
