"""What an observation recalls is the same in the simulator, in the controller and in the learned model."""

import itertools

import numpy as np
import pytest
import torch
import yaml
from gymnasium.utils.env_checker import check_env

from maac_learning.calibration import calibrate
from maac_learning.config import AgentConfig, ModelConfig
from maac_learning.dynamics import DynamicsEnsemble
from maac_learning.export import export_untrained_bundle
from maac_learning.fitting import fit
from maac_learning.replay import Transitions
from maac_learning.symmetry import check_symmetry
from maac_ros.controller import Controller, ControllerSettings
from maac_ros.errors import ObservationError, TaskError
from maac_ros.evaluation import run_episode
from maac_ros.memory import FORGET_S, Memory
from maac_ros.modes import Mode
from maac_ros.monitor import ModelMonitor
from maac_ros.resources import named_file
from maac_ros.simulation import Simulation, TaskEnv
from maac_ros.task import PlannerSettings, load_task

ARM = yaml.safe_load(named_file("tasks", "two_joint_arm", "task").read_text(encoding="utf-8"))
SETTINGS = ControllerSettings(
    planner=PlannerSettings(candidates=32, horizon=3, iterations=2), mpc_budget_s=np.inf
)


@pytest.fixture(scope="module")
def make_task(tmp_path_factory):
    """``make_task(change)``: the arm's task with positions of two periods back, last commands, and ``change``."""
    folder, number = tmp_path_factory.mktemp("tasks"), itertools.count()

    def make(change=lambda task: None):
        data = yaml.safe_load(yaml.safe_dump(ARM, sort_keys=False))
        data["observation"][0]["history"] = 2
        data["observation"].append(
            {"term": "last_command", "joints": ["elbow", "shoulder"], "history": 1}
        )
        change(data)
        path = folder / f"task{next(number)}.yaml"
        path.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
        return load_task(path)

    return make


@pytest.fixture(scope="module")
def task(make_task):
    return make_task()


@pytest.fixture(scope="module")
def bundle(task, tmp_path_factory):
    return export_untrained_bundle(task, tmp_path_factory.mktemp("bundle") / "arm")


def test_entries_are_named_after_what_they_were(task):
    names = [e.name for e in task.observation_entries()]
    assert names == [
        "shoulder/position",
        "elbow/position",
        "shoulder/position@1",
        "elbow/position@1",
        "shoulder/position@2",
        "elbow/position@2",
        "shoulder/velocity",
        "elbow/velocity",
        "elbow/last_command",
        "shoulder/last_command",
        "elbow/last_command@1",
        "shoulder/last_command@1",
    ]
    recalled = [e for e in task.observation_entries() if e.source == "memory"]
    assert [e.unit for e in recalled] == ["rad"] * 4 + ["1"] * 4
    assert (recalled[-1].low, recalled[-1].high) == (-1.0, 1.0)
    assert task.sources() == {"joint_states"}
    assert not Memory(load_task("two_joint_arm"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t["observation"][-1].update(joints=["wrist"]), "unknown joint 'wrist'"),
        (lambda t: t["action"][0].update(joints=["elbow"], gear=[4]), "'shoulder' is not commanded"),
        (lambda t: t["observation"][0].update(history=21), "history.*21.*less than or equal to 20"),
        (lambda t: t["observation"][0].update(history=-1), "history.*-1.*greater than or equal to 0"),
    ],
)  # fmt: skip
def test_a_task_that_cannot_recall_what_it_says_is_refused(make_task, change, said):
    with pytest.raises(TaskError, match=said):
        make_task(change)


def episode(env, seed, steps=12):
    """Observations and commands of a random episode."""
    random = np.random.default_rng(seed)
    observations, commands = [env.reset(seed=seed)[0]], []
    for _ in range(steps):
        # Beyond the limits too: what counts is what is done of it.
        commands.append(random.uniform(-1.3, 1.3, 2))
        observations.append(env.step(commands[-1])[0])
    return np.array(observations), np.clip(commands, -1, 1)


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_simulator_observes_what_it_observed_and_was_told_before(task, noise):
    env = TaskEnv(task)
    env.simulation.alter(noise={"joint_position": noise}, delay_steps=1)
    seen, told = episode(env, 3)
    for t in range(len(seen)):
        for lag in (1, 2):
            np.testing.assert_array_equal(seen[t, 2 * lag : 2 * lag + 2], seen[max(t - lag, 0), :2])
        # The commands of the elbow come first. At first it is as if the safe command had been in force, without delay.
        for lag, entries in ((1, slice(8, 10)), (2, slice(10, 12))):
            if t >= lag:
                np.testing.assert_allclose(seen[t, entries], told[t - lag, ::-1], atol=1e-15)
    if noise:
        env.simulation.alter(noise={})
        assert (episode(env, 3)[0][0, :2] != seen[0, :2]).all()


def test_environment_is_gymnasiums_and_goes_on_from_a_snapshot(task):
    check_env(TaskEnv(task), skip_render_check=True)
    one, other = Simulation(task), Simulation(task)
    one.reset(3)
    for command in ((0.3, -0.2), (0.1, 0.9)):
        one.step(np.array(command))
    other.restore(one.snapshot())
    for simulation in (one, other):
        simulation.step(np.array([0.5, 0.4]))
    np.testing.assert_array_equal(one.state().flat(), other.state().flat())


def test_change_of_a_command_can_be_rewarded(make_task):
    def change(data):
        data["reward"]["analytic"] = [
            {"term": "change", "entry": "elbow/last_command", "weight": -2.0}
        ]

    simulation = Simulation(make_task(change))
    simulation.reset(0)
    simulation.step(np.array([0.0, 0.25]))
    assert simulation.step(np.array([1.0, -0.5])).reward == pytest.approx(-2.0 * 0.75**2)


def without_memory(task, observation):
    blank = observation.copy()
    blank[Memory(task).entries] = np.nan
    return blank


@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_controller_recalls_what_the_simulator_does(task, bundle, noise):
    """From observations in which nothing is recalled, as a robot's are."""
    env = TaskEnv(task)
    env.simulation.alter(noise={"joint_position": noise, "joint_velocity": noise})
    controller = Controller(bundle, SETTINGS)
    for seed in range(2):
        observation, _ = env.reset(seed=seed)
        for t in range(6):
            # Much time between the episodes: the controller is not told of them.
            command = controller.tick(
                without_memory(task, observation), 0.0, 10.0 * seed + 0.02 * t, joints=env.state.joints
            )  # fmt: skip
            assert command.mode is Mode.POLICY
            action, _ = bundle.policy(observation=observation.astype(np.float32)[None])
            np.testing.assert_array_equal(command.values, action[0].astype(np.float64))
            observation = env.step(command.values)[0]


def test_episodes_without_ros_begin_anew(task, bundle):
    env = TaskEnv(task)
    played = [run_episode(Controller(bundle, SETTINGS), env, seed) for seed in (1, 2)]
    controller = Controller(bundle, SETTINGS)
    assert [run_episode(controller, env, seed) for seed in (1, 2)] == played


def recalled(controller, *ticks):
    """What the policy is given of the last command at the last of ``ticks`` (observation, stamp)."""
    for observation, stamp_s in ticks:
        controller.tick(observation, 0.0, stamp_s)
    return controller._policy_observation[0, 8:].astype(float)


def test_last_command_is_the_one_that_was_sent(task, bundle):
    observation = np.zeros(12)
    broken = ObservationError("lost")
    limited = ControllerSettings(
        planner=SETTINGS.planner, mpc_budget_s=np.inf, action_rate_limit=0.5
    )
    controller = Controller(bundle, limited)
    recalled(controller, (observation, 0.0))
    sent = controller.tick(observation, 0.0, 0.02).values
    np.testing.assert_allclose(recalled(controller, (observation, 0.04))[:2], sent[::-1], atol=1e-7)
    # After a message that could not be used it is the safe command that was sent.
    last = recalled(controller, (broken, np.nan), (observation, 0.08))
    np.testing.assert_array_equal(last[:2], 0.0)
    # After a long silence nothing is left of what was.
    last = recalled(controller, (observation, 0.1), (observation, 0.12 + FORGET_S))
    np.testing.assert_array_equal(last, 0.0)
    # Nor when time goes back.
    recalled(controller, (observation, 9.0), (observation, 9.02))
    np.testing.assert_array_equal(recalled(controller, (observation, 1.0)), 0.0)


def random_data(task, episodes=10, steps=20):
    env, rows = TaskEnv(task), []
    for seed in range(episodes):
        seen, told = episode(env, seed, steps)
        rows += [np.concatenate(row) for row in zip(seen, told, seen[1:], strict=False)]
    data = torch.tensor(np.array(rows), dtype=torch.float32)
    size, zero = seen.shape[1], torch.zeros(len(data))
    return Transitions(data[:, :size], data[:, size:-size], zero, data[:, -size:], zero)


def test_model_recalls_exactly_and_learns_only_the_rest(task):
    config = ModelConfig(members=2, hidden=(32, 32), first_fit_steps=300)
    model = DynamicsEnsemble(task, 12, 2, config)
    data = random_data(task)
    fit(model, *data.model_data(), config, 300, torch.Generator().manual_seed(0))
    entries = Memory(task).entries
    mean, std, _, _ = model.moments(data.observation, data.action)
    wanted = data.next_observation[:, entries].expand(2, -1, -1)
    torch.testing.assert_close(mean[..., entries], wanted, rtol=0, atol=1e-6)
    assert (std[..., entries] == 0).all()
    free = np.setdiff1d(np.arange(12), entries)
    assert (std[..., free] > 0).all()
    rows = 2 * (len(data.reward) // 2)
    action = data.action[:rows].clone().requires_grad_()
    following = model.step(data.observation[:rows], action, None, torch.ones(rows, 12)).observation
    torch.testing.assert_close(
        following[:, entries], data.next_observation[:rows, entries], rtol=0, atol=1e-6
    )
    (slope,) = torch.autograd.grad(following[:, 8].sum(), action)
    assert torch.equal(slope, torch.tensor([[0.0, 1.0]]).expand(rows, 2))
    # What is recalled does not count as predicted well, or badly.
    calibration = calibrate(model, data, config)
    assert 0.0 < calibration.residual < 10.0


def test_monitor_does_not_judge_the_model_by_what_is_recalled(task, bundle):
    monitor = ModelMonitor(bundle)
    observation = np.zeros(12, np.float32)
    scores = []
    for value in (0.0, 0.7):
        monitor.predict(observation, np.zeros(2, np.float32))
        came = observation.copy()
        came[Memory(task).entries] = value
        monitor.compare(came, None)
        scores.append(monitor.residual)
    assert scores[0] == scores[1]


def test_legs_recall_in_the_mirror_too(tmp_path):
    data = yaml.safe_load(named_file("tasks", "ant", "task").read_text(encoding="utf-8"))
    for term in data["observation"]:
        term["history"] = 1
    joints = [joint for term in data["action"] for joint in term["joints"]]
    data["observation"].append({"term": "last_command", "joints": joints, "history": 1})
    path = tmp_path / "legs.yaml"
    path.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
    task = load_task(path)
    assert task.robot.mirror.parts("base/linear_velocity_y@1") == {"base/linear_velocity_y@1": -1.0}
    check_symmetry(task, ModelConfig())


def test_agent_learns_through_what_is_recalled(task):
    """The actor's gradient passes through recalled commands: all of an update is finite."""
    from maac_learning.agent import Agent

    model = DynamicsEnsemble(task, 12, 2, ModelConfig(members=2, hidden=(16,)))
    agent = Agent(12, 2, AgentConfig(hidden=(16,), batch_size=8), torch.device("cpu"))
    data = random_data(task, episodes=1, steps=8)
    report = agent.update(model, data, torch.Generator().manual_seed(0))
    assert all(torch.isfinite(loss) for loss in report)
