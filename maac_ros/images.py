"""What a task must observe and drive for its robot's symmetry to be of use."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from maac_ros.action_terms import ActionEntry
from maac_ros.robot import Robot
from maac_ros.symmetry import Mirror, Parts, Symmetry, heading_parts
from maac_ros.terms import ObservationEntry

_SOME_ANGLE = 1.0
"""rad; a heading turned by this is made of all that it can be made of."""


def check_images(
    robot: Robot,
    sensors: tuple[str, ...],
    observed: Mapping[str, ObservationEntry],
    driven: Mapping[str, ActionEntry],
) -> None:
    """Every image of what is observed and driven must be found in it, told alike.

    Raises:
        ValueError: naming what is not.
    """
    for field, symmetry in robot.symmetries.items():
        _check_names(field, symmetry, (*robot.joints, *sensors))
        where = f"robot.{field}"
        called = "mirror image" if isinstance(symmetry, Mirror) else "image"
        sections: dict[str, Mapping[str, ObservationEntry | ActionEntry]] = {
            "observation": observed,
            "action": driven,
        }
        for section, entries in sections.items():
            _check_parts(where, called, section, entries, symmetry.parts)
        for name, action in driven.items():
            (image,) = symmetry.parts(name)
            if action.step != driven[image].step:
                raise ValueError(
                    f"{where}: the position steps of '{name}' and its {called} '{image}' differ"
                )
            if action.gear != driven[image].gear:
                raise ValueError(
                    f"{where}: '{name}' has a gear of {action.gear:g}, its {called} '{image}' one of "
                    f"{driven[image].gear:g}"
                )
    if robot.base is not None and robot.base.any_heading:
        _check_heading(observed)


def _check_names(field: str, symmetry: Symmetry, known: tuple[str, ...]) -> None:
    for part, joints in symmetry.named().items():
        for joint in joints:
            if joint not in known:
                raise ValueError(
                    f"robot.{field}.{part}: unknown joint '{joint}'; expected one of: {', '.join(known)}"
                )


def _check_heading(observed: Mapping[str, ObservationEntry]) -> None:
    where = "robot.base.any_heading"
    turned = [name for name in observed if len(heading_parts(name, _SOME_ANGLE)) > 1]
    quaternion = [f"base/orientation_{part}" for part in "wxyz"]
    missing = [name for name in quaternion if name not in observed]
    if turned and missing:
        raise ValueError(
            f"{where}: '{turned[0]}' is told in the frame of the world, and where the robot faces is not: expected "
            f"{', '.join(missing)} in the observation too"
        )
    _check_parts(
        where, "image", "observation", observed, lambda name: heading_parts(name, _SOME_ANGLE)
    )


def _check_parts(
    where: str,
    called: str,
    section: str,
    entries: Mapping[str, ObservationEntry | ActionEntry],
    parts_of: Callable[[str], Parts],
) -> None:
    for name, entry in entries.items():
        parts = parts_of(name)
        for image in parts:
            if image not in entries:
                raise ValueError(
                    f"{where}: the {called} of '{name}' is '{image}', which is no part of the {section}"
                )
        if len(parts) > 1:
            _check_mixed(where, name, entry, [entries[image] for image in parts])
            continue
        ((image, sign),) = parts.items()
        other = entries[image]
        if (entry.low, entry.high) != (
            (other.low, other.high) if sign > 0 else (-other.high, -other.low)
        ):
            raise ValueError(
                f"{where}: '{name}' has the limits [{entry.low:g}, {entry.high:g}], which those of its {called} "
                f"'{image}', [{other.low:g}, {other.high:g}], do not match"
            )
        told, others = _telling(entry), _telling(other)
        if told != (sign * others[0], others[1]):
            raise ValueError(
                f"{where}: '{name}' is observed with an offset of {told[0]:g} and a scale of {told[1]:g}, its {called} "
                f"'{image}' with {others[0]:g} and {others[1]:g}"
            )


def _check_mixed(
    where: str,
    name: str,
    entry: ObservationEntry | ActionEntry,
    others: list[ObservationEntry | ActionEntry],
) -> None:
    """What is turned into one another must be bounded alike."""
    for other in others:
        if (other.low, other.high) != (-entry.high, entry.high):
            raise ValueError(
                f"{where}: '{other.name}' has the limits [{other.low:g}, {other.high:g}], and turns with '{name}'; "
                "expected the same for both, as far to either side"
            )


def _telling(entry: ObservationEntry | ActionEntry) -> tuple[float, float]:
    if isinstance(entry, ObservationEntry):
        return entry.offset, entry.scale
    return 0.0, 1.0
