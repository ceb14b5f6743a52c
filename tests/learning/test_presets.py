"""Presets: the paper's algorithm, ours, and the baselines that are special cases of it."""

import pytest
import torch
import yaml

from maac_learning.agent import Agent
from maac_learning.config import load_train_config
from maac_learning.dynamics import DynamicsEnsemble
from maac_learning.trainer import Trainer
from maac_ros.errors import ConfigError
from maac_ros.resources import share_directory
from maac_ros.task import load_task

PRESETS = sorted(p.stem for p in (share_directory() / "config" / "presets").glob("*.yaml"))
TASKS = sorted(p.stem for p in (share_directory() / "config" / "tasks").glob("*.yaml"))


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_gives_valid_settings_for_every_task(preset, task):
    config = load_train_config(task, preset)
    assert config.uses_model == (preset != "sac")
    if config.model.reward == "analytic":
        assert load_task(task).reward.analytic


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_learns_its_first_steps(preset, tmp_path):
    small = {
        "env_steps": 130,
        "random_steps": 100,
        "threads": 1,
        "model": {"first_fit_steps": 50, "fit_steps": 50, "fit_every": 20},
        "rollout": {"batch": 48},
        "agent": {"batch_size": 48, "updates_per_step": 1, "critic_warmup": 2, "first_updates": 5},
        "evaluation": {"every": 30, "episodes": 2, "stop_at_return": None},
    }
    trainer = Trainer(load_train_config("inverted_pendulum", preset, small), tmp_path)
    before = [p.detach().clone() for p in trainer._agent.policy.parameters()]
    trainer.train()
    row = trainer.rows[-1]
    assert all(torch.isfinite(torch.tensor([row.critic_loss, row.actor_loss, row.temperature])))
    after = trainer._agent.policy.parameters()
    assert not all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert (row.model_mse == row.model_mse) == (preset != "sac")  # NaN where there is no model


def test_a_preset_extends_another_and_its_own_settings_win(tmp_path):
    (tmp_path / "base.yaml").write_text(
        yaml.safe_dump(
            {
                "schema_version": 1,
                "description": "base",
                "settings": {"agent": {"horizon": 2, "critics": 3}},
                "tasks": {"hopper": {"agent": {"critics": 4, "horizon": 3}}},
            }
        )
    )
    path = tmp_path / "mine.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "schema_version": 1,
                "description": "mine",
                "extends": str(tmp_path / "base.yaml"),
                "settings": {"agent": {"horizon": 7}},
            }
        )
    )
    agent = load_train_config("hopper", str(path)).agent
    assert (agent.horizon, agent.critics) == (7, 4)
    assert load_train_config("ant", str(path)).agent.critics == 3


def test_small_robots_of_ones_own_learn_as_the_arm_does():
    arm, own = load_train_config("two_joint_arm"), load_train_config("hopper", "small")
    assert own.model_dump(exclude={"task", "preset"}) == arm.model_dump(exclude={"task", "preset"})
    assert own.model != load_train_config("hopper").model


@pytest.mark.parametrize(
    ("preset", "said"),
    [
        ("extends: default\nas_for: arm", "as_for: default.yaml has no settings for 'arm'; expected one of: two_"),
        ("as_for: hopper", "as_for: got 'hopper'; expected a preset to be extended"),
    ],
)  # fmt: skip
def test_task_whose_settings_hold_for_all_must_be_there(tmp_path, preset, said):
    path = tmp_path / "mine.yaml"
    path.write_text(f"schema_version: 1\ndescription: x\n{preset}\n")
    with pytest.raises(ConfigError, match=said):
        load_train_config("hopper", str(path))


def test_presets_that_extend_each_other_in_a_circle_are_refused(tmp_path):
    one, two = tmp_path / "one.yaml", tmp_path / "two.yaml"
    for path, base in ((one, two), (two, one)):
        path.write_text(f"schema_version: 1\ndescription: x\nextends: {base}\n")
    with pytest.raises(ConfigError, match=r"circle: one.yaml -> two.yaml -> one.yaml"):
        load_train_config("hopper", str(one))


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"agent": {"critic_horizon": 0}}, "critic_horizon: got 0; expected at least 1"),
        ({"agent": {"steve": True}}, "steve: needs critic_data 'transitions'"),
        ({"rollout": {"real_fraction": 1.5}}, "real_fraction"),
        (
            {"model": {"recent_fraction": 0.5, "bootstrap": "resampled"}},
            "recent_fraction: got 0.5; expected 0",
        ),
    ],
)
def test_settings_that_cannot_work_together_are_refused(settings, reason):
    with pytest.raises(ConfigError, match=reason):
        load_train_config("hopper", overrides=settings)


ABLATIONS = {
    "no model in the actor": {"horizon": 0},
    "one terminal sample": {"terminal_samples": 1},
    "no STEVE": {"steve": False},
    "larger batch": {"batch_size": 512, "terminal_samples": 1},
    "no entropy": {"entropy": False},
}


@pytest.mark.parametrize("settings", ABLATIONS.values(), ids=ABLATIONS)
def test_each_ablation_of_the_paper_changes_the_update(settings):
    def policy_after(changes):
        torch.manual_seed(0)
        overrides = {"agent": {"hidden": [16], **changes}, "model": {"members": 2, "hidden": [16]}}
        config = load_train_config("inverted_pendulum", "paper", overrides)
        agent = Agent(4, 1, config.agent, torch.device("cpu"))
        model = DynamicsEnsemble(load_task(config.task), 4, 1, config.model)
        generator = torch.Generator().manual_seed(1)
        rows = config.agent.batch_size
        start = 0.05 * torch.randn(rows, 4, generator=generator)
        batch = agent.imagine(model, start, 1, generator)
        for _ in range(3):
            agent.update(model, batch, generator)
        parameters = [*agent.policy.parameters(), *agent.critics.parameters()]
        return torch.cat([p.detach().flatten() for p in parameters])

    assert not torch.equal(policy_after({}), policy_after(settings))
