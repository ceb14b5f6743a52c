"""A bundle's policy as a LEAPP graph, for NVIDIA's runtime in C++: YAML and ONNX, with names and units of what goes in.

The graph takes what a robot measures, by joint and by quantity, and gives commands in SI units. What the observation
recalls is the graph's own state.
"""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
import torch
from torch import Tensor

from maac_learning.benchmarks.bundle_networks import torch_policy
from maac_learning.export import quiet
from maac_learning.graphs import ActionScaling
from maac_ros.bundle import GOLDEN, Bundle
from maac_ros.errors import BundleError, ConfigError
from maac_ros.memory import Memory
from maac_ros.observation import Vector
from maac_ros.observation_terms import LAST_COMMAND
from maac_ros.safe_command import SafeCommand
from maac_ros.task import Task
from maac_ros.terms import ObservationEntry

NODE = "policy"

_CHECKED_STEPS = 4
_TOLERANCE = 1e-4

_QUIET, _LOUD = 4, 2
"""Severities of ONNX Runtime's log: its loader here asks for a GPU, and complains where there is none."""

_BASE_KINDS = {
    "position": "BODY_POSITION",
    "orientation": "BODY_ROTATION",
    "projected_gravity": "VECTOR3D",
    "linear_velocity": "BODY_LINEAR_VELOCITY",
    "body_linear_velocity": "BODY_LINEAR_VELOCITY",
    "angular_velocity": "BODY_ANGULAR_VELOCITY",
    "world_angular_velocity": "BODY_ANGULAR_VELOCITY",
}
_BODY_FRAME = frozenset(("projected_gravity", "body_linear_velocity", "angular_velocity"))


class _Group(NamedTuple):
    """Entries that come, or go, together as one tensor (1, n)."""

    name: str
    kind: str | None
    elements: list[str]
    places: list[int]
    """In the observation, or in the command."""
    about: dict[str, Any]


def export_leapp(bundle: Bundle, folder: Path) -> Path:
    """Write ``folder/<task>.yaml`` and what it refers to, and compare it with the bundle; returns the file.

    Raises:
        ConfigError: when the package is not installed, ``folder`` exists, or the task recalls commands of joints that
            are told positions: LEAPP's state has a constant to begin with, and there is none that is safe for all.
        BundleError: when the graph, in LEAPP's own loader, does not do what the bundle does.
    """
    try:
        import leapp
    except ImportError as reason:
        raise ConfigError(
            f"--leapp: {reason.name} is not installed; pip install --no-deps leapp"
        ) from reason
    if folder.exists():
        raise ConfigError(f"--leapp: '{folder}' exists already")
    task = bundle.task
    inputs, outputs = observed_groups(task), commanded_groups(task)
    with _quietly():
        leapp.start(str(folder / task.name), save_path=".")
        try:
            _trace(leapp, bundle, inputs, outputs)
        finally:
            leapp.stop()
        configs = leapp.GraphConfigs(frequency=1.0 / task.control.period_s)
        done = leapp.compile_graph(visualize=False, graph_configs=configs)
    written = folder / task.name
    (written / "log.txt").unlink(missing_ok=True)
    description = written / f"{task.name}.yaml"
    if not all(done.values()):
        raise BundleError(f"{description}: LEAPP's own comparison failed: {done}")
    check_leapp(bundle, description)
    return description


def observed_groups(task: Task) -> list[_Group]:
    """What the robot must tell, one tensor for each quantity."""
    groups: dict[str, _Group] = {}
    for place, entry in enumerate(task.observation_entries()):
        if entry.source == "memory":
            continue
        name, kind, element, about = _observed(task, entry)
        group = groups.setdefault(name, _Group(name, kind, [], [], about))
        group.elements.append(element)
        group.places.append(place)
    return list(groups.values())


def _observed(task: Task, entry: ObservationEntry) -> tuple[str, str | None, str, dict[str, Any]]:
    """Name and kind of the tensor that ``entry`` is part of, its name there, and what else is to be said."""
    owner, quantity = entry.name.split("/")
    about: dict[str, Any] = {"source": entry.source, "unit": entry.unit}
    if owner in task.robot.joints and quantity in ("position", "velocity"):
        return f"joint_{quantity}", f"JOINT_{quantity.upper()}", owner, {"source": entry.source}
    if owner == "base":
        what, _, axis = quantity.rpartition("_")
        about["frame"] = "body" if what in _BODY_FRAME else "world"
        return f"base_{what}", _BASE_KINDS[what], axis, about
    if owner == "goal" and task.goal is not None:
        joints = set(task.goal.ranges) <= set(task.robot.joints)
        kind = "COMMAND_JOINT_POSITION" if joints else None
        kind = "COMMAND_BODY_VELOCITY" if task.goal.source == "cmd_vel" else kind
        return "goal", kind, quantity, {"source": entry.source}
    return f"{owner}_{quantity}", None, quantity, about


def commanded_groups(task: Task) -> list[_Group]:
    """What the policy commands, one tensor for each quantity."""
    groups: dict[str, _Group] = {}
    for place, entry in enumerate(task.action_entries()):
        name = f"target_{entry.quantity}"
        kind = f"JOINT_{entry.quantity.upper()}"
        group = groups.setdefault(name, _Group(name, kind, [], [], {"low": [], "high": []}))
        group.elements.append(entry.joint)
        group.places.append(place)
        group.about["low"].append(entry.low * entry.gear)
        group.about["high"].append(entry.high * entry.gear)
    return list(groups.values())


def _trace(leapp: Any, bundle: Bundle, inputs: list[_Group], outputs: list[_Group]) -> None:
    """Let LEAPP see the policy once, from measurements to commands."""
    task = bundle.task
    entries, actions = task.observation_entries(), task.action_entries()
    semantics = [
        leapp.TensorSemantics(
            name=group.name,
            ref=torch.zeros(1, len(group.places)),
            kind=leapp.InputKindEnum[group.kind] if group.kind else None,
            element_names=[group.elements],
            extra=group.about,
        )
        for group in inputs
    ]
    given = leapp.annotate.input_tensors(NODE, semantics)
    told = torch.cat(given if isinstance(given, tuple) else (given,), dim=-1)
    places = [place for group in inputs for place in group.places]
    offset, scale = (
        torch.tensor([getattr(entries[i], part) for i in places]) for part in ("offset", "scale")
    )
    measured = (told - offset) * scale
    memory = Memory(task)
    recalled = state = None
    if memory:
        blank = {"begun": torch.zeros(1, 1), "recalled": torch.zeros(1, len(memory.entries))}
        begun, state = leapp.annotate.state_tensors(NODE, blank)
        recalled = begun * state + (1.0 - begun) * _first(task, memory, inputs, measured)
        measured = torch.cat((measured, recalled), dim=-1)
    observation = measured.index_select(-1, _arrangement(memory, inputs))
    low, high = (torch.tensor([getattr(e, end) for e in entries]) for end in ("low", "high"))
    observation = torch.minimum(torch.maximum(observation, low), high)
    command = torch_policy(bundle)(observation)[0]
    if memory:
        scaling = ActionScaling(task)
        last = torch.cat((observation, scaling.to_action(command, observation)), dim=-1)
        following = last.index_select(-1, torch.from_numpy(memory.sources))
        if memory.turning:
            partner = following.index_select(-1, torch.from_numpy(memory.partner))
            gain, other = (torch.from_numpy(g).float() for g in (memory.gain, memory.partner_gain))
            following = gain * following + other * partner
        leapp.annotate.update_state(NODE, {"begun": torch.ones_like(begun), "recalled": following})
    gear = torch.tensor([entry.gear for entry in actions])
    leapp.annotate.output_tensors(
        NODE,
        [
            leapp.TensorSemantics(
                name=group.name,
                ref=(command * gear).index_select(-1, torch.tensor(group.places)),
                kind=leapp.OutputKindEnum[group.kind or ""],
                element_names=[group.elements],
                extra=group.about,
            )
            for group in outputs
        ],
        export_with="onnx",
    )


def _arrangement(memory: Memory, inputs: list[_Group]) -> Tensor:
    """Where each entry of the observation is in the inputs, one after the other, followed by what is recalled."""
    order = [place for group in inputs for place in group.places] + memory.entries.tolist()
    return torch.from_numpy(np.argsort(order))


def _first(task: Task, memory: Memory, inputs: list[_Group], measured: Tensor) -> Tensor:
    """(1, K) what is recalled before anything was."""
    safe = SafeCommand(task).blind
    recalls_commands = any(LAST_COMMAND in e.name for e in task.observation_entries())
    if recalls_commands and not np.isfinite(safe).all():
        raise ConfigError(
            f"--leapp: task '{task.name}' recalls commands of joints that are told positions; before the first one "
            "there is none that LEAPP could begin with"
        )
    # Recalled entries follow from measured ones alone: those of the memory are never asked for here.
    blank = torch.zeros(1, len(memory.entries))
    now = torch.cat((measured, blank), dim=-1).index_select(-1, _arrangement(memory, inputs))
    begun = torch.from_numpy(np.nan_to_num(safe)).float()[None]
    told = ActionScaling(task).to_action(begun, now)
    first = torch.cat((now, told), dim=-1).index_select(-1, torch.from_numpy(memory.first))
    start = torch.from_numpy(memory.start).float()
    return torch.where(start.isnan(), first, start)


def check_leapp(bundle: Bundle, description: Path) -> None:
    """Play golden observations, one after the other, in LEAPP's loader and in the bundle.

    Raises:
        BundleError: naming the first command that differs.
    """
    import leapp

    task = bundle.task
    inputs, outputs = observed_groups(task), commanded_groups(task)
    memory, safe = Memory(task), SafeCommand(task).blind
    offset, scale = (
        np.array([getattr(entry, part) for entry in task.observation_entries()])
        for part in ("offset", "scale")
    )
    with np.load(bundle.path / GOLDEN, allow_pickle=False) as golden:
        seen = golden["policy.observation"][:_CHECKED_STEPS].astype(np.float64)
    with _quietly():
        loaded = leapp.InferenceManager(str(description))
        last: Vector | None = None
        command: Vector = safe
        for step, observation in enumerate(seen):
            if memory:
                observation = (
                    memory.begin(observation, command)
                    if last is None
                    else memory.go_on(observation, last, command)
                )
            last = observation
            single = observation.astype(np.float32)
            command = bundle.policy(observation=single[None])[0][0].astype(np.float64)
            told = (observation / scale + offset).astype(np.float32)
            got = loaded(
                {f"{NODE}/{g.name}": torch.from_numpy(told[None, g.places]) for g in inputs}
            )
            for group in outputs:
                commanded = got[f"{NODE}/{group.name}"].numpy()[0]
                for place, value in zip(group.places, commanded, strict=True):
                    entry = task.action_entries()[place]
                    wanted = command[place] * entry.gear
                    if not math.isclose(
                        value, wanted, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE * entry.gear
                    ):
                        raise BundleError(
                            f"{description}: step {step}: {entry.name} is {value:g} in LEAPP and {wanted:g} in the "
                            "bundle"
                        )


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """LEAPP and ONNX Runtime report on their own progress, beside the exporter; failures are raised."""
    onnxruntime.set_default_logger_severity(_QUIET)
    try:
        with quiet(), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        onnxruntime.set_default_logger_severity(_LOUD)
