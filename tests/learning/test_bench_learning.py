"""The learning benchmark: runs that can be stopped and gone on with, and curves kept up to date."""

import fcntl
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import yaml

from maac_learning import checkpoint, evidence
from maac_learning.benchmarks import sb3_sac
from maac_learning.benchmarks.learning import LearningArguments, plan
from maac_learning.cli import main
from maac_ros.errors import ConfigError

TINY = """
env_steps: 300
random_steps: 100
model: {members: 2, hidden: [16, 16], fit_every: 50, first_fit_steps: 50, fit_steps: 50}
rollout: {batch: 20}
agent: {hidden: [16, 16], batch_size: 32, critic_warmup: 0}
evaluation: {every: 50, episodes: 1}
"""


@pytest.fixture
def options(tiny_run):
    """One tiny run of each preset in question."""
    return ["bench", "learning", *tiny_run(TINY)]


def planned(tmp_path, **more):
    """The run that ``options`` means."""
    arguments = LearningArguments(
        tasks=("inverted_pendulum",),
        seeds=(3,),
        config=tmp_path / "tiny.yaml",
        results=tmp_path / "results",
        runs=tmp_path / "runs",
        **more,
    )
    (run,) = plan(arguments)
    return run


def body(path):
    return [line for line in path.read_text().splitlines() if not line.startswith("#")]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_interrupted_runs_stop_with_checkpoints_and_are_gone_on_with(tmp_path, options, capsys):
    run = planned(tmp_path)
    process = subprocess.Popen(
        [sys.executable, "-m", "maac_learning.cli", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not run.result.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "stopping with checkpoints" in output
    before = run.curve()
    assert 100 <= before[-1].env_steps < 300
    (*_, newest) = checkpoint.available(run.folder / "checkpoints")
    assert int(newest.name.removeprefix("step_")) >= before[-1].env_steps
    with (tmp_path / "runs/inverted_pendulum/default-seed3.log").open() as log:
        fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)  # no process is left that trains it

    table = tmp_path / "learning.json"
    assert main([*options, "--json", str(table)]) == 0
    assert "goes on" in capsys.readouterr().out
    assert run.finished()
    curve = run.curve()
    assert curve[: len(before)] == before
    assert [point.env_steps for point in curve] == list(range(100, 301, 50))
    assert run.result == tmp_path / "results" / "inverted_pendulum" / "default" / "seed3.csv"
    assert run.result.read_text() == (run.folder / "curve.csv").read_text()
    (row,) = evidence.read(table).rows
    assert (row["task"], row["preset"], row["seed"]) == ("inverted_pendulum", "default", 3)
    assert row["final_return"] == curve[-1].eval_return
    assert row["best_return"] == max(point.eval_return for point in curve)
    assert row["finished"]

    assert main(options) == 0  # nothing left to do
    printed = capsys.readouterr().out
    assert "goes on" not in printed
    assert "300 of 300" in printed


def test_run_of_other_settings_is_refused_by_naming_them(tmp_path, options, capsys):
    run = planned(tmp_path)
    run.folder.mkdir(parents=True)
    (run.folder / "config.yaml").write_text(yaml.safe_dump(run.settings.model_dump(mode="json")))
    run.check()
    assert main([*options, "--env-steps", "700"]) == 2
    assert "env_steps 300 (now 700)" in capsys.readouterr().err


def test_run_that_fails_is_told_with_the_end_of_its_log(tmp_path, options, capsys):
    run = planned(tmp_path)
    run.folder.mkdir(parents=True)
    (run.folder / "config.yaml").write_text(yaml.safe_dump(run.settings.model_dump(mode="json")))
    assert main(options) == 2
    error = capsys.readouterr().err
    assert "inverted_pendulum default seed 3: failed with exit code 2" in error
    assert "no checkpoint to resume from" in error


def test_run_that_another_process_trains_is_left_to_it(tmp_path, options, capsys):
    run = planned(tmp_path)
    run.folder.parent.mkdir(parents=True)
    with (run.folder.parent / "default-seed3.log").open("ab") as log:
        fcntl.flock(log, fcntl.LOCK_EX)
        assert main(options) == 2
    assert "another process is training this run" in capsys.readouterr().err
    assert not run.folder.exists()


def test_first_seed_of_everything_comes_first_and_training_never_ends_early():
    arguments = LearningArguments(
        tasks=("inverted_pendulum", "hopper"), presets=("default",), seeds=(0, 1), env_steps=6000
    )
    runs = plan(arguments)
    assert list(map(str, runs)) == [
        "inverted_pendulum default seed 0",
        "hopper default seed 0",
        "inverted_pendulum default seed 1",
        "hopper default seed 1",
    ]
    for run in runs:
        assert (run.settings.env_steps, run.settings.threads) == (6000, 1)
        assert run.settings.evaluation.stop_at_return is None


def test_wrong_options_are_refused_before_anything_starts(tmp_path, options, capsys):
    assert main([*options, "--jobs", "0"]) == 2
    assert "--jobs: got 0" in capsys.readouterr().err
    assert main([*options, "--seeds"]) == 2
    assert "--seeds: got none" in capsys.readouterr().err
    assert main([*options, "--presets", "default", "fast"]) == 2
    assert "unknown preset 'fast'" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_baseline_without_its_library_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "stable_baselines3", None)  # importing it fails
    with pytest.raises(ConfigError, match=r"pip install -r requirements/baselines\.txt"):
        plan(LearningArguments(presets=("sb3-sac",)))


def test_baseline_learns_on_the_same_protocol_and_is_gone_on_with(tmp_path, options):
    pytest.importorskip("stable_baselines3", reason="requirements/baselines.txt is not installed")
    run = planned(tmp_path, presets=("sb3-sac",), env_steps=250)
    run.command()  # writes the settings
    first = sb3_sac.SacRun(run.settings, run.folder)
    evaluate = first.evaluate

    def evaluate_and_stop():
        if first.env_steps == 150:
            first.request_stop()
        return evaluate()

    first.evaluate = evaluate_and_stop
    assert not first.train()
    resumed = sb3_sac.SacRun(run.settings, run.folder)
    assert resumed.env_steps == 150
    assert resumed._model.replay_buffer.size() == 150
    np.testing.assert_array_equal(resumed.evaluate(), evaluate())
    assert main([*options, "--presets", "sb3-sac", "--env-steps", "250"]) == 0
    curve = run.curve()
    assert [point.env_steps for point in curve] == [100, 150, 200, 250]
    lines = body(tmp_path / "results" / "inverted_pendulum" / "sb3-sac" / "seed3.csv")
    assert lines[0].split(",")[:4] == ["env_steps", "eval_return", "eval_return_std", "seconds"]
    last = dict(zip(lines[0].split(","), lines[-1].split(","), strict=True))
    assert last["model_mse"] == "nan"
    assert float(last["temperature"]) < 1.0
