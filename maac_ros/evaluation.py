"""Run a bundle in its task's simulation, in one process and without ROS."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from maac_ros.bundle import Bundle
from maac_ros.controller import Controller, ControllerSettings
from maac_ros.simulation import TaskEnv


@dataclass(frozen=True)
class Episode:
    """Outcome of one episode; the return is undiscounted, on the task's reward scale."""

    seed: int
    episode_return: float
    steps: int
    terminated: bool


def run_episode(controller: Controller, env: TaskEnv, seed: int) -> Episode:
    """Play one episode from the initial state that ``seed`` draws."""
    observation, _ = env.reset(seed=seed)
    total, steps, terminated, truncated = 0.0, 0, False, False
    while not (terminated or truncated):
        command = controller.tick(observation, age_s=0.0)
        observation, reward, terminated, truncated, _ = env.step(command.values)
        total += reward
        steps += 1
    return Episode(seed, total, steps, terminated)


def evaluate(
    bundle: Bundle, episodes: int, seed: int, use_mpc: bool
) -> Iterator[tuple[Episode, Controller]]:
    """Play ``episodes`` episodes, seeded ``seed``, ``seed + 1``, …; planning without a time budget.

    Yields each episode with the controller that played it, for its statistics.
    """
    settings = ControllerSettings(
        planner=bundle.task.planner, mpc_budget_s=float("inf"), use_mpc=use_mpc
    )
    controller = Controller(bundle, settings)
    env = TaskEnv(bundle.task)
    try:
        for index in range(episodes):
            yield run_episode(controller, env, seed + index), controller
    finally:
        env.close()
