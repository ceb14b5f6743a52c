"""A robot's mirror image: declared rightly in the shipped tasks, refused where it is none, and learned from."""

from pathlib import Path

import pytest
import torch
import yaml

from maac_learning.config import load_train_config
from maac_learning.dynamics import DynamicsEnsemble
from maac_learning.fitting import fit
from maac_learning.mirror import MirrorImage, check_mirror
from maac_learning.trainer import Trainer
from maac_ros.errors import TaskError
from maac_ros.resources import named_file
from maac_ros.simulation import TaskEnv
from maac_ros.task import Task, load_task

MIRRORED = ["ant", "walker2d", "walker2d_unclipped"]


def changed(name: str, tmp_path: Path, mirror: dict) -> Path:
    document = yaml.safe_load(named_file("tasks", name, "task").read_text())
    document["robot"]["mirror"] = mirror
    path = tmp_path / "task.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return path


def random_data(task: Task, steps: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs and targets of the model from random actions of one sign: the left does not do what the right does."""
    env = TaskEnv(task)
    random = torch.Generator().manual_seed(1)
    observation, _ = env.reset(seed=1)
    inputs, targets = [], []
    half = env.action_space.shape[0] // 2
    for _ in range(steps):
        action = 2.0 * torch.rand(2 * half, generator=random) - 1.0
        action[:half] = action[:half].abs()
        following, reward, terminated, truncated, _ = env.step(action.double().numpy())
        before = torch.from_numpy(observation)
        inputs.append(torch.cat((before, action.double())))
        change = torch.from_numpy(following) - before
        targets.append(torch.cat((change, torch.tensor([reward], dtype=torch.float64))))
        observation = env.reset()[0] if terminated or truncated else following
    return torch.stack(inputs).float(), torch.stack(targets).float()


@pytest.mark.parametrize("name", MIRRORED)
def test_shipped_robots_are_their_own_mirror_images(name):
    assert load_task(name).robot.mirror is not None
    check_mirror(load_task(name))


def test_robots_without_a_mirror_need_no_check():
    check_mirror(load_task("hopper"))
    with pytest.raises(TaskError, match=r"'hopper': robot\.mirror is missing"):
        MirrorImage(load_task("hopper"))


@pytest.mark.parametrize(
    ("name", "mirror"),
    [
        ("half_cheetah", {"swap": [["bthigh", "fthigh"]]}),
        (
            "walker2d",
            {"swap": [["thigh_joint", "thigh_left_joint"], ["leg_joint", "leg_left_joint"]]},
        ),
        (
            "ant",
            {
                "swap": [
                    ["hip_1", "hip_4"],
                    ["ankle_1", "ankle_4"],
                    ["hip_2", "hip_3"],
                    ["ankle_2", "ankle_3"],
                ]
            },
        ),
    ],
    ids=["front and back", "one pair missing", "no flip"],
)
def test_what_is_no_mirror_is_refused_before_training(tmp_path, name, mirror):
    path = changed(name, tmp_path, mirror)
    with pytest.raises(TaskError, match=r"robot\.mirror: .* after one step '.*' differs by"):
        Trainer(load_train_config(str(path)), tmp_path / "run")
    # Settings that do not use the mirror do not care.
    Trainer(load_train_config(str(path), "paper"), tmp_path / "other")


@pytest.mark.parametrize("name", MIRRORED)
def test_the_image_of_the_image_is_the_original(name):
    task = load_task(name)
    image = MirrorImage(task)
    observations, actions = len(task.observation_entries()), len(task.action_entries())
    inputs, targets = torch.randn(7, observations + actions), torch.randn(7, observations + 1)
    once = image(inputs, targets)
    assert not torch.equal(once[0], inputs)
    assert torch.equal(once[1][:, -1], targets[:, -1])  # the reward
    again = image(*once)
    assert torch.equal(again[0], inputs)
    assert torch.equal(again[1], targets)


def test_model_learns_of_the_side_that_it_has_not_seen():
    task = load_task("walker2d_unclipped")
    inputs, targets = random_data(task, 800)
    observations, actions = len(task.observation_entries()), len(task.action_entries())
    unseen = MirrorImage(task)(inputs[-300:], targets[-300:])
    errors = {}
    for mirror in (True, False):
        config = load_train_config(task.name, overrides={"model": {"mirror": mirror, "members": 2}})
        torch.manual_seed(0)
        model = DynamicsEnsemble(task, observations, actions, config.model)
        fit(model, inputs, targets, config.model, 300, torch.Generator().manual_seed(0))
        with torch.no_grad():
            mean, _ = model.normalized(unseen[0].expand(2, -1, -1))
        wanted = model.target.normalize(unseen[1])
        errors[mirror] = ((mean - wanted) ** 2).mean().item()
    assert errors[True] < 0.5 * errors[False]
