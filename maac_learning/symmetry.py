"""A robot's symmetry: more data from what it did, and nothing to be learned of where it faces."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from maac_learning.config import ModelConfig
from maac_ros.command_range import CommandRange
from maac_ros.conditions import Randomization
from maac_ros.errors import TaskError
from maac_ros.observation import ObservationBuilder, RobotState, Vector, flat_names
from maac_ros.simulation import Simulation
from maac_ros.symmetry import Parts, Symmetry, heading_partner, heading_parts, is_orientation
from maac_ros.task import Task

_TRIALS = 20
_HEADING_TRIED = 2.0
"""rad, to the left."""
_HEADING_TOLERANCE = 0.02
"""Of a quantity's spread: MuJoCo's friction is a pyramid, which does not turn with the robot."""


class Images(nn.Module):
    """All images of a robot under its mirror and turn, on the vectors that the model learns from.

    The first is the robot as it is. Use :func:`images_of`.
    """

    _inputs: Tensor
    _targets: Tensor

    def __init__(self, task: Task, symmetries: Sequence[Symmetry]) -> None:
        super().__init__()
        observation = [entry.name for entry in task.observation_entries()]
        action = [entry.name for entry in task.action_entries()]
        inputs, targets = [], []
        for symmetry in symmetries:
            seen = _matrix(symmetry.parts, observation)
            inputs.append((symmetry.order, _block(seen, _matrix(symmetry.parts, action))))
            # The reward is the same in the image.
            targets.append((symmetry.order, _block(seen, np.ones((1, 1)))))
        self.register_buffer("_inputs", _transposed(_all_images(inputs)), persistent=False)
        self.register_buffer("_targets", _transposed(_all_images(targets)), persistent=False)

    def __len__(self) -> int:
        return len(self._inputs)

    def forward(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Random rows (..., B, O + A) and (..., B, O + 1), raw, with as many of them in each image."""
        parts = zip(
            inputs.tensor_split(len(self), dim=-2),
            targets.tensor_split(len(self), dim=-2),
            self._inputs,
            self._targets,
            strict=True,
        )
        images = [(given @ i, wanted @ t) for given, wanted, i, t in parts]
        return torch.cat([i for i, _ in images], dim=-2), torch.cat([t for _, t in images], dim=-2)

    def all(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """All images of rows (N, ...), one after the other."""
        return (inputs @ self._inputs).flatten(0, 1), (targets @ self._targets).flatten(0, 1)


def images_of(task: Task, config: ModelConfig) -> Images | None:
    """What the settings use of the robot's mirror and turn, where it has any."""
    symmetries = _used(task, config)
    return Images(task, [*symmetries.values()]) if symmetries else None


def _used(task: Task, config: ModelConfig) -> dict[str, Symmetry]:
    used = {"mirror": config.mirror, "turn": config.turn}
    return {name: each for name, each in task.robot.symmetries.items() if used[name]}


class Facing(NamedTuple):
    """Where rows (..., 1) face: cosine and sine of half the heading, and of all of it."""

    half: tuple[Tensor, Tensor]
    whole: tuple[Tensor, Tensor]


class HeadingFrame(nn.Module):
    """The frame whose x axis points where the robot faces, for the N first of an observation's entries or more.

    What a robot does on level ground is the same in this frame whatever its heading: a model that sees it in no other
    need not learn that.
    """

    _partner: Tensor
    _still: Tensor
    _half: Tensor
    _whole: Tensor

    def __init__(self, task: Task) -> None:
        super().__init__()
        names = [entry.name for entry in task.observation_entries()]
        place = {name: i for i, name in enumerate(names)}
        self._quaternion = [place[f"base/orientation_{part}"] for part in "wxyz"]
        partner = np.arange(len(names))
        # Rows are factors of cosine and sine, of half the heading and of all of it.
        half, whole = np.zeros((2, 2, len(names)), np.float32)
        for i, name in enumerate(names):
            found = heading_partner(name)
            if found is not None:
                partner[i] = place[found.name]
                (half if is_orientation(name) else whole)[:, i] = 1.0, found.sign
        self.register_buffer("_partner", torch.from_numpy(partner), persistent=False)
        self.register_buffer("_half", torch.from_numpy(half), persistent=False)
        self.register_buffer("_whole", torch.from_numpy(whole), persistent=False)
        self.register_buffer("_still", 1.0 - self._half[0] - self._whole[0], persistent=False)

    def facing(self, observation: Tensor) -> Facing:
        """Where observations (..., O) face; of a robot that lies on its back, where its belly would be its back."""
        w, x, y, z = (observation[..., i : i + 1] for i in self._quaternion)
        # Upside down w and z vanish, and turn with the heading as well as x and y, which do not.
        upright = w * w + z * z >= x * x + y * y
        first, second = torch.where(upright, w, x), torch.where(upright, z, y)
        # A model's quaternions may be of any length, and vanish.
        length = (first * first + second * second + 1e-12).sqrt()
        cos, sin = first / length, second / length
        return Facing((cos, sin), (cos * cos - sin * sin, 2.0 * cos * sin))

    def into(self, vectors: Tensor, facing: Facing) -> Tensor:
        """Observations, or changes of them, (..., O + more) in the robot's frame."""
        return self._turn(vectors, facing, -1.0)

    def out_of(self, vectors: Tensor, facing: Facing) -> Tensor:
        """The reverse of :meth:`into`."""
        return self._turn(vectors, facing, 1.0)

    def variance_out_of(self, variances: Tensor, facing: Facing) -> Tensor:
        """Variances (..., O + more) of independent components, in the frame of the world."""
        return self._mixed(variances, *(self._gains(facing, 1.0)), square=True)

    def _turn(self, vectors: Tensor, facing: Facing, direction: float) -> Tensor:
        return self._mixed(vectors, *self._gains(facing, direction), square=False)

    def _gains(self, facing: Facing, direction: float) -> tuple[Tensor, Tensor]:
        (half_cos, half_sin), (cos, sin) = facing
        own = self._still + half_cos * self._half[0] + cos * self._whole[0]
        others = half_sin * self._half[1] + sin * self._whole[1]
        return own, direction * others

    def _mixed(self, vectors: Tensor, own: Tensor, others: Tensor, square: bool) -> Tensor:
        size = len(self._partner)
        observed, more = vectors[..., :size], vectors[..., size:]
        partner = observed.index_select(-1, self._partner)
        if square:
            own, others = own * own, others * others
        return torch.cat((own * observed + others * partner, more), dim=-1)


def heading_frame_of(task: Task, config: ModelConfig) -> HeadingFrame | None:
    """The frame in which the model learns, where that is not the world's.

    A learned reward is one of the world, such as that for going to the east, and learned there.
    """
    base = task.robot.base
    if not config.heading or config.reward == "learned" or base is None or not base.any_heading:
        return None
    names = [entry.name for entry in task.observation_entries()]
    return HeadingFrame(task) if any(heading_partner(name) for name in names) else None


def check_symmetry(task: Task, config: ModelConfig, seed: int = 0) -> None:
    """Let the simulated robot and its images do the same from random states, and compare.

    Raises:
        TaskError: naming the quantity that differs most, where what the task says of its robot's symmetry, and the
            model makes use of, is not so.
    """
    for field, symmetry in _used(task, config).items():
        _check_parts(task, f"robot.{field}", symmetry.parts, symmetry.tolerance, True, seed)
    if heading_frame_of(task, config) is not None:
        _check_parts(
            task,
            "robot.base.any_heading",
            lambda name: heading_parts(name, _HEADING_TRIED),
            _HEADING_TOLERANCE,
            False,
            seed,
        )


def _check_parts(
    task: Task,
    where: str,
    parts: Callable[[str], Parts],
    tolerance: float,
    rewarded_alike: bool,
    seed: int,
) -> None:
    # The robot is compared with itself: both must be alike, and seen as they are.
    alike = task.simulation.model_copy(update={"randomize": Randomization()})
    task = task.model_copy(update={"simulation": alike})
    of_state = _matrix(parts, flat_names(task))
    commands = CommandRange(task)
    of_action = _matrix(parts, [entry.name for entry in commands.entries])
    random = np.random.default_rng(seed)
    robot, image = Simulation(task), Simulation(task)
    builder = ObservationBuilder(task)
    rows, differences = [], []
    state = robot.reset(seed)
    image.reset(seed)

    def seen_as(state: RobotState) -> RobotState:
        # What nothing is known of stays so, and is no part of anything else.
        numbers = state.flat()
        known = np.nan_to_num(numbers)
        return RobotState.from_flat(np.where(np.isnan(numbers), np.nan, of_state @ known), task)

    for _ in range(_TRIALS):
        for _ in range(10):
            outcome = robot.step(random.uniform(commands.low, commands.high))
            state = robot.reset() if outcome.done else outcome.state
        # Placed too, so that neither solver has a warm start.
        robot.place(state)
        image.place(seen_as(state))
        command = random.uniform(commands.low, commands.high)
        ours, theirs = robot.step(command), image.step(of_action @ command)
        expected = seen_as(ours.state)
        row, other = builder.build(expected), builder.build(theirs.state)
        if rewarded_alike:
            row, other = np.append(row, ours.reward), np.append(other, theirs.reward)
        rows.append(row)
        differences.append(row - other)
        state = ours.state
    robot.close()
    image.close()
    names = [*(e.name for e in builder.entries), "reward"]
    _require_alike(names, rows, differences, task.name, where, tolerance)


def _require_alike(
    names: list[str],
    rows: list[Vector],
    differences: list[Vector],
    task: str,
    where: str,
    tolerance: float,
) -> None:
    # The middle of the trials: at an impact the order in which contacts are solved counts.
    share = np.median(np.abs(differences), axis=0) / (np.std(rows, axis=0) + 1e-6)
    worst = int(share.argmax())
    if not share[worst] <= tolerance:
        raise TaskError(
            f"task '{task}': {where}: in the simulation robot and image do not do the same: after one step "
            f"'{names[worst]}' differs by {share[worst]:.2g} of its spread (expected at most {tolerance:g})"
        )


def _matrix(parts: Callable[[str], Parts], names: Sequence[str]) -> Vector:
    """(N, N) that makes the image of what ``names`` name."""
    matrix = np.zeros((len(names), len(names)))
    for row, name in enumerate(names):
        for part, factor in parts(name).items():
            matrix[row, names.index(part)] = factor
    return matrix


def _block(first: Vector, second: Vector) -> Vector:
    size = len(first) + len(second)
    whole = np.zeros((size, size))
    whole[: len(first), : len(first)], whole[len(first) :, len(first) :] = first, second
    return whole


def _all_images(generators: Sequence[tuple[int, Vector]]) -> list[Vector]:
    """What symmetries come to one after the other, each up to its order less one; the first changes nothing."""
    found = [np.eye(len(generators[0][1]))]
    for order, matrix in generators:
        turns = [np.linalg.matrix_power(matrix, k) for k in range(order)]
        found = [turn @ image for turn in turns for image in found]
    return found


def _transposed(matrices: Sequence[Vector]) -> Tensor:
    return torch.from_numpy(np.stack([m.T for m in matrices])).float().contiguous()
