"""A bundle with its small networks for planning learned anew, from nothing but the bundle itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from maac_learning.benchmarks.bundle_networks import in_torch
from maac_learning.config import PlanningConfig
from maac_learning.distillation import learn_planning_networks
from maac_learning.export import export_graph
from maac_ros.bundle import GOLDEN, Bundle, write_bundle
from maac_ros.command_range import CommandRange
from maac_ros.inference import Array, bundle_signatures
from maac_ros.simulation import TaskEnv
from maac_ros.task import PlannerSettings

_STEPS_PLAYED = 10_000
_NOISE = (0.0, 0.5, 1.0, 2.0)
"""Of the policy that is played, episode by episode in turn, in its own standard deviations."""


def export_renewed(
    bundle: Bundle,
    path: Path,
    planner: PlannerSettings | None = None,
    config: PlanningConfig | None = None,
    seed: int = 0,
) -> Bundle:
    """Write ``bundle`` to ``path`` with small networks learned from its own, on states that its policy comes through.

    Args:
        bundle: a verified bundle.
        path: folder to create or replace.
        planner: of the new bundle; by default its own.
        config: as in training; by default :func:`own_config`.
        seed: of the episodes played, and of learning.

    Raises:
        TaskError: when its task cannot be simulated here.
        BenchmarkError: when its graphs are none of this project's networks.
        BundleError: when what was written does not verify.
    """
    manifest, task = bundle.manifest, bundle.task
    networks = in_torch(bundle)
    own: dict[str, nn.Module] = {
        name: getattr(networks, name).module for name in ("policy", "step", "value")
    }
    observations = torch.from_numpy(_played(bundle, seed))
    learned, told = learn_planning_networks(
        own, task, observations, manifest.discount, config or own_config(bundle), seed
    )
    fields: dict[str, Any] = {
        **dict(manifest),
        "distilled": None,
        **told,
        "task": task.model_copy(update={"planner": planner or task.planner}),
    }
    signatures = bundle_signatures(
        len(manifest.observation),
        len(manifest.action),
        manifest.members,
        manifest.critics,
        state_value=True,
        distilled="distilled_step" in learned,
    )
    kept = [name for name in signatures if name not in learned]
    graphs = {name: (bundle.path / f"{name}.onnx").read_bytes() for name in kept}
    with np.load(bundle.path / GOLDEN, allow_pickle=False) as archive:
        golden = {key: archive[key] for key in archive if key.split(".")[0] in kept}
    inputs = {key: torch.from_numpy(golden[f"value.{key}"]) for key in ("observation", "action")}
    for name, module in learned.items():
        graphs[name], arrays = export_graph(module, signatures[name], inputs)
        golden |= {f"{name}.{key}": value for key, value in arrays.items()}
    return write_bundle(path, fields, graphs, golden)


def own_config(bundle: Bundle) -> PlanningConfig:
    """That of training, with as many model steps in V(s) as ``bundle`` has in its own, where it has one."""
    known = bundle.manifest.state_value
    steps = {} if known is None else {"value_steps": known.model_steps}
    return PlanningConfig().model_copy(update=steps)


def _played(bundle: Bundle, seed: int) -> Array:
    """Observations (N, O) of episodes that the policy plays with and without noise."""
    commands, random = CommandRange(bundle.task), np.random.default_rng(seed)
    env = TaskEnv(bundle.task)
    seen: list[Array] = []
    episode, ended = 0, False
    observation, _ = env.reset(seed=seed)
    while len(seen) < _STEPS_PLAYED:
        if ended:
            observation, _ = env.reset()
            episode += 1
        seen.append(np.asarray(observation, np.float32))
        action, std = bundle.policy(observation=seen[-1][None])
        noise = _NOISE[episode % len(_NOISE)] * random.standard_normal(action.shape[1])
        command = np.clip((action + std * noise)[0], commands.low, commands.high)
        observation, _, terminated, truncated, _ = env.step(command.astype(np.float64))
        ended = terminated or truncated
    env.close()
    return np.stack(seen)
