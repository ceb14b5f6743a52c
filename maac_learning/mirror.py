"""A robot's mirror image: twice the data wherever left and right can be exchanged."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from maac_ros.command_range import CommandRange
from maac_ros.conditions import Randomization
from maac_ros.errors import TaskError
from maac_ros.observation import ObservationBuilder, RobotState, Vector, flat_names
from maac_ros.robot import Mirror
from maac_ros.simulation import Simulation
from maac_ros.task import Task

_TRIALS = 20


class MirrorImage(nn.Module):
    """A task's :class:`~maac_ros.task.Mirror` on the vectors that the model learns from.

    Raises:
        TaskError: when the task has no mirror.
    """

    _input_from: Tensor
    _input_sign: Tensor
    _target_from: Tensor
    _target_sign: Tensor

    def __init__(self, task: Task) -> None:
        super().__init__()
        mirror = task.robot.mirror
        if mirror is None:
            raise TaskError(f"task '{task.name}': robot.mirror is missing")
        observation = _image(mirror, [entry.name for entry in task.observation_entries()])
        action = _image(mirror, [entry.name for entry in task.action_entries()])
        # The reward is the same in the mirror.
        reward = np.array([0]), np.array([1.0])
        for name, parts in (("input", (observation, action)), ("target", (observation, reward))):
            (first, sign), (second, other) = parts
            index = np.concatenate((first, len(first) + second))
            signs = np.concatenate((sign, other))
            self.register_buffer(f"_{name}_from", torch.from_numpy(index), persistent=False)
            self.register_buffer(f"_{name}_sign", torch.from_numpy(signs).float(), persistent=False)

    def forward(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs (..., O + A) and targets (..., O + 1) of the model, raw, as they are in the mirror."""
        return (
            inputs[..., self._input_from] * self._input_sign,
            targets[..., self._target_from] * self._target_sign,
        )


def check_mirror(task: Task, seed: int = 0) -> None:
    """Let the simulated robot and its mirror image do the same from random states, and compare.

    Raises:
        TaskError: naming the quantity that differs most, where the task's mirror is not one.
    """
    mirror = task.robot.mirror
    if mirror is None:
        return
    # The robot is compared with itself: both must be alike, and seen as they are.
    alike = task.simulation.model_copy(update={"randomize": Randomization()})
    task = task.model_copy(update={"simulation": alike})
    names = flat_names(task)
    state_from, state_sign = _image(mirror, names)
    commands = CommandRange(task)
    action_from, action_sign = _image(mirror, [entry.name for entry in commands.entries])
    random = np.random.default_rng(seed)
    robot, image = Simulation(task), Simulation(task)
    builder = ObservationBuilder(task)
    rows, differences = [], []
    state = robot.reset(seed)
    image.reset(seed)
    for _ in range(_TRIALS):
        for _ in range(10):
            outcome = robot.step(random.uniform(commands.low, commands.high))
            state = robot.reset() if outcome.done else outcome.state
        # Placed too, so that neither solver has a warm start.
        robot.place(state)
        image.place(RobotState.from_flat(state.flat()[state_from] * state_sign, task))
        command = random.uniform(commands.low, commands.high)
        ours, theirs = robot.step(command), image.step(command[action_from] * action_sign)
        expected = RobotState.from_flat(ours.state.flat()[state_from] * state_sign, task)
        rows.append(np.append(builder.build(expected), ours.reward))
        differences.append(rows[-1] - np.append(builder.build(theirs.state), theirs.reward))
        state = ours.state
    robot.close()
    image.close()
    _require_alike(
        [*(e.name for e in builder.entries), "reward"],
        rows,
        differences,
        task.name,
        mirror.tolerance,
    )


def _require_alike(
    names: list[str], rows: list[Vector], differences: list[Vector], task: str, tolerance: float
) -> None:
    # The middle of the trials: at an impact the order in which contacts are solved counts.
    share = np.median(np.abs(differences), axis=0) / (np.std(rows, axis=0) + 1e-6)
    worst = int(share.argmax())
    if not share[worst] <= tolerance:
        raise TaskError(
            f"task '{task}': robot.mirror: in the simulation robot and mirror image do not do the same: after one "
            f"step '{names[worst]}' differs by {share[worst]:.2g} of its spread (expected at most {tolerance:g}); "
            "check swap and flip"
        )


def _image(mirror: Mirror, names: list[str]) -> tuple[np.ndarray, Vector]:
    """Where each entry comes from in the mirror, and its sign."""
    images = [mirror.image(name) for name in names]
    return np.array([names.index(image) for image, _ in images]), np.array([s for _, s in images])
