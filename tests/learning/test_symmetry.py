"""Mirror, turn and heading: declared rightly in the shipped tasks, refused where they are not, and learned from."""

import itertools
from pathlib import Path

import pytest
import quadruped
import torch
import yaml

from maac_learning.config import ModelConfig, load_train_config
from maac_learning.dynamics import DynamicsEnsemble
from maac_learning.fitting import fit
from maac_learning.symmetry import Images, check_symmetry, heading_frame_of, images_of
from maac_learning.trainer import Trainer
from maac_ros.errors import TaskError
from maac_ros.resources import named_file
from maac_ros.simulation import TaskEnv
from maac_ros.symmetry import heading_parts
from maac_ros.task import Task, load_task

MIRRORED = ["ant", "walker2d", "walker2d_unclipped"]


@pytest.fixture
def menagerie(tmp_path, monkeypatch):
    folder = quadruped.stand_in(tmp_path / "menagerie")
    monkeypatch.setenv("MENAGERIE_ROOT", str(folder))
    return folder


def changed(name: str, tmp_path: Path, symmetry: dict) -> Path:
    document = yaml.safe_load(named_file("tasks", name, "task").read_text())
    document["robot"].update(symmetry)
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


ALL = ModelConfig(reward="analytic")


@pytest.mark.parametrize("name", MIRRORED)
def test_shipped_robots_are_as_symmetric_as_they_say(name):
    task = load_task(name)
    assert task.robot.mirror is not None
    assert (heading_frame_of(task, ALL) is not None) == (name == "ant")
    check_symmetry(task, ALL)


def test_robots_without_symmetry_need_no_check():
    check_symmetry(load_task("hopper"), ALL)
    assert images_of(load_task("hopper"), ALL) is None
    assert heading_frame_of(load_task("hopper"), ALL) is None


@pytest.mark.parametrize(
    ("name", "field", "said"),
    [
        ("half_cheetah", "mirror", {"swap": [["bthigh", "fthigh"]]}),
        (
            "walker2d",
            "mirror",
            {"swap": [["thigh_joint", "thigh_left_joint"], ["leg_joint", "leg_left_joint"]]},
        ),
        (
            "ant",
            "mirror",
            {
                "swap": [
                    ["hip_1", "hip_4"],
                    ["ankle_1", "ankle_4"],
                    ["hip_2", "hip_3"],
                    ["ankle_2", "ankle_3"],
                ]
            },
        ),
        (
            "ant",
            "turn",
            {
                "cycles": [
                    ["hip_1", "hip_4", "hip_3", "hip_2"],
                    ["ankle_1", "ankle_4", "ankle_3", "ankle_2"],
                ],
                "flip": ["ankle_2", "ankle_3"],
            },
        ),
        (
            "ant",
            "turn",
            {
                "cycles": [
                    ["hip_1", "hip_2", "hip_3", "hip_4"],
                    ["ankle_1", "ankle_2", "ankle_3", "ankle_4"],
                ]
            },
        ),
    ],
    ids=["front and back", "one pair missing", "no flip", "the other way round", "ankles alike"],
)
def test_what_is_no_symmetry_is_refused_before_training(tmp_path, name, field, said):
    path = changed(name, tmp_path, {field: said})
    with pytest.raises(TaskError, match=rf"robot\.{field}: .* after one step '.*' differs by"):
        Trainer(load_train_config(str(path)), tmp_path / "run")
    # Settings that do not use it do not care.
    Trainer(load_train_config(str(path), "paper"), tmp_path / "other")


def test_a_slope_is_not_the_same_whichever_way_the_robot_faces(tmp_path, menagerie):
    """On level ground the stand-in quadruped is, and on a slope, which it says it is too, it is not."""
    data = yaml.safe_load(named_file("tasks", "go1", "task").read_text(encoding="utf-8"))
    data["robot"]["base"]["any_heading"] = True
    data["observation"] += [
        {"term": "base_orientation", "source": "imu"},
        {"term": "base_linear_velocity", "frame": "world"},
    ]
    path = tmp_path / "go1.yaml"
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    check_symmetry(load_task(path), ALL)
    scene = menagerie / "unitree_go1" / "scene.xml"
    sloping = scene.read_text().replace("<option ", '<option gravity="1 0 -9.76" ')
    scene.write_text(sloping)
    with pytest.raises(TaskError, match=r"robot\.base\.any_heading: .* after one step"):
        check_symmetry(load_task(path), ALL)
    check_symmetry(load_task(path), ALL.model_copy(update={"heading": False}))


@pytest.mark.parametrize("name", MIRRORED)
def test_images_of_images_are_images(name):
    task = load_task(name)
    images = images_of(task, ALL)
    assert len(images) == (8 if name == "ant" else 2)
    observations, actions = len(task.observation_entries()), len(task.action_entries())
    inputs, targets = torch.randn(7, observations + actions), torch.randn(7, observations + 1)
    first = images.all(inputs, targets)
    rows = [block.view(len(images), 7, -1) for block in first]
    assert torch.equal(rows[0][0], inputs)
    assert torch.equal(rows[1][0], targets)
    torch.testing.assert_close(rows[1][..., -1], targets[:, -1].expand(len(images), 7))  # reward
    for i, j in itertools.combinations(range(len(images)), 2):
        assert not torch.allclose(rows[0][i], rows[0][j])
    # A quaternion and its negative are one orientation: a whole turn changes its sign.
    orientation = [i for i, e in enumerate(task.observation_entries()) if "orientation" in e.name]
    other = torch.ones(observations + actions)
    other[orientation] = -1.0
    for block in images.all(rows[0][-1], rows[1][-1])[0].view(len(images), 7, -1):
        assert any(
            torch.allclose(block, known * sign, atol=1e-5)
            for known in rows[0]
            for sign in (torch.ones_like(other), other)
        )


def test_a_batch_has_as_many_rows_in_each_image():
    task = load_task("ant")
    images = images_of(task, ALL)
    inputs, targets = torch.randn(5, 64, 35), torch.randn(5, 64, 28)
    given, wanted = images(inputs, targets)
    every = images.all(inputs[2], targets[2])
    for k in range(8):
        part = slice(8 * k, 8 * k + 8)
        torch.testing.assert_close(given[2, part], every[0].view(8, 64, -1)[k, part])
        torch.testing.assert_close(wanted[2, part], every[1].view(8, 64, -1)[k, part])


def turned(values: torch.Tensor, names: list[str], angle: float) -> torch.Tensor:
    """Observations, or changes of them, of the robot turned to the left."""
    columns = [
        sum(f * values[..., names.index(part)] for part, f in heading_parts(name, angle).items())
        for name in names
    ]
    return torch.stack([*columns, *values[..., len(names) :].unbind(-1)], dim=-1)


def test_heading_frame_is_the_same_whichever_way_the_robot_faces():
    task = load_task("ant")
    names = [entry.name for entry in task.observation_entries()]
    frame = heading_frame_of(task, ALL)
    rows = torch.randn(500, 35)
    facing = frame.facing(rows)
    seen = frame.into(rows, facing)
    torch.testing.assert_close(frame.out_of(seen, facing), rows)
    for angle in (0.3, 2.0, -3.0):
        other = turned(rows, names, angle)
        torch.testing.assert_close(frame.into(other, frame.facing(other)), seen, atol=1e-5, rtol=0)
    # Of upright rows nothing but where they face is lost; lying ones face by what does not vanish.
    w, x, y, z = (seen[:, names.index(f"base/orientation_{part}")] for part in "wxyz")
    upright = rows[:, 1].square() + rows[:, 4].square() >= rows[:, 2:4].square().sum(1)
    assert upright.any()
    assert not upright.all()
    torch.testing.assert_close(z[upright], torch.zeros_like(z[upright]), atol=1e-6, rtol=0)
    torch.testing.assert_close(y[~upright], torch.zeros_like(y[~upright]), atol=1e-6, rtol=0)
    assert (w[upright] > 0).all()
    assert (x[~upright] > 0).all()


@pytest.mark.parametrize("noise", ["trained", "state_dependent"])
def test_model_foresees_the_same_whichever_way_the_robot_faces(noise):
    task = load_task("ant")
    names = [entry.name for entry in task.observation_entries()]
    torch.manual_seed(0)
    config = ALL.model_copy(update={"noise": noise})
    model = DynamicsEnsemble(task, 27, 8, config)
    data = torch.randn(300, 35)
    model.input.fit(data)
    model.target.fit(0.1 * torch.randn(300, 28))
    rows = torch.randn(50, 35)
    mean, std = model.outcome(rows.expand(model.members, -1, -1))
    other, other_std = model.outcome(turned(rows, names, 2.0).expand(model.members, -1, -1))
    torch.testing.assert_close(turned(mean, names, 2.0), other, atol=1e-5, rtol=1e-4)
    # Speed over ground spreads over both axes as it did.
    over_ground = [names.index(f"base/linear_velocity_{axis}") for axis in "xy"]
    torch.testing.assert_close(
        std[..., over_ground].square().sum(-1), other_std[..., over_ground].square().sum(-1)
    )
    # A sampled step has the mean that moments tell, and its noise too is turned with the robot.
    action, noise_drawn = rows[:, 27:].tanh(), torch.randn(50, 27)
    here = model.step(rows[:, :27], action, None, noise_drawn)
    there = model.step(turned(rows[:, :27], names, 2.0), action, None, noise_drawn)
    torch.testing.assert_close(
        turned(here.observation, names, 2.0), there.observation, atol=1e-5, rtol=1e-4
    )
    still = model.step(rows[:, :27], action, None, torch.zeros(50, 27)).observation
    following = model.moments(rows[:, :27], action)[0]
    own = torch.arange(model.members).repeat_interleave(50 // model.members)
    torch.testing.assert_close(still, following[own, torch.arange(50)], atol=1e-5, rtol=1e-4)


def test_model_learns_of_other_legs_and_headings_than_it_has_seen():
    task = load_task("ant")
    names = [entry.name for entry in task.observation_entries()]
    inputs, targets = random_data(task, 800)
    unseen = images_of(task, ALL).all(inputs[-300:], targets[-300:])
    unseen = tuple(turned(rows[900:1200], names, 2.0) for rows in unseen)
    unit = targets.std(dim=0)[:-1]
    errors = {}
    for used in (True, False):
        changes = {"mirror": used, "turn": used, "heading": used, "members": 2}
        config = load_train_config("ant", overrides={"model": {"reward": "analytic", **changes}})
        torch.manual_seed(0)
        model = DynamicsEnsemble(task, 27, 8, config.model)
        fit(model, inputs, targets, config.model, 300, torch.Generator().manual_seed(0))
        with torch.no_grad():
            mean, _ = model.outcome(unseen[0].expand(2, -1, -1))
        errors[used] = (((mean - unseen[1])[..., :-1] / unit) ** 2).mean().item()
    assert errors[True] < 0.5 * errors[False]


def test_model_learns_of_the_side_that_it_has_not_seen():
    task = load_task("walker2d_unclipped")
    inputs, targets = random_data(task, 800)
    observations, actions = len(task.observation_entries()), len(task.action_entries())
    unseen = Images(task, [task.robot.mirror]).all(inputs[-300:], targets[-300:])
    unseen = unseen[0][300:], unseen[1][300:]
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
