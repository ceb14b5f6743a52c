"""``maac study iteration-time``: seconds of one iteration of 1000 environment steps (appendix A.5, table 2)."""

from __future__ import annotations

import math
import shlex
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import tyro

from maac_learning import evidence
from maac_learning.benchmarks.training import (
    PHASES,
    TrainingArguments,
    measure,
    measured_config,
)
from maac_learning.config import TrainConfig, load_train_config, merged, read_overrides
from maac_learning.trainer import Trainer
from maac_ros.errors import ConfigError

ITERATION_STEPS = 1000
"""Environment steps of an iteration: an episode."""

OPTIMISATION = ("rollouts", "critic_warmup", "update")
"""Phases that learn policy and critics."""

_NEVER = 1_000_000_000
"""Environment steps between events that shall not happen."""


@dataclass(frozen=True)
class Seconds:
    """One iteration; None where there is no figure."""

    iteration: float | None = None
    model_fit: float | None = None
    optimisation: float | None = None


TABLE_2 = {
    ("maac", "half_cheetah"): Seconds(1312, 486, 738),
    ("maac", "hopper"): Seconds(845, 209, 517),
    ("mbpo", "half_cheetah"): Seconds(708),
    ("mbpo", "hopper"): Seconds(723),
}
"""The paper's, by method and task; means over 4 seeds, after 6000 environment steps."""

METHODS = {"default": "maac", "paper": "maac", "mbpo": "mbpo"}
"""What a preset is compared with."""

HARDWARE_NOTE = (
    "The paper does not say what machine its seconds were taken on: beside these, they tell how time is shared out, "
    "and how methods compare on one machine, not how fast the code is."
)


@dataclass(frozen=True)
class IterationTimeArguments:
    """Measure one iteration of 1000 environment steps, and set it beside the paper's.

    The real training runs on the real environment, as in maac bench training. --updates measures a part of an
    iteration: one real model fit, updates and what belongs to them, scaled to 1000 environment steps.
    """

    tasks: tuple[str, ...] = ("half_cheetah", "hopper")
    """Shipped task names, or paths to tasks' YAML files."""
    presets: tuple[str, ...] = ("default", "paper", "mbpo")
    """Shipped preset names, or paths to presets' YAML files."""
    updates: int | None = None
    """Measure so many updates only, and scale them; by default all of the iteration's."""
    replay: int = 6000
    """Real transitions there are when the measurement begins."""
    config: Path | None = None
    """YAML file with settings of your own on top of every preset, as for maac train."""
    threads: int = 0
    """Threads PyTorch may use on the CPU; 0 leaves its own default."""
    seed: int = 0
    """Seed of every random stream."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where to train."""
    json: Path | None = None
    """Also write the results to this file."""


@dataclass(frozen=True)
class Measurement:
    """One preset on one task.

    Attributes:
        seconds: for 1000 environment steps, by the keys of :data:`~maac_learning.benchmarks.training.PHASES`.
        measured: what was measured, in words.
        updates: joint updates measured.
        env_steps: environment steps measured.
    """

    task: str
    preset: str
    seconds: dict[str, float]
    measured: str
    updates: int
    env_steps: int

    @property
    def summed(self) -> Seconds:
        """Whole, model fit, and optimisation."""
        return Seconds(
            iteration=sum(self.seconds.values()),
            model_fit=self.seconds["fit"],
            optimisation=sum(self.seconds[phase] for phase in OPTIMISATION),
        )

    @property
    def published(self) -> Seconds:
        """The paper's."""
        return TABLE_2.get((METHODS.get(self.preset, ""), self.task), Seconds())


def iteration_time(arguments: Sequence[str]) -> int:
    """``maac study iteration-time``.

    Raises:
        ConfigError: when an option, a task or a setting is not usable; nothing is measured then.
    """
    chosen = tyro.cli(
        IterationTimeArguments, prog="maac study iteration-time", args=list(arguments)
    )
    for name in ("tasks", "presets"):
        if not getattr(chosen, name):
            raise ConfigError(f"--{name}: got none; expected at least one")
    pairs = [(task, preset) for task in chosen.tasks for preset in chosen.presets]
    configs = [configured(chosen, task, preset) for task, preset in pairs]
    measurements = []
    for config in configs:
        task, preset = Path(config.task).stem, Path(config.preset).stem
        print(f"{task}, preset {preset}", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            measurements.append(measure_iteration(config, Path(folder) / "run", chosen.updates))
    print_table(measurements)
    if chosen.json is not None:
        evidence.write(
            chosen.json,
            f"Seconds of one iteration: {ITERATION_STEPS} environment steps, after {chosen.replay}",
            shlex.join(["maac", "study", "iteration-time", *arguments]),
            [_row(found) for found in measurements],
            note=HARDWARE_NOTE,
            optimisation=[PHASES[phase] for phase in OPTIMISATION],
            seconds_by_phase=[
                {"task": found.task, "preset": found.preset}
                | {label: found.seconds[phase] for phase, label in PHASES.items()}
                for found in measurements
            ],
            settings=[config.model_dump(mode="json") for config in configs],
            torch=torch.__version__,
            device=chosen.device,
            threads=torch.get_num_threads(),
        )
    return 0


def configured(chosen: IterationTimeArguments, task: str, preset: str) -> TrainConfig:
    """Settings to measure with; ``random_steps`` are those before the measurement.

    Raises:
        ConfigError: when an option is out of range, a setting is not usable, or the device is not there.
    """
    given = read_overrides(chosen.config)
    every = load_train_config(task, preset, given).model.fit_every
    if ITERATION_STEPS % every:
        raise ConfigError(
            f"preset '{preset}' on {Path(task).stem}: model.fit_every: got {every}; expected a divisor of "
            f"{ITERATION_STEPS}, so that model fits count in full"
        )
    config = measured_config(
        TrainingArguments(
            task=task,
            preset=preset,
            config=chosen.config,
            env_steps=ITERATION_STEPS,
            replay=chosen.replay,
            threads=chosen.threads,
            seed=chosen.seed,
            device=chosen.device,
        )
    )
    if chosen.updates is None:
        return config
    if chosen.updates < 1:
        raise ConfigError(f"--updates: got {chosen.updates}; expected at least 1")
    if chosen.replay < every + 2:
        raise ConfigError(
            f"--replay: got {chosen.replay}; expected at least {every + 2}: one more model fit comes {every} steps "
            "before the measured one"
        )
    return config


def measure_iteration(config: TrainConfig, run_dir: Path, updates: int | None) -> Measurement:
    """Train in ``run_dir`` and measure.

    Args:
        config: see :func:`configured`.
        run_dir: for the run.
        updates: see :func:`measure_part`; None measures a whole iteration.
    """
    if updates is not None:
        return measure_part(config, run_dir, updates)
    report, _ = measure(config, run_dir, ITERATION_STEPS)
    return Measurement(
        task=Path(config.task).stem,
        preset=Path(config.preset).stem,
        seconds={phase: report.seconds[phase] for phase in PHASES},
        measured="all of it",
        updates=report.update.count,
        env_steps=ITERATION_STEPS,
    )


def measure_part(config: TrainConfig, run_dir: Path, updates: int) -> Measurement:
    """Measure one model fit and at least ``updates`` updates after it, and scale to 1000 environment steps.

    A fit one ``model.fit_every`` before gives the measured one weights to start from, as in training. The updates of
    the step of the measured fit do not count: memory is allocated in them, and graphs are captured.

    Args:
        config: see :func:`configured`.
        run_dir: for the run.
        updates: joint updates.
    """
    env_steps = math.ceil(updates / config.agent.updates_per_step)
    before = config.random_steps
    shared: dict[str, Any] = {
        "random_steps": before - config.model.fit_every,
        "env_steps": before + env_steps + 1,
        # No part of an iteration, and here they would take longer than it.
        "checkpoint_every": _NEVER,
        "evaluation": {"every": _NEVER},
    }
    without_updates = {"agent": {"updates_per_step": 1e-9, "critic_warmup": 0}}
    print(f"filling the replay with {before} steps, first model fit", flush=True)
    filling = Trainer(_changed(config, merged(shared, without_updates)), run_dir)
    filling.advance(before - 1)
    filling.save_checkpoint()
    trainer = Trainer(_changed(config, shared), run_dir, resume=True)
    if trainer.device.type == "cuda":
        trainer.phases.synchronize = torch.cuda.synchronize
    print("model fit and first updates", flush=True)
    trainer.advance(1)
    first = _mean_seconds(trainer)
    trainer.phases.clear()
    print(f"{env_steps} environment steps and their updates", flush=True)
    began = time.perf_counter()
    trainer.advance(env_steps)
    elapsed = time.perf_counter() - began
    means = first | _mean_seconds(trainer)
    seconds = {phase: means.get(phase, 0.0) * n for phase, n in _times_an_iteration(config).items()}
    other = elapsed - sum(trainer.phase_seconds.values())
    seconds["other"] = other * ITERATION_STEPS / env_steps
    count = trainer.phases.recorders["update"].count
    fits = "1 model fit, " if "fit" in first else ""
    return Measurement(
        task=Path(config.task).stem,
        preset=Path(config.preset).stem,
        seconds=seconds,
        measured=f"{fits}{count} updates, {env_steps} environment steps; scaled",
        updates=count,
        env_steps=env_steps,
    )


def _changed(config: TrainConfig, change: dict[str, Any]) -> TrainConfig:
    return TrainConfig.model_validate(merged(config.model_dump(), change))


def _mean_seconds(trainer: Trainer) -> dict[str, float]:
    """Of each phase that ran, since the clock was cleared."""
    recorders = trainer.phases.recorders
    return {phase: total / recorders[phase].count for phase, total in trainer.phase_seconds.items()}


def _times_an_iteration(config: TrainConfig) -> dict[str, float]:
    """How often each phase runs in 1000 environment steps; those that a preset does without never run to be counted."""
    agent, rollout = config.agent, config.rollout
    fits = ITERATION_STEPS / config.model.fit_every
    after_a_fit = agent.critic_warmup + config.model.fit_every * agent.updates_per_step
    rollouts = after_a_fit / rollout.every
    if rollout.kept is None:  # the fit has emptied D_model
        rollouts = max(rollouts, 1.0)
    return {
        "environment": ITERATION_STEPS,
        "fit": fits,
        "rollouts": fits * rollouts,
        "critic_warmup": fits * agent.critic_warmup,
        "update": ITERATION_STEPS * agent.updates_per_step,
    }


def print_table(measurements: Sequence[Measurement]) -> None:
    """Ours beside the paper's."""
    width = max(len(f"{found.task} {found.preset}") for found in measurements)
    heads = "".join(f"{name:>14}" for name in ("iteration", "model fit", "optimisation"))
    print(f"\n{f'seconds of {ITERATION_STEPS} environment steps':>{width + len(heads)}}", end="")
    print(f"{'in the paper':>{len(heads)}}\n{'':<{width}}{heads}{heads}  measured")
    for found in measurements:
        cells = "".join(
            f"{'–':>14}" if value is None else f"{value:>14.1f}"
            for seconds in (found.summed, found.published)
            for value in astuple(seconds)
        )
        print(f"{f'{found.task} {found.preset}':<{width}}{cells}  {found.measured}")
    print(f"\n{HARDWARE_NOTE}")


def _row(found: Measurement) -> dict[str, Any]:
    """The same for the file."""
    row: dict[str, Any] = {"task": found.task, "preset": found.preset}
    for prefix, seconds in (("", found.summed), ("paper_", found.published)):
        row |= {f"{prefix}{name}_s": value for name, value in asdict(seconds).items()}
    return row | {
        "measured": found.measured,
        "updates_measured": found.updates,
        "env_steps_measured": found.env_steps,
    }
