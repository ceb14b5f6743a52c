"""A robot task as data: simulation, rate, observation and action terms, reward, termination.

The same description builds the training environment's observation vector and the ROS node's, by joint name,
so the two cannot disagree.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from maac_ros import schema
from maac_ros.action_terms import ActionEntry, ActionTerm, PositionStep
from maac_ros.errors import TaskError
from maac_ros.images import check_images
from maac_ros.observation_terms import (
    BaseTerm,
    Goal,
    InertialTerm,
    LastCommand,
    ObservationTerm,
    Phase,
    SensorReading,
    all_entries,
)
from maac_ros.resources import named_file
from maac_ros.reward_terms import DistanceTerm, Reward
from maac_ros.robot import Robot
from maac_ros.terms import DerivedTerm, ObservationEntry, Source
from maac_ros.world_terms import BaseReset, Simulation


class Control(schema.Description):
    """When the policy acts."""

    period_s: float = Field(gt=0, le=10)
    """Control period in seconds; must equal the simulation's step."""


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
    """Model steps before the value that closes the horizon."""
    iterations: int = Field(default=3, ge=1, le=100)
    """CEM iterations a tick."""
    elite_fraction: float = Field(default=0.1, gt=0, le=1)
    """Share of the candidates that refits the sampling distribution."""
    smoothing: float = Field(default=0.1, ge=0, lt=1)
    """Weight of the previous distribution in the refit one."""
    policy_fraction: float = Field(default=0.1, ge=0, le=0.9)
    """Share of the candidates that stay the policy's own in every iteration."""
    first_spread: float = Field(default=1.0, gt=0, le=10)
    """How far the first candidates go about the policy, in its own standard deviations. Plans stay near a policy that
    knows better than its model where this is small."""
    particles: int = Field(default=1, ge=1, le=64)
    """Model rollouts a candidate, over which its return is averaged."""
    member_draw: Literal["step", "trajectory"] = "step"
    """When a particle draws the member of the ensemble that it follows: at every step, or once."""
    model: Literal["ensemble", "distilled"] = "ensemble"
    """What takes candidates from state to state: the members of the ensemble and the policy, or small networks that
    have learned what these do, several times as fast and less exact (where a bundle has none, as with ``ensemble``)."""
    terminal_value: Literal["mean", "minimum", "state_value"] = "mean"
    """What closes the horizon: mean or least of the critics at the policy's action, or the network that has learned
    what the policy collects as it acts, much faster (where a bundle has none, as with ``mean``)."""
    weighting: Literal["elites", "mppi"] = "elites"
    """Elites count alike, or by the exponential of their returns."""
    temperature: float = Field(default=0.5, gt=0)
    """Of the exponential, in standard deviations of the elites' returns."""


class Task(schema.Description):
    """A robot task. See ``config/tasks/`` for worked examples."""

    schema_version: Literal[1]
    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    description: str
    robot: Robot
    simulation: Simulation
    control: Control
    observation: tuple[ObservationTerm, ...] = Field(min_length=1)
    action: tuple[ActionTerm, ...] = Field(min_length=1)
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
                if _of_base(term, self.robot) and self.robot.base is None:
                    raise ValueError(
                        f"{section}.{position}.term: '{term.term}' needs a floating base; robot.base is missing"
                    )
        for position, reset in enumerate(self.simulation.reset):
            if isinstance(reset, BaseReset) and self.robot.base is None:
                raise ValueError(
                    f"simulation.reset.{position}.term: '{reset.term}' needs a floating base; robot.base is missing"
                )
        tellers = {term.source for term in self.observation if isinstance(term, InertialTerm)}
        if len(tellers) > 1:
            raise ValueError(
                "observation: orientation and angular velocity of the base come from odom and from imu; expected one "
                "source for all of them"
            )
        told = {joint for term in self.action for joint in term.joints}
        for position, term in enumerate(self.observation):
            if isinstance(term, LastCommand) and (
                idle := [j for j in term.joints if j not in told]
            ):
                raise ValueError(
                    f"observation.{position}.joints: '{idle[0]}' is not commanded; expected some of: "
                    + ", ".join(sorted(told))
                )
            if isinstance(term, Phase) and not term.period_s > 2 * self.control.period_s:
                raise ValueError(
                    f"observation.{position}.period_s: got {term.period_s:g}; expected more than two control periods, "
                    f"{2 * self.control.period_s:g} s"
                )
        stepped = {
            joint for term in self.action if isinstance(term, PositionStep) for joint in term.joints
        }
        as_it_is = {
            e.name
            for e in self.observation_entries()
            if math.isinf(e.high - e.low) and (e.offset, e.scale) == (0.0, 1.0)
        }
        for position, term in enumerate(self.observation):
            if isinstance(term, LastCommand) and (both := stepped & set(term.joints)):
                raise ValueError(
                    f"observation.{position}.joints: the commands of '{min(both)}' are position steps, which are not "
                    "recalled"
                )
        for joint in sorted(stepped):
            if f"{joint}/position" not in as_it_is:
                raise ValueError(
                    f"action: a position step of '{joint}' needs its position in the observation, without clip, "
                    "offset or scale"
                )
        if sum(isinstance(term, Goal) for term in self.observation) > 1:
            raise ValueError("observation: 'goal' is listed more than once; expected one goal term")
        entries = [entry.name for entry in self.observation_entries()]
        driven = [entry.joint for entry in self.action_entries()]
        for names, section in ((entries, "observation"), (driven, "action")):
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
        observed = {entry.name: entry for entry in self.observation_entries()}
        told_by = {name: (entry.offset, entry.scale) for name, entry in observed.items()}
        for position, part in enumerate(self.reward.analytic):
            compared = part.compared() if isinstance(part, DistanceTerm) else ()
            for name in compared:
                if told_by[name] != told_by[compared[-1]]:
                    raise ValueError(
                        f"reward.analytic.{position}.target: '{name}' and '{compared[-1]}' are observed with another "
                        "offset or scale, and cannot be compared"
                    )
        check_images(
            self.robot,
            self.sensors,
            observed,
            {entry.name: entry for entry in self.action_entries()},
        )
        return self

    def observation_entries(self) -> tuple[ObservationEntry, ...]:
        """Names, units, sources and clip bounds of the observation vector, in its order."""
        return tuple(entry for term in self.observation for entry in all_entries(term, self.robot))

    def action_entries(self) -> tuple[ActionEntry, ...]:
        """Names, units and limits of the action vector, in its order."""
        return tuple(entry for term in self.action for entry in term.entries(self.robot))

    @property
    def goal(self) -> Goal | None:
        """What the robot can be asked for."""
        return next((term for term in self.observation if isinstance(term, Goal)), None)

    @property
    def sensors(self) -> tuple[str, ...]:
        """The sensors that are observed, in the order of the observation."""
        return tuple(
            sensor
            for term in self.observation
            if isinstance(term, SensorReading)
            for sensor in term.sensors
        )

    def sources(self) -> frozenset[Source]:
        """The sources of the robot's state that the observation needs, and holding a joint."""
        sources = {
            entry.source
            for term in self.observation
            if not isinstance(term, Goal)
            for entry in term.entries(self.robot)
            if entry.source != "memory"
        }
        if any(entry.safe is None for entry in self.action_entries()):
            sources.add("joint_states")
        return frozenset(sources)


def _of_base(term: ObservationTerm | ActionTerm, robot: Robot) -> bool:
    """Whether ``term`` needs a floating base."""
    if isinstance(term, DerivedTerm):
        return any(entry.source in ("odom", "imu") for entry in term.entries(robot))
    return isinstance(term, BaseTerm)


def load_task(name: str | Path) -> Task:
    """Load a task by shipped name (``hopper``) or by path to a YAML file, beside which its MJCF is looked for first.

    Raises:
        ConfigError: when there is no such task.
        TaskError: when the file is malformed; one line a problem, naming file, key and value.
    """
    path = named_file("tasks", str(name), "task")
    task = schema.load(path, Task, TaskError)
    mjcf = task.simulation.mjcf
    if mjcf is None or not os.path.isfile(beside := path.parent / mjcf):
        return task
    # Copies of the task, in runs and bundles, lie elsewhere.
    world = task.simulation.model_copy(update={"mjcf": str(beside.resolve())})
    return task.model_copy(update={"simulation": world})
