"""The simulated robot of a task, read and driven by joint name."""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass
from typing import Any, Literal

import gymnasium
import mujoco
import numpy as np

from maac_ros import schema
from maac_ros.action_terms import ActionEntry, Quantity
from maac_ros.command_range import CommandRange
from maac_ros.conditions import Conditions
from maac_ros.errors import ConfigError, TaskError
from maac_ros.memory import Memory
from maac_ros.observation import ObservationBuilder, RobotState, Vector
from maac_ros.rules import Rules
from maac_ros.safe_command import SafeCommand
from maac_ros.task import Task
from maac_ros.worlds import free_joint_id, joint_id, make_world

logger = logging.getLogger(__name__)

# MuJoCo would append its warnings to a file in the working directory.
mujoco.set_mju_user_warning(logger.debug)

_PHYSICS = mujoco.mjtState.mjSTATE_INTEGRATION

_OWN_STREAM = 1
"""Sets the stream that draws goals, conditions and noise apart from others of the same seed."""

_UNSTABLE = (
    mujoco.mjtWarning.mjWARN_BADQPOS,
    mujoco.mjtWarning.mjWARN_BADQVEL,
    mujoco.mjtWarning.mjWARN_BADQACC,
)

_JOINT_TYPES = {
    "revolute": mujoco.mjtJoint.mjJNT_HINGE,
    "prismatic": mujoco.mjtJoint.mjJNT_SLIDE,
}


@dataclass(frozen=True)
class StepResult:
    """Outcome of one control step. ``reward`` is on the task's own scale."""

    state: RobotState
    reward: float
    terminated: bool
    truncated: bool

    @property
    def done(self) -> bool:
        return self.terminated or self.truncated


@dataclass(frozen=True)
class Snapshot:
    """A moment of a simulation.

    Attributes:
        physics: MuJoCo's integration state, warm start included.
        elapsed_steps: control steps since the episode began.
        random_state: of the stream that draws initial states.
        goal: (G,) what is asked for.
        conditions: see :class:`Conditions`.
        pending: (D, A) commands that have not acted yet.
        own_random_state: of the stream that draws goals, conditions and noise; empty in what is older than it.
        seen: (O,) the last observation; empty where the task recalls nothing.
        measured: (J + S,) efforts of the joints and readings of the sensors; empty in what is older than those.
    """

    physics: Vector
    elapsed_steps: int
    random_state: dict[str, Any]
    goal: Vector
    conditions: Conditions
    pending: Vector
    own_random_state: dict[str, Any]
    seen: Vector
    measured: Vector


@dataclass(frozen=True)
class _Matter:
    """What a robot is made of, as the MJCF has it."""

    mass: Vector
    inertia: Vector
    friction: Vector
    gain: Vector
    bias: Vector


class Simulation:
    """One simulated robot.

    Raises:
        TaskError: when the task names joints, a base, gears or a period that the MJCF does not have.
    """

    def __init__(self, task: Task, render_mode: str | None = None) -> None:
        self.task = task
        self._world = make_world(task, render_mode)
        self.model, self.data = self._world.model, self._world.data
        addresses = [self._joint_address(name) for name in task.robot.joints]
        self._qpos = np.array([a[0] for a in addresses])
        self._qvel = np.array([a[1] for a in addresses])
        self._base = self._base_address()
        self._sensors = np.array([self._sensor(name) for name in task.sensors], dtype=np.intp)
        self._actuators = np.array([self._actuator(entry) for entry in task.action_entries()])
        self._control = np.zeros(self.model.nu)
        ranges = np.array(list(task.goal.ranges.values()) if task.goal else []).reshape(-1, 2)
        self._goal_low, self._goal_high = ranges.T
        self._goal = self._goal_low.copy()
        every_s = task.goal.changes_every_s if task.goal else None
        self._change_chance = 0.0 if every_s is None else task.control.period_s / every_s
        self._asked: Vector | None = None
        self._random = np.random.default_rng()
        # Gymnasium's environments judge for themselves.
        self._rules = Rules(task) if task.simulation.mjcf is not None else None
        self._own = _Matter(
            self.model.body_mass.copy(),
            self.model.body_inertia.copy(),
            self.model.geom_friction.copy(),
            self.model.actuator_gainprm.copy(),
            self.model.actuator_biasprm.copy(),
        )
        self._conditions = Conditions()
        self._altered: dict[str, Any] = {}
        self._safe = SafeCommand(task)
        self._pending: deque[Vector] = deque()
        self._memory, self._builder = Memory(task), ObservationBuilder(task)
        self._last: Vector = np.zeros(len(self._builder.entries) if self._memory else 0)
        self._measure()

    def reset(self, seed: int | None = None) -> RobotState:
        """Start an episode. A seed restarts the random stream; without one it goes on."""
        self._world.begin(seed)
        if seed is not None:
            # A stream of its own: the world's one may be Gymnasium's.
            self._random = np.random.default_rng([seed, _OWN_STREAM])
        self._draw_goal()
        self._be(self._drawn_conditions())
        self._measure()
        state = self.state()
        # What a robot is told that nobody has commanded yet.
        self._safe.forget()
        self._pending = deque([self._safe.values(state.joints)] * self._conditions.delay_steps)
        state = self._seen(state)
        if self._memory:
            self._safe.forget()
            told = self._safe.values(state.joints)
            self._last = self._memory.begin(self._builder.build(state), told)
            state.memory = self._last[self._memory.entries]
        return state

    def _recall(self, state: RobotState, last: Vector, command: Vector) -> None:
        """Let ``state`` recall what follows from the ``last`` observation and ``command``."""
        if self._memory:
            self._last = self._memory.go_on(self._builder.build(state), last, command)
            state.memory = self._last[self._memory.entries]

    def _drawn_conditions(self) -> Conditions:
        drawn = self.task.simulation.randomize.draw(self._random)
        return drawn.model_copy(update=self._altered)

    def _draw_goal(self) -> None:
        drawn = self._random.uniform(self._goal_low, self._goal_high)
        self._goal = drawn if self._asked is None else self._asked

    def ask(self, goal: Vector) -> None:
        """Let ``goal`` (G,), in the order of the task's goal term, hold from now on, and no more be drawn."""
        self._asked = self._goal = np.clip(goal, self._goal_low, self._goal_high)

    def step(self, command: Vector) -> StepResult:
        """Hold ``command`` (A,), in the order of ``task.action_entries()``, for one control period."""
        before = self.state() if self._rules is not None else None
        self._pending.append(np.array(command, dtype=np.float64))
        # float64 throughout: the control cost is rounded in the dtype of the action.
        self._control[self._actuators] = self._pending.popleft()
        reward, terminated = self._world.step(self._control)
        self._measure()
        last, state = self._last, self.state()
        if self._rules is not None and before is not None:
            self._recall(state, last, command)
            reward, terminated = self._rules.judge(before, command, state)
            # MuJoCo puts a robot back at its start where its numbers are out of bounds.
            terminated = terminated or self.unstable
        truncated = self._world.elapsed_steps >= self.task.simulation.episode_steps
        # The step was judged by what was asked for then; what is to be done next goes by the new goal.
        if self._change_chance and self._random.random() < self._change_chance:
            self._draw_goal()
            state.goal = self._goal.copy()
        state = self._seen(state)
        self._recall(state, last, command)
        return StepResult(state, reward, terminated, truncated)

    def _seen(self, state: RobotState) -> RobotState:
        """``state`` as it is observed, with the noise of the present conditions."""
        for name, std in self._conditions.noise:
            if std > 0.0:
                values = getattr(state, name)
                setattr(state, name, values + self._random.normal(0.0, std, values.shape))
        return state

    def _measure(self) -> None:
        """Take what MuJoCo computes on its way to a state: once it is there nothing else leads to the same numbers."""
        efforts, readings = self.data.qfrc_actuator[self._qvel], self.data.sensordata[self._sensors]
        self._measured: Vector = np.concatenate((efforts, readings))

    def state(self) -> RobotState:
        """The robot's present state (copies), without noise."""
        effort, sensors = np.split(self._measured.copy(), [len(self._qvel)])
        state = RobotState(
            self.data.qpos[self._qpos],
            self.data.qvel[self._qvel],
            goal=self._goal.copy(),
            memory=self._last[self._memory.entries],
            joint_effort=effort,
            sensors=sensors,
        )
        if self._base is not None:
            position, velocity = self._base
            state.base_position = self.data.qpos[position : position + 3].copy()
            state.base_orientation = self.data.qpos[position + 3 : position + 7].copy()
            state.base_linear_velocity = self.data.qvel[velocity : velocity + 3].copy()
            state.base_angular_velocity = self.data.qvel[velocity + 3 : velocity + 6].copy()
        return state

    def place(self, state: RobotState) -> None:
        """Put the robot into ``state``; what the task does not name stays as it is. NaN is not allowed."""
        self.data.qpos[self._qpos] = state.joint_position
        self.data.qvel[self._qvel] = state.joint_velocity
        if self._base is not None:
            position, velocity = self._base
            self.data.qpos[position : position + 3] = state.base_position
            self.data.qpos[position + 3 : position + 7] = state.base_orientation
            self.data.qvel[velocity : velocity + 3] = state.base_linear_velocity
            self.data.qvel[velocity + 3 : velocity + 6] = state.base_angular_velocity
        if state.goal.size:
            self._goal = state.goal.copy()
        if state.memory.size:
            self._last = self._builder.build(state)
        self.data.qacc_warmstart[:] = 0.0
        mujoco.mj_forward(self.model, self.data)
        self._measure()

    def snapshot(self) -> Snapshot:
        """Everything that decides how this simulation goes on."""
        physics = np.empty(mujoco.mj_stateSize(self.model, _PHYSICS))
        mujoco.mj_getState(self.model, self.data, physics, _PHYSICS)
        return Snapshot(
            physics,
            self._world.elapsed_steps,
            self._world.random_state,
            self._goal.copy(),
            self._conditions,
            np.array(self._pending).reshape(-1, len(self._actuators)),
            dict(self._random.bit_generator.state),
            self._last.copy(),
            self._measured.copy(),
        )

    def restore(self, snapshot: Snapshot) -> None:
        """Go on exactly where ``snapshot`` was taken."""
        self._world.resume(snapshot.elapsed_steps, snapshot.random_state)
        self._goal = snapshot.goal.copy()
        if snapshot.own_random_state:
            self._random.bit_generator.state = snapshot.own_random_state
        self._be(snapshot.conditions)
        self._pending = deque(snapshot.pending)
        if snapshot.seen.size:
            self._last = snapshot.seen.copy()
        mujoco.mj_setState(self.model, self.data, snapshot.physics, _PHYSICS)
        mujoco.mj_forward(self.model, self.data)
        self._measure()
        if snapshot.measured.size:
            self._measured = snapshot.measured.copy()
        # mj_forward has overwritten the solver's warm start.
        mujoco.mj_setState(self.model, self.data, snapshot.physics, _PHYSICS)

    @property
    def conditions(self) -> Conditions:
        """What the robot is like in this episode."""
        return self._conditions

    def alter(self, **changes: Any) -> None:
        """Have these of the :class:`Conditions` from now on, in place of the task's own or of those drawn.

        The state of the robot stays as it is; a delay holds from the next episode on.

        Raises:
            ConfigError: for a condition that there cannot be.
        """
        altered = {**self._altered, **changes}
        wanted = {**self._conditions.model_dump(), **altered}
        conditions = schema.parse(wanted, Conditions, "conditions", ConfigError)
        self._altered = {name: getattr(conditions, name) for name in altered}
        self._be(conditions.model_copy(update={"delay_steps": len(self._pending)}))

    def _be(self, conditions: Conditions) -> None:
        """Make the robot what ``conditions`` say."""
        last, self._conditions = self._conditions, conditions
        model, own = self.model, self._own
        if conditions.gain != last.gain:
            model.actuator_gainprm[:, 0] = own.gain[:, 0] * conditions.gain
            model.actuator_biasprm[:, :3] = own.bias[:, :3] * conditions.gain
        if (conditions.mass, conditions.friction) == (last.mass, last.friction):
            return
        model.body_mass[:] = own.mass * conditions.mass
        model.body_inertia[:] = own.inertia * conditions.mass
        model.geom_friction[:] = own.friction * conditions.friction
        # Computes in the state that it is given.
        mujoco.mj_setConst(model, mujoco.MjData(model))

    @property
    def unstable(self) -> bool:
        """Whether MuJoCo met numbers out of bounds in this episode, upon which it puts the robot back at its start."""
        return any(self.data.warning[kind].number for kind in _UNSTABLE)

    def render(self) -> Any:
        """One frame, (height, width, 3)."""
        return self._world.render()

    def close(self) -> None:
        self._world.close()

    def _joint_address(self, name: str) -> tuple[int, int]:
        joint = joint_id(self._world, self.task, name, "robot.joints")
        declared = self.task.robot.joints[name].type
        if self.model.jnt_type[joint] != _JOINT_TYPES[declared]:
            raise TaskError(
                f"task '{self.task.name}': robot.joints.{name}.type: got '{declared}', but the joint is a "
                f"{mujoco.mjtJoint(self.model.jnt_type[joint]).name} in {self._world.name}"
            )
        return int(self.model.jnt_qposadr[joint]), int(self.model.jnt_dofadr[joint])

    def _base_address(self) -> tuple[int, int] | None:
        if self.task.robot.base is None:
            return None
        joint = free_joint_id(self._world, self.task)
        return int(self.model.jnt_qposadr[joint]), int(self.model.jnt_dofadr[joint])

    def _sensor(self, name: str) -> int:
        """Where the reading that a task calls ``name`` is among MuJoCo's."""
        model = self.model
        places: dict[str, int] = {}
        for i in range(model.nsensor):
            sensor, size = model.sensor(i).name, int(model.sensor_dim[i])
            parts = {1: ("",), 3: ("_x", "_y", "_z"), 4: ("_w", "_x", "_y", "_z")}.get(size, ())
            places |= {
                f"{sensor}{part}": int(model.sensor_adr[i]) + k for k, part in enumerate(parts)
            }
        if name not in places:
            raise TaskError(
                f"task '{self.task.name}': observation: no sensor '{name}' in {self._world.name}; expected some of: "
                + (", ".join(places) or "none")
            )
        return places[name]

    def _actuator(self, entry: ActionEntry) -> int:
        joint = joint_id(self._world, self.task, entry.joint, "action")
        driving = np.flatnonzero(
            (self.model.actuator_trntype == mujoco.mjtTrn.mjTRN_JOINT)
            & (self.model.actuator_trnid[:, 0] == joint)
        )
        if driving.size != 1:
            raise TaskError(
                f"task '{self.task.name}': action: joint '{entry.joint}' is driven by {driving.size} actuators "
                f"in {self._world.name}; expected exactly one"
            )
        actuator = int(driving[0])
        problem = self._misfit(actuator, entry)
        if problem:
            raise TaskError(f"task '{self.task.name}': action: {problem}")
        return actuator

    def _misfit(self, actuator: int, entry: ActionEntry) -> str:
        """How an actuator differs from what a command's entry says of it; empty where it does not."""
        model = self.model
        kind = _actuator_kind(model, actuator)
        if kind != entry.quantity:
            return (
                f"'{entry.joint}' is commanded its {entry.quantity}; its actuator in {self._world.name} is "
                f"{_ACTUATORS[kind]}, expected {_ACTUATORS[entry.quantity]}"
            )
        gear = float(model.actuator_gear[actuator, 0])
        if gear != entry.gear:
            return f"gear of '{entry.joint}': got {entry.gear:g}; expected {gear:g}"
        if not model.actuator_ctrllimited[actuator]:
            return ""
        low, high = (float(x) for x in model.actuator_ctrlrange[actuator])
        got = f"limits of '{entry.joint}': got [{entry.low:g}, {entry.high:g}]"
        if entry.quantity == "effort" and (entry.low, entry.high) != (low, high):
            return f"{got}; expected [{low:g}, {high:g}]"
        if not low <= entry.low < entry.high <= high:
            return f"{got}; expected limits within [{low:g}, {high:g}]"
        return ""


_ACTUATORS = {
    "effort": "a motor of gain 1",
    "position": "a position servo",
    "velocity": "a velocity servo",
    "other": "neither a motor of gain 1 nor a servo of position or velocity",
}


def _actuator_kind(model: mujoco.MjModel, actuator: int) -> Quantity | Literal["other"]:
    """What a control of this actuator means, from its force: gain times control, and bias."""
    gain = float(model.actuator_gainprm[actuator, 0])
    _, position, velocity = (float(x) for x in model.actuator_biasprm[actuator, :3])
    if model.actuator_gaintype[actuator] != mujoco.mjtGain.mjGAIN_FIXED:
        return "other"
    bias = model.actuator_biastype[actuator]
    if bias == mujoco.mjtBias.mjBIAS_NONE:
        return "effort" if gain == 1.0 else "other"
    if bias != mujoco.mjtBias.mjBIAS_AFFINE or gain <= 0.0:
        return "other"
    if position == -gain:
        return "position"
    return "velocity" if (position, velocity) == (0.0, -gain) else "other"


class TaskEnv(gymnasium.Env[Vector, Vector]):
    """A task as a Gymnasium environment: the observation vector of the task, actions in command units.

    Attributes:
        state: what the last observation was built from.
    """

    state: RobotState
    metadata: dict[str, Any] = {"render_modes": ["rgb_array"]}  # noqa: RUF012 - Gymnasium's own form

    def __init__(self, task: Task, render_mode: str | None = None) -> None:
        self.simulation = Simulation(task, render_mode)
        self.render_mode = render_mode
        self.builder = ObservationBuilder(task)
        entries, commands = self.builder.entries, CommandRange(task)
        self.observation_space = gymnasium.spaces.Box(
            np.array([e.low for e in entries]),
            np.array([e.high for e in entries]),
            dtype=np.float64,
        )
        self.action_space = gymnasium.spaces.Box(commands.low, commands.high, dtype=np.float64)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Vector, dict[str, Any]]:
        super().reset(seed=seed)
        self.state = self.simulation.reset(seed)
        return self.builder.build(self.state), {}

    def step(self, action: Vector) -> tuple[Vector, float, bool, bool, dict[str, Any]]:
        result = self.simulation.step(action)
        self.state = result.state
        observation = self.builder.build(self.state)
        return observation, result.reward, result.terminated, result.truncated, {}

    def render(self) -> Any:
        return self.simulation.render()

    def close(self) -> None:
        self.simulation.close()
