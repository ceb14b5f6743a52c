"""Whole training runs: they learn, stop, resume, export and refuse wrong settings."""

import csv
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from maac_learning import checkpoint
from maac_learning.cli import main
from maac_learning.config import TrainConfig, load_train_config
from maac_learning.trainer import Trainer, load_run
from maac_ros.bundle import load_bundle
from maac_ros.errors import CheckpointError, ConfigError
from maac_ros.evaluation import evaluate
from maac_ros.resources import named_file

SHORT = {
    "env_steps": 400,
    "random_steps": 200,
    "threads": 1,
    "checkpoint_every": 300,
    "planning": {"steps": 50},
    "model": {"first_fit_steps": 100, "fit_steps": 50, "fit_every": 100},
    "agent": {"critic_warmup": 5},
    "evaluation": {"every": 100, "episodes": 2},
}


def short(**overrides) -> TrainConfig:
    return load_train_config("inverted_pendulum", overrides={**SHORT, **overrides})


@pytest.mark.slow
def test_learns_to_balance_and_the_bundle_balances_too(tmp_path):
    config = load_train_config("inverted_pendulum", overrides={"env_steps": 3000, "threads": 1})
    trainer = Trainer(config, tmp_path / "run")
    trainer.train()
    assert trainer.solved, [row.eval_return for row in trainer.rows]
    trainer.export_bundle()
    bundle = load_bundle(tmp_path / "run" / "bundle")
    assert bundle.manifest.provenance.evaluation_return == 1000.0
    for use_mpc in (False, True):
        returns = [e.episode_return for e, _ in evaluate(bundle, 2, seed=7, use_mpc=use_mpc)]
        assert min(returns) >= 950.0, (use_mpc, returns)


def test_run_folder_holds_settings_curve_picture_events_and_checkpoint(tmp_path):
    run = tmp_path / "run"
    seen = []
    trainer = Trainer(short(), run)
    trainer.train(seen.append)
    lines = (run / "curve.csv").read_text().splitlines()
    assert lines[0].startswith("# maac_ros: ")
    body = [line for line in lines if not line.startswith("#")]
    assert body[0].startswith("env_steps,eval_return,eval_return_std,seconds")
    assert [int(line.split(",")[0]) for line in body[1:]] == [200, 300, 400]
    # Every step on its feet is worth 1 to the pendulum.
    for line in csv.DictReader(body):
        assert float(line["eval_steps"]) - float(line["eval_return"]) == pytest.approx(1.0, abs=1.0)
    assert (run / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert list((run / "tensorboard").iterdir())
    assert [p.name for p in checkpoint.available(run / "checkpoints")] == [
        "step_000000300",
        "step_000000400",
    ]
    assert seen[-1].env_steps == 400
    assert seen[-1].seconds_left == 0.0


def test_training_episodes_may_be_shorter_than_those_of_evaluation(tmp_path):
    """Then time runs out, which is no end of the task; short episodes of a pendulum that falls stay what they are."""
    steps = {"env_steps": 120, "random_steps": 100, "checkpoint_every": 1000}
    trainer = Trainer(short(**steps, episode_steps=3), tmp_path / "run")
    trainer.train()
    data = trainer.transitions
    begins = (data.observation[1:] != data.next_observation[:-1]).any(dim=1).nonzero()[:, 0] + 1
    assert int(begins.diff().max()) == 3
    assert float(data.terminated.sum()) < len(begins)
    assert trainer.rows[-1].eval_steps > 3
    assert trainer.task.simulation.episode_steps == 1000


def stop_after_a_step(trainer):
    """Stop after environment step 330."""
    original = trainer._step

    def step():
        original()
        if trainer.env_steps == 330:
            trainer.request_stop()

    trainer._step = step
    return 330


def stop_between_two_updates(trainer):
    """Stop among the updates that catch up after the first fit."""
    original = trainer._update

    def update(train_actor=True):
        original(train_actor)
        if trainer._updates == 20:
            trainer.request_stop()

    trainer._update = update
    return 200


@pytest.mark.parametrize(
    ("stop", "schedule"),
    [
        (stop_after_a_step, "interleaved"),
        (stop_after_a_step, "after_fit"),
        (stop_between_two_updates, "interleaved"),
    ],
)
def test_resumed_run_goes_on_exactly_as_the_uninterrupted_one(tmp_path, stop, schedule):
    agent = {**SHORT["agent"], "first_updates": 40, "update_schedule": schedule, "last_rate": 0.1}
    config = short(agent=agent)
    whole = Trainer(config, tmp_path / "whole")
    whole.train()
    parted = Trainer(config, tmp_path / "parted")
    stopped_at = stop(parted)
    parted.train()
    assert parted.env_steps == stopped_at
    resumed = load_run(tmp_path / "parted")
    assert resumed.env_steps == stopped_at
    resumed.train()
    columns = [c for c in vars(whole.rows[0]) if c != "seconds"]
    for a, b in zip(whole.rows, resumed.rows, strict=True):
        for column in columns:
            np.testing.assert_equal(getattr(a, column), getattr(b, column), err_msg=column)
    for name, value in whole._agent.state().items():
        np.testing.assert_array_equal(value.numpy(), resumed._agent.state()[name].numpy(), name)


@pytest.mark.parametrize("schedule", ["interleaved", "after_fit"])
def test_updates_come_between_the_steps_or_all_after_a_fit(tmp_path, schedule):
    agent = {"critic_warmup": 0, "first_updates": 40, "update_schedule": schedule}
    trainer = Trainer(short(env_steps=350, agent=agent), tmp_path / "run")
    done = []
    while trainer.env_steps < 350:
        trainer.advance(1)
        done.append((trainer.env_steps, trainer._updates))
    updates = dict(done)
    assert updates[199] == 0
    assert updates[200] == 41
    assert updates[299] == (140 if schedule == "interleaved" else 41)
    # As many in either way, by the next fit and at the end.
    assert updates[300] == 141
    assert updates[350] == 191


def test_step_size_falls_to_its_share_from_the_first_fit_to_the_end(tmp_path):
    agent = {**SHORT["agent"], "learning_rate": 0.001, "last_rate": 0.2}
    trainer = Trainer(short(agent=agent), tmp_path / "run")
    seen = {}
    while trainer.env_steps < 400:
        trainer.advance(50)
        rates = {
            group["lr"] for o in trainer.agent.optimizers().values() for group in o.param_groups
        }
        (seen[trainer.env_steps],) = rates
    assert seen == pytest.approx(
        {50: 0.001, 100: 0.001, 150: 0.001, 200: 0.001, 250: 0.0008}
        | {300: 0.0006, 350: 0.0004, 400: 0.0002}
    )


def test_stop_from_another_thread_leaves_a_checkpoint(tmp_path):
    trainer = Trainer(short(env_steps=100_000), tmp_path / "run")
    started = threading.Event()
    worker = threading.Thread(target=trainer.train, args=(lambda _: started.set(),))
    worker.start()
    assert started.wait(30)
    trainer.request_stop()
    worker.join(30)
    assert not worker.is_alive()
    assert load_run(tmp_path / "run").env_steps == trainer.env_steps


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_stops_the_command_with_a_usable_checkpoint(tmp_path, number):
    run = tmp_path / "run"
    options = "--env-steps 100000 --random-steps 90000 --threads 1 --checkpoint-every 200"
    process = subprocess.Popen(
        [sys.executable, "-m", "maac_learning.cli", "train", "--run-dir", run, *options.split()],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env=dict(os.environ),
    )
    deadline = threading.Event()
    for _ in range(600):
        if process.poll() is not None or len(checkpoint.available(run / "checkpoints")) == 2:
            break
        deadline.wait(0.1)
    assert process.poll() is None, process.communicate()[0]
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert f"maac train --resume {run}" in output
    assert load_run(run).env_steps > 0


def test_export_of_a_run_and_evaluation_by_command(tmp_path, capsys):
    Trainer(short(), tmp_path / "run").train()
    assert main(["export", str(tmp_path / "run"), "--output", str(tmp_path / "b")]) == 0
    results = tmp_path / "r.json"
    assert main(["evaluate", str(tmp_path / "b"), "--episodes", "2", "--json", str(results)]) == 0
    assert "policy" in capsys.readouterr().out
    assert '"return_mean"' in results.read_text()


def test_existing_run_is_not_overwritten(tmp_path):
    Trainer(short(), tmp_path / "run")
    with pytest.raises(ConfigError, match="already holds a run"):
        Trainer(short(), tmp_path / "run")


def test_folders_that_cannot_be_resumed_are_refused_by_name(tmp_path):
    with pytest.raises(ConfigError, match=r"is not a run folder: config\.yaml is missing"):
        load_run(tmp_path)
    run = tmp_path / "run"
    Trainer(short(), run)
    (saved,) = checkpoint.available(run / "checkpoints")
    (saved / "state.yaml").unlink()
    with pytest.raises(CheckpointError, match=r"no usable checkpoint:\n.*state\.yaml: cannot be"):
        load_run(run)
    shutil.rmtree(saved)
    with pytest.raises(CheckpointError, match="no checkpoint to resume from"):
        load_run(run)


def test_run_that_was_killed_before_its_first_step_can_be_resumed(tmp_path):
    Trainer(short(), tmp_path / "run")
    assert load_run(tmp_path / "run").env_steps == 0


def test_checkpoint_of_other_settings_is_refused(tmp_path):
    run = tmp_path / "run"
    Trainer(short(), run)
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("members: 3", "members: 4"))
    with pytest.raises(CheckpointError, match="does not fit this run's settings"):
        load_run(run)


def test_damaged_checkpoint_is_left_for_the_one_before(tmp_path, caplog):
    run = tmp_path / "run"
    whole = Trainer(short(env_steps=210, checkpoint_every=205), run)
    whole.train()
    newest = checkpoint.available(run / "checkpoints")[-1]
    tensors = newest / "tensors.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-100])
    resumed = load_run(run)
    assert resumed.env_steps == 205
    assert str(tensors) in caplog.text
    resumed.train()
    assert [row.eval_return for row in resumed.rows] == [row.eval_return for row in whole.rows]
    assert [path.name for path in checkpoint.available(run / "checkpoints")] == [
        "step_000000205",
        "step_000000210.2",  # beside the damaged one first, then in its place
    ]


def test_task_of_a_run_stays_what_it_was_when_the_run_began(tmp_path):
    task = tmp_path / "mine.yaml"
    shipped = named_file("tasks", "inverted_pendulum", "task").read_text()
    task.write_text(shipped)
    config = load_train_config(str(task), overrides=SHORT)
    Trainer(config, tmp_path / "run")
    task.write_text(shipped.replace("episode_steps: 1000", "episode_steps: 7"))
    assert load_run(tmp_path / "run").task.simulation.episode_steps == 1000


def test_nothing_to_export_before_the_first_step(tmp_path):
    with pytest.raises(CheckpointError, match="nothing has been learned yet"):
        Trainer(short(), tmp_path / "run").export_bundle()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"model": {"membres": 3}}, r"model\.membres: unknown key"),
        ({"agent": {"discount": 1.5}}, r"agent\.discount: got 1\.5; .*less than 1"),
        ({"env_steps": 10, "random_steps": 20}, "random_steps: got 20; expected at most env_steps"),
        ({"seed": "x"}, "seed: got 'x'"),
    ],
)
def test_wrong_settings_are_refused_before_anything_starts(overrides, message):
    with pytest.raises(ConfigError, match=message):
        load_train_config("inverted_pendulum", overrides=overrides)


def test_unknown_preset_is_refused():
    with pytest.raises(ConfigError, match=r"unknown preset 'fast'.*default"):
        load_train_config("hopper", preset="fast")


def test_settings_come_from_preset_then_file_then_options(tmp_path):
    from maac_learning.commands import _parse_train

    mine = tmp_path / "mine.yaml"
    mine.write_text("seed: 4\nmodel: {members: 7}\n")
    arguments = ["--config", str(mine), "--model.fit-steps", "9"]
    chosen = _parse_train(arguments, None, None, str(mine))
    settings = chosen.settings
    assert (settings.seed, settings.model.members, settings.model.fit_steps) == (4, 7, 9)
    assert settings.model.hidden == (64, 64)  # from the preset, for this task
    assert Path(chosen.config or "") == mine


def test_errors_of_the_command_name_the_problem_without_a_traceback(tmp_path, capsys):
    assert main(["train", "--task", "cartwheel"]) == 2
    assert "unknown task 'cartwheel'" in capsys.readouterr().err
    assert main(["evaluate", str(tmp_path)]) == 2
    assert "bundle.yaml: cannot be read" in capsys.readouterr().err
