"""What the errors of a learned model usually are, for the runtime to tell when they are not usual any more."""

from __future__ import annotations

import numpy as np
import torch

from maac_learning.config import ModelConfig
from maac_learning.dynamics import DynamicsEnsemble
from maac_learning.fitting import held_out_rows
from maac_learning.replay import Transitions
from maac_ros.bundle import Calibration, Observed
from maac_ros.monitor import disagreement, residual

QUANTILE = 0.95
"""Share of the held-out transitions within a limit."""


@torch.no_grad()
def calibrate(
    model: DynamicsEnsemble, transitions: Transitions, config: ModelConfig
) -> Calibration | None:
    """Limits from the newer half of the transitions that no fit has seen: older ones are of worse policies.

    Returns None where no transition is held out yet.
    """
    rows = held_out_rows(len(transitions.reward), config)
    rows = rows[len(rows) // 2 :].to(transitions.reward.device)
    if len(rows) == 0:
        return None
    before, action = transitions.observation[rows], transitions.action[rows]
    following = transitions.next_observation[rows]
    means, stds, _, _ = (moment.cpu().numpy() for moment in model.moments(before, action))
    # What is recalled follows, but for what single precision loses.
    came = np.where(model.not_learned.cpu().numpy(), means[0], following.cpu().numpy())
    change_std = (following - before).std(dim=0, correction=0).cpu().numpy()
    return Calibration(
        rows=len(rows),
        quantile=QUANTILE,
        disagreement=_limit(disagreement(means, change_std)),
        residual=_limit(residual(came, means, stds)),
        change_std=tuple(change_std.tolist()),
    )


def observed(transitions: Transitions) -> Observed:
    """The range of all observations."""
    seen = torch.cat((transitions.observation, transitions.next_observation))
    return Observed(
        low=tuple(seen.amin(dim=0).tolist()),
        high=tuple(seen.amax(dim=0).tolist()),
    )


def _limit(scores: np.ndarray) -> float:
    return float(np.quantile(scores, QUANTILE))
