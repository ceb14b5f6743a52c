"""``maac study foresight``: what the model promises the policy, beside what the robot then does."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from torch import Tensor

from maac_learning import evidence
from maac_learning.draws import Draws
from maac_learning.objectives import Rollout, expanded_return
from maac_learning.trainer import Trainer, load_run
from maac_ros.errors import ConfigError
from maac_ros.simulation import TaskEnv

_ROLLOUTS = 4
"""Model rollouts from each state."""


@dataclass(frozen=True)
class ForesightArguments:
    """Play the exploring policy of each run on the robot, and in the model from the states it comes through.

    A policy that is better in the model than on the robot has learned from the model's errors; critics whose values
    change when they look further ahead in the model are behind it.
    """

    runs: tuple[Path, ...]
    """Folders of training runs; their newest checkpoints are used."""
    episodes: int = 8
    """Episodes on the robot."""
    steps: int = 400
    """Steps of an episode at most."""
    horizons: tuple[int, ...] = (1, 5, 10, 20, 50)
    """Steps over which rewards are summed."""
    critic_updates: tuple[int, ...] = (0,)
    """Look after so many updates of the critics alone, with policy and model as they are."""
    target_rate: float | None = None
    """Of these updates, in place of the run's ``agent.target_rate``."""
    seed: int = 100
    """Of the first episode, and of the noise."""
    json: Path | None = None
    """Also write the results to this file."""


@dataclass(frozen=True)
class Played:
    """An episode of T steps: ``observations`` (T + 1, O), ``rewards`` (T,)."""

    observations: NDArray[np.float32]
    rewards: NDArray[np.float64]
    terminated: bool


@dataclass(frozen=True)
class Foresight:
    """Means over states: reward summed over ``horizon`` steps, and the share that terminated within them.

    ``value`` is what the critics expect from there, soft and discounted, and ``expanded_value`` the same with the first
    ``horizon`` steps taken in the model: critics that agree with their model keep it what it was.
    """

    horizon: int
    states: int
    real_return: float
    imagined_return: float
    real_ended: float
    imagined_ended: float
    value: float
    expanded_value: float


def foresight(arguments: Sequence[str]) -> int:
    """``maac study foresight``."""
    chosen = tyro.cli(ForesightArguments, prog="maac study foresight", args=list(arguments))
    _check(chosen)
    print(_HEADING, flush=True)
    rows, models = [], {}
    for run in chosen.runs:
        trainer = load_run(run)
        if not trainer.rows or math.isnan(trainer.rows[-1].model_mse):
            raise ConfigError(
                f"'{run}': no model has been fitted in this run; expected one that uses it"
            )
        models[run.name] = trainer.config.model.model_dump()
        done = 0
        for updates in chosen.critic_updates:
            trainer.update_critics(updates - done, chosen.target_rate)
            done = updates
            for found in look_ahead(trainer, chosen):
                print(_line(run.name, updates, found), flush=True)
                rows.append(
                    {
                        "run": run.name,
                        "task": trainer.task.name,
                        "env_steps": trainer.env_steps,
                        "held_out_mse": trainer.rows[-1].model_mse,
                        "critic_updates": updates,
                        "target_rate": chosen.target_rate or trainer.config.agent.target_rate,
                        **vars(found),
                    }
                )
    if chosen.json is not None:
        evidence.write(
            chosen.json,
            "What the model promises and what the robot does",
            shlex.join(["maac", "study", "foresight", *arguments]),
            rows,
            model=models,
        )
    return 0


def _check(chosen: ForesightArguments) -> None:
    for name in ("episodes", "steps"):
        if getattr(chosen, name) < 1:
            raise ConfigError(f"--{name}: got {getattr(chosen, name)}; expected at least 1")
    counts = chosen.critic_updates
    if not counts or min(counts) < 0 or list(counts) != sorted(set(counts)):
        raise ConfigError(f"--critic-updates: got {counts}; expected rising numbers of at least 0")
    if chosen.target_rate is not None and not 0 < chosen.target_rate <= 1:
        raise ConfigError(
            f"--target-rate: got {chosen.target_rate}; expected more than 0, at most 1"
        )
    if not chosen.horizons or min(chosen.horizons) < 1:
        raise ConfigError(f"--horizons: got {chosen.horizons}; expected numbers of at least 1")


def look_ahead(trainer: Trainer, chosen: ForesightArguments) -> list[Foresight]:
    """Every horizon over which some state of the episodes can be compared."""
    generator = torch.Generator().manual_seed(chosen.seed)
    episodes = [
        _play(trainer, chosen.seed + each, chosen.steps, generator)
        for each in range(chosen.episodes)
    ]
    found = (_compare(trainer, episodes, horizon, generator) for horizon in chosen.horizons)
    return [each for each in found if each is not None]


@torch.no_grad()
def _play(trainer: Trainer, seed: int, steps: int, generator: torch.Generator) -> Played:
    env = TaskEnv(trainer.task)
    policy = trainer.agent.policy
    observation, _ = env.reset(seed=seed)
    observations, terminated = [observation], False
    rewards: list[float] = []
    while len(rewards) < steps:
        state = torch.as_tensor(observation, dtype=torch.float32, device=trainer.device)[None]
        noise = torch.randn(1, policy.actions, generator=generator).to(trainer.device)
        command = trainer.command(policy.sample(state, noise)[0], state)[0]
        observation, reward, terminated, truncated, _ = env.step(command)
        observations.append(observation)
        rewards.append(reward)
        if terminated or truncated:
            break
    return Played(np.array(observations, dtype=np.float32), np.array(rewards), terminated)


@torch.no_grad()
def _compare(
    trainer: Trainer, episodes: Sequence[Played], horizon: int, generator: torch.Generator
) -> Foresight | None:
    """From the states after which ``horizon`` steps, or the termination within them, were seen."""
    states, gains, ended = [], [], []
    for episode in episodes:
        length = len(episode.rewards)
        for t in range(length if episode.terminated else length - horizon + 1):
            states.append(episode.observations[t])
            gains.append(episode.rewards[t : t + horizon].sum())
            ended.append(episode.terminated and t + horizon >= length)
    # Rows are dealt evenly to the members.
    count = len(states) - len(states) % trainer.model.members
    if count == 0:
        return None
    start = torch.as_tensor(np.array(states[:count]), device=trainer.device)
    draws = Draws(generator, trainer.device)
    rollouts = [
        trainer.agent.rollout(trainer.model, start, horizon, draws) for _ in range(_ROLLOUTS)
    ]

    def mean(of: Callable[[Rollout], Tensor]) -> float:
        return float(torch.stack([of(rollout).mean() for rollout in rollouts]).mean())

    agent, settings = trainer.agent, trainer.config.agent
    temperature = agent.log_temperature.exp() * float(settings.entropy)

    def value(rollout: Rollout, t: int) -> Tensor:
        return agent.critics(rollout.observation[t], rollout.action[t]).mean(dim=0)

    return Foresight(
        horizon,
        count,
        real_return=float(np.mean(gains[:count])),
        imagined_return=mean(lambda r: (r.reward * r.alive[:-1]).sum(dim=0)),
        real_ended=float(np.mean(ended[:count])),
        imagined_ended=mean(lambda r: 1.0 - r.alive[-1]),
        value=mean(lambda r: value(r, 0)),
        expanded_value=mean(
            lambda r: expanded_return(r, value(r, horizon), settings.discount, temperature, False)
        ),
    )


_HEADING = (
    f"{'run':<20}{'updates':>8}{'horizon':>8}{'states':>8}{'real':>10}{'imagined':>10}{'ended':>8}{'imagined':>10}"
    f"{'value':>9}{'expanded':>10}"
)


def _line(run: str, updates: int, found: Foresight) -> str:
    text = (
        f"{run[-19:]:<20}{updates:>8}{found.horizon:>8}{found.states:>8}{found.real_return:>10.2f}"
    )
    text += f"{found.imagined_return:>10.2f}{found.real_ended:>8.3f}{found.imagined_ended:>10.3f}"
    return f"{text}{found.value:>9.1f}{found.expanded_value:>10.1f}"
