"""Simulated worlds: what moves a robot between two states, read and driven by :mod:`maac_ros.simulation`.

A world is MuJoCo's model and data, a way to begin an episode, and one control period at a time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol, cast

import gymnasium
import mujoco
import numpy as np

from maac_ros.errors import TaskError
from maac_ros.observation import Vector
from maac_ros.resources import world_file
from maac_ros.task import Task
from maac_ros.world_terms import JointReset, ResetTerm

_FRAME_SIZE = 480
"""Width and height of a rendered frame, pixels."""


class World(Protocol):
    """One simulated world.

    Attributes:
        name: of where it comes from, for messages.
        model, data: MuJoCo's.
    """

    name: str
    model: mujoco.MjModel
    data: mujoco.MjData

    @property
    def elapsed_steps(self) -> int:
        """Control steps since the episode began."""

    @property
    def random_state(self) -> dict[str, Any]:
        """State of the stream that draws initial states."""

    def resume(self, elapsed_steps: int, random_state: dict[str, Any]) -> None:
        """Be in the episode that these were taken from; the physics is up to the caller."""

    def begin(self, seed: int | None) -> None:
        """Start an episode. A seed restarts the random stream; without one it goes on."""

    def step(self, control: Vector) -> tuple[float, bool]:
        """Hold ``control`` (``model.nu``,) for one period; reward and termination that the world has of its own."""

    def render(self) -> Any:
        """One frame."""

    def close(self) -> None: ...


def make_world(task: Task, render_mode: str | None) -> World:
    """The world that ``task.simulation`` names.

    Raises:
        TaskError: when there is none, or its step is not the task's period.
    """
    if task.simulation.mjcf is not None:
        return MjcfWorld(task, render_mode)
    return GymnasiumWorld(task, render_mode)


def joint_id(world: World, task: Task, name: str, field: str) -> int:
    """MuJoCo's index of a joint that ``field`` of ``task`` names.

    Raises:
        TaskError: when there is none of that name; the message lists those that there are.
    """
    joint = mujoco.mj_name2id(world.model, mujoco.mjtObj.mjOBJ_JOINT, name)
    if joint < 0:
        known = ", ".join(world.model.joint(i).name for i in range(world.model.njnt))
        raise TaskError(
            f"task '{task.name}': {field}: no joint '{name}' in {world.name}; expected one of: {known}"
        )
    return int(joint)


def free_joint_id(world: World, task: Task) -> int:
    """MuJoCo's index of the joint that carries the floating base: the one that the task names, or the only one.

    Raises:
        TaskError: when there is no such joint, or more than one.
    """
    assert task.robot.base is not None
    name, where = task.robot.base.joint, f"task '{task.name}': robot.base.joint: "
    if name is None:
        free = np.flatnonzero(world.model.jnt_type == mujoco.mjtJoint.mjJNT_FREE)
        if free.size != 1:
            raise TaskError(
                f"{where}missing, and {world.name} has {free.size} free joints; expected the name of one, or a world "
                "that has exactly one"
            )
        return int(free[0])
    joint = joint_id(world, task, name, "robot.base.joint")
    if world.model.jnt_type[joint] != mujoco.mjtJoint.mjJNT_FREE:
        raise TaskError(f"{where}'{name}' is not a free joint in {world.name}")
    return joint


class GymnasiumWorld:
    """A Gymnasium MuJoCo environment, with the rewards and terminations of its own."""

    def __init__(self, task: Task, render_mode: str | None) -> None:
        simulation = task.simulation
        self.name = simulation.gymnasium_id or ""
        try:
            self._env = gymnasium.make(
                self.name,
                max_episode_steps=simulation.episode_steps,
                disable_env_checker=True,
                render_mode=render_mode,
                **simulation.kwargs,
            )
        except (gymnasium.error.Error, TypeError) as reason:
            raise TaskError(
                f"task '{task.name}': simulation: gymnasium.make('{self.name}', {simulation.kwargs}) failed: {reason}"
            ) from reason
        # gymnasium.Env declares neither model nor data.
        self._mujoco = cast(Any, self._env.unwrapped)
        if not hasattr(self._mujoco, "model") or not hasattr(self._mujoco, "frame_skip"):
            raise TaskError(
                f"task '{task.name}': simulation.gymnasium_id: '{self.name}' is not a MuJoCo environment"
            )
        self._limit = _time_limit(self._env)
        self.model: mujoco.MjModel = self._mujoco.model
        self.data: mujoco.MjData = self._mujoco.data
        period = float(self._mujoco.dt)
        if not math.isclose(period, task.control.period_s, rel_tol=1e-9):
            raise TaskError(
                f"task '{task.name}': control.period_s: got {task.control.period_s}; "
                f"expected {period:g}, the step of {self.name}"
            )

    @property
    def elapsed_steps(self) -> int:
        return self._limit._elapsed_steps or 0

    @property
    def random_state(self) -> dict[str, Any]:
        state: dict[str, Any] = self._mujoco.np_random.bit_generator.state
        return state

    def resume(self, elapsed_steps: int, random_state: dict[str, Any]) -> None:
        self._env.reset(seed=0)  # the wrappers refuse to step before a first reset
        self._limit._elapsed_steps = elapsed_steps
        self._mujoco.np_random.bit_generator.state = random_state

    def begin(self, seed: int | None) -> None:
        self._env.reset(seed=seed)

    def step(self, control: Vector) -> tuple[float, bool]:
        _, reward, terminated, _, _ = self._env.step(control.copy())
        return float(reward), bool(terminated)

    def render(self) -> Any:
        return self._env.render()

    def close(self) -> None:
        self._env.close()


def _time_limit(env: gymnasium.Env[Any, Any]) -> Any:
    while not isinstance(env, gymnasium.wrappers.TimeLimit):
        assert isinstance(env, gymnasium.Wrapper), (
            "gymnasium.make adds a TimeLimit for max_episode_steps"
        )
        env = env.env
    return env


class MjcfWorld:
    """A world from an MJCF file. Reward and termination are the task's."""

    def __init__(self, task: Task, render_mode: str | None) -> None:
        simulation = task.simulation
        path = world_file(simulation.mjcf or "")
        self.name = path.name
        try:
            self.model = mujoco.MjModel.from_xml_path(str(path))
        except ValueError as reason:
            raise TaskError(
                f"task '{task.name}': simulation.mjcf: MuJoCo cannot load '{path}': {reason}"
            ) from reason
        self.data = mujoco.MjData(self.model)
        self._elapsed_steps = 0
        steps = task.control.period_s / self.model.opt.timestep
        self._substeps = round(steps)
        if self._substeps < 1 or not math.isclose(steps, self._substeps, rel_tol=1e-6):
            raise TaskError(
                f"task '{task.name}': control.period_s: got {task.control.period_s}; expected a multiple of "
                f"{self.model.opt.timestep:g}, the timestep of {self.name}"
            )
        self._keyframe = self._keyframe_id(task)
        self._spreads = [
            (place, term.offset) for term in simulation.reset for place in self._places(task, term)
        ]
        self._random = np.random.default_rng()
        self._renders = render_mode == "rgb_array"
        self._renderer: mujoco.Renderer | None = None

    @property
    def elapsed_steps(self) -> int:
        return self._elapsed_steps

    @property
    def random_state(self) -> dict[str, Any]:
        return dict(self._random.bit_generator.state)

    def resume(self, elapsed_steps: int, random_state: dict[str, Any]) -> None:
        self._elapsed_steps = elapsed_steps
        self._random.bit_generator.state = random_state

    def begin(self, seed: int | None) -> None:
        if seed is not None:
            self._random = np.random.default_rng(seed)
        if self._keyframe is None:
            mujoco.mj_resetData(self.model, self.data)
        else:
            mujoco.mj_resetDataKeyframe(self.model, self.data, self._keyframe)
        for place, (low, high) in self._spreads:
            place.add(self.data, self._random.uniform(low, high))
        mujoco.mj_forward(self.model, self.data)
        self._elapsed_steps = 0

    def step(self, control: Vector) -> tuple[float, bool]:
        self.data.ctrl[:] = control
        mujoco.mj_step(self.model, self.data, self._substeps)
        self._elapsed_steps += 1
        return 0.0, False

    def render(self) -> Any:
        if not self._renders:
            return None
        if self._renderer is None:
            self._renderer = mujoco.Renderer(self.model, _FRAME_SIZE, _FRAME_SIZE)
        # The robot's own camera, where the MJCF has one.
        self._renderer.update_scene(self.data, camera=0 if self.model.ncam else -1)
        return self._renderer.render()

    def close(self) -> None:
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def _keyframe_id(self, task: Task) -> int | None:
        name = task.simulation.keyframe
        if name is None:
            return None
        key = mujoco.mj_name2id(self.model, mujoco.mjtObj.mjOBJ_KEY, name)
        if key < 0:
            known = ", ".join(self.model.key(i).name for i in range(self.model.nkey)) or "none"
            raise TaskError(
                f"task '{task.name}': simulation.keyframe: no keyframe '{name}' in {self.name}; "
                f"expected one of: {known}"
            )
        return int(key)

    def _places(self, task: Task, term: ResetTerm) -> list[_Place]:
        """What ``term`` adds to, one after the other."""
        model, moves = self.model, term.term.endswith("velocity")
        addresses = model.jnt_dofadr if moves else model.jnt_qposadr
        if isinstance(term, JointReset):
            joints = [joint_id(self, task, joint, "simulation.reset") for joint in term.joints]
            return [_Place(moves, int(addresses[joint])) for joint in joints]
        first = int(addresses[free_joint_id(self, task)])
        turning = 3 if term.term in ("base_rotation", "base_angular_velocity") else 0
        axes = ["xyz".index(axis) for axis in term.axes]
        if term.term == "base_rotation":
            return [_Place(moves, first + turning, np.eye(3)[axis]) for axis in axes]
        return [_Place(moves, first + turning + axis) for axis in axes]


@dataclass(frozen=True)
class _Place:
    """A number of a state.

    Attributes:
        moves: whether it is one of the velocities.
        address: where it is among them, or among the positions.
        axis: (3,) of a rotation, about which the quaternion there is turned; None for a number of its own.
    """

    moves: bool
    address: int
    axis: Vector | None = None

    def add(self, data: mujoco.MjData, offset: float) -> None:
        values = data.qvel if self.moves else data.qpos
        if self.axis is None:
            values[self.address] += offset
            return
        turn = np.empty(4)
        mujoco.mju_axisAngle2Quat(turn, self.axis, offset)
        there = values[self.address : self.address + 4]
        mujoco.mju_mulQuat(there, there.copy(), turn)
