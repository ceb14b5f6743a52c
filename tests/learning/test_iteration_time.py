"""Table 2: an iteration measured in whole or in part, beside the paper's."""

import pytest

from maac_learning import evidence
from maac_learning.benchmarks.training import PHASES
from maac_learning.cli import main
from maac_learning.studies import iteration_time as study
from maac_learning.studies.iteration_time import (
    IterationTimeArguments,
    Measurement,
    configured,
    measure_part,
)
from maac_ros.errors import ConfigError

TINY = """
model: {members: 2, hidden: [16, 16], fit_every: 100, fit_steps: 50}
rollout: {batch: 20, every: 50}
agent: {hidden: [16, 16], batch_size: 32, updates_per_step: 2}
evaluation: {episodes: 1}
"""


@pytest.fixture
def tiny(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return path


def part(tiny, tmp_path, updates, preset="default", **more):
    chosen = IterationTimeArguments(config=tiny, replay=300, threads=1, updates=updates, **more)
    config = configured(chosen, "inverted_pendulum", preset)
    return config, measure_part(config, tmp_path / "run", updates)


def test_part_is_one_fit_and_the_updates_asked_for_scaled_to_1000_steps(
    tmp_path, tiny, monkeypatch
):
    trainers = []

    class Watched(study.Trainer):
        def __init__(self, *arguments, **more):
            super().__init__(*arguments, **more)
            trainers.append(self)

    monkeypatch.setattr(study, "Trainer", Watched)
    config, found = part(tiny, tmp_path, updates=15)
    filling, measured = trainers
    assert filling.phases.recorders["fit"].count == 1
    assert "update" not in filling.phases.recorders
    assert "critic_warmup" not in filling.phases.recorders
    assert measured.config.agent == config.agent
    assert measured.config.model == config.model
    assert measured.env_steps == 300 + 8
    assert (found.updates, found.env_steps) == (16, 8)  # two an environment step
    assert found.measured == "1 model fit, 16 updates, 8 environment steps; scaled"
    update = measured.phases.recorders["update"]
    assert update.count == 16
    mean = measured.phase_seconds["update"] / 16
    assert found.seconds["update"] == pytest.approx(2000 * mean)
    assert set(found.seconds) == set(PHASES)
    assert all(value > 0 for value in found.seconds.values()), found.seconds
    assert found.summed.iteration == pytest.approx(sum(found.seconds.values()))


def test_part_of_a_preset_without_a_model_has_no_model_fit(tmp_path, tiny):
    _, found = part(tiny, tmp_path, 4, preset="sac")
    assert found.seconds["fit"] == found.seconds["rollouts"] == 0
    assert found.summed.model_fit == 0
    assert found.measured == "4 updates, 2 environment steps; scaled"


def test_how_often_a_phase_runs_is_what_training_does(tiny):
    chosen = IterationTimeArguments(config=tiny, replay=300, updates=1)
    config = configured(chosen, "inverted_pendulum", "default")
    times = study._times_an_iteration(config)
    assert config.agent.critic_warmup == 50
    # Ten fits, each with 50 updates of the critics, and 200 joint ones; a batch of rollouts every 50 updates.
    assert times == {
        "environment": 1000,
        "fit": 10,
        "rollouts": 50,
        "critic_warmup": 500,
        "update": 2000,
    }


def test_command_measures_a_whole_iteration_too_and_writes_evidence(tmp_path, tiny, capsys):
    tiny.write_text(TINY.replace("updates_per_step: 2", "updates_per_step: 0.2"))
    result = tmp_path / "times.json"
    options = ["--tasks", "inverted_pendulum", "--config", str(tiny), "--replay", "300"]
    options += ["--threads", "1", "--json", str(result)]
    assert main(["study", "iteration-time", "--presets", "mbpo", *options]) == 0
    printed = capsys.readouterr().out
    assert "all of it" in printed
    assert "does not say what machine" in printed
    found = evidence.read(result)
    (row,) = found.rows
    assert (row["task"], row["preset"]) == ("inverted_pendulum", "mbpo")
    assert (row["updates_measured"], row["env_steps_measured"]) == (200, 1000)
    assert 0 < row["model_fit_s"] + row["optimisation_s"] < row["iteration_s"]
    assert row["paper_iteration_s"] is None  # of this task the paper says nothing
    (phases,) = found.details["seconds_by_phase"]
    assert row["iteration_s"] == pytest.approx(sum(phases[label] for label in PHASES.values()))


def measurement(task, preset):
    seconds = dict.fromkeys(PHASES, 1.0)
    return Measurement(task, preset, seconds, "all of it", updates=1, env_steps=1000)


@pytest.mark.parametrize(
    ("task", "preset", "expected"),
    [
        ("half_cheetah", "paper", (1312, 486, 738)),
        ("hopper", "default", (845, 209, 517)),
        ("half_cheetah", "mbpo", (708, None, None)),
        ("hopper", "mbpo", (723, None, None)),
        ("hopper", "sac", (None, None, None)),
    ],
)
def test_measurement_stands_beside_the_figures_of_table_2(task, preset, expected):
    theirs = measurement(task, preset).published
    assert (theirs.iteration, theirs.model_fit, theirs.optimisation) == expected


@pytest.mark.parametrize(
    ("options", "settings", "message"),
    [
        ({"updates": 0}, "{}", r"--updates: got 0; expected at least 1"),
        ({"updates": 5, "replay": 101}, TINY, r"--replay: got 101; expected at least 102"),
        ({}, "model: {fit_every: 300}", r"model\.fit_every: got 300; expected a divisor of 1000"),
        ({"replay": 0}, "{}", r"--replay: got 0"),
    ],
)
def test_options_out_of_range_are_refused_by_name(tmp_path, options, settings, message):
    path = tmp_path / "own.yaml"
    path.write_text(settings)
    with pytest.raises(ConfigError, match=message):
        configured(IterationTimeArguments(config=path, **options), "half_cheetah", "default")


def test_nothing_to_measure_is_refused(capsys):
    assert main(["study", "iteration-time", "--tasks"]) == 2
    assert "--tasks: got none" in capsys.readouterr().err
