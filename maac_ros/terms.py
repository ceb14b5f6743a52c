"""What terms of a task are made of: base classes, and terms of one's own from other packages.

A package has its terms known under the entry point group ``maac_ros.terms``, in its ``pyproject.toml`` for example::

    [project.entry-points."maac_ros.terms"]
    tilt = "my_robot.terms:Tilt"

The classes derive from :class:`DerivedTerm` or :class:`RewardBase`, and are used in tasks by the name that their field
``term`` has. Wherever the task is read, in training as on the robot, the package must be installed.
"""

from __future__ import annotations

import logging
import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, reduce
from importlib import metadata
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, get_args

from numpy.typing import NDArray
from pydantic import Field

from maac_ros import schema
from maac_ros.robot import Robot

if TYPE_CHECKING:
    import numpy as np

    from maac_ros.observation import RobotState

logger = logging.getLogger(__name__)

ENTRY_POINTS = "maac_ros.terms"

GoalSource = Literal["cmd_vel", "goal"]
"""Who asks something of the robot: the ROS topic of that name."""

GOAL_SOURCES: frozenset[str] = frozenset(get_args(GoalSource))

Source = Literal["joint_states", "odom", "imu", "sensors"] | GoalSource
"""Where an observation entry comes from on a robot (the ROS topic of that name)."""

Recalled = Literal["memory"]
"""What the controller itself recalls."""


@dataclass(frozen=True)
class ObservationEntry:
    """One number of the observation vector.

    Attributes:
        name: ``<owner>/<quantity>``.
        unit: of what is told.
        source: who tells it.
        low, high: bounds of what is observed.
        offset, scale: what is observed is what is told, less ``offset``, times ``scale``.
    """

    name: str
    unit: str
    source: Source | Recalled
    low: float = -math.inf
    high: float = math.inf
    offset: float = 0.0
    scale: float = 1.0

    @property
    def observed_unit(self) -> str:
        """Of an observed 1."""
        return self.unit if self.scale == 1.0 else f"{1.0 / self.scale:g} {self.unit}"


class ObservationBase(schema.Description):
    """A part of the observation."""

    term: str
    """Its name in tasks; a term's own class has ``Literal["name"]`` here."""

    def entries(self, robot: Robot) -> list[ObservationEntry]:
        """The numbers observed, without those of earlier periods."""
        raise NotImplementedError


class ObservedTerm(ObservationBase):
    """What is observed of the robot."""

    history: int = Field(default=0, ge=0, le=20)
    """How many earlier control periods are observed too: what a robot that answers late, or whose speed is not
    measured, has under way."""


class DerivedTerm(ObservedTerm):
    """Something that follows from the robot's state: base of observation terms of one's own.

    Entries are named ``<owner>/<quantity>``; their ``source`` is the topic by which the state they follow from comes.
    Under ``robot.mirror`` those of a joint trade places or change sign as the joint's own do, others stay as they are.
    """

    def derive(self, state: RobotState, joints: Mapping[str, int]) -> NDArray[np.float64]:
        """The numbers, in the order and units of :meth:`entries`; NaN where what they follow from is NaN.

        Args:
            state: what is known of the robot.
            joints: place of each joint in ``state.joint_position`` and ``state.joint_velocity``, by name.
        """
        raise NotImplementedError


Values = Any
"""A NumPy array or a PyTorch tensor: reward terms use operators that both have, so that one formula serves both."""


@dataclass(frozen=True)
class Transition:
    """A control step as reward terms see it.

    Attributes:
        index: position of each observation entry, by name.
        observation: (..., O) before the step, in the task's units.
        action: (..., A), normalised to [-1, 1].
        following: (..., O) after the step.
        terminated: (...,) 1.0 where the step ended the episode.
    """

    index: Mapping[str, int]
    observation: Values
    action: Values
    following: Values
    terminated: Values


class RewardBase(schema.Description):
    """A part of the reward: base of reward terms of one's own."""

    term: str
    """Its name in tasks; a term's own class has ``Literal["name"]`` here."""
    weight: float
    """Reward for a value of 1."""

    def entries(self) -> tuple[str, ...]:
        """Observation entries that the term reads."""
        return ()

    def value(self, step: Transition) -> Values:
        """The term's value (...,), unweighted, differentiable where PyTorch computes it."""
        raise NotImplementedError


TermT = TypeVar("TermT", bound=schema.Description)


def one_of(base: type[TermT], shipped: tuple[type[TermT], ...]) -> Any:
    """The type of what is one of ``shipped``, or one of the terms of other packages that derive from ``base``.

    What cannot be used is left out and told in the log: one package's fault must not keep all tasks from being read.
    """
    found = {_name(term): term for term in shipped}
    for origin, term in _registered():
        if not (isinstance(term, type) and issubclass(term, base)):
            continue
        name = _name(term)
        if not name:
            logger.error("%s: field 'term' has no Literal with the term's name; left out", origin)
        elif name in found:
            logger.error("%s: there is a term '%s' already; left out", origin, name)
        else:
            found[name] = term
    return Annotated[reduce(operator.or_, found.values()), Field(discriminator="term")]


def _name(term: type[schema.Description]) -> str:
    """The term's name in tasks; empty where it has none."""
    names = get_args(term.model_fields["term"].annotation) if "term" in term.model_fields else ()
    return names[0] if len(names) == 1 and isinstance(names[0], str) else ""


@cache
def _registered() -> tuple[tuple[str, Any], ...]:
    """What packages have registered, and where each says so."""
    found = []
    for point in sorted(metadata.entry_points(group=ENTRY_POINTS), key=lambda p: p.name):
        package = point.dist.name if point.dist else "?"
        origin = f"package '{package}', entry point {ENTRY_POINTS}: {point.name} = {point.value}"
        try:
            term = point.load()
        except Exception as reason:  # whatever another package's code does
            logger.error("%s: cannot be loaded: %s", origin, reason)
            continue
        if not (isinstance(term, type) and issubclass(term, DerivedTerm | RewardBase)):
            logger.error("%s: expected a DerivedTerm or a RewardBase; left out", origin)
            continue
        found.append((origin, term))
    return tuple(found)
