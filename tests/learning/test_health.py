"""Each kind of trouble, provoked in a real run, is told of in words a user can act on."""

import dataclasses

import mujoco
import numpy as np
import pytest
import torch

from maac_learning import checkpoint
from maac_learning.config import load_train_config, merged
from maac_learning.health import Vitals, Watch
from maac_learning.trainer import Trainer, load_run
from maac_ros.errors import TrainingError

TINY = {
    "env_steps": 210,
    "random_steps": 200,
    "threads": 1,
    "checkpoint_every": 205,
    "model": {"first_fit_steps": 50, "hidden": [32, 32]},
    "rollout": {"batch": 30},
    "agent": {"critic_warmup": 5, "hidden": [32, 32], "horizon": 2},
    "evaluation": {"every": 5, "episodes": 1},
}


def train(folder, **changes):
    """Train; returns the trainer, the warnings told, and the error that ended it."""
    trainer = Trainer(
        load_train_config("inverted_pendulum", overrides=merged(TINY, changes)), folder / "run"
    )
    return trainer, *watched(trainer)


def watched(trainer):
    told = []
    try:
        trainer.train(lambda progress: told.extend(progress.warnings))
    except TrainingError as reason:
        return told, str(reason)
    return told, ""


def finite(run):
    """All that the newest checkpoint holds of the learner."""
    tensors, _ = checkpoint.load(checkpoint.available(run / "checkpoints")[-1])
    return all(
        bool(torch.isfinite(value).all())
        for name, value in tensors.items()
        if name.startswith(("agent.", "optimizer.", "replay."))
    )


def test_healthy_run_warns_of_nothing(tmp_path):
    assert train(tmp_path)[1:] == ([], "")


def test_exploding_critics_are_told_of_once_with_the_value_and_the_step(tmp_path):
    _, told, _ = train(tmp_path, agent={"learning_rate": 3.0})
    (text,) = [text for text in told if "the critics expect returns from" in text]
    assert text.startswith("since env step 200: ")
    assert "rewards from 0 to 1 a step can only add up to between" in text
    assert "Try a smaller agent.learning_rate (now 3)" in text


@pytest.mark.parametrize("rate", [1e5, 1e30])
def test_divergence_ends_training_and_leaves_the_last_good_checkpoint(tmp_path, rate):
    trainer, _, error = train(tmp_path, agent={"learning_rate": rate})
    assert error.startswith("training diverged at env step 20")
    assert f"agent.learning_rate (now {rate:g})" in error
    assert "The last good checkpoint is '" in error
    assert finite(tmp_path / "run")
    assert load_run(tmp_path / "run").env_steps < trainer.env_steps


def test_diverged_learner_is_never_saved(tmp_path):
    trainer = Trainer(load_train_config("inverted_pendulum", overrides=TINY), tmp_path / "run")
    before = checkpoint.available(tmp_path / "run" / "checkpoints")
    with torch.no_grad():
        next(iter(trainer._agent.critics.parameters())).fill_(torch.nan)
    with pytest.raises(TrainingError, match=r"not finite: agent\.critics\._mlp"):
        trainer.save_checkpoint()
    assert checkpoint.available(tmp_path / "run" / "checkpoints") == before


def test_diverging_model_fit_ends_training(tmp_path):
    _, _, error = train(tmp_path, model={"learning_rate": 1e4, "noise": "state_dependent"})
    assert error.startswith("the model fit diverged at env step 200: not finite: ")
    assert "Try a smaller model.learning_rate (now 10000)" in error
    assert finite(tmp_path / "run")


def test_useless_model_is_told_of(tmp_path):
    _, told, _ = train(
        tmp_path, model={"learning_rate": 1e-9, "refit_learning_rate": 1e-9}
    )  # it stays as it begins
    assert any("the model predicts no better than the data's average" in text for text in told)


@pytest.mark.parametrize(("entropy", "said"), [(5.0, "has grown to"), (-60.0, "has fallen to")])
def test_runaway_temperature_is_told_of(tmp_path, entropy, said):
    agent = {"learning_rate": 0.1, "target_entropy_per_action": entropy, "first_updates": 100}
    _, told, _ = train(tmp_path, agent=agent)
    (text,) = [text for text in told if "temperature" in text]
    assert f"the temperature {said}" in text
    assert f"agent.target_entropy_per_action (now {entropy:g})" in text


def test_broken_physics_are_told_of(tmp_path):
    trainer = Trainer(load_train_config("inverted_pendulum", overrides=TINY), tmp_path / "run")
    trainer._env.simulation.data.qvel[0] = 1e12
    told, error = watched(trainer)
    assert error == ""
    (text,) = told
    assert "in 1 episodes the physics broke down, and MuJoCo put the robot back" in text


def test_observation_that_is_not_finite_ends_training_by_name(tmp_path):
    trainer = Trainer(load_train_config("inverted_pendulum", overrides=TINY), tmp_path / "run")
    simulation = trainer._env.simulation
    simulation.model.opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_AUTORESET
    simulation.data.qpos[0] = np.nan
    _, error = watched(trainer)
    assert error.startswith("at env step 0 the simulator gave numbers that cannot be learned from")
    assert "slider/position = nan" in error
    assert finite(tmp_path / "run")


HEALTHY = Vitals(
    env_steps=1000,
    reward=(-1.0, 5.0),
    estimates=(-20.0, 400.0),
    critic_error=0.1,
    temperature=0.05,
    model_error=0.1,
    unstable_episodes=0,
)


@pytest.mark.parametrize(
    "trouble",
    [
        {"estimates": (-20.0, 3e4)},
        {"estimates": (-3e4, 400.0)},
        {"estimates": (0.0, float("inf"))},
        {"critic_error": 1e6},
        {"model_error": 1.5},
        {"temperature": 1e-6},
        {"temperature": 100.0},
        {"unstable_episodes": 2},
    ],
)
def test_trouble_is_told_once_and_again_after_it_had_gone(trouble):
    watch = Watch(load_train_config("inverted_pendulum"), actions=2)
    assert watch.look(HEALTHY) == ()
    ill = dataclasses.replace(HEALTHY, env_steps=2000, **trouble)
    (first,) = watch.look(ill)
    assert first.startswith("since env step 2000: ")
    assert watch.look(dataclasses.replace(ill, env_steps=3000)) == ()
    assert watch.look(HEALTHY) == ()
    (again,) = watch.look(dataclasses.replace(ill, env_steps=4000))
    assert again.startswith("since env step 4000: ")
