"""Safe commands that follow the joints."""

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from maac_learning.export import export_untrained_bundle
from maac_ros.controller import Controller, ControllerSettings, Mode
from maac_ros.errors import ObservationError, TaskError
from maac_ros.observation import JointReading
from maac_ros.resources import named_file
from maac_ros.safe_command import SafeCommand
from maac_ros.simulation import Simulation
from maac_ros.task import PlannerSettings, load_task

IMPEDANCE = {"stiffness": 40.0, "damping": 20.0, "otherwise": -0.5}
"""N/m, N·s/m and a command, for the slider of the pendulum, whose gear is 100 N."""

ANY = st.floats(allow_nan=True, allow_infinity=True)
WRONG = ObservationError("something is wrong")


@pytest.fixture(scope="module")
def make_task(tmp_path_factory):
    """``make_task(safe)``: the pendulum's task with another safe command, as a file."""

    def make(safe):
        data = yaml.safe_load(named_file("tasks", "inverted_pendulum", "task").read_text("utf-8"))
        data["action"][0]["safe"] = safe
        path = tmp_path_factory.mktemp("task") / "pendulum.yaml"
        path.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
        return path

    return make


@pytest.fixture(scope="module")
def bundle(make_task, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundle") / "pendulum"
    return export_untrained_bundle(load_task(make_task(IMPEDANCE)), folder)


@pytest.fixture
def controller(bundle):
    return Controller(bundle, ControllerSettings(PlannerSettings(), mpc_budget_s=1.0))


def reading(position, velocity):
    """Of the slider; the hinge does not matter."""
    return JointReading(np.array([position, 0.3]), np.array([velocity, 0.7]))


def test_constant_is_the_same_whatever_the_joints_do(make_task):
    safe = SafeCommand(load_task(make_task(0.25)))
    assert not safe.follows
    assert safe.values(reading(1.0, 2.0)) == safe.values() == safe.blind == 0.25


def test_joint_is_damped_and_pushed_back_to_where_it_was_held(make_task):
    safe = SafeCommand(load_task(make_task(IMPEDANCE)))
    assert safe.follows
    assert safe.blind == -0.5
    assert safe.values(reading(0.2, 0.5)) == pytest.approx(-20 * 0.5 / 100)
    assert safe.values(reading(0.5, -0.1)) == pytest.approx((40 * (0.2 - 0.5) + 20 * 0.1) / 100)
    safe.release(np.zeros(1))
    assert safe.values(reading(0.5, 0.0)) == 0.0


def test_damping_alone_holds_no_position(make_task):
    safe = SafeCommand(load_task(make_task({"damping": 20.0})))
    assert safe.values(reading(np.nan, 0.5)) == pytest.approx(-0.1)
    assert safe.values(reading(7.0, 0.5)) == pytest.approx(-0.1)


def test_joint_that_is_not_known_gets_the_constant_and_is_held_once_it_is(make_task):
    safe = SafeCommand(load_task(make_task(IMPEDANCE)))
    assert safe.values() == -0.5
    assert safe.values(reading(np.nan, 0.5)) == -0.5
    assert safe.values(reading(0.2, np.nan)) == -0.5
    assert safe.values(reading(0.3, 0.0)) == pytest.approx(40 * (0.2 - 0.3) / 100)


@given(position=ANY, velocity=ANY, then=ANY)
def test_whatever_the_joints_say_is_within_the_limits(make_task, position, velocity, then):
    task = load_task(make_task(IMPEDANCE))
    safe, (slider,) = SafeCommand(task), task.action_entries()
    for given_position in (position, then):
        values = safe.values(reading(given_position, velocity))
        assert slider.low <= values[0] <= slider.high


@pytest.mark.parametrize(
    ("safe", "said"),
    [
        ({"stiffness": 40.0}, "damping"),
        ({"damping": -1.0}, "greater than 0"),
        ({"damping": 0.0, "stiffness": 1.0}, "greater than 0"),
        ({"damping": 1.0, "otherwise": 9.0}, "safe command 9.0 is outside limits"),
        (9.0, "safe command 9.0 is outside limits"),
    ],
)
def test_what_makes_no_sense_is_refused(make_task, safe, said):
    with pytest.raises(TaskError, match=said) as refusal:
        load_task(make_task(safe))
    assert "action" in str(refusal.value)


def test_controller_holds_where_the_policy_left_the_joint(controller):
    good = np.array([0.0, 0.05, 0.1, -0.1])
    # Before the policy has acted, and again after it: each time another place is held.
    for place in (0.1, 0.4):
        command = controller.tick(WRONG, 0.0, joints=reading(place, 0.5))
        assert (command.mode, command.reason) == (Mode.SAFE, str(WRONG))
        assert command.values == pytest.approx(-0.1)
        command = controller.tick(WRONG, 0.0, joints=reading(place + 0.1, 0.0))
        assert command.values == pytest.approx(-0.04)
        assert controller.tick(WRONG, 0.0).values == -0.5
        assert controller.tick(good, 0.0, joints=reading(9.0, 0.0)).mode is Mode.POLICY


@given(st.lists(st.tuples(st.booleans(), ANY, ANY, st.booleans()), max_size=12))
def test_whatever_comes_in_no_unsafe_command_leaves_the_core(bundle, ticks):
    controller = Controller(bundle, ControllerSettings(PlannerSettings(), mpc_budget_s=1.0))
    for good, position, velocity, stop in ticks:
        if stop:
            controller.stop("by hand")
        command = controller.tick(
            np.zeros(4) if good else WRONG, 0.0, joints=reading(position, velocity)
        )
        assert np.isfinite(command.values).all()
        assert (np.abs(command.values) <= 3.0).all()


def test_latched_stop_follows_the_joints_and_a_successor_holds_the_same_place(controller):
    controller.stop("by hand")
    command = controller.tick(np.zeros(4), 0.0, joints=reading(0.2, 0.0))
    assert (command.mode, command.values) == (Mode.STOPPED, 0.0)
    successor = Controller(controller.bundle, controller.settings)
    successor.take_over(controller)
    command = successor.tick(np.zeros(4), 0.0, joints=reading(0.3, 0.0))
    assert command.mode is Mode.STOPPED
    assert command.values == pytest.approx(-0.04)


def test_a_moving_robot_comes_to_rest_where_it_is_held(controller):
    """In the simulator, from 0.8 m/s; with the constant it goes on."""
    simulation = Simulation(controller.bundle.task)
    rest = {}
    for follows in (True, False):
        controller.reset()
        state = simulation.reset(seed=0)
        state.joint_velocity[:] = 0.8, 0.0
        simulation.place(state)
        held = state.joint_position[0]
        for _ in range(125):  # 5 s
            joints = JointReading(state.joint_position, state.joint_velocity) if follows else None
            values = controller.tick(WRONG, 0.0, joints=joints).values
            if not follows:
                values = np.zeros(1)
            state = simulation.step(values).state
        rest[follows] = abs(state.joint_velocity[0]), abs(state.joint_position[0] - held)
    assert rest[True][0] < 0.05
    assert rest[True][1] < 0.2
    assert rest[False][1] > 0.5
