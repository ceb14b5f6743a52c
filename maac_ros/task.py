"""A robot task as data: simulation, rate, observation and action terms, reward, termination.

The same description builds the training environment's observation vector and the ROS node's, by joint name,
so the two cannot disagree.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from maac_ros import schema
from maac_ros.errors import TaskError
from maac_ros.resources import named_file
from maac_ros.reward_terms import Reward
from maac_ros.world_terms import Interval, Simulation, check_interval

Source = Literal["joint_states", "odom"]
"""Where an observation entry comes from on a robot (the ROS topic of that name)."""


class Joint(schema.Description):
    """One joint of the robot, by its URDF/ROS type."""

    type: Literal["revolute", "prismatic"]

    @property
    def position_unit(self) -> str:
        return "rad" if self.type == "revolute" else "m"

    @property
    def effort_unit(self) -> str:
        return "N·m" if self.type == "revolute" else "N"


class FloatingBase(schema.Description):
    """The body that carries a free joint; on a robot its state comes from ``nav_msgs/Odometry``."""

    joint: str
    """Name of the free joint in the MJCF."""
    frame: str = "base_link"
    """``child_frame_id`` of the odometry."""


class Mirror(schema.Description):
    """How to exchange left and right on a robot whose mirror image, at its x-z plane, is the same robot.

    What it did then tells as much about the mirror image: learning has twice the data. Components of the base follow
    by themselves: y, roll and yaw change sign.
    """

    swap: tuple[tuple[str, str], ...] = ()
    """Pairs of joints that trade places, such as the left and the right knee."""
    flip: tuple[str, ...] = ()
    """Joints that turn or slide the other way in the mirror, such as those about a vertical axis."""

    @model_validator(mode="after")
    def _once(self) -> Mirror:
        for field, joints in (
            ("swap", [j for pair in self.swap for j in pair]),
            ("flip", self.flip),
        ):
            twice = [joint for joint, count in Counter(joints).items() if count > 1]
            if twice:
                raise ValueError(f"{field}: listed more than once: {', '.join(twice)}")
        for pair in self.swap:
            turned = [joint for joint in pair if joint in self.flip]
            if len(turned) == 1:
                raise ValueError(
                    f"flip: '{turned[0]}' is listed and its partner is not; of {' and '.join(pair)} expected both or "
                    "neither"
                )
        return self

    def image(self, entry: str) -> tuple[str, float]:
        """The entry (``<joint>/<quantity>`` or ``base/<component>``) whose value, times this sign, is ``entry``'s in
        the mirror."""
        owner, quantity = entry.split("/")
        if owner == "base":
            return entry, -1.0 if quantity in _TURNED_BASE_COMPONENTS else 1.0
        partner = {a: b for pair in self.swap for a, b in (pair, pair[::-1])}.get(owner, owner)
        return f"{partner}/{quantity}", -1.0 if owner in self.flip else 1.0


_TURNED_BASE_COMPONENTS = frozenset(
    (
        "position_y",
        "orientation_x",
        "orientation_z",
        "projected_gravity_y",
        "linear_velocity_y",
        "body_linear_velocity_y",
        "angular_velocity_x",
        "angular_velocity_z",
        "world_angular_velocity_x",
        "world_angular_velocity_z",
    )
)


class Robot(schema.Description):
    """The joints a task reads or drives."""

    joints: dict[str, Joint] = Field(min_length=1)
    base: FloatingBase | None = None
    mirror: Mirror | None = None
    """Where the robot is its own mirror image."""


class Control(schema.Description):
    """When the policy acts."""

    period_s: float = Field(gt=0, le=10)
    """Control period in seconds; must equal the simulation's step."""


class _JointTerm(schema.Description):
    joints: tuple[str, ...] = Field(min_length=1)
    clip: Interval | None = None
    """Bounds applied to the value before the policy sees it."""

    _ordered = field_validator("clip")(check_interval)


class JointPosition(_JointTerm):
    """Joint positions, m or rad."""

    term: Literal["joint_position"]


class JointVelocity(_JointTerm):
    """Joint velocities, m/s or rad/s."""

    term: Literal["joint_velocity"]


class BasePosition(schema.Description):
    """Position of the floating base in the world frame, m."""

    term: Literal["base_position"]
    axes: tuple[Literal["x", "y", "z"], ...] = Field(min_length=1)


class BaseOrientation(schema.Description):
    """Orientation of the floating base as a unit quaternion w, x, y, z (body to world)."""

    term: Literal["base_orientation"]


class ProjectedGravity(schema.Description):
    """Direction of gravity in the body frame, a unit vector: roll and pitch of the floating base, free of its yaw."""

    term: Literal["projected_gravity"]


class BaseLinearVelocity(schema.Description):
    """Linear velocity of the floating base, m/s."""

    term: Literal["base_linear_velocity"]
    frame: Literal["world", "body"]
    """``world`` is MuJoCo's convention for a free joint, ``body`` that of legged robots."""


class BaseAngularVelocity(schema.Description):
    """Angular velocity of the floating base, rad/s."""

    term: Literal["base_angular_velocity"]
    frame: Literal["body", "world"]
    """``body`` is MuJoCo's convention for a free joint, and what an IMU measures."""


ObservationTerm = Annotated[
    JointPosition
    | JointVelocity
    | BasePosition
    | BaseOrientation
    | ProjectedGravity
    | BaseLinearVelocity
    | BaseAngularVelocity,
    Field(discriminator="term"),
]


_BASE_TERMS = (
    BasePosition,
    BaseOrientation,
    ProjectedGravity,
    BaseLinearVelocity,
    BaseAngularVelocity,
)


class SafeImpedance(schema.Description):
    """A safe command that keeps a joint from moving: effort = stiffness (held - position) - damping velocity.

    ``held`` is where the joint was when the policy last acted. The damping must suit the control period: one that
    stops the joint within a period shakes it.
    """

    stiffness: float = Field(default=0.0, ge=0)
    """N·m/rad or N/m; at 0 the joint is damped only."""
    damping: float = Field(gt=0)
    """N·m·s/rad or N·s/m."""
    otherwise: float = 0.0
    """Command published while the joint's state is not known, and last when commanding ends."""


SafeValue = Annotated[
    Annotated[float, Tag("constant")] | Annotated[SafeImpedance, Tag("impedance")],
    # One of the two is meant, and only its problems are told.
    Discriminator(lambda v: "impedance" if isinstance(v, dict | SafeImpedance) else "constant"),
]


class Effort(schema.Description):
    """Normalised effort: the force or torque on the joint is ``gear`` times the command."""

    term: Literal["effort"]
    joints: tuple[str, ...] = Field(min_length=1)
    gear: tuple[float, ...]
    """N or N·m for a command of 1, one number a joint; must equal the MJCF actuator's gear."""
    limits: Interval
    """Lowest and highest command."""
    safe: SafeValue = 0.0
    """Command published when the policy must not act."""

    _ordered = field_validator("limits")(check_interval)

    @model_validator(mode="after")
    def _consistent(self) -> Effort:
        if len(self.gear) != len(self.joints):
            raise ValueError(f"{len(self.gear)} gears for {len(self.joints)} joints")
        if not self.limits[0] <= self.safe_constant <= self.limits[1]:
            raise ValueError(
                f"safe command {self.safe_constant} is outside limits {list(self.limits)}"
            )
        return self

    @property
    def safe_constant(self) -> float:
        """The safe command where nothing is known of the joint."""
        return self.safe.otherwise if isinstance(self.safe, SafeImpedance) else self.safe


class TerminationTerm(schema.Description):
    """The episode ends when an observation entry leaves ``[min, max]``."""

    entry: str
    """Name of an observation entry, for example ``hinge/position``."""
    min: float | None = None
    max: float | None = None

    @model_validator(mode="after")
    def _bounded(self) -> TerminationTerm:
        if self.min is None and self.max is None:
            raise ValueError("give min, max or both")
        return self


class PlannerSettings(schema.Description):
    """Cross-entropy-method MPC over the learned model (paper, section 5.4)."""

    candidates: int = Field(default=256, ge=8, le=65536)
    """Action sequences a CEM iteration draws."""
    horizon: int = Field(default=5, ge=1, le=100)
    """Model steps before the terminal Q-function."""
    iterations: int = Field(default=3, ge=1, le=100)
    """CEM iterations a tick."""
    elite_fraction: float = Field(default=0.1, gt=0, le=1)
    """Share of the candidates that refits the sampling distribution."""
    smoothing: float = Field(default=0.1, ge=0, lt=1)
    """Weight of the previous distribution in the refit one."""
    policy_fraction: float = Field(default=0.1, ge=0, le=0.9)
    """Share of the candidates that stay the policy's own in every iteration."""
    particles: int = Field(default=1, ge=1, le=64)
    """Model rollouts a candidate, over which its return is averaged."""
    member_draw: Literal["step", "trajectory"] = "step"
    """When a particle draws the member of the ensemble that it follows: at every step, or once."""
    terminal_value: Literal["mean", "minimum"] = "mean"
    """What of the critics closes the horizon."""
    weighting: Literal["elites", "mppi"] = "elites"
    """Elites count alike, or by the exponential of their returns."""
    temperature: float = Field(default=0.5, gt=0)
    """Of the exponential, in standard deviations of the elites' returns."""


@dataclass(frozen=True)
class ObservationEntry:
    """One number of the observation vector."""

    name: str
    unit: str
    source: Source
    low: float = -math.inf
    high: float = math.inf


@dataclass(frozen=True)
class ActionEntry:
    """One number of the action vector."""

    name: str
    joint: str
    unit: str
    low: float
    high: float
    safe: float
    gear: float
    impedance: SafeImpedance | None = None
    """Of the safe command; without one that is the constant ``safe``."""


class Task(schema.Description):
    """A robot task. See ``config/tasks/`` for worked examples."""

    schema_version: Literal[1]
    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    description: str
    robot: Robot
    simulation: Simulation
    control: Control
    observation: tuple[ObservationTerm, ...] = Field(min_length=1)
    action: tuple[Effort, ...] = Field(min_length=1)
    reward: Reward
    termination: tuple[TerminationTerm, ...] = ()
    planner: PlannerSettings = PlannerSettings()

    @model_validator(mode="after")
    def _consistent(self) -> Task:
        known = ", ".join(self.robot.joints)
        for section, terms in (("observation", self.observation), ("action", self.action)):
            for position, term in enumerate(terms):
                for joint in getattr(term, "joints", ()):
                    if joint not in self.robot.joints:
                        raise ValueError(
                            f"{section}.{position}.joints: unknown joint '{joint}'; expected one of: {known}"
                        )
                if isinstance(term, _BASE_TERMS) and self.robot.base is None:
                    raise ValueError(
                        f"{section}.{position}.term: '{term.term}' needs a floating base; robot.base is missing"
                    )
        entries = [entry.name for entry in self.observation_entries()]
        for names, section in ((entries, "observation"), (self._action_names(), "action")):
            twice = [name for name, count in Counter(names).items() if count > 1]
            if twice:
                raise ValueError(f"{section}: listed more than once: {', '.join(twice)}")
        named = [(f"termination.{i}", rule.entry) for i, rule in enumerate(self.termination)]
        for position, part in enumerate(self.reward.analytic):
            named += [(f"reward.analytic.{position}", entry) for entry in part.entries()]
        if (self.reward.source == "environment") != (self.simulation.mjcf is None):
            raise ValueError(
                f"reward.source: got '{self.reward.source}'; expected 'environment' with simulation.gymnasium_id, "
                "'analytic' with simulation.mjcf"
            )
        for place, entry in named:
            if entry not in entries:
                raise ValueError(
                    f"{place}.entry: unknown observation entry '{entry}'; expected one of: {', '.join(entries)}"
                )
        if self.robot.mirror is not None:
            self._check_mirror(self.robot.mirror)
        return self

    def _check_mirror(self, mirror: Mirror) -> None:
        """What is observed and driven must be found in the mirror too."""
        for field, joints in (
            ("swap", [j for pair in mirror.swap for j in pair]),
            ("flip", mirror.flip),
        ):
            for joint in joints:
                if joint not in self.robot.joints:
                    raise ValueError(
                        f"robot.mirror.{field}: unknown joint '{joint}'; "
                        f"expected one of: {', '.join(self.robot.joints)}"
                    )
        driven = {entry.name: entry for entry in self.action_entries()}
        sections: dict[str, Mapping[str, ObservationEntry | ActionEntry]] = {
            "observation": {entry.name: entry for entry in self.observation_entries()},
            "action": driven,
        }
        for section, entries in sections.items():
            for name, entry in entries.items():
                image, sign = mirror.image(name)
                if image not in entries:
                    raise ValueError(
                        f"robot.mirror: the mirror image of '{name}' is '{image}', which is no part of the {section}"
                    )
                low, high = entries[image].low, entries[image].high
                if (entry.low, entry.high) != ((low, high) if sign > 0 else (-high, -low)):
                    raise ValueError(
                        f"robot.mirror: '{name}' has the limits [{entry.low:g}, {entry.high:g}], which those of its "
                        f"mirror image '{image}', [{low:g}, {high:g}], do not match"
                    )
        for name, action in driven.items():
            image, _ = mirror.image(name)
            if action.gear != driven[image].gear:
                raise ValueError(
                    f"robot.mirror: '{name}' has a gear of {action.gear:g}, its mirror image '{image}' one of "
                    f"{driven[image].gear:g}"
                )

    def _action_names(self) -> list[str]:
        return [entry.name for entry in self.action_entries()]

    def observation_entries(self) -> tuple[ObservationEntry, ...]:
        """Names, units, sources and clip bounds of the observation vector, in its order."""
        entries: list[ObservationEntry] = []
        for term in self.observation:
            entries.extend(_observation_entries(term, self.robot))
        return tuple(entries)

    def action_entries(self) -> tuple[ActionEntry, ...]:
        """Names, units and limits of the action vector, in its order."""
        return tuple(
            ActionEntry(
                name=f"{joint}/effort",
                joint=joint,
                unit=f"{gear:g} {self.robot.joints[joint].effort_unit}",
                low=term.limits[0],
                high=term.limits[1],
                safe=term.safe_constant,
                gear=gear,
                impedance=term.safe if isinstance(term.safe, SafeImpedance) else None,
            )
            for term in self.action
            for joint, gear in zip(term.joints, term.gear, strict=True)
        )

    def sources(self) -> frozenset[Source]:
        """The message sources that the observation needs."""
        return frozenset(entry.source for entry in self.observation_entries())


def _observation_entries(term: Any, robot: Robot) -> list[ObservationEntry]:
    if isinstance(term, JointPosition | JointVelocity):
        low, high = term.clip or (-math.inf, math.inf)
        quantity, per_second = (
            ("position", "") if isinstance(term, JointPosition) else ("velocity", "/s")
        )
        return [
            ObservationEntry(
                f"{joint}/{quantity}",
                robot.joints[joint].position_unit + per_second,
                "joint_states",
                low,
                high,
            )
            for joint in term.joints
            if joint in robot.joints
        ]
    if isinstance(term, BasePosition):
        return [ObservationEntry(f"base/position_{axis}", "m", "odom") for axis in term.axes]
    if isinstance(term, BaseOrientation):
        return [ObservationEntry(f"base/orientation_{part}", "1", "odom") for part in "wxyz"]
    if isinstance(term, ProjectedGravity):
        return [ObservationEntry(f"base/projected_gravity_{axis}", "1", "odom") for axis in "xyz"]
    linear = isinstance(term, BaseLinearVelocity)
    quantity, unit = ("linear_velocity", "m/s") if linear else ("angular_velocity", "rad/s")
    # Named without their frame where it is MuJoCo's.
    frame = "" if term.frame == ("world" if linear else "body") else f"{term.frame}_"
    return [ObservationEntry(f"base/{frame}{quantity}_{axis}", unit, "odom") for axis in "xyz"]


def load_task(name: str | Path) -> Task:
    """Load a task by shipped name (``hopper``) or by path to a YAML file, beside which its MJCF is looked for first.

    Raises:
        ConfigError: when there is no such task.
        TaskError: when the file is malformed; one line a problem, naming file, key and value.
    """
    path = named_file("tasks", str(name), "task")
    task = schema.load(path, Task, TaskError)
    mjcf = task.simulation.mjcf
    if mjcf is None or not (beside := path.parent / mjcf).is_file():
        return task
    # Copies of the task, in runs and bundles, lie elsewhere.
    world = task.simulation.model_copy(update={"mjcf": str(beside.resolve())})
    return task.model_copy(update={"simulation": world})
