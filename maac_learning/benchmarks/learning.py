"""``maac bench learning``: learning curves over tasks, presets and seeds, that can be stopped and gone on with."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from maac_learning import evidence
from maac_learning.benchmarks import sb3_sac
from maac_learning.benchmarks.runs import Run, run_overrides, train_runs
from maac_learning.config import TrainConfig, load_train_config, read_overrides
from maac_ros.errors import BenchmarkError, ConfigError


@dataclass(frozen=True)
class LearningArguments:
    """Train every task with every preset and seed, each on one thread, and keep the learning curves.

    A run that was begun is gone on with; one that is finished is left alone. Ctrl-C stops all runs with
    checkpoints. Training goes on to the last step also where a preset would stop at a return, so that all curves
    have the same length.
    """

    tasks: tuple[str, ...] = ("half_cheetah", "hopper_unclipped", "walker2d_unclipped", "ant")
    """Shipped task names, or paths to tasks' YAML files."""
    presets: tuple[str, ...] = ("default",)
    """Shipped preset names, paths to presets' YAML files, or sb3-sac for Stable-Baselines3's SAC."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of the runs."""
    env_steps: int | None = None
    """Environment steps of each run; by default the preset's."""
    config: Path | None = None
    """YAML file with settings of your own on top of every preset, as for maac train."""
    results: Path = Path("results")
    """Where the curves go: RESULTS/<task>/<preset>/seed<seed>.csv."""
    runs: Path = Path("runs/bench")
    """Where the runs are: RUNS/<task>/<preset>-seed<seed>, and beside each the log of its process."""
    jobs: int = 2
    """Runs side by side."""
    json: Path | None = None
    """Also write a table of the results to this file."""


def learning(arguments: Sequence[str]) -> int:
    """``maac bench learning``. Returns 130 when it was stopped by a signal."""
    chosen = tyro.cli(LearningArguments, prog="maac bench learning", args=list(arguments))
    runs = plan(chosen)
    failures, stopped = train_runs(runs, chosen.jobs)
    print_table(runs)
    if chosen.json is not None:
        command = shlex.join(["maac", "bench", "learning", *arguments])
        title = "Return at the end of training, at best, and time taken"
        evidence.write(chosen.json, title, command, [_row(run) for run in runs])
    if failures:
        raise BenchmarkError("\n".join(failures))
    return 130 if stopped else 0


def plan(chosen: LearningArguments) -> list[Run]:
    """All runs, the first seed of everything first.

    Raises:
        ConfigError: when a preset, a task or a setting is not usable, or a library is missing.
    """
    given = read_overrides(chosen.config)
    for name in ("tasks", "presets", "seeds"):
        if not getattr(chosen, name):
            raise ConfigError(f"--{name}: got none; expected at least one")
    runs = []
    for seed in chosen.seeds:
        overrides = run_overrides(given, seed, chosen.env_steps)
        for task in chosen.tasks:
            for preset in chosen.presets:
                task_name, preset_name = Path(task).stem, Path(preset).stem
                runs.append(
                    Run(
                        task=task_name,
                        preset=preset_name,
                        seed=seed,
                        folder=chosen.runs / task_name / f"{preset_name}-seed{seed}",
                        result=chosen.results / task_name / preset_name / f"seed{seed}.csv",
                        settings=_settings(task, preset, overrides),
                        overrides=overrides,
                    )
                )
    return runs


def _settings(task: str, preset: str, overrides: dict[str, Any]) -> TrainConfig | sb3_sac.SacConfig:
    if preset != sb3_sac.NAME:
        return load_train_config(task, preset, overrides)
    ours = load_train_config(task, overrides=overrides)
    shared = set(sb3_sac.SacConfig.model_fields) - {"preset", "library"}
    return sb3_sac.SacConfig(library=sb3_sac.library_version(), **ours.model_dump(include=shared))


def print_table(runs: Sequence[Run]) -> None:
    """What every run has reached."""
    width = max(len(str(run)) for run in runs)
    print(f"\n{'run':<{width}}{'steps':>18}{'return':>10}{'best':>10}{'time':>10}")
    for run in runs:
        row = _row(run)
        if row["env_steps"] is None:
            print(f"{run!s:<{width}}{'–':>18}{'–':>10}{'–':>10}{'–':>10}")
            continue
        steps = f"{row['env_steps']} of {run.settings.env_steps}"
        print(
            f"{run!s:<{width}}{steps:>18}{row['final_return']:>10.1f}{row['best_return']:>10.1f}"
            f"{row['wall_clock_s']:>8.0f} s"
        )


def _row(run: Run) -> dict[str, Any]:
    """A run as a row of the table; None where nothing was evaluated yet."""
    row: dict[str, Any] = {"task": run.task, "preset": run.preset, "seed": run.seed}
    curve = run.curve()
    last = curve[-1] if curve else None
    best = max((point.eval_return for point in curve), default=math.nan)
    return row | {
        "env_steps": last.env_steps if last else None,
        "final_return": last.eval_return if last else None,
        "final_return_std": last.eval_return_std if last else None,
        "best_return": best if last else None,
        "wall_clock_s": last.seconds if last else None,
        "finished": run.finished(),
    }
