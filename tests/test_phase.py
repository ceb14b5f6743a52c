"""A clock that is observed: the same in the simulator, in the controller, in the learned model and in the mirror."""

import numpy as np
import pytest
import torch
import yaml
from gymnasium.utils.env_checker import check_env

from maac_learning.config import ModelConfig
from maac_learning.dynamics import DynamicsEnsemble
from maac_learning.export import export_untrained_bundle
from maac_learning.leapp_export import export_leapp
from maac_learning.symmetry import check_symmetry
from maac_ros.controller import Controller, ControllerSettings
from maac_ros.errors import TaskError
from maac_ros.memory import FORGET_S, Memory
from maac_ros.observation_terms import PHASE
from maac_ros.resources import named_file
from maac_ros.simulation import TaskEnv
from maac_ros.task import PlannerSettings, load_task

PERIOD_S = 0.5


def with_clock(folder, name, **extra):
    """The shipped task ``name`` with a clock and ``extra`` terms; what it has to recall comes in between."""
    data = yaml.safe_load(named_file("tasks", name, "task").read_text(encoding="utf-8"))
    data["observation"].insert(1, {"term": "phase", "period_s": PERIOD_S} | extra)
    data["observation"].append({"term": "last_command", "joints": data["action"][0]["joints"]})
    path = folder / "task.yaml"
    path.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
    return load_task(path)


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return with_clock(tmp_path_factory.mktemp("task"), "two_joint_arm")


@pytest.fixture(scope="module")
def bundle(task, tmp_path_factory):
    return export_untrained_bundle(task, tmp_path_factory.mktemp("bundle") / "arm")


def clock(task, observation):
    """Angle of the clock in turns, and that it is one."""
    names = [entry.name for entry in task.observation_entries()]
    sine, cosine = (observation[..., names.index(name)] for name in PHASE)
    np.testing.assert_allclose(sine**2 + cosine**2, 1.0, atol=1e-5)
    return np.arctan2(sine, cosine) / (2 * np.pi)


def episode(env, seed, steps):
    random = np.random.default_rng(seed)
    observations, commands = [env.reset(seed=seed)[0]], []
    for _ in range(steps):
        commands.append(random.uniform(-1, 1, 2))
        observations.append(env.step(commands[-1])[0])
    return np.array(observations), np.array(commands)


def test_clock_goes_round_in_its_period_from_the_start_of_each_episode(task):
    env = TaskEnv(task)
    check_env(env, skip_render_check=True)
    for seed in range(2):
        seen, _ = episode(env, seed, 60)
        turns = np.arange(61) * task.control.period_s / PERIOD_S
        np.testing.assert_allclose((clock(task, seen) - turns + 0.5) % 1.0, 0.5, atol=1e-9)
    assert [e.name for e in task.observation_entries()][2:4] == list(PHASE)
    assert task.sources() == {"joint_states"}


def test_controller_keeps_the_same_clock_and_forgets_it_after_a_silence(task, bundle):
    """From observations in which nothing is recalled, as a robot's are."""
    env = TaskEnv(task)
    settings = ControllerSettings(PlannerSettings(candidates=16, horizon=2), mpc_budget_s=np.inf)
    controller = Controller(bundle, settings)
    recalled = Memory(task).entries
    start_s = 0.0
    for seed in range(2):
        observation, _ = env.reset(seed=seed)
        for t in range(20):
            blank = observation.copy()
            blank[recalled] = np.nan
            command = controller.tick(blank, 0.0, start_s + 0.02 * t, joints=env.state.joints)
            action, _ = bundle.policy(observation=observation.astype(np.float32)[None])
            np.testing.assert_array_equal(command.values, action[0].astype(np.float64))
            observation = env.step(command.values)[0]
        start_s += 0.02 * t + FORGET_S + 0.02


def test_model_knows_the_clock(task):
    seen, told = episode(TaskEnv(task), 0, 30)
    observation, action = (torch.tensor(x, dtype=torch.float32) for x in (seen[:-1], told))
    size = observation.shape[1]
    model = DynamicsEnsemble(task, size, 2, ModelConfig(members=2, hidden=(16,)))
    mean, _, _, _ = model.moments(observation, action)
    recalled = Memory(task).entries
    wanted = torch.tensor(seen[1:, recalled], dtype=torch.float32)
    torch.testing.assert_close(mean[0][:, recalled], wanted, rtol=0, atol=1e-6)
    # Whatever its own noise would be.
    following = model.step(observation, action, None, torch.randn(30, size)).observation
    torch.testing.assert_close(following[:, recalled], wanted, rtol=0, atol=1e-6)


def test_exported_model_knows_it_too(task, bundle):
    seen, told = episode(TaskEnv(task), 1, 8)
    outputs = bundle.model(observation=seen[:-1].astype(np.float32), action=told.astype(np.float32))
    recalled = Memory(task).entries
    wanted = np.broadcast_to(seen[1:, recalled], outputs[0][..., recalled].shape)
    np.testing.assert_allclose(outputs[0][..., recalled], wanted, atol=1e-6)


def test_clock_stands_in_a_leapp_graph(bundle, tmp_path):
    pytest.importorskip("leapp", reason="leapp is not installed")
    assert export_leapp(bundle, tmp_path / "leapp").is_file()  # compared step by step


def test_mirror_image_is_half_a_turn_ahead(tmp_path):
    task = with_clock(tmp_path, "ant")
    for name in PHASE:
        assert task.robot.mirror.parts(name) == {name: -1.0}
    check_symmetry(task, ModelConfig())


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        ({"period_s": 0.04}, r"observation.1.period_s: got 0.04; expected more than two control periods, 0.04 s"),
        ({"period_s": -1}, "greater than 0"),
        ({"history": 1}, "history"),
    ],
)  # fmt: skip
def test_a_clock_that_is_none_is_refused(tmp_path, extra, said):
    with pytest.raises(TaskError, match=said):
        with_clock(tmp_path, "two_joint_arm", **extra)
