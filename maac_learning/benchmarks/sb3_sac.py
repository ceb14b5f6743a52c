"""The baseline ``sb3-sac``: Stable-Baselines3's SAC (Haarnoja et al., 2018) on a task, logged like this project's runs.

``python -m maac_learning.benchmarks.sb3_sac RUN`` trains, or goes on with, the run whose settings are in
``RUN/config.yaml``. All hyper-parameters are the library's own, but for the random steps at the start, which are the
task's.
"""

from __future__ import annotations

import argparse
import math
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field

from maac_learning import checkpoint
from maac_learning.config import EvaluationConfig
from maac_learning.evaluation import Evaluation, evaluate
from maac_learning.runlog import Row, RunLog
from maac_learning.trainer import CONFIG_FILE
from maac_ros import schema
from maac_ros.errors import CheckpointError, ConfigError, MaacError
from maac_ros.observation import Vector
from maac_ros.simulation import Simulation, TaskEnv
from maac_ros.task import load_task

NAME: Literal["sb3-sac"] = "sb3-sac"

_REPLAY = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")


class SacConfig(schema.Description):
    """What this project decides in a run of the baseline; see ``TrainConfig`` for the fields."""

    preset: Literal["sb3-sac"] = NAME
    library: str
    """Version of Stable-Baselines3."""
    task: str
    seed: int = Field(ge=0)
    env_steps: int = Field(ge=1)
    random_steps: int = Field(ge=1)
    device: str
    threads: int = Field(ge=0)
    checkpoint_every: int = Field(ge=1)
    evaluation: EvaluationConfig


class SacRun:
    """One training run of the baseline in ``run_dir``.

    A resumed run has the networks, optimisers and replay that it was stopped with, but begins another episode, and its
    random streams begin anew.

    Raises:
        ConfigError: when Stable-Baselines3 is not installed.
        CheckpointError: when the newest checkpoint cannot be used.
    """

    def __init__(self, config: SacConfig, run_dir: Path) -> None:
        sac = _library().SAC
        self.config = config
        self._run_dir = run_dir
        if config.threads:
            torch.set_num_threads(config.threads)
        task = load_task(config.task)
        self._env = TaskEnv(task)
        self._evaluators = [Simulation(task) for _ in range(config.evaluation.episodes)]
        saved = checkpoint.available(run_dir / "checkpoints")
        tensors, state = checkpoint.load(saved[-1]) if saved else ({}, {})
        steps = int(state.get("env_steps", 0))
        self._model = sac(
            "MlpPolicy",
            self._env,
            buffer_size=config.env_steps + 1,  # never full: it begins anew when it is
            learning_starts=config.random_steps,
            device=config.device,
            seed=config.seed + steps,  # another stream after each resumption
        )
        self._seconds_before = 0.0
        rows: list[Row] = []
        if saved:
            try:
                rows = self._restore(tensors, state)
            except (KeyError, RuntimeError, TypeError, ValueError) as reason:
                raise CheckpointError(
                    f"{saved[-1]}: does not fit this run's settings: {reason}"
                ) from reason
        self._log = RunLog(run_dir, config, rows)
        self._started = time.monotonic()
        self._stop = False

    @property
    def env_steps(self) -> int:
        return int(self._model.num_timesteps)

    def request_stop(self) -> None:
        """Stop after the present environment step."""
        self._stop = True

    def train(self) -> bool:
        """Train until ``config.env_steps`` or :meth:`request_stop`, and save. Returns whether it is done."""
        config, model = self.config, self._model
        every = math.gcd(config.evaluation.every, config.checkpoint_every)
        self._log.open()
        try:
            while model.num_timesteps < config.env_steps and not self._stop:
                until = min((model.num_timesteps // every + 1) * every, config.env_steps)
                model.learn(
                    until - model.num_timesteps,
                    callback=lambda *_: not self._stop,
                    log_interval=None,
                    reset_num_timesteps=False,
                )
                steps = model.num_timesteps
                if steps < until:
                    break
                due = steps % config.evaluation.every == 0 or steps == config.env_steps
                if steps >= config.random_steps and due:
                    self._evaluate()
                if steps % config.checkpoint_every == 0:
                    self._save()
        finally:
            self._save()
            self._log.close()
        return bool(model.num_timesteps >= config.env_steps)

    def evaluate(self) -> Evaluation:
        """Episodes of the deterministic policy, the same that all runs are judged by."""

        def commands(observations: Vector) -> Vector:
            chosen: Vector = self._model.predict(observations, deterministic=True)[0]
            return chosen.astype(np.float64)

        return evaluate(self._evaluators, self._env.builder, commands)

    def _evaluate(self) -> None:
        returns, lengths = self.evaluate()
        logged = self._model.logger.name_to_value
        self._log.add(
            Row(
                env_steps=self._model.num_timesteps,
                eval_return=float(returns.mean()),
                eval_return_std=float(returns.std()),
                seconds=self._seconds(),
                eval_steps=float(lengths.mean()),
                model_mse=math.nan,
                critic_loss=float(logged.get("train/critic_loss", math.nan)),
                actor_loss=float(logged.get("train/actor_loss", math.nan)),
                temperature=float(logged.get("train/ent_coef", math.nan)),
                value=math.nan,
            )
        )

    def _seconds(self) -> float:
        return self._seconds_before + time.monotonic() - self._started

    def _optimizers(self) -> dict[str, torch.optim.Optimizer]:
        model = self._model
        return {
            "actor": model.actor.optimizer,
            "critic": model.critic.optimizer,
            "temperature": model.ent_coef_optimizer,
        }

    def _save(self) -> None:
        model, replay = self._model, self._model.replay_buffer
        tensors = {f"policy.{k}": v for k, v in model.policy.state_dict().items()}
        tensors["log_temperature"] = model.log_ent_coef
        for name, optimizer in self._optimizers().items():
            tensors |= checkpoint.optimizer_tensors(f"optimizer.{name}", optimizer)
        for name in _REPLAY:
            tensors[f"replay.{name}"] = torch.from_numpy(getattr(replay, name)[: replay.pos])
        state = {
            "env_steps": model.num_timesteps,
            "updates": model._n_updates,
            "seconds": self._seconds(),
            "rows": [asdict(row) for row in self._log.rows],
        }
        checkpoint.save(self._run_dir / "checkpoints", model.num_timesteps, tensors, state)

    def _restore(self, tensors: dict[str, torch.Tensor], state: dict[str, Any]) -> list[Row]:
        model, replay = self._model, self._model.replay_buffer
        prefix = "policy."
        model.policy.load_state_dict(
            {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        )
        with torch.no_grad():
            model.log_ent_coef.copy_(tensors["log_temperature"])
        for name, optimizer in self._optimizers().items():
            checkpoint.load_optimizer(f"optimizer.{name}", optimizer, tensors)
        replay.pos = len(tensors["replay.rewards"])
        for name in _REPLAY:
            getattr(replay, name)[: replay.pos] = tensors[f"replay.{name}"].numpy()
        model.num_timesteps, model._n_updates = state["env_steps"], state["updates"]
        self._seconds_before = state["seconds"]
        return [Row(**row) for row in state["rows"]]


def library_version() -> str:
    """Version of Stable-Baselines3.

    Raises:
        ConfigError: saying how to install it, when it is not there.
    """
    version: str = _library().__version__
    return version


def _library() -> Any:
    try:
        import stable_baselines3
    except ImportError as reason:
        raise ConfigError(
            f"{NAME}: needs Stable-Baselines3, which cannot be imported ({reason}); install it with: "
            f"{sys.executable} -m pip install -r requirements/baselines.txt"
        ) from reason
    return stable_baselines3


def main(argv: Sequence[str] | None = None) -> int:
    """Train or resume one run. Returns 130 when it was stopped by a signal, with a checkpoint written."""
    parser = argparse.ArgumentParser(prog=NAME, description=__doc__)
    parser.add_argument("run", type=Path, help="folder with config.yaml")
    run_dir = parser.parse_args(argv).run
    try:
        config = schema.load(run_dir / CONFIG_FILE, SacConfig, ConfigError)
        run = SacRun(config, run_dir)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: run.request_stop())
        return 0 if run.train() else 130
    except MaacError as reason:
        print(f"{NAME}: {reason}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
