"""Run a bundle in its task's simulation, in one process and without ROS."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from maac_ros.bundle import Bundle
from maac_ros.controller import Controller, ControllerSettings
from maac_ros.simulation import TaskEnv
from maac_ros.task import PlannerSettings


@dataclass(frozen=True)
class Episode:
    """Outcome of one episode; the return is undiscounted, on the task's reward scale."""

    seed: int | None
    episode_return: float
    steps: int
    terminated: bool


Film = Callable[[Any], None]
"""Takes the frames (height, width, 3), uint8, of an episode, from its start to its end."""


def run_episode(
    controller: Controller, env: TaskEnv, seed: int | None, film: Film | None = None
) -> Episode:
    """Play one episode from the initial state that ``seed`` draws; ``film`` it where the environment renders.

    Without a seed the environment goes on in its random streams.
    """
    observation, _ = env.reset(seed=seed)
    controller.begin_anew()
    total, steps, terminated, truncated = 0.0, 0, False, False
    while not (terminated or truncated):
        if film is not None:
            film(env.render())
        command = controller.tick(observation, age_s=0.0, joints=env.state.joints)
        controller.assess()
        observation, reward, terminated, truncated, _ = env.step(command.values)
        total += reward
        steps += 1
    if film is not None:
        film(env.render())
    return Episode(seed, total, steps, terminated)


def evaluate(
    bundle: Bundle,
    episodes: int,
    seed: int,
    use_mpc: bool,
    planner: PlannerSettings | None = None,
    conditions: Mapping[str, Any] | None = None,
    film: Film | None = None,
    filmed: int = 1,
    model_fallback: bool = True,
) -> Iterator[tuple[Episode, Controller]]:
    """Play ``episodes`` episodes, seeded ``seed``, ``seed + 1``, …; planning without a time budget.

    ``planner`` replaces the task's settings, and the robot is altered to ``conditions``, by the names of
    :class:`maac_ros.conditions.Conditions`. The first ``filmed`` of the episodes
    are given to ``film``, frame by frame. ``model_fallback`` lets the policy take over where the model does not
    describe the robot. Yields each episode with the controller that played it, for its statistics.
    """
    settings = ControllerSettings(
        planner=planner or bundle.task.planner,
        mpc_budget_s=float("inf"),
        use_mpc=use_mpc,
        model_fallback=model_fallback,
    )
    controller = Controller(bundle, settings)
    env = TaskEnv(bundle.task, render_mode=None if film is None else "rgb_array")
    env.simulation.alter(**(conditions or {}))
    try:
        for index in range(episodes):
            camera = film if index < filmed else None
            yield run_episode(controller, env, seed + index, camera), controller
    finally:
        env.close()
