"""Position steps: the policy says how far to go from where a joint is, and what is commanded is where to."""

import itertools

import numpy as np
import pytest
import servo_robot
import torch

from maac_learning.config import load_train_config
from maac_learning.export import ActionScaling, export_untrained_bundle
from maac_learning.leapp_export import export_leapp
from maac_learning.trainer import Trainer
from maac_ros.command_range import CommandRange
from maac_ros.controller import Controller, ControllerSettings
from maac_ros.errors import TaskError
from maac_ros.modes import Mode
from maac_ros.observation import JointReading
from maac_ros.rules import Rules
from maac_ros.simulation import Simulation, TaskEnv
from maac_ros.task import PlannerSettings

STEP = np.array([0.2, 0.03])
"""Of shoulder and slide, whose commands come after the wheel's."""


def stepped(task):
    task["action"][1] = {
        "term": "position_step",
        "joints": ["shoulder", "slide"],
        "limits": [[-1, 1.5], [0, 0.1]],
        "step": STEP.tolist(),
    }
    task["reward"]["analytic"].append({"term": "effort", "weight": -0.1})


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return servo_robot.load(tmp_path_factory.mktemp("task"), change=stepped)


@pytest.fixture(scope="module")
def bundle(task, tmp_path_factory):
    return export_untrained_bundle(task, tmp_path_factory.mktemp("bundle") / "robot")


def observation_at(shoulder, slide):
    return np.array([shoulder, slide, 0.0, 0.0, 0.0])


def test_commands_and_normalised_actions_turn_into_each_other(task):
    commands, scaling = CommandRange(task), ActionScaling(task)
    random = np.random.default_rng(0)
    for _ in range(20):
        observation = observation_at(random.uniform(-0.7, 1.2), random.uniform(0.04, 0.06))
        action = random.uniform(-1, 1, 3)
        single = [torch.tensor(x[None], dtype=torch.float32) for x in (action, observation)]
        command = scaling.to_command(*single)
        wanted = observation[:2] + STEP * action[1:]
        np.testing.assert_allclose(command[0, 1:], wanted, atol=1e-6)
        np.testing.assert_allclose(command[0, 0], -1.5 + 4.5 * action[0], atol=1e-5)
        np.testing.assert_allclose(scaling.to_action(command, single[1])[0], action, atol=1e-4)
        back = commands.normalized(command[0].numpy().astype(np.float64), observation)
        np.testing.assert_allclose(back, action, atol=1e-4)
        low, high = commands.limits(observation)
        assert (low <= command[0].numpy() + 1e-6).all()
        assert (command[0].numpy() <= high + 1e-6).all()


def test_a_step_ends_at_the_limits(task):
    commands, scaling = CommandRange(task), ActionScaling(task)
    # The second arm stands beyond its limit, from where a step leads back to it at most.
    for observation, low, high in (
        (observation_at(1.4, 0.0), [1.2, 0.0], [1.5, 0.03]),
        (observation_at(2.0, 0.2), [1.5, 0.1], [1.5, 0.1]),
    ):
        found = commands.limits(observation)
        np.testing.assert_allclose(np.array(found)[:, 1:], [low, high], atol=1e-12)
        for sign, wanted in ((-1.0, low), (1.0, high)):
            action = torch.full((1, 3), sign)
            single = torch.tensor(observation[None], dtype=torch.float32)
            np.testing.assert_allclose(scaling.to_command(action, single)[0, 1:], wanted, atol=1e-6)


def test_reward_sees_the_step_and_not_the_target(task):
    simulation = Simulation(task)
    before = simulation.reset(0)
    before.joint_position[:] = 0.3, 0.05, 0.0
    command = np.array([-1.5, 0.3 + 0.1, 0.05])
    reward, _ = Rules(task).judge(before, command, before)
    assert reward == pytest.approx(1 / (1 + 0.7**2) - 0.1 * 0.5**2)


def test_plan_and_policy_stay_within_a_step_of_the_robot(task, bundle):
    env = TaskEnv(task)
    planner = PlannerSettings(candidates=64, horizon=3, iterations=2)
    controllers = [
        Controller(bundle, ControllerSettings(planner, use_mpc=use_mpc, mpc_budget_s=np.inf))
        for use_mpc in (False, True)
    ]
    observation, _ = env.reset(seed=0)
    far = 0.0
    for t in range(30):
        ticks = [c.tick(observation, 0.0, 0.02 * t, joints=env.state.joints) for c in controllers]
        assert [tick.mode for tick in ticks] == [Mode.POLICY, Mode.MPC]
        for tick in ticks:
            moved = np.abs(tick.values[1:] - observation[:2]) / STEP
            assert (moved <= 1.0 + 1e-6).all()
            far = max(far, moved.max())
        observation = env.step(ticks[1].values)[0]
    assert far > 0.1  # it moves at all


def test_safe_command_holds_the_joints_where_they_are(task, bundle):
    settings = ControllerSettings(PlannerSettings(candidates=16, horizon=2), mpc_budget_s=np.inf)
    controller = Controller(bundle, settings)
    joints = JointReading(np.array([0.4, 0.05, 2.0]), np.zeros(3))
    command = controller.tick(None, 0.0, None, joints=joints)
    assert command.mode is Mode.SAFE
    np.testing.assert_allclose(command.values, [-1.0, 0.4, 0.05])


def test_exported_model_takes_what_a_plan_asks_beyond_a_step_for_one(task, bundle):
    observation = np.repeat(observation_at(0.2, 0.05)[None], 2, axis=0).astype(np.float32)
    near, beyond = np.array([0.0, 0.4, 0.08]), np.array([0.0, 1.4, 0.1])
    outputs = bundle.model(
        observation=observation, action=np.array([near, beyond], dtype=np.float32)
    )
    for output in outputs:
        rows = output[..., :2, :] if output.ndim == 3 else output[..., :2, None]
        np.testing.assert_allclose(rows[..., 0, :], rows[..., 1, :], atol=1e-6)


def test_leapp_graph_commands_the_same(bundle, tmp_path):
    pytest.importorskip("leapp", reason="leapp is not installed")
    assert export_leapp(bundle, tmp_path / "leapp").is_file()


def test_it_is_learned_through_the_steps(tmp_path):
    path = servo_robot.write(tmp_path, change=stepped)
    small = {
        "env_steps": 120, "random_steps": 80, "threads": 1, "planning": {"steps": 5},
        "model": {"members": 2, "hidden": [16], "first_fit_steps": 20, "fit_steps": 10, "batch_size": 16},
        "agent": {"hidden": [16], "batch_size": 8, "first_updates": 2, "critic_warmup": 1},
        "evaluation": {"every": 40, "episodes": 2},
    }  # fmt: skip
    trainer = Trainer(load_train_config(str(path), "default", small), tmp_path / "run")
    told = []
    step = trainer._env.step

    def watched(command):
        told.append((trainer._env.state.joint_position[:2].copy(), command[1:]))
        return step(command)

    trainer._env.step = watched
    trainer.train()
    before, targets = (np.array(x) for x in zip(*told, strict=True))
    low, high = np.array([-1, 0]), np.array([1.5, 0.1])
    assert len(targets) == 120
    assert (np.clip(before - STEP, low, high) - 1e-6 <= targets).all()
    assert (targets <= np.clip(before + STEP, low, high) + 1e-6).all()
    assert trainer.export_bundle().task.action[1].term == "position_step"


def beheaded(task):
    del task["observation"][0]
    task["reward"]["analytic"] = [{"term": "alive", "weight": 1}]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t["action"][1].update(step=0), "greater than 0"),
        (lambda t: t["action"][1].update(step=[0.1] * 3), "step: got 3 numbers; expected one for each of 2 joints"),
        (lambda t: t["observation"][0].update(clip=[-1, 1]), "a position step of 'shoulder' needs its position"),
        (beheaded, "a position step of 'shoulder' needs its position in the observation, without clip"),
        (
            lambda t: t["observation"].append({"term": "last_command", "joints": ["wheel", "slide"]}),
            "observation.2.joints: the commands of 'slide' are position steps, which are not recalled",
        ),
    ],
)  # fmt: skip
def test_steps_that_cannot_be_made_are_refused(tmp_path, change, said):
    def changed(task):
        stepped(task)
        change(task)

    with pytest.raises(TaskError, match=said):
        servo_robot.load(tmp_path, change=changed)


def test_one_step_stands_for_all_joints(tmp_path):
    def change(task):
        stepped(task)
        task["action"][1]["step"] = 0.05

    entries = servo_robot.load(tmp_path, change=change).action_entries()
    assert [entry.step for entry in entries] == [None, 0.05, 0.05]
    assert [entry.safe for entry in entries] == [-1.0, None, None]
    names = [entry.name for entry in entries]
    assert list(itertools.islice(names, 1, None)) == ["shoulder/position", "slide/position"]
