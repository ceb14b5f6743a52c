"""Export to ONNX: graphs that take raw observations and give commands, and the bundle around them."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch
from onnxscript import optimizer
from torch import Tensor, nn

from maac_learning.agent import Agent
from maac_learning.config import AgentConfig, ModelConfig, PlanningConfig
from maac_learning.distillation import learn_planning_networks
from maac_learning.dynamics import DynamicsEnsemble
from maac_learning.graphs import ActionScaling, graph_modules
from maac_ros.bundle import (
    Bundle,
    Calibration,
    Observed,
    Provenance,
    action_fields,
    observation_fields,
    write_bundle,
)
from maac_ros.inference import Array, Signature, bundle_signatures
from maac_ros.provenance import git_revision
from maac_ros.task import Task
from maac_ros.version import __version__

GOLDEN_ROWS = 16

_ANY_SIZE = 1 << 40


def export_bundle(
    path: Path,
    task: Task,
    agent: Agent,
    model: DynamicsEnsemble,
    observations: Tensor,
    *,
    calibration: Calibration | None = None,
    observed: Observed | None = None,
    seed: int = 0,
    env_steps: int = 0,
    evaluation_return: float | None = None,
    training_seconds: float = 0.0,
    planning: PlanningConfig | None = None,
) -> Bundle:
    """Write a bundle and load it back with every check.

    Args:
        path: folder to create or replace.
        task: what was learned.
        agent, model: the learned networks; moved to the CPU for the export, and back.
        observations: (N, O) real observations, the newest last; the golden inputs are taken from them.
        calibration: what the model's errors usually are, where that is known.
        observed: range of the training data, where there is any.
        seed, env_steps, evaluation_return, training_seconds: provenance, by default that of untrained networks.
        planning: how small networks for planning are learned; by default the bundle has none.

    Raises:
        BundleError: when the written bundle does not verify.
    """
    manifest: dict[str, Any] = {
        "task": task,
        "observation": observation_fields(task),
        "action": action_fields(task),
        "control_period_s": task.control.period_s,
        "discount": agent.config.discount,
        "members": model.members,
        "critics": agent.critics.count,
        "calibration": calibration,
        "observed": observed,
        "provenance": Provenance(
            maac_ros_version=__version__,
            git_revision=git_revision(),
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            seed=seed,
            env_steps=env_steps,
            evaluation_return=evaluation_return,
            training_seconds=round(training_seconds, 1),
        ),
    }
    device = next(agent.averaged_policy.parameters()).device
    networks: tuple[nn.Module, ...] = (agent.averaged_policy, agent.critics, model)
    try:
        for network in networks:
            network.cpu()
        modules = graph_modules(agent, model, task)
        if planning is not None and planning.steps > 0:
            learned, told = learn_planning_networks(
                modules, task, observations.cpu(), agent.config.discount, planning, seed
            )
            modules |= learned
            manifest |= told
        signatures = bundle_signatures(
            len(task.observation_entries()),
            len(task.action_entries()),
            model.members,
            agent.critics.count,
            state_value="state_value" in modules,
            distilled="distilled_step" in modules,
        )
        inputs = _golden_inputs(task, observations.cpu(), seed)
        graphs: dict[str, bytes] = {}
        golden: dict[str, Array] = {}
        for name, module in modules.items():
            graphs[name], arrays = export_graph(module, signatures[name], inputs)
            golden |= {f"{name}.{key}": value for key, value in arrays.items()}
    finally:
        for network in networks:
            network.to(device)
    return write_bundle(path, manifest, graphs, golden)


def export_untrained_bundle(task: Task, path: Path, seed: int = 0) -> Bundle:
    """A bundle of randomly initialised networks: the right interface, no skill. For trials of a robot's wiring."""
    torch.manual_seed(seed)
    observations, actions = len(task.observation_entries()), len(task.action_entries())
    agent = Agent(observations, actions, AgentConfig(hidden=(32, 32)), torch.device("cpu"))
    model = DynamicsEnsemble(task, observations, actions, ModelConfig(members=3, hidden=(32, 32)))
    golden = torch.randn(GOLDEN_ROWS, observations)
    return export_bundle(path, task, agent, model, golden, seed=seed)


def _golden_inputs(task: Task, observations: Tensor, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(len(observations), (GOLDEN_ROWS,), generator=generator)
    actions = len(task.action_entries())
    normalized = 2.0 * torch.rand(GOLDEN_ROWS, actions, generator=generator) - 1.0
    observation = observations[rows].float()
    return {
        "observation": observation,
        "action": ActionScaling(task).to_command(normalized, observation),
    }


def export_graph(
    module: nn.Module, signature: Signature, golden_inputs: dict[str, Tensor]
) -> tuple[bytes, dict[str, Array]]:
    """Serialise one module; also return its golden inputs and outputs as PyTorch computes them."""
    inputs = {name: _shaped(golden_inputs[name], shape) for name, shape in signature.inputs.items()}
    with torch.no_grad():
        outputs: Any = module(*inputs.values())
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    batch = torch.export.Dim("batch")
    with quiet():
        program = torch.onnx.export(
            module,
            tuple(inputs.values()),
            dynamo=True,
            dynamic_shapes=tuple({shape.index(None): batch} for shape in signature.inputs.values()),
            input_names=list(inputs),
            output_names=list(signature.outputs),
            verbose=False,
        )
    assert program is not None
    arrays = {name: value.numpy() for name, value in inputs.items()}
    arrays |= {
        name: np.asarray(value) for name, value in zip(signature.outputs, outputs, strict=True)
    }
    # Each member's weights become constants of their own, however large.
    graph = optimizer.optimize(
        program.model_proto, input_size_limit=_ANY_SIZE, output_size_limit=_ANY_SIZE
    )
    _remove_traces(graph)
    return graph.SerializeToString(), arrays


def _remove_traces(model: Any) -> None:
    """Remove what the exporter notes of each node's origin: source lines, with the folders of this machine."""
    graph = model.graph
    values = (*graph.input, *graph.output, *graph.value_info, *graph.initializer)
    nodes = (*graph.node, *(node for function in model.functions for node in function.node))
    for part in (model, graph, *model.functions, *nodes, *values):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")


def _shaped(rows: Tensor, shape: tuple[int | None, ...]) -> Tensor:
    """``rows`` (B, n) as they are, or as rows of its own for every member, (E, B, n), as ``shape`` asks."""
    if len(shape) == 2:
        return rows
    return torch.stack([rows.roll(e, dims=0) for e in range(shape[0] or 0)])


@contextlib.contextmanager
def quiet() -> Any:
    """The exporter reports on its own progress and on packages it could use; none of it concerns the user."""
    exporter = logging.getLogger("torch.onnx")
    level = exporter.level
    exporter.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        exporter.setLevel(level)
