"""A bundle with its V(s) learned anew, from nothing but the bundle itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from maac_learning.benchmarks.bundle_networks import in_torch
from maac_learning.config import TrainConfig
from maac_learning.export import export_graph
from maac_learning.state_value import learn_state_value
from maac_ros import inference
from maac_ros.bundle import GOLDEN, Bundle, write_bundle
from maac_ros.command_range import CommandRange
from maac_ros.inference import Array
from maac_ros.simulation import TaskEnv

_STEPS = TrainConfig().state_value_steps
_STEPS_PLAYED = 10_000
_NOISE = (0.0, 0.5, 1.0, 2.0)
"""Of the policy that is played, episode by episode in turn, in its own standard deviations."""


def export_renewed(bundle: Bundle, path: Path, seed: int = 0) -> Bundle:
    """Write ``bundle`` to ``path`` with its V(s) learned from its critics, on states that its policy comes through.

    Plans then use it, unless the task closes them by the least of the critics.

    Raises:
        TaskError: when its task cannot be simulated here.
        BenchmarkError: when its graphs are none of this project's networks.
        BundleError: when what was written does not verify.
    """
    manifest = bundle.manifest
    networks = in_torch(bundle)
    modules: dict[str, nn.Module] = {
        name: getattr(networks, name).module for name in ("policy", "step", "value")
    }
    observations = torch.from_numpy(_played(bundle, seed))
    state_value, known = learn_state_value(
        modules,
        bundle.task,
        manifest.members,
        observations,
        modules["value"].critics.hidden,  # type: ignore[union-attr, arg-type]
        _STEPS,
        seed,
    )
    fields: dict[str, Any] = dict(manifest)
    planner = bundle.task.planner
    if planner.terminal_value == "mean":
        planner = planner.model_copy(update={"terminal_value": "state_value"})
    fields |= {
        "task": bundle.task.model_copy(update={"planner": planner}),
        "state_value": known,
    }
    signature = inference.state_value_signature(len(manifest.observation))
    kept = [name for name in manifest.signatures() if name != "state_value"]
    graphs = {name: (bundle.path / f"{name}.onnx").read_bytes() for name in kept}
    with np.load(bundle.path / GOLDEN, allow_pickle=False) as archive:
        golden = {key: archive[key] for key in archive if key.split(".")[0] in kept}
    inputs = {"observation": torch.from_numpy(golden["policy.observation"])}
    graphs["state_value"], arrays = export_graph(state_value, signature, inputs)
    golden |= {f"state_value.{key}": value for key, value in arrays.items()}
    return write_bundle(path, fields, graphs, golden)


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
