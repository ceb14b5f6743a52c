"""Position and velocity targets: how they are described, simulated, limited and held."""

import dataclasses

import mujoco
import numpy as np
import pytest
import servo_robot

from maac_ros.controller import Controller, ControllerSettings
from maac_ros.errors import ObservationError, TaskError
from maac_ros.evaluation import evaluate
from maac_ros.modes import Mode
from maac_ros.observation import JointReading
from maac_ros.safe_command import SafeCommand
from maac_ros.simulation import Simulation
from maac_ros.task import PlannerSettings

WRONG = ObservationError("something is wrong")
GOOD = np.array([0.1, 0.02, 0.0, 0.0, 0.0])


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return servo_robot.load(tmp_path_factory.mktemp("task"))


@pytest.fixture(scope="module")
def bundle(untrained_bundle):
    return untrained_bundle("servo_robot")


@pytest.fixture
def controller(bundle):
    return Controller(bundle, ControllerSettings(PlannerSettings(), mpc_budget_s=1.0))


def reading(shoulder, slide, wheel=0.0):
    return JointReading(np.array([shoulder, slide, wheel]), np.zeros(3))


def test_entries_have_the_units_and_limits_of_their_joints(task):
    assert [(e.name, e.unit, e.low, e.high, e.safe) for e in task.action_entries()] == [
        ("wheel/velocity", "rad/s", -6, 3, -1),
        ("shoulder/position", "rad", -1, 1.5, None),
        ("slide/position", "m", 0, 0.1, None),
    ]


def test_one_pair_of_limits_is_for_all_joints(tmp_path):
    def change(task):
        task["action"][1]["limits"] = [0, 0.5]

    entries = servo_robot.load(tmp_path, change=change).action_entries()
    assert [(e.low, e.high) for e in entries[1:]] == [(0, 0.5), (0, 0.5)]


def test_joints_that_are_held_must_be_known(tmp_path):
    """Even where the policy does not observe them."""

    def change(task):
        task["robot"]["base"] = {"joint": "root"}
        task["observation"] = [{"term": "base_position", "axes": ["z"]}]
        task["reward"]["analytic"][0]["entry"] = "base/position_z"

    assert servo_robot.load(tmp_path, change=change).sources() == {"odom", "joint_states"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda a: a[1].update(limits=[[0, 1]] * 3), "got 3 pairs; expected one for each of 2 joints"),
        (lambda a: a[1].update(limits=[1, 0]), r"low < high, got \[1.0, 0.0\]"),
        (lambda a: a[1].update(limits=[[0, 1], [1, 0]]), "low < high"),
        (lambda a: a[1].update(safe=0.0), "safe"),
        (lambda a: a[0].update(safe=4), r"safe command 4.0 is outside limits \[-6.0, 3.0\]"),
        (lambda a: a[0].update(joints=["shoulder"]), "action: listed more than once: shoulder"),
    ],
)  # fmt: skip
def test_description_that_makes_no_sense_is_refused(tmp_path, change, said):
    with pytest.raises(TaskError, match=said):
        servo_robot.load(tmp_path, change=lambda task: change(task["action"]))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            'position joint="shoulder" kp="60" kv="4"',
            'motor joint="shoulder"',
            "'shoulder' is commanded its position; its actuator in servo_robot.xml is a motor of gain 1, "
            "expected a position servo",
        ),
        (
            'velocity joint="wheel" kv="0.05"',
            'damper joint="wheel" kv="0.05" ctrlrange="0 1"',
            "neither a motor of gain 1 nor a servo",
        ),
        ("-2 2", "-0.5 2", r"got \[-1, 1.5\]; expected limits within \[-0.5, 2\]"),
        ('kp="80"', 'kp="80" gear="2"', "gear of 'slide': got 1; expected 2"),
    ],
)
def test_robot_with_other_actuators_is_refused(tmp_path, old, new, said):
    task = servo_robot.load(tmp_path, mjcf=servo_robot.MJCF.replace(old, new))
    with pytest.raises(TaskError, match=said):
        Simulation(task)


def test_targets_are_the_actuators_controls(task):
    simulation = Simulation(task)
    state = simulation.reset(seed=3)
    model = mujoco.MjModel.from_xml_string(servo_robot.MJCF)
    data = mujoco.MjData(model)
    data.qpos[:] = state.joint_position
    data.ctrl[:] = 0.7, 0.05, 2.0  # the MJCF's order is not the task's
    mujoco.mj_step(model, data, 4)
    state = simulation.step(np.array([2.0, 0.7, 0.05])).state
    assert state.joint_position.tolist() == data.qpos.tolist()
    assert state.joint_velocity.tolist() == data.qvel.tolist()


def test_there_is_no_safe_target_before_anything_is_known(task):
    safe = SafeCommand(task)
    np.testing.assert_array_equal(safe.values(), [-1, np.nan, np.nan])
    np.testing.assert_array_equal(safe.values(reading(0.5, np.nan)), [-1, 0.5, np.nan])
    # Each is held where it was first known, within the limits.
    np.testing.assert_array_equal(safe.values(reading(0.9, 0.3)), [-1, 0.5, 0.1])
    np.testing.assert_array_equal(safe.values(), [-1, 0.5, 0.1])
    np.testing.assert_array_equal(safe.blind, [-1, 0.5, 0.1])


def test_joints_that_are_lost_go_on_to_their_last_target(task):
    safe = SafeCommand(task)
    safe.release(np.array([2.0, 1.2, 0.04]))
    np.testing.assert_array_equal(safe.blind, [-1, 1.2, 0.04])
    np.testing.assert_array_equal(safe.values(reading(np.nan, 0.07)), [-1, 1.2, 0.07])
    # And stay there: another target would move them.
    np.testing.assert_array_equal(safe.values(reading(0.3, 0.02)), [-1, 1.2, 0.07])
    successor = SafeCommand(task)
    successor.take_over(safe)
    np.testing.assert_array_equal(successor.values(), [-1, 1.2, 0.07])
    safe.forget()
    assert np.isnan(safe.blind[1:]).all()


def test_controller_holds_the_joints_where_a_fault_finds_them(controller):
    acted = controller.tick(GOOD, 0.0, joints=reading(0.1, 0.02))
    assert acted.mode is Mode.POLICY
    command = controller.tick(WRONG, 0.0, joints=reading(0.2, 0.03))
    assert command.mode is Mode.SAFE
    np.testing.assert_array_equal(command.values, [-1, 0.2, 0.03])
    np.testing.assert_array_equal(
        controller.tick(WRONG, 0.0, joints=reading(0.4, 0.05)).values, [-1, 0.2, 0.03]
    )


def test_command_that_was_not_sent_is_not_held(controller):
    """A tick that hung: its answer was dropped, and the robot is on its way to the target before."""
    first = controller.tick(GOOD, 0.0, joints=reading(0.1, 0.02))
    dropped = controller.tick(GOOD + 1.0, 0.0, joints=reading(0.1, 0.02))
    assert not np.array_equal(first.values, dropped.values)
    command = controller.overrule(dropped, "it hung")
    np.testing.assert_array_equal(command.values[1:], first.values[1:])
    np.testing.assert_array_equal(controller.tick(WRONG, 0.0).values[1:], first.values[1:])


def test_robot_sets_out_from_where_it_is(bundle):
    """The first target is rate-limited against the joints' positions, as there is no command before it."""
    settings = ControllerSettings(PlannerSettings(), mpc_budget_s=1.0, action_rate_limit=0.5)
    controller = Controller(bundle, settings)
    far = reading(-0.9, 0.1)
    previous = np.array([-1, -0.9, 0.1])
    for _ in range(20):
        values = controller.tick(GOOD, 0.0, joints=far).values
        assert (np.abs(values - previous) <= 0.5 * 0.02 + 1e-12).all()
        previous = values
    assert abs(values[1] + 0.9) > 0.1


def test_first_target_of_a_robot_whose_joints_were_not_given_is_the_policys(bundle):
    limited = ControllerSettings(PlannerSettings(), mpc_budget_s=1.0, action_rate_limit=0.5)
    free = dataclasses.replace(limited, action_rate_limit=np.inf)
    first, other = (Controller(bundle, s).tick(GOOD, 0.0).values for s in (limited, free))
    np.testing.assert_array_equal(first[1:], other[1:])


def test_episodes_are_played_with_and_without_plans(bundle):
    for use_mpc in (False, True):
        settings = PlannerSettings(candidates=16, horizon=2, iterations=1)
        ((episode, controller),) = evaluate(bundle, 1, 5, use_mpc, settings)
        assert episode.steps == 40
        assert 0 < episode.episode_return < 40
        mode = Mode.MPC if use_mpc else Mode.POLICY
        assert controller.statistics.ticks[mode] > 30
