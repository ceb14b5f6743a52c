"""``maac bench learning``: learning curves over tasks, presets and seeds, that can be stopped and gone on with."""

from __future__ import annotations

import csv
import fcntl
import math
import os
import shlex
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import tyro
import yaml

from maac_learning import evidence
from maac_learning.benchmarks import sb3_sac
from maac_learning.config import TrainConfig, load_train_config, merged
from maac_learning.files import write_text
from maac_learning.trainer import CONFIG_FILE
from maac_ros import schema
from maac_ros.errors import BenchmarkError, ConfigError

_POLL_SECONDS = 0.5
_LOG_TAIL = 1000


@dataclass(frozen=True)
class LearningArguments:
    """Train every task with every preset and seed, each on one thread, and keep the learning curves.

    A run that was begun is gone on with; one that is finished is left alone. Ctrl-C stops all runs with
    checkpoints. Training goes on to the last step also where a preset would stop at a return, so that all curves
    have the same length.
    """

    tasks: tuple[str, ...] = ("half_cheetah", "hopper", "walker2d", "ant")
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


@dataclass(frozen=True)
class Point:
    """One evaluation of a run: what the CSV file of every kind of run has."""

    env_steps: int
    eval_return: float
    eval_return_std: float
    seconds: float


@dataclass(frozen=True)
class Run:
    """One run of the benchmark.

    Attributes:
        folder: of the run.
        result: where its curve is copied to.
        settings: what it is, or is to be, trained with.
        overrides: what of these does not come from the preset.
    """

    task: str
    preset: str
    seed: int
    folder: Path
    result: Path
    settings: TrainConfig | sb3_sac.SacConfig
    overrides: dict[str, Any] = field(compare=False)

    def __str__(self) -> str:
        return f"{self.task} {self.preset} seed {self.seed}"

    def begun(self) -> bool:
        return (self.folder / CONFIG_FILE).exists()

    def check(self) -> None:
        """Refuse to go on with a run of other settings.

        Raises:
            ConfigError: naming the settings that differ.
        """
        if not self.begun():
            return
        path = self.folder / CONFIG_FILE
        before = schema.load(path, type(self.settings), ConfigError)
        old, new = (_flat(settings.model_dump()) for settings in (before, self.settings))
        different = [
            f"{key} {old.get(key)} (now {value})"
            for key, value in new.items()
            if old.get(key) != value
        ]
        if different:
            raise ConfigError(
                f"{path}: the run was begun with other settings: {', '.join(different)}; go on with those, move "
                "the run's folder away, or name another one with --runs"
            )

    def command(self) -> list[str]:
        """What trains it, or goes on with it; what it needs is written first."""
        python = [sys.executable, "-m"]
        if isinstance(self.settings, sb3_sac.SacConfig):
            if not self.begun():
                _write_yaml(self.folder / CONFIG_FILE, self.settings.model_dump(mode="json"))
            return [*python, sb3_sac.__name__, str(self.folder)]
        train = [*python, "maac_learning.cli", "train"]
        if self.begun():
            return [*train, "--resume", str(self.folder)]
        given = self.folder.with_name(f"{self.folder.name}.yaml")
        _write_yaml(given, self.overrides)
        chosen = {"--task": self.settings.task, "--preset": self.settings.preset}
        chosen |= {"--config": str(given), "--run-dir": str(self.folder)}
        return [*train, *(part for pair in chosen.items() for part in pair)]

    def curve(self) -> list[Point]:
        """All evaluations so far."""
        path = self.folder / "curve.csv"
        if not path.exists():
            return []
        with path.open(newline="", encoding="utf-8") as stream:
            lines = csv.DictReader(line for line in stream if not line.startswith("#"))
            return [
                Point(
                    int(line["env_steps"]),
                    *(float(line[name]) for name in ("eval_return", "eval_return_std", "seconds")),
                )
                for line in lines
            ]

    def finished(self) -> bool:
        curve = self.curve()
        return bool(curve) and curve[-1].env_steps >= self.settings.env_steps

    def publish(self) -> Point | None:
        """Copy the curve to its place among the results, if there is something new. Returns its last point then."""
        curve = self.curve()
        if not curve:
            return None
        text = (self.folder / "curve.csv").read_text(encoding="utf-8")
        if self.result.exists() and self.result.read_text(encoding="utf-8") == text:
            return None
        self.result.parent.mkdir(parents=True, exist_ok=True)
        write_text(self.result, text)
        return curve[-1]


def learning(arguments: Sequence[str]) -> int:
    """``maac bench learning``. Returns 130 when it was stopped by a signal."""
    chosen = tyro.cli(LearningArguments, prog="maac bench learning", args=list(arguments))
    if chosen.jobs < 1:
        raise ConfigError(f"--jobs: got {chosen.jobs}; expected at least 1")
    runs = plan(chosen)
    for run in runs:
        run.check()
    with _stop_on_signals() as stop:
        failures = train_all(runs, chosen.jobs, stop)
    print_table(runs)
    if chosen.json is not None:
        command = shlex.join(["maac", "bench", "learning", *arguments])
        title = "Return at the end of training, at best, and time taken"
        evidence.write(chosen.json, title, command, [_row(run) for run in runs])
    if failures:
        raise BenchmarkError("\n".join(failures))
    return 130 if stop() else 0


def plan(chosen: LearningArguments) -> list[Run]:
    """All runs, the first seed of everything first.

    Raises:
        ConfigError: when a preset, a task or a setting is not usable, or a library is missing.
    """
    given: dict[str, Any] = {}
    if chosen.config is not None:
        given = schema.read_yaml(chosen.config, ConfigError)
        if not isinstance(given, dict):
            raise ConfigError(f"{chosen.config}: expected a mapping of settings, got {given!r:.60}")
    for name in ("tasks", "presets", "seeds"):
        if not getattr(chosen, name):
            raise ConfigError(f"--{name}: got none; expected at least one")
    runs = []
    for seed in chosen.seeds:
        overrides = merged(
            given, {"seed": seed, "threads": 1, "evaluation": {"stop_at_return": None}}
        )
        if chosen.env_steps is not None:
            overrides["env_steps"] = chosen.env_steps
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


def train_all(runs: Sequence[Run], jobs: int, stop: Callable[[], bool]) -> list[str]:
    """Train what is not finished, ``jobs`` at a time, and keep the results up to date. Returns what failed, and how.

    Args:
        runs: in the order in which to begin.
        jobs: processes at a time.
        stop: once it tells to, running processes are asked to stop with a checkpoint, and no other is begun.
    """
    for run in runs:
        run.publish()
    waiting = deque(run for run in runs if not run.finished())
    running: dict[Run, subprocess.Popen[bytes]] = {}
    failures: list[str] = []
    try:
        while running or (waiting and not stop()):
            while waiting and len(running) < jobs and not stop():
                run = waiting.popleft()
                try:
                    running[run] = _start(run)
                except BenchmarkError as reason:
                    failures.append(str(reason))
            time.sleep(_POLL_SECONDS)
            if stop():
                _end(running.values())
            for run, process in list(running.items()):
                code = process.poll()  # before the copy, which then has all that was written
                _publish(run)
                if code is not None:
                    del running[run]
                    if code not in (0, 130) or not (run.finished() or stop()):
                        failures.append(_failure(run, code))
                        print(failures[-1].splitlines()[0], flush=True)
    except KeyboardInterrupt:
        for process in running.values():
            process.kill()
        raise
    finally:
        _end(running.values())
    return failures


def _end(processes: Collection[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        process.terminate()
    for process in processes:
        process.wait()


def _publish(run: Run) -> None:
    point = run.publish()
    if point is not None:
        print(
            f"{run}: {point.env_steps} of {run.settings.env_steps} steps, "
            f"return {point.eval_return:.0f}, {point.seconds:.0f} s",
            flush=True,
        )


def _log_path(run: Run) -> Path:
    return run.folder.with_name(f"{run.folder.name}.log")


def _start(run: Run) -> subprocess.Popen[bytes]:
    """Start the process of a run, in a session of its own: a Ctrl-C is for this command, which then asks it to stop."""
    path = _log_path(run)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as log:
        try:
            # The process inherits the lock, and holds it as long as it lives, even if this one is killed.
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as reason:
            raise BenchmarkError(f"{run.folder}: another process is training this run") from reason
        print(f"{run}: {'goes on' if run.begun() else 'begins'}", flush=True)
        return subprocess.Popen(
            run.command(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )


def _failure(run: Run, code: int) -> str:
    tail = _log_path(run).read_bytes()[-_LOG_TAIL:].decode(errors="replace").strip()
    return f"{run}: failed with exit code {code}; the end of {_log_path(run)}:\n{tail}"


@contextmanager
def _stop_on_signals() -> Iterator[Callable[[], bool]]:
    """Gives what tells whether SIGINT or SIGTERM has come; a second one does not wait for checkpoints."""
    asked = False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        print("stopping with checkpoints; once more to stop at once", flush=True)
        asked = True

    handlers = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


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


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= (
            _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        )
    return flat


def _write_yaml(path: Path, data: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, yaml.safe_dump(data, sort_keys=False))
