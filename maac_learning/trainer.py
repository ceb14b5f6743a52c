"""Algorithm 1: collect, fit the model, imagine, update, evaluate; with checkpoints and a log for people."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor

from maac_learning import checkpoint, health, preflight
from maac_learning.agent import Agent, UpdateReport
from maac_learning.calibration import calibrate, observed
from maac_learning.capture import updater
from maac_learning.config import TrainConfig
from maac_learning.dynamics import DynamicsEnsemble
from maac_learning.evaluation import Evaluation, evaluate
from maac_learning.export import export_bundle
from maac_learning.files import write_text
from maac_learning.fitting import fit_in_turn
from maac_learning.graphs import ActionScaling
from maac_learning.phases import PhaseClock, timed
from maac_learning.progress import Pace, Progress, updates_left
from maac_learning.replay import TransitionBuffer, Transitions, joined
from maac_learning.runlog import Row, RunLog, rows_from_tensors, rows_to_tensors
from maac_learning.snapshots import snapshot_of, snapshot_parts
from maac_learning.symmetry import check_symmetry
from maac_ros import schema
from maac_ros.bundle import Bundle
from maac_ros.command_range import CommandRange
from maac_ros.errors import CheckpointError, ConfigError, TrainingError
from maac_ros.observation import Vector
from maac_ros.simulation import Simulation, TaskEnv
from maac_ros.task import Task, load_task

CONFIG_FILE, TASK_FILE = "config.yaml", "task.yaml"

_PROGRESS_SECONDS = 0.2
_MANY_UPDATES = 10
"""So many updates at once are a phase of their own, not a part of collecting."""


class Trainer:
    """One training run in ``run_dir``.

    Args:
        config: see :class:`TrainConfig`.
        run_dir: created; holds ``config.yaml``, ``task.yaml``, ``curve.csv``, ``curve.png``, ``tensorboard/``,
            ``checkpoints/`` and, after an export, ``bundle/``.
        resume: go on from the newest usable checkpoint in ``run_dir``, with the task as it was when the run began.

    Raises:
        ConfigError: when the device is not available, ``run_dir`` already holds a run or cannot be written to, or
            there is no room for the data.
        CheckpointError: when ``resume`` finds no usable checkpoint.
        TaskError: when the task does not fit its simulation.
    """

    def __init__(self, config: TrainConfig, run_dir: Path, resume: bool = False) -> None:
        self.config = config
        self.run_dir = run_dir
        self.phases = PhaseClock()
        self.device = preflight.usable_device(config.device)
        if config.threads:
            torch.set_num_threads(config.threads)
        kept = run_dir / TASK_FILE
        self.task = load_task(kept if resume and kept.exists() else config.task)
        self._env = TaskEnv(_in_training(self.task, config.episode_steps))
        self._scaling = ActionScaling(self.task)
        self._commands = CommandRange(self.task)
        observations, actions = len(self._env.builder.entries), len(self._commands.entries)
        if not resume:
            preflight.prepare_run_dir(run_dir, CONFIG_FILE)
            preflight.check_sizes(config, run_dir, observations, actions, self.device)
            if config.uses_model:
                check_symmetry(self.task, config.model)
        torch.manual_seed(config.seed)
        self._generator = torch.Generator().manual_seed(config.seed)
        self._agent = Agent(observations, actions, config.agent, self.device)
        self._model = DynamicsEnsemble(self.task, observations, actions, config.model).to(
            self.device
        )
        self._learn = updater(self._agent, self._model)
        self._replay = TransitionBuffer(config.env_steps, observations, actions, self.device)
        self._imagined = TransitionBuffer(
            _imagined_capacity(config), observations, actions, self.device
        )
        self._evaluators = [Simulation(self.task) for _ in range(config.evaluation.episodes)]
        self._env_steps = 0
        self._fits = 0
        self._updates = 0
        self._update_debt = 0.0
        self._episode_return = 0.0
        self._model_mse = math.nan
        self._last_update: UpdateReport | None = None
        self._last_episode_return: float | None = None
        self._seconds_before = 0.0
        self._solved = False
        self._unstable_episodes = 0
        self._watch = health.Watch(config, actions)
        self._warnings: list[str] = []
        self._pace = Pace(config)
        self._phase, self._told = "starting", -math.inf
        self._on_progress: Callable[[Progress], None] = lambda _: None
        self._saved_at = (-1, -1)
        self._stop, self._checkpoint_asked, self._export_asked = (
            threading.Event() for _ in range(3)
        )
        folder = run_dir / "checkpoints"
        rows = checkpoint.load_newest(folder, self._restore) if resume else []
        self._log = RunLog(run_dir, config, rows)
        if not resume:
            self._start_fresh()

    @property
    def env_steps(self) -> int:
        return self._env_steps

    @property
    def agent(self) -> Agent:
        """What learns; it goes on changing."""
        return self._agent

    @property
    def model(self) -> DynamicsEnsemble:
        """The learned world; every fit changes it."""
        return self._model

    @property
    def transitions(self) -> Transitions:
        """All real transitions so far, in the order in which they came."""
        return self._replay.all()

    @property
    def rows(self) -> list[Row]:
        """All evaluations so far."""
        return self._log.rows

    @property
    def phase_seconds(self) -> dict[str, float]:
        """Seconds spent so far, since the run was opened, in each phase of training."""
        return dict(self.phases.seconds)

    @property
    def solved(self) -> bool:
        """Whether training ended because ``evaluation.stop_at_return`` was reached."""
        return self._solved

    def request_stop(self) -> None:
        """Stop after the present environment step or update, with a checkpoint. May be called from any thread."""
        self._stop.set()

    def request_checkpoint(self) -> None:
        """Write a checkpoint at the next safe point. May be called from any thread."""
        self._checkpoint_asked.set()

    def request_export(self) -> None:
        """Export ``<run_dir>/bundle`` at the next safe point. May be called from any thread."""
        self._export_asked.set()

    def train(self, on_progress: Callable[[Progress], None] = lambda _: None) -> None:
        """Train until ``config.env_steps``, the return asked for, or :meth:`request_stop`; then write a checkpoint.

        Raises:
            TrainingError: when a number is no longer finite; checkpoints hold none of it.
            CheckpointError: when a checkpoint cannot be written.
            ConfigError: when the run's folder cannot be written to.
        """
        self._started = time.monotonic()
        self._on_progress = on_progress
        self._log.open()
        try:
            while self._unfinished() and not self._stop.is_set() and not self._solved:
                self._step()
                self._tell()
            if self._saved_at != (self._env_steps, self._updates):
                self.save_checkpoint()
        except TrainingError as reason:
            good = checkpoint.available(self.run_dir / "checkpoints")[-1]
            raise TrainingError(f"{reason} The last good checkpoint is '{good}'.") from reason
        finally:
            self._log.close()
        self._enter("stopped" if self._stop.is_set() else "finished")

    def _enter(self, phase: str) -> None:
        """Begin another phase of training, and tell of it at once."""
        if phase != self._phase:
            self._phase, self._told = phase, -math.inf
            self._tell()

    def _tell(self) -> None:
        """Report progress, every now and then."""
        now = time.monotonic()
        if now - self._told > _PROGRESS_SECONDS:
            self._told = now
            if self._last_update:
                self._watch.require_finite_update(self._env_steps, self._last_update)
            self._on_progress(self._progress())
            self._warnings.clear()

    def advance(self, env_steps: int) -> None:
        """Train for ``env_steps`` environment steps, within ``config.env_steps`` and with no checkpoint at the end."""
        until = min(self._env_steps + env_steps, self.config.env_steps)
        while (self._env_steps < until or self._updates_due()) and not self._stop.is_set():
            self._step()

    def update_critics(self, updates: int, target_rate: float | None = None) -> None:
        """Let the critics learn, and nothing else; with another ``agent.target_rate`` where that is given."""
        own = self._agent.config
        if target_rate is not None:
            self._agent.config = own.model_copy(update={"target_rate": target_rate})
        for _ in range(updates):
            self._update(train_actor=False)
        self._agent.config = own

    def _step(self) -> None:
        """One environment step and the learning that is due after it."""
        config = self.config
        # Else a stop came between two updates: first do the rest of them.
        if not self._updates_due():
            self._enter("collecting")
            self._collect()
            self._begin_learning()
        self._catch_up()
        if self._updates_due():
            return
        steps = self._env_steps
        due = steps % config.evaluation.every == 0 or steps == config.env_steps
        if steps >= config.random_steps and due:
            self._evaluate()
        if steps % config.checkpoint_every == 0 or self._checkpoint_asked.is_set():
            self._checkpoint_asked.clear()
            self.save_checkpoint()
        if self._export_asked.is_set():
            self._export_asked.clear()
            self.export_bundle()

    def _unfinished(self) -> bool:
        return self._env_steps < self.config.env_steps or self._updates_due() > 0

    def _updates_due(self) -> int:
        """Updates to be done before the next environment step."""
        config, steps = self.config, self._env_steps
        between_fits = (steps - config.random_steps) % config.model.fit_every != 0
        if (
            config.agent.update_schedule == "after_fit"
            and between_fits
            and steps < config.env_steps
        ):
            return 0
        return int(self._update_debt)

    def _begin_learning(self) -> None:
        """Fit the model where that is due, and count the updates that are."""
        config = self.config
        since = self._env_steps - config.random_steps
        if since < 0:
            return
        if since % config.model.fit_every == 0:
            if config.uses_model:
                self._fit_model()
            self._agent.normalize(self._replay.all().observation)
            if config.agent.fresh_optimizers:
                self._agent.forget_momentum()
            for done in range(config.agent.critic_warmup):
                self._announce_update(done, config.agent.critic_warmup)
                with self.phases("critic_warmup"):
                    self._update(train_actor=False)
        if since == 0:
            self._update_debt += config.agent.first_updates
        self._update_debt += config.agent.updates_per_step

    def _catch_up(self) -> None:
        """Do the updates that are due, unless a stop comes between."""
        due = self._updates_due()
        for done in range(due):
            if self._stop.is_set():
                return
            self._announce_update(done, due)
            with self.phases("update"):
                self._update()
            self._update_debt -= 1.0

    def _announce_update(self, done: int, due: int) -> None:
        if due >= _MANY_UPDATES:
            self._phase = f"updating {done}/{due}"
            self._tell()
        self._pace.mark(self._updates, time.monotonic())

    @timed("environment")
    @torch.no_grad()
    def _collect(self) -> None:
        observation = torch.as_tensor(self._observation, dtype=torch.float32, device=self.device)
        size = (1, self._agent.policy.actions)
        if self._env_steps < self.config.random_steps:
            action = 2.0 * torch.rand(size, generator=self._generator) - 1.0
        else:
            noise = torch.randn(size, generator=self._generator).to(self.device)
            action = self._agent.policy.sample(observation[None], noise)[0].cpu()
        # MuJoCo would silently take zero for what is not finite.
        self._watch.require_finite_tensors(self._env_steps, {"the policy's action": action})
        following, reward, terminated, truncated, _ = self._env.step(
            self.command(action, observation[None])[0]
        )
        health.require_finite_transition(self._env_steps, self._env.builder, following, reward)
        transition = Transitions(
            observation[None],
            action.to(self.device),
            torch.tensor([reward], dtype=torch.float32, device=self.device),
            torch.as_tensor(following, dtype=torch.float32, device=self.device)[None],
            torch.tensor([float(terminated)], device=self.device),
        )
        self._replay.add(transition)
        self._env_steps += 1
        self._episode_return += reward
        if terminated or truncated:
            self._last_episode_return = self._episode_return
            self._episode_return = 0.0
            self._unstable_episodes += self._env.simulation.unstable
            following, _ = self._env.reset()
        self._observation: Vector = following

    def command(self, action: Tensor, observation: Tensor) -> Vector:
        """Normalised actions (B, A) for observations (B, O) to commands within the limits."""
        command = self._scaling.to_command(action.cpu(), observation.cpu())
        return np.clip(command.numpy().astype(np.float64), self._commands.low, self._commands.high)

    @timed("fit")
    def _fit_model(self) -> None:
        self._enter("fitting model")
        settings = self.config.model
        data = self._replay.all().model_data()
        report = fit_in_turn(self._model, *data, settings, self._fits, self._generator)
        self._fits += 1
        self._model_mse = report.validation_mse
        weights = dict(self._model.named_parameters())
        self._watch.require_finite_model(self._env_steps, self._model_mse, weights)
        if self.config.rollout.kept is None:
            self._imagined.clear()

    @timed("rollouts")
    def _imagine(self) -> None:
        rollout = self.config.rollout
        rows = _multiple(rollout.batch, self._model.members)
        recent = round(rollout.recent_fraction * rows)
        start = self._replay.sample(rows - recent, self._generator).observation
        if recent:
            newest = self._replay.sample(recent, self._generator, rollout.recent_steps).observation
            start = torch.cat((start, newest))
        length = rollout.length_at(self._env_steps)
        self._imagined.add(self._agent.imagine(self._model, start, length, self._generator))

    def _update(self, train_actor: bool = True) -> None:
        rollout = self.config.rollout
        rows = _multiple(self.config.agent.batch_size, self._model.members)
        real = round(rollout.real_fraction * rows)
        batch = self._replay.sample(real, self._generator)
        if real < rows:
            if self._imagined.size == 0 or self._updates % rollout.every == 0:
                self._imagine()
            batch = joined((batch, self._imagined.sample(rows - real, self._generator)))
        self._updates += 1
        self._agent.set_learning_rate(self.config.learning_rate_at(self._env_steps))
        self._last_update = self._learn(batch, self._generator, train_actor)

    @timed("evaluation")
    def _evaluate(self) -> None:
        update = self._last_update
        if update:
            self._watch.require_finite_update(self._env_steps, update)
            vitals = health.measure(
                self._env_steps,
                self._agent,
                self._replay.all(),
                update,
                self._model_mse,
                self._unstable_episodes,
            )
            self._warnings += self._watch.look(vitals)
            self._unstable_episodes = 0
        self._enter("evaluating")
        returns, lengths = self.evaluate()
        losses = [float(x) for x in update] if update else [math.nan] * 4
        self._log.add(
            Row(
                env_steps=self._env_steps,
                eval_return=float(returns.mean()),
                eval_return_std=float(returns.std()),
                seconds=self._seconds(),
                eval_steps=float(lengths.mean()),
                model_mse=self._model_mse,
                actor_loss=losses[0],
                critic_loss=losses[1],
                temperature=losses[2],
                value=losses[3],
            )
        )
        goal = self.config.evaluation.stop_at_return
        self._solved = goal is not None and bool((returns >= goal).all())

    @torch.no_grad()
    def evaluate(self) -> Evaluation:
        """Episodes of the averaged policy, without noise, always from the same initial states."""

        def commands(observations: Vector) -> Vector:
            batch = torch.as_tensor(observations, dtype=torch.float32)
            return self.command(self._agent.averaged_policy.act(batch.to(self.device)), batch)

        return evaluate(self._evaluators, self._env.builder, commands)

    @timed("export")
    def export_bundle(self, path: Path | None = None) -> Bundle:
        """Export what has been learned so far; the default place is ``<run_dir>/bundle``."""
        last = self._log.rows[-1].eval_return if self._log.rows else None
        if self._replay.size == 0:
            raise CheckpointError(
                f"{self.run_dir}: nothing has been learned yet; no bundle to export"
            )
        data = self._replay.all()
        fitted = self._fits > 0
        return export_bundle(
            path or self.run_dir / "bundle",
            self.task,
            self._agent,
            self._model,
            data.observation,
            calibration=calibrate(self._model, data, self.config.model) if fitted else None,
            observed=observed(data),
            seed=self.config.seed,
            env_steps=self._env_steps,
            evaluation_return=last,
            training_seconds=self._seconds(),
            planning=self.config.planning if fitted else None,
        )

    @timed("checkpoint")
    def save_checkpoint(self) -> Path:
        """Write everything that decides how this run goes on.

        Raises:
            TrainingError: when the learner's numbers are no longer finite; the older checkpoints remain.
            CheckpointError: when it cannot be written.
        """
        env_tensors, env_state = snapshot_parts(self._env.simulation.snapshot())
        tensors = {f"agent.{k}": v for k, v in self._agent.state().items()}
        self._watch.require_finite_tensors(self._env_steps, tensors)
        tensors |= {f"model.{k}": v for k, v in self._model.state_dict().items()}
        tensors |= {f"replay.{k}": v for k, v in self._replay.state().items()}
        tensors |= {f"imagined.{k}": v for k, v in self._imagined.state().items()}
        for name, optimizer in self._agent.optimizers().items():
            tensors |= checkpoint.optimizer_tensors(f"optimizer.{name}", optimizer)
        tensors |= {f"rows.{k}": v for k, v in rows_to_tensors(self._log.rows).items()}
        tensors["random.torch"] = self._generator.get_state()
        tensors["random.global"] = torch.get_rng_state()
        tensors |= env_tensors
        tensors["env.observation"] = torch.from_numpy(self._observation)
        state = {
            "env_steps": self._env_steps,
            "fits": self._fits,
            "updates": self._updates,
            "update_debt": self._update_debt,
            "episode_return": self._episode_return,
            "last_episode_return": self._last_episode_return,
            "model_mse": self._model_mse,
            "last_update": [float(x) for x in self._last_update] if self._last_update else None,
            "solved": self._solved,
            "seconds": self._seconds(),
            **env_state,
        }
        path = checkpoint.save(self.run_dir / "checkpoints", self._env_steps, tensors, state)
        self._saved_at = self._env_steps, self._updates
        return path

    def _start_fresh(self) -> None:
        """Leave a run that can be resumed; the settings come last, since they make the folder a run."""
        self._observation, _ = self._env.reset(seed=self.config.seed)
        self.save_checkpoint()
        for name, description in ((TASK_FILE, self.task), (CONFIG_FILE, self.config)):
            text = yaml.safe_dump(description.model_dump(mode="json"), sort_keys=False)
            write_text(self.run_dir / name, text)

    def _restore(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> list[Row]:
        """Take over a checkpoint; returns the curve up to there."""

        def part(prefix: str) -> dict[str, Tensor]:
            return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

        rows = rows_from_tensors(part("rows."))
        self._agent.load(part("agent."))
        self._model.load_state_dict(part("model."))
        self._replay.load(part("replay."))
        self._imagined.load(part("imagined."))
        for name, optimizer in self._agent.optimizers().items():
            checkpoint.load_optimizer(f"optimizer.{name}", optimizer, tensors)
        self._generator.set_state(tensors["random.torch"])
        torch.set_rng_state(tensors["random.global"])
        self._observation = tensors["env.observation"].numpy().copy()
        self._env.simulation.restore(snapshot_of(tensors, state))
        self._env_steps, self._fits = state["env_steps"], state["fits"]
        self._updates, self._update_debt = state["updates"], state["update_debt"]
        self._episode_return = state["episode_return"]
        self._last_episode_return, self._model_mse = (
            state["last_episode_return"],
            state["model_mse"],
        )
        last = state["last_update"]
        self._last_update = UpdateReport(*map(torch.tensor, last)) if last else None
        self._solved, self._seconds_before = state["solved"], state["seconds"]
        self._saved_at = self._env_steps, self._updates
        return rows

    def _seconds(self) -> float:
        """Wall-clock seconds of training, over all resumptions."""
        started = getattr(self, "_started", None)
        return self._seconds_before + (time.monotonic() - started if started is not None else 0.0)

    def _progress(self) -> Progress:
        remaining = updates_left(self.config, self._env_steps, self._update_debt)
        return Progress(
            env_steps=self._env_steps,
            total_env_steps=self.config.env_steps,
            phase=self._phase,
            evaluation_return=self._log.rows[-1].eval_return if self._log.rows else None,
            episode_return=self._last_episode_return,
            model_loss=self._model_mse,
            critic_loss=float(self._last_update.critic_loss) if self._last_update else math.nan,
            seconds=self._seconds(),
            seconds_left=self._pace.seconds(0 if self._solved else remaining),
            warnings=tuple(self._warnings),
        )


def load_run(run_dir: Path) -> Trainer:
    """Open an existing run at its newest checkpoint, with the settings it was started with.

    Raises:
        ConfigError: when ``run_dir`` does not hold a run.
        CheckpointError: when it has no usable checkpoint.
    """
    path = run_dir / CONFIG_FILE
    if not path.is_file():
        raise ConfigError(f"'{run_dir}' is not a run folder: {CONFIG_FILE} is missing")
    return Trainer(schema.load(path, TrainConfig, ConfigError), run_dir, resume=True)


def _in_training(task: Task, episode_steps: int | None) -> Task:
    """``task`` with episodes of no more than so many steps."""
    longest = task.simulation.episode_steps
    shorter = {"episode_steps": min(longest, episode_steps or longest)}
    return task.model_copy(update={"simulation": task.simulation.model_copy(update=shorter)})


def _multiple(count: int, of: int) -> int:
    """``count`` rounded up, so that rows can be dealt evenly to ensemble members."""
    return -(-count // of) * of


def _imagined_capacity(config: TrainConfig) -> int:
    """Rows of D_model: as many batches of rollouts as are kept, each at its longest."""
    agent, rollout = config.agent, config.rollout
    updates = agent.critic_warmup + config.model.fit_every * agent.updates_per_step
    batches = rollout.kept or 1 + math.ceil(updates / rollout.every)
    return _multiple(rollout.batch, config.model.members) * rollout.longest * batches
