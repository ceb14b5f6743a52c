"""A moment of the environment as parts of a checkpoint."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from maac_ros.conditions import Conditions
from maac_ros.simulation import Snapshot

_LATER = ("goal", "pending", "seen", "measured")
"""Arrays that the earliest revisions did not save."""


def snapshot_parts(snapshot: Snapshot) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and state, by names that begin with ``env``."""
    tensors = {
        f"env.{name}": torch.from_numpy(getattr(snapshot, name)) for name in ("physics", *_LATER)
    }
    state = {
        "env_elapsed_steps": snapshot.elapsed_steps,
        "env_random": snapshot.random_state,
        "env_conditions": snapshot.conditions.model_dump(),
        "env_own_random": snapshot.own_random_state,
    }
    return tensors, state


def snapshot_of(tensors: dict[str, Tensor], state: dict[str, Any]) -> Snapshot:
    """The snapshot of which a checkpoint has the parts; what it has not is empty."""
    empty = torch.zeros(0, dtype=torch.float64)
    return Snapshot(
        physics=tensors["env.physics"].numpy(),
        elapsed_steps=state["env_elapsed_steps"],
        random_state=state["env_random"],
        conditions=Conditions.model_validate(state.get("env_conditions", {})),
        own_random_state=state.get("env_own_random", {}),
        **{name: tensors.get(f"env.{name}", empty).numpy() for name in _LATER},
    )
