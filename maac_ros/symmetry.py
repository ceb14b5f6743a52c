"""How a robot can be exchanged with itself: left and right, one leg and the next, one heading and another."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from pydantic import Field, model_validator

from maac_ros import schema

Parts = dict[str, float]
"""What an entry is in an image: the sum of these entries, each times its factor."""


class Symmetry(schema.Description):
    """What a robot did tells as much about an image of it, in which some of its parts have changed places.

    Entries are ``<joint>/<quantity>``, ``base/<component>``, ``goal/<name>`` and ``phase/<part>``, and the same of
    earlier periods. Components of the base follow by themselves.
    """

    tolerance: float = Field(default=1e-3, gt=0, lt=1)
    """Share of a quantity's spread by which robot and image may differ after a step: contacts are solved in another
    order. A robot that is not built quite alike on all sides says here by how much."""

    @property
    @abstractmethod
    def order(self) -> int:
        """How many times the image of an image makes the robot as it is."""

    @abstractmethod
    def named(self) -> dict[str, list[str]]:
        """The joints and sensors in each of its fields."""

    @abstractmethod
    def parts(self, entry: str) -> Parts:
        """What ``entry`` is in the image."""


class Mirror(Symmetry):
    """How to exchange left and right on a robot whose mirror image, at its x-z plane, is the same robot.

    y, roll and yaw of the base change sign.
    """

    swap: tuple[tuple[str, str], ...] = ()
    """Pairs of joints, or of sensors, that trade places, such as the left and the right knee."""
    flip: tuple[str, ...] = ()
    """Joints that turn or slide the other way in the mirror, such as those about a vertical axis, and sensors whose
    reading changes its sign there."""

    @model_validator(mode="after")
    def _once(self) -> Mirror:
        _each_once(self.named())
        for pair in self.swap:
            turned = [joint for joint in pair if joint in self.flip]
            if len(turned) == 1:
                raise ValueError(
                    f"flip: '{turned[0]}' is listed and its partner is not; of {' and '.join(pair)} expected both or "
                    "neither"
                )
        return self

    @property
    def order(self) -> int:
        return 2

    def named(self) -> dict[str, list[str]]:
        return {"swap": [j for pair in self.swap for j in pair], "flip": [*self.flip]}

    def parts(self, entry: str) -> Parts:
        owner, quantity = entry.split("/")
        component = quantity.partition("@")[0]
        partner = {a: b for pair in self.swap for a, b in (pair, pair[::-1])}
        if owner == "base":
            return {entry: -1.0 if component in _TURNED_BASE_COMPONENTS else 1.0}
        if owner == "phase":
            return {entry: -1.0}  # half a turn ahead
        if owner == "goal":
            turned = quantity in self.flip or quantity in _TURNED_GOALS
            return {f"goal/{partner.get(quantity, quantity)}": -1.0 if turned else 1.0}
        return {f"{partner.get(owner, owner)}/{quantity}": -1.0 if owner in self.flip else 1.0}


class Turn(Symmetry):
    """How each leg takes the place of the next, on a robot that is the same again after a part of a turn about its z.

    The robot moves as it did, and calls another side its front.
    """

    cycles: tuple[tuple[str, ...], ...] = Field(min_length=1)
    """Joints, or sensors, each of which comes to where the next was, and the last to where the first was, seen from
    above counter-clockwise. Four in a cycle mean quarters of a turn; all cycles have as many."""
    flip: tuple[str, ...] = ()
    """Those that turn or slide the other way than the first of their cycle."""

    @model_validator(mode="after")
    def _whole(self) -> Turn:
        _each_once(self.named())
        sizes = [len(cycle) for cycle in self.cycles]
        if min(sizes) < 2 or min(sizes) != max(sizes):
            raise ValueError(
                f"cycles: got {', '.join(map(str, sizes))} names in a cycle; expected two or more, as many in each"
            )
        for joint in self.flip:
            if all(joint not in cycle[1:] for cycle in self.cycles):
                raise ValueError(
                    f"flip: '{joint}' is none of a cycle's names but the first, with which the others are compared"
                )
        return self

    @property
    def order(self) -> int:
        return len(self.cycles[0])

    def named(self) -> dict[str, list[str]]:
        return {"cycles": [j for cycle in self.cycles for j in cycle], "flip": [*self.flip]}

    def parts(self, entry: str) -> Parts:
        owner, quantity = entry.split("/")
        angle = 2.0 * math.pi / self.order
        if owner == "base":
            if is_orientation(entry):
                return _rotated(entry, _partner(entry, _BODY_SPINS), -0.5 * angle)
            of_body = quantity.partition("@")[0].rpartition("_")[0] in _OF_BODY
            return _rotated(entry, _partner(entry, _PLANES) if of_body else None, angle)
        if owner == "goal":
            if quantity in ("linear_x", "linear_y", "angular_x", "angular_y"):
                return _rotated(entry, _partner(entry, _PLANES), angle)
            before, sign = self._before(quantity)
            return {f"goal/{before}": sign}
        before, sign = self._before(owner)
        return {f"{before}/{quantity}": sign}

    def _before(self, name: str) -> tuple[str, float]:
        """Which joint comes to where ``name`` is, and the sign of what it does there."""
        for cycle in self.cycles:
            for one, following in pairwise((*cycle, cycle[0])):
                if following == name:
                    same = (one in self.flip) == (name in self.flip)
                    return one, 1.0 if same else -1.0
        return name, 1.0


class Partner(NamedTuple):
    """With what an entry turns in its plane: by an angle a, it becomes cos(a) itself + sign sin(a) partner."""

    name: str
    sign: float


def heading_partner(entry: str) -> Partner | None:
    """With what ``entry`` turns as the robot's heading does: a quaternion's by half its angle, vectors by all of it."""
    owner, quantity = entry.split("/")
    component = quantity.partition("@")[0]
    if owner != "base":
        return None
    if is_orientation(entry):
        return _partner(entry, _WORLD_SPINS)
    return _partner(entry, _PLANES) if component.rpartition("_")[0] in _OF_WORLD else None


def heading_parts(entry: str, angle: float) -> Parts:
    """What ``entry`` is of a robot that stands, and moves, turned to the left by ``angle``, rad."""
    return _rotated(entry, heading_partner(entry), 0.5 * angle if is_orientation(entry) else angle)


def is_orientation(entry: str) -> bool:
    """Whether ``entry`` is a part of the base's quaternion."""
    return entry.startswith("base/orientation_")


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
_TURNED_GOALS = frozenset(("linear_y", "angular_x", "angular_z"))

_OF_BODY = frozenset(("projected_gravity", "body_linear_velocity", "angular_velocity"))
"""Vectors of the base in its own frame."""
_OF_WORLD = frozenset(("position", "linear_velocity", "world_angular_velocity"))
"""Those in the frame of the world."""

# In which planes quantities turn, the first of a pair towards the second.
_PLANES = (("x", "y"),)
# A quaternion's, by half the angle, turned before or after what it says.
_WORLD_SPINS = (("w", "z"), ("x", "y"))
_BODY_SPINS = (("w", "z"), ("y", "x"))


def _partner(entry: str, planes: Sequence[tuple[str, str]]) -> Partner | None:
    component, at, periods = entry.partition("@")
    vector, axis = component[:-1], component[-1]
    for first, second in planes:
        if axis == first:
            return Partner(f"{vector}{second}{at}{periods}", -1.0)
        if axis == second:
            return Partner(f"{vector}{first}{at}{periods}", 1.0)
    return None


def _rotated(entry: str, partner: Partner | None, angle: float) -> Parts:
    if partner is None:
        return {entry: 1.0}
    factors = {entry: math.cos(angle), partner.name: partner.sign * math.sin(angle)}
    return {name: factor for name, factor in factors.items() if abs(factor) > 1e-12}


def _each_once(named: dict[str, list[str]]) -> None:
    for field, names in named.items():
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            raise ValueError(f"{field}: listed more than once: {', '.join(twice)}")
