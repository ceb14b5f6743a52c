"""Time mbrl-lib's MBPO. A script of its own: it runs under the Python of an environment that has mbrl-lib.

It runs the library's training loop with the settings it ships for the task, and times one cycle of it: from just
after a model fit and its rollouts to just after the next. What comes before, from the random steps to the first
fit, is not counted. Prints one JSON object as its last line.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mbrl
import mbrl.models
import mbrl.third_party.pytorch_sac_pranz24 as sac
import mbrl.util.common
import numpy as np
import torch
from gymnasium.spaces import Box
from mbrl.algorithms import mbpo
from mbrl.util.env import EnvHandler
from omegaconf import DictConfig, OmegaConf

TASKS = {
    "half_cheetah": ("mbpo_halfcheetah", "HalfCheetah-v4"),
    "hopper": ("mbpo_hopper", "Hopper-v4"),
    "walker2d": ("mbpo_walker", "Walker2d-v4"),
    "inverted_pendulum": ("mbpo_inv_pendulum", "InvertedPendulum-v4"),
}
"""Task to the library's settings file for it, and the environment's newest version in Gymnasium 0.29."""


class Finished(Exception):
    """The measured cycles are over."""


class Clock:
    """Counts the seconds spent in functions of the library, from the end of its first rollouts on."""

    def __init__(self, cycles: int) -> None:
        self._left = cycles
        self._started: float | None = None
        self.seconds: dict[str, float] = {}
        self.update_seconds: list[float] = []
        self.env_steps = 0
        self.elapsed = 0.0

    def time(self, owner: Any, function: str, phase: str) -> None:
        """Replace ``owner.function`` by itself, counted for ``phase``."""
        original: Callable[..., Any] = getattr(owner, function)

        def timed(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            result = original(*args, **kwargs)
            ended = time.perf_counter()
            if self._started is not None:
                self.seconds[phase] = self.seconds.get(phase, 0.0) + ended - began
                self.env_steps += phase == "environment"
                if phase == "update":
                    self.update_seconds.append(ended - began)
            if phase == "rollouts":
                self._cycle_ended(ended)
            return result

        setattr(owner, function, timed)

    def _cycle_ended(self, now: float) -> None:
        if self._started is None:
            self._started = now
            return
        self.elapsed = now - self._started
        self._left -= 1
        if self._left == 0:
            raise Finished


def action_space(low: list[float], high: list[float], shape: list[int]) -> Box:
    """What the library's settings ask of ``gym.env.Box``, a name that its Gym does not have."""
    return Box(np.array(low), np.array(high), tuple(shape), dtype=np.float32)


def settings(task: str, replay: int, seed: int) -> DictConfig:
    """The settings that the library ships for ``task``; no more is changed than to run them here."""
    folder = Path(mbrl.__file__).parent / "examples" / "conf"
    overrides, environment = TASKS[task]
    config = OmegaConf.create(
        {"seed": seed, "device": "cpu", "log_frequency_agent": 1000, "save_video": False}
    )
    config.algorithm = OmegaConf.load(folder / "algorithm" / "mbpo.yaml")
    config.dynamics_model = OmegaConf.load(folder / "dynamics_model" / "gaussian_mlp_ensemble.yaml")
    config.overrides = OmegaConf.load(folder / "overrides" / f"{overrides}.yaml")
    config.overrides.env = f"gym___{environment}"
    # The first fit comes so many steps after the random ones.
    config.algorithm.initial_exploration_steps = replay - config.overrides.freq_train_model
    # Written for Hydra 1.0: later ones instantiate nested settings too, where they are asked to or not.
    config.dynamics_model._recursive_ = False
    config.algorithm.agent.action_space._target_ = "__main__.action_space"
    assert isinstance(config, DictConfig)
    return config


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", choices=sorted(TASKS), required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--replay", type=int, required=True, help="transitions at the first fit")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cycles", type=int, default=1, help="model fits to measure")
    parser.add_argument("--check", action="store_true", help="only see whether it could run")
    chosen = parser.parse_args()
    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    config = settings(chosen.task, chosen.replay, chosen.seed)
    environment, termination, _ = EnvHandler.make_env(config)
    spare, *_ = EnvHandler.make_env(config)
    if chosen.check:
        return
    clock = Clock(chosen.cycles)
    clock.time(mbrl.util.common, "step_env_and_add_to_buffer", "environment")
    clock.time(mbrl.models.ModelTrainer, "train", "fit")
    clock.time(sac.SAC, "update_parameters", "update")
    clock.time(mbpo, "evaluate", "evaluation")
    clock.time(mbrl.models.OneDTransitionRewardModel, "save", "checkpoint")
    clock.time(mbrl.util.ReplayBuffer, "save", "checkpoint")
    clock.time(sac.SAC, "save_checkpoint", "checkpoint")
    clock.time(mbpo, "rollout_model_and_populate_sac_buffer", "rollouts")
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(Finished):
        mbpo.train(environment, spare, termination, config, silent=True, work_dir=folder)
    p50, p99 = np.percentile(clock.update_seconds, (50, 99)) * 1e3
    report = {
        "name": "mbrl-lib MBPO",
        "versions": {name: version(name) for name in ("mbrl", "torch", "gymnasium", "mujoco")},
        "environment": TASKS[chosen.task][1],
        "settings": OmegaConf.to_container(config.overrides),
        "threads": torch.get_num_threads(),
        "replay": chosen.replay,
        "env_steps": clock.env_steps,
        "elapsed": clock.elapsed,
        "seconds": clock.seconds,
        "updates": len(clock.update_seconds),
        "update_p50_ms": float(p50),
        "update_p99_ms": float(p99),
    }
    print(json.dumps(report), flush=True)


if __name__ == "__main__":
    main()
