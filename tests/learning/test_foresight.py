"""The study of foresight: states of real episodes, compared over what was really seen after them."""

import numpy as np
import pytest
import torch

from maac_learning import evidence
from maac_learning.cli import main
from maac_learning.config import load_train_config
from maac_learning.dynamics import Prediction
from maac_learning.studies.foresight import ForesightArguments, look_ahead
from maac_learning.trainer import Trainer

SHORT = {
    "env_steps": 200,
    "random_steps": 200,
    "threads": 1,
    "model": {"first_fit_steps": 100},
    "agent": {"critic_warmup": 0, "first_updates": 0},
    "evaluation": {"episodes": 1},
}


@pytest.fixture
def run(tmp_path):
    config = load_train_config("inverted_pendulum", overrides=SHORT)
    trainer = Trainer(config, tmp_path / "run")
    trainer.train()
    return trainer


def chosen(**changes):
    return ForesightArguments(runs=(), **{"episodes": 4, "steps": 30, **changes})


def test_a_pendulum_that_is_let_fall_ends_within_its_episode(run):
    first, longer, whole = look_ahead(run, chosen(horizons=(1, 5, 30)))
    assert 0.0 < first.real_ended < longer.real_ended < whole.real_ended <= 1.0
    # A reward of 1 for each step but the one that ends it.
    assert first.real_return == pytest.approx(1.0 - first.real_ended)
    assert first.imagined_return == pytest.approx(1.0, abs=0.2)


def test_a_model_that_promises_more_is_found_out(run, monkeypatch):
    honest = look_ahead(run, chosen(horizons=(5,)))[0]
    step = run.model.step

    def rosy(*arguments):
        outcome = step(*arguments)
        return Prediction(
            outcome.observation, outcome.reward + 1.0, torch.zeros_like(outcome.terminated)
        )

    monkeypatch.setattr(run.model, "step", rosy)
    promised = look_ahead(run, chosen(horizons=(5,)))[0]
    assert promised.imagined_ended == 0.0
    assert promised.imagined_return > honest.imagined_return + 4.0
    assert promised.real_return == honest.real_return
    assert promised.value == pytest.approx(honest.value, rel=0.05)  # other random actions
    assert promised.expanded_value > honest.expanded_value + 4.0


def test_episodes_too_short_for_a_horizon_leave_it_out(run):
    # No episode of two steps ends with the pendulum fallen.
    assert look_ahead(run, chosen(steps=2, horizons=(3,))) == []


def test_command_compares_runs_and_writes_evidence(run, tmp_path, capsys):
    result = tmp_path / "foresight.json"
    options = ["--runs", str(run.run_dir), "--episodes", "2", "--steps", "20", "--horizons", "1"]
    options += ["--critic-updates", "0", "20", "--target-rate", "0.05"]
    assert main(["study", "foresight", *options, "--json", str(result)]) == 0
    assert "imagined" in capsys.readouterr().out
    rows = evidence.read(result).rows
    assert [row["critic_updates"] for row in rows] == [0, 20]
    for row in rows:
        assert (row["task"], row["env_steps"], row["horizon"]) == ("inverted_pendulum", 200, 1)
        assert np.isfinite([row["held_out_mse"], row["imagined_return"]]).all()
    assert rows[0]["value"] != rows[1]["value"]


def test_critics_alone_come_nearer_to_what_their_model_says(run):
    def behind():
        found = look_ahead(run, chosen(horizons=(20,)))[0]
        return abs(found.value - found.expanded_value)

    policy = {name: value.clone() for name, value in run.agent.policy.state_dict().items()}
    before = behind()
    run.update_critics(300, target_rate=0.05)
    assert behind() < 0.5 * before
    assert run.agent.config == run.config.agent
    for name, value in run.agent.policy.state_dict().items():
        assert torch.equal(value, policy[name]), name


@pytest.mark.parametrize(
    "wrong",
    [
        ["--horizons", "0"],
        ["--critic-updates", "-1"],
        ["--critic-updates", "20", "10"],
        ["--target-rate", "0"],
    ],
)
def test_wrong_options_are_refused_by_name(run, capsys, wrong):
    assert main(["study", "foresight", "--runs", str(run.run_dir), *wrong]) != 0
    assert f"{wrong[0]}: got " in capsys.readouterr().err


def test_a_run_without_a_model_is_refused(tmp_path, capsys):
    Trainer(load_train_config("inverted_pendulum", overrides=SHORT), tmp_path / "new")
    assert main(["study", "foresight", "--runs", str(tmp_path / "new")]) != 0
    assert "no model has been fitted" in capsys.readouterr().err
