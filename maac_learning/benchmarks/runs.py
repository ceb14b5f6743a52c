"""Training runs as processes of their own: side by side, stopped with checkpoints, gone on with, curves kept."""

from __future__ import annotations

import csv
import fcntl
import os
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

import yaml
from pydantic import BaseModel

from maac_learning.benchmarks import sb3_sac
from maac_learning.config import TrainConfig, merged
from maac_learning.files import write_text
from maac_learning.trainer import CONFIG_FILE
from maac_ros import schema
from maac_ros.errors import BenchmarkError, ConfigError

_POLL_SECONDS = 0.5
_LOG_TAIL = 1000


@dataclass(frozen=True)
class Point:
    """One evaluation of a run: what the CSV file of every kind of run has."""

    env_steps: int
    eval_return: float
    eval_return_std: float
    seconds: float


@dataclass(frozen=True)
class Run:
    """One run of a benchmark or a study.

    Attributes:
        folder: of the run.
        result: where its curve is copied to.
        settings: what it is, or is to be, trained with.
        overrides: what of these does not come from the preset.
        variant: what a study has made of the preset.
    """

    task: str
    preset: str
    seed: int
    folder: Path
    result: Path
    settings: TrainConfig | sb3_sac.SacConfig
    overrides: dict[str, Any] = field(compare=False)
    variant: str | None = None

    def __str__(self) -> str:
        variant = f" {self.variant}" if self.variant else ""
        return f"{self.task} {self.preset}{variant} seed {self.seed}"

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
        different = [
            f"{key} {old} (now {new})"
            for key, (old, new) in differences(before, self.settings).items()
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


def run_overrides(given: dict[str, Any], seed: int, env_steps: int | None) -> dict[str, Any]:
    """``given`` settings, with what all runs share: one thread, and training that never ends early.

    Args:
        given: nested, by field name.
        seed: of the run.
        env_steps: None leaves the preset's.
    """
    shared: dict[str, Any] = {"seed": seed, "threads": 1, "evaluation": {"stop_at_return": None}}
    if env_steps is not None:
        shared["env_steps"] = env_steps
    return merged(given, shared)


def train_runs(runs: Sequence[Run], jobs: int) -> tuple[list[str], bool]:
    """Train what is not finished, ``jobs`` at a time, and keep the results up to date.

    SIGINT and SIGTERM stop all of it with checkpoints.

    Args:
        runs: in the order in which to begin.
        jobs: processes at a time.

    Returns:
        What failed, and how; and whether it was stopped.

    Raises:
        ConfigError: when ``jobs`` is out of range, or a run was begun with other settings; nothing is begun then.
    """
    if jobs < 1:
        raise ConfigError(f"--jobs: got {jobs}; expected at least 1")
    for run in runs:
        run.check()
    with _stop_on_signals() as stop:
        return _train_all(runs, jobs, stop), stop()


def _train_all(runs: Sequence[Run], jobs: int, stop: Callable[[], bool]) -> list[str]:
    """:func:`train_runs`, until ``stop`` tells to. Returns what failed, and how."""
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
                    # One that has only just been started dies of the signal, before it could catch it.
                    asked = stop() and code in (0, 130, -signal.SIGTERM)
                    if not asked and (code not in (0, 130) or not run.finished()):
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


def differences(before: BaseModel, after: BaseModel) -> dict[str, tuple[Any, Any]]:
    """Settings of ``after`` that are others in ``before``: value before and after, by dotted name."""
    old, new = _flat(before.model_dump()), _flat(after.model_dump())
    return {key: (old.get(key), value) for key, value in new.items() if old.get(key) != value}


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
