"""From the policy node's parameters to a controller that is ready to be ticked."""

from __future__ import annotations

from typing import Any

from maac_ros.bundle import Bundle, load_bundle, load_verified, require_same_task
from maac_ros.controller import Controller
from maac_ros.nodes.policy_parameters import controller_settings
from maac_ros.task import Task, load_task
from maac_ros.vetting import vet

_PAUSE_S = 0.004
"""Between the ticks of a warm-up beside a robot that is commanded, whose own ticks find the cores free then."""


def load(values: dict[str, Any]) -> Controller:
    """A controller for the bundle that the parameters ``values`` name.

    Raises:
        MaacError: when there is none, or it is refused.
    """
    return _warm_controller(load_bundle(_name(values), values["providers"]), values)


def load_beside(values: dict[str, Any], task: Task) -> tuple[Controller, str]:
    """As :func:`load`, in a thread beside that of another controller, which commands the robot of ``task`` meanwhile.

    Returns:
        the controller, and its manifest as YAML.

    Raises:
        MaacError: when there is no such bundle, it is refused, or it is one of another task.
    """
    vetted = vet(_name(values), values["providers"])
    bundle = load_verified(vetted.folder, vetted.manifest, values["providers"])
    require_same_task(bundle, task)
    return _warm_controller(bundle, values, _PAUSE_S), vetted.metadata


def _name(values: dict[str, Any]) -> str:
    """The bundle, or that of the task where there is none."""
    if not values["bundle"] and values["task"]:
        return load_task(values["task"]).name
    return str(values["bundle"])


def _warm_controller(bundle: Bundle, values: dict[str, Any], pause_s: float = 0.0) -> Controller:
    controller = Controller(bundle, controller_settings(values, bundle.manifest), values["seed"])
    controller.warm_up(pause_s=pause_s)
    return controller
