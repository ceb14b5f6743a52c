"""A run that is killed, again and again and at the worst moments, ends as if nothing had happened."""

import csv
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from maac_learning import checkpoint
from maac_learning.cli import main

RANDOM = random.Random(0)
SETTINGS = {
    "env_steps": 320,
    "random_steps": 200,
    "threads": 1,
    "checkpoint_every": 15,
    "model": {"first_fit_steps": 100, "fit_steps": 50, "fit_every": 80, "hidden": [32, 32]},
    # Imagined states overwrite each other before the next fit, as in a long run.
    "rollout": {"batch": 30, "every": 5},
    "agent": {"critic_warmup": 5, "first_updates": 100, "hidden": [32, 32], "horizon": 2},
    "evaluation": {"every": 20, "episodes": 2, "stop_at_return": None},
}


def command(arguments):
    """In a process of its own: the command, without its output."""
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    raise SystemExit(main([*map(str, arguments)]))


@pytest.fixture(scope="module")
def start():
    """``start(*arguments)``: the ``maac`` command as a process; what it imports is loaded once for all."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["maac_learning.commands", "torch._dynamo", "gymnasium.envs.mujoco", "matplotlib.pyplot"]
    )

    def begin(*arguments):
        process = context.Process(target=command, args=(arguments,), daemon=True)
        process.start()
        return process

    return begin


def finished(process) -> bool:
    process.join(60)
    return process.exitcode == 0


def curve(run: Path) -> list[dict[str, str]]:
    """The rows of curve.csv by column, without those that hold time."""
    lines = (run / "curve.csv").read_text().splitlines()
    table = csv.DictReader(line for line in lines if not line.startswith("#"))
    rows = [{name: value for name, value in row.items() if "seconds" not in name} for row in table]
    assert all(
        None not in row and None not in row.values() for row in rows
    )  # as wide as the header
    return rows


def checkpoint_being_written(run: Path) -> bool:
    return any(run.glob("checkpoints/.step_*.writing"))


def evaluated_since_the_checkpoint(run: Path) -> bool:
    newest = checkpoint.available(run / "checkpoints")[-1]
    rows = curve(run)
    return bool(rows) and int(rows[-1]["env_steps"]) > int(newest.name[5:14])


def training(run: Path) -> bool:
    return True


def at_random(run: Path) -> bool:
    return RANDOM.random() < 0.0005  # at each look, twice a millisecond


def curve_written(run: Path) -> int:
    path = run / "curve.csv"
    return path.stat().st_mtime_ns if path.exists() else 0


@pytest.mark.slow
def test_killed_run_resumes_to_the_very_curve_of_an_uninterrupted_one(tmp_path, start):
    settings = tmp_path / "settings.yaml"
    settings.write_text(yaml.safe_dump(SETTINGS))
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    options = ("train", "--config", settings, "--no-export", "--run-dir")
    reference = start(*options, whole)

    kills = torn = 0
    process = start(*options, killed)
    for moment in (
        training,
        checkpoint_being_written,
        evaluated_since_the_checkpoint,
        at_random,
        checkpoint_being_written,
        evaluated_since_the_checkpoint,
        at_random,
    ):
        before = curve_written(killed)
        while process.is_alive() and (curve_written(killed) == before or not moment(killed)):
            time.sleep(0.0005)
        os.kill(process.pid, signal.SIGKILL)
        process.join(60)
        kills += process.exitcode == -signal.SIGKILL
        torn += checkpoint_being_written(killed)
        process = start("train", "--resume", killed, "--no-export")
    assert finished(process)
    assert finished(reference)
    assert kills >= 5
    assert torn >= 1

    evaluations = list(range(200, 321, 20))
    assert [int(row["env_steps"]) for row in curve(whole)] == evaluations
    assert curve(killed) == curve(whole)
    states = [
        checkpoint.load(checkpoint.available(run / "checkpoints")[-1]) for run in (whole, killed)
    ]
    for name, value in states[0][0].items():
        assert name == "rows.seconds" or torch.equal(value, states[1][0][name]), name
    assert {**states[0][1], "seconds": 0} == {**states[1][1], "seconds": 0}
    events = EventAccumulator(str(killed / "tensorboard")).Reload()
    for name in set(curve(whole)[0]) - {"env_steps"}:
        assert [event.step for event in events.Scalars(name)] == evaluations, name
    assert not checkpoint_being_written(killed)
