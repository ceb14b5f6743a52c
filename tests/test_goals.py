"""What a robot is asked for: described, drawn in simulation, rewarded, mirrored and left alone by the model."""

import gymnasium
import numpy as np
import pytest
import torch
import yaml
from gymnasium.utils.env_checker import check_env

from maac_learning.config import ModelConfig
from maac_learning.dynamics import DynamicsEnsemble
from maac_learning.fitting import fit
from maac_ros.errors import TaskError
from maac_ros.resources import named_file
from maac_ros.simulation import Simulation, TaskEnv
from maac_ros.task import load_task

REACHING = yaml.safe_load(named_file("tasks", "reaching_arm", "task").read_text(encoding="utf-8"))


@pytest.fixture
def make_task(tmp_path):
    """``make_task(change)``: the reaching arm's task with ``change`` made to it and to its goal term."""

    def make(change):
        data = yaml.safe_load(yaml.safe_dump(REACHING, sort_keys=False))
        change(data, data["observation"][-1])
        path = tmp_path / "task.yaml"
        path.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
        return load_task(path)

    return make


def walk(task, goal):
    """Make the goal one of a walking robot."""
    goal.update(source="cmd_vel", ranges={"linear_y": [-0.5, 0.5], "linear_x": [0.2, 1]})
    task["reward"]["analytic"][:2] = []


def test_entries_are_named_after_what_is_asked_for(make_task):
    last = load_task("reaching_arm").observation_entries()[-2:]
    assert [(e.name, e.unit, e.source, e.low, e.high) for e in last] == [
        ("goal/shoulder", "rad", "goal", -2, 2),
        ("goal/elbow", "rad", "goal", -1.8, 1.8),
    ]
    task = make_task(walk)
    assert [(e.name, e.unit, e.source) for e in task.observation_entries()[-2:]] == [
        ("goal/linear_y", "m/s", "cmd_vel"),
        ("goal/linear_x", "m/s", "cmd_vel"),
    ]
    assert task.sources() == {"joint_states"}
    # 0 where that can be asked for, else what comes next to it.
    assert task.goal.resting == {"linear_y": 0.0, "linear_x": 0.2}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t, g: g.update(source="cmd_vel"), "cmd_vel has no 'shoulder'; expected some of: linear_x"),
        (lambda t, g: g["ranges"].update(elbow=[1, 1]), r"low < high, got \[1.0, 1.0\]"),
        (lambda t, g: g["ranges"].update({"a/b": [0, 1]}), "ranges.a/b"),
        (lambda t, g: g.update(rest={"wrist": 0}), "rest: 'wrist' has no range; expected some of: shoulder, elbow"),
        (lambda t, g: g.update(rest={"elbow": 3}), r"rest: 'elbow' is 3, outside its range \[-1.8, 1.8\]"),
        (lambda t, g: t["observation"].append(g), "expected one goal term"),
        (lambda t, g: t["reward"]["analytic"][0].update(target="goal/wrist"), "unknown observation entry 'goal/wrist'"),
    ],
)  # fmt: skip
def test_description_that_makes_no_sense_is_refused(make_task, change, said):
    with pytest.raises(TaskError, match=said):
        make_task(change)


def test_each_episode_has_a_goal_that_follows_the_seed():
    simulation, again = Simulation(load_task("reaching_arm")), TaskEnv(load_task("reaching_arm"))
    goals = [simulation.reset(5).goal, *(simulation.reset().goal for _ in range(200))]
    others = [again.reset(seed=5)[0][-2:], *(again.reset()[0][-2:] for _ in range(200))]
    np.testing.assert_array_equal(goals, others)
    low, high = np.min(goals, axis=0), np.max(goals, axis=0)
    assert (low >= [-2, -1.8]).all()
    assert (high <= [2, 1.8]).all()
    assert (high - low > [3.8, 3.4]).all()
    before = simulation.state().goal
    for _ in range(5):
        np.testing.assert_array_equal(simulation.step(np.zeros(2)).state.goal, before)


def test_what_is_asked_for_holds_in_later_episodes_and_within_its_range():
    simulation = Simulation(load_task("reaching_arm"))
    simulation.reset(0)
    simulation.ask(np.array([0.5, 9.0]))
    assert simulation.state().goal.tolist() == [0.5, 1.8]
    assert simulation.reset().goal.tolist() == [0.5, 1.8]


def test_reward_is_for_the_pose_that_is_asked_for(make_task):
    def change(task, goal):
        task["reward"]["analytic"] = [
            {"term": "closeness", "entry": "elbow/position", "target": "goal/elbow", "scale": 0.5, "weight": 1}
        ]  # fmt: skip

    simulation = Simulation(make_task(change))
    for seed in range(3):
        simulation.reset(seed)
        result = simulation.step(np.zeros(2))
        distance = (result.state.joint_position[1] - result.state.goal[1]) / 0.5
        assert result.reward == pytest.approx(1 / (1 + distance**2), abs=1e-12)


def test_a_snapshot_keeps_the_goal_and_those_to_come():
    one, other = (Simulation(load_task("reaching_arm")) for _ in range(2))
    one.reset(3)
    one.step(np.array([0.3, -0.2]))
    other.restore(one.snapshot())
    for simulation in (one, other):
        simulation.step(np.zeros(2))
    np.testing.assert_array_equal(one.state().flat(), other.state().flat())
    np.testing.assert_array_equal(one.reset().flat(), other.reset().flat())


def test_a_goal_that_changes_does_so_as_often_as_asked_and_only_then(make_task):
    def change(task, goal):
        goal["changes_every_s"] = 0.5

    simulation = Simulation(make_task(change))
    goals = [simulation.reset(0).goal]
    for _ in range(2000):
        goals.append(simulation.step(np.zeros(2)).state.goal)
    period = simulation.task.control.period_s
    changes = (np.diff(goals, axis=0) != 0).all(axis=1)
    assert 0.7 < changes.sum() * 0.5 / (2000 * period) < 1.3
    assert (np.diff(goals, axis=0) == 0).all(axis=1).sum() == 2000 - changes.sum()
    np.testing.assert_allclose(np.mean(goals, axis=0), 0.0, atol=0.5)
    assert np.std(goals, axis=0).min() > 0.5
    simulation.ask(np.array([0.5, 0.5]))
    asked = [simulation.step(np.zeros(2)).state.goal for _ in range(200)]
    assert (np.array(asked) == 0.5).all()


def test_a_step_is_judged_by_the_goal_that_held_in_it(make_task):
    def change(task, goal):
        goal["changes_every_s"] = 0.1
        task["reward"]["analytic"] = [
            {"term": "closeness", "entry": "elbow/position", "target": "goal/elbow", "scale": 0.5, "weight": 1}
        ]  # fmt: skip

    simulation = Simulation(make_task(change))
    goal = simulation.reset(0).goal[1]
    changed = 0
    for _ in range(50):
        result = simulation.step(np.zeros(2))
        distance = (result.state.joint_position[1] - goal) / 0.5
        assert result.reward == pytest.approx(1 / (1 + distance**2), abs=1e-12)
        changed += result.state.goal[1] != goal
        goal = result.state.goal[1]
    assert changed > 10


def test_the_model_does_not_learn_that_goals_change(make_task):
    def change(task, goal):
        goal["changes_every_s"] = 0.1

    task = make_task(change)
    env = TaskEnv(task)
    rows = []
    observation, _ = env.reset(seed=0)
    for _ in range(150):
        action = env.action_space.sample()
        following, reward, _, _, _ = env.step(action)
        rows.append(np.concatenate((observation, action, following - observation, [reward])))
        observation = following
    env.close()
    data = torch.from_numpy(np.array(rows)).float()
    size = len(observation)
    inputs, targets = data[:, : size + 2], data[:, size + 2 :]
    assert targets[:, size - 2 : size].abs().max() > 1, "goals do change in the data"
    config = ModelConfig(members=2, hidden=(16, 16), batch_size=32, validate_every=10)
    model = DynamicsEnsemble(task, size, 2, config)
    fit(model, inputs, targets, config, 20, torch.Generator().manual_seed(0))
    mean, std, _, _ = model.moments(inputs[:, :size], inputs[:, size:])
    assert (mean[..., -2:] == inputs[:, size - 2 : size]).all()
    assert (std[..., -2:] == 0).all()


def test_environment_is_gymnasiums():
    check_env(TaskEnv(load_task("reaching_arm")), skip_render_check=True)
    envs = gymnasium.vector.SyncVectorEnv([lambda: TaskEnv(load_task("reaching_arm"))] * 2)
    observations, _ = envs.reset(seed=1)
    assert (observations[0, -2:] != observations[1, -2:]).all()


def test_goals_trade_places_with_their_joints_in_the_mirror(make_task):
    def change(task, goal):
        task["robot"]["mirror"] = {"flip": ["shoulder", "elbow"]}

    mirror = make_task(change).robot.mirror
    assert mirror.parts("goal/shoulder") == {"goal/shoulder": -1.0}
    assert mirror.parts("goal/linear_x") == {"goal/linear_x": 1.0}
    assert mirror.parts("goal/angular_z") == {"goal/angular_z": -1.0}
    swapped = mirror.model_copy(update={"swap": (("shoulder", "elbow"),), "flip": ()})
    assert swapped.parts("goal/shoulder") == {"goal/elbow": 1.0}


def test_model_predicts_that_the_goal_stays_exactly():
    """Noise of its own would carry it away in a rollout, and count as disagreement."""
    task = load_task("reaching_arm")
    simulation = Simulation(task)
    random = np.random.default_rng(0)
    env = TaskEnv(task)
    inputs, targets = [], []
    for seed in range(10):
        observation, _ = env.reset(seed=seed)
        for _ in range(20):
            action = random.uniform(-1, 1, 2)
            following, reward, *_ = env.step(action)
            inputs.append(np.append(observation, action))
            targets.append(np.append(following - observation, reward))
            observation = following
    simulation.close()
    model = DynamicsEnsemble(task, 6, 2, ModelConfig(members=2, hidden=(16,)))
    rows = [torch.tensor(np.array(each), dtype=torch.float32) for each in (inputs, targets)]
    report = fit(model, *rows, ModelConfig(members=2, hidden=(16,)), 100, torch.Generator().manual_seed(0))  # fmt: skip
    assert np.isfinite(report.validation_mse)
    observation, action = rows[0][:8, :6], rows[0][:8, 6:]
    mean, std, _, _ = model.moments(observation, action)
    torch.testing.assert_close(mean[..., 4:], observation[:, 4:].expand(2, -1, -1), rtol=0, atol=0)
    assert (std[..., 4:] == 0).all()
    assert (std[..., :4] > 0).all()
    noise = torch.ones(8, 6)
    following = model.step(observation, action, None, noise).observation
    torch.testing.assert_close(following[:, 4:], observation[:, 4:], rtol=0, atol=0)
