"""How a task is bound to a robot: names, signs, units, and what does not go together."""

import numpy as np
import pytest
import servo_robot

from maac_ros.binding import Binding, load_robot
from maac_ros.errors import ConfigError
from maac_ros.observation import JointReading
from maac_ros.task import load_task


@pytest.fixture
def arm(robot_file):
    return Binding(load_task("reaching_arm"), load_robot(robot_file()))


def test_joints_are_read_under_their_own_names_and_signs(arm):
    assert arm.names == ("shoulder_joint", "elbow_joint")
    said = JointReading(np.array([0.5, 0.3]), np.array([1.0, 2.0]), np.array([3.0, 4.0]))
    position, velocity, effort = arm.from_robot(said)
    np.testing.assert_allclose(position, [0.5, -0.2], atol=1e-15)
    np.testing.assert_array_equal(velocity, [1.0, -2.0])
    np.testing.assert_array_equal(effort, [3.0, -4.0])
    for ours, theirs in zip(said, arm.to_robot(arm.from_robot(said)), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-15)
    assert np.isnan(arm.from_robot(JointReading(np.full(2, np.nan), np.zeros(2))).position).all()


def test_efforts_are_newton_metres_in_the_controllers_order(arm):
    assert arm.command_names == ("elbow_joint", "shoulder_joint")
    np.testing.assert_array_equal(arm.command_to_robot(np.array([0.5, 0.25])), [-1.0, 6.0])
    np.testing.assert_array_equal(arm.command_from_robot(np.array([-1.0, 6.0])), [0.5, 0.25])
    assert arm.driven_names == ("shoulder_joint", "elbow_joint")
    np.testing.assert_array_equal(arm.physical(np.array([[0.5, 0.25]])), [[6.0, -1.0]])


def test_position_targets_turn_and_shift_with_their_joint(robot_file, tmp_path):
    def change(robot):
        robot["joints"] = {
            "slide": {"sign": -1, "offset": 0.5},
            "wheel": {"sign": -1, "name": "tyre"},
        }
        robot["controller"] = {}

    binding = Binding(servo_robot.load(tmp_path), load_robot(robot_file(change)))
    assert binding.command_names == ("tyre", "shoulder", "slide")
    told = binding.command_to_robot(np.array([2.0, 0.7, 0.05]))
    np.testing.assert_allclose(told, [-2.0, 0.7, 0.45])
    np.testing.assert_allclose(binding.command_from_robot(told), [2.0, 0.7, 0.05])


def test_without_a_robot_everything_is_the_simulators():
    binding = Binding(load_task("hopper"))
    values = np.random.default_rng(0).normal(size=(3, 3))
    np.testing.assert_array_equal(binding.command_to_robot(values), values)
    reading = JointReading(*np.random.default_rng(1).normal(size=(3, 6)))
    np.testing.assert_array_equal(binding.from_robot(reading), reading)
    assert binding.controller.topic == "policy_controller/commands"
    assert binding.topics.joint_states == "joint_states"
    assert binding.base_frame == ""
    assert Binding(load_task("ant")).odom_frame == "odom"
    assert Binding(load_task("ant")).base_frame == load_task("ant").robot.base.frame


@pytest.mark.parametrize("frame", ["map", ""])
def test_world_frame_of_odometry_is_the_robots(robot_file, frame):
    def change(robot):
        robot.update(joints={}, controller={}, odom_frame=frame)

    assert Binding(load_task("ant"), load_robot(robot_file(change))).odom_frame == frame


def rename_shoulder(robot):
    del robot["joints"]["elbow"]
    robot["joints"]["shoulder"]["name"] = "elbow"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda r: r["joints"].update(wrist={}), "joints.wrist: task 'reaching_arm' has no such joint"),
        (lambda r: r["joints"].update(wrist={}), "expected some of: shoulder, elbow"),
        (lambda r: r["joints"]["elbow"].update(name="shoulder_joint"), "listed more than once: shoulder_joint"),
        (rename_shoulder, "'elbow' stands for more than one joint"),
        (lambda r: r["controller"].update(joints=["elbow_joint"]), "controller.joints: got elbow_joint; expected, in"),
        (lambda r: r["controller"].update(joints=["elbow_joint"] * 2), "controller.joints: listed more than once"),
        (lambda r: r["controller"].update(interface="trajectory"), "'trajectory' takes positions only, and task"),
        (lambda r: r["controller"].update(interface="action"), r"controller\.interface"),
        (lambda r: r["joints"]["elbow"].update(sign=2), r"joints\.elbow\.sign"),
        (lambda r: r["topics"].update(odom="not a topic"), r"topics\.odom"),
        (lambda r: r.update(base_frame="trunk"), "base_frame: task 'reaching_arm' has no floating base"),
        (lambda r: r.update(odom_frame="map"), "odom_frame: task 'reaching_arm' has no floating base"),
        (lambda r: r["joints"]["shoulder"]["limits"].update(effort=11),
         r"joints\.shoulder\.limits\.effort: \[-12, 12\] N·m may be commanded; .* are \[-11, 11\]"),
        (lambda r: r.update(rates_hz={"joint_states": 0}), "rates_hz.joint_states: got 0; expected more than 0"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_refused_by_field(robot_file, change, said):
    with pytest.raises(ConfigError, match=said):
        Binding(load_task("reaching_arm"), load_robot(robot_file(change)))


def test_unknown_robot_is_refused_with_the_shipped_ones():
    with pytest.raises(
        ConfigError, match=r"unknown robot 'marvin': .* one of: go1, late_pendulum, reaching_arm"
    ):
        load_robot("marvin")
