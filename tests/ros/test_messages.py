"""Conversions between messages and arrays: by name, in the right frame, and loud about what is missing."""

import dataclasses
import re
from functools import reduce

import numpy as np
import pytest
import servo_robot
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray

from maac_ros.binding import Binding
from maac_ros.errors import ObservationError
from maac_ros.nodes import messages
from maac_ros.nodes.messages import CommandError, JointNeeds
from maac_ros.observation import RobotState
from maac_ros.observation_terms import BaseAngularVelocity, BaseLinearVelocity, Goal
from maac_ros.task import load_task

NEEDS = JointNeeds(("slider", "hinge"), position=("slider", "hinge"), velocity=("hinge",))


def joint_state(names, position, velocity=()):
    return JointState(name=list(names), position=list(position), velocity=list(velocity))


def base_state(orientation=(1.0, 0.0, 0.0, 0.0)):
    return RobotState(
        np.zeros(0),
        np.zeros(0),
        base_position=np.array([1.0, -2.0, 0.5]),
        base_orientation=np.array(orientation),
        base_linear_velocity=np.array([1.0, 2.0, 3.0]),
        base_angular_velocity=np.array([0.1, 0.2, 0.3]),
    )


def read_odometry(message, odom_frame="odom"):
    needed = tuple(messages._BASE_FIELDS["odom"])
    return messages.read_odometry(message, "torso", odom_frame, needed)


def read_imu(message, frame="imu_link"):
    return messages.read_imu(message, frame, tuple(messages._BASE_FIELDS["imu"]))


def put(message, field, value):
    *path, last = field.split(".")
    setattr(reduce(getattr, path, message), last, value)


@pytest.mark.parametrize("name", ["inverted_pendulum", "hopper", "ant"])
def test_needs_are_those_of_the_observation(name):
    task = load_task(name)
    needs = JointNeeds.of(Binding(task))
    names = {e.name for e in task.observation_entries() if e.source == "joint_states"}
    assert needs.names == tuple(task.robot.joints)
    assert names == {
        *(f"{joint}/position" for joint in needs.position),
        *(f"{joint}/velocity" for joint in needs.velocity),
    }


def test_joints_are_found_by_name_whatever_their_order():
    message = joint_state(["gripper", "hinge", "slider"], [9.0, 2.0, 1.0], [9.0, 4.0, 3.0])
    position, velocity, _ = messages.read_joint_state(message, NEEDS)
    np.testing.assert_array_equal(position, [1.0, 2.0])
    np.testing.assert_array_equal(velocity, [3.0, 4.0])


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (
            joint_state(["slider"], [1.0], [1.0]),
            "joint 'hinge' is missing; the message has 'slider'",
        ),
        (joint_state([], [], []), "joint 'slider', 'hinge' is missing; the message has no joints"),
        (
            joint_state(["slider", "hinge"], [1.0, 2.0]),
            "field 'velocity' has 0 values for 2 joints; the task needs the velocity of 'hinge'",
        ),
        (
            joint_state(["slider", "hinge"], [1.0], [1.0, 2.0]),
            "field 'position' has 1 values for 2 joints",
        ),
        (
            joint_state(["hinge", "slider", "hinge"], [1.0] * 3, [1.0] * 3),
            "joints listed more than once: hinge",
        ),
    ],
)
def test_what_is_missing_is_named(message, reason):
    with pytest.raises(ObservationError, match=f"joint_states: .*{reason}"):
        messages.read_joint_state(message, NEEDS)


def test_empty_field_that_nobody_needs_is_unknown_not_zero():
    needs = JointNeeds(("hinge",), position=("hinge",), velocity=())
    reading = messages.read_joint_state(joint_state(["hinge"], [1.0]), needs)
    assert np.isnan(reading.velocity).all()
    assert np.isnan(reading.effort).all()


def test_joint_states_pass_through_unchanged():
    random = np.random.default_rng(0)
    state = RobotState(random.standard_normal(2), random.standard_normal(2))
    message = messages.joint_state_message(state.joints, NEEDS.names, 12_000_000_345)
    assert messages.stamp_to_ns(message.header.stamp) == 12_000_000_345
    assert not message.effort  # of which nothing is known
    position, velocity, _ = messages.read_joint_state(message, NEEDS)
    np.testing.assert_array_equal(position, state.joint_position)
    np.testing.assert_array_equal(velocity, state.joint_velocity)
    state.joint_effort = random.standard_normal(2)
    message = messages.joint_state_message(state.joints, NEEDS.names, 1)
    needs = dataclasses.replace(NEEDS, effort=("hinge",))
    reading = messages.read_joint_state(message, needs)
    np.testing.assert_array_equal(reading.effort, state.joint_effort)


def test_sensors_are_read_by_name():
    message = messages.sensors_message(np.array([1.0, 2.0, 3.0]), ("a", "b", "c"), 7)
    assert messages.stamp_to_ns(message.header.stamp) == 7
    assert messages.read_sensors(message, ("c", "a")).values.tolist() == [3.0, 1.0]
    with pytest.raises(ObservationError, match="sensors: 'd' is missing; the message has 'a', 'b'"):
        messages.read_sensors(message, ("a", "d"))
    message.name = ["a", "b", "a"]
    with pytest.raises(ObservationError, match="sensors: names listed more than once: a"):
        messages.read_sensors(message, ("a",))
    message.name = ["a"]
    with pytest.raises(ObservationError, match="'position' has 3 values for 1 names"):
        messages.read_sensors(message, ("a",))


def test_twist_is_in_the_child_frame():
    quarter_turn_left = (np.sqrt(0.5), 0.0, 0.0, np.sqrt(0.5))
    message = messages.odometry_message(base_state(quarter_turn_left), "torso", 0)
    linear = message.twist.twist.linear
    # Facing +y of the world: world x is to the right of the robot, which is its -y.
    np.testing.assert_allclose([linear.x, linear.y, linear.z], [2.0, -1.0, 3.0], atol=1e-15)
    assert message.pose.pose.orientation.w == quarter_turn_left[0]


def test_base_state_survives_odometry():
    random = np.random.default_rng(0)
    for _ in range(20):
        q = random.standard_normal(4)
        state = base_state(q / np.linalg.norm(q))
        read = read_odometry(messages.odometry_message(state, "torso", 1))
        np.testing.assert_array_equal(read.position, state.base_position)
        np.testing.assert_allclose(read.orientation, state.base_orientation, atol=1e-15)
        np.testing.assert_allclose(read.linear_velocity, state.base_linear_velocity, atol=1e-14)
        np.testing.assert_array_equal(read.angular_velocity, state.base_angular_velocity)


def test_odometry_in_another_frame_is_refused():
    message = messages.odometry_message(base_state(), "base_link", 1)
    with pytest.raises(ObservationError, match="child_frame_id: got 'base_link'; expected 'torso'"):
        read_odometry(message)
    message = messages.odometry_message(base_state(), "torso", 1, "map")
    with pytest.raises(
        ObservationError, match=r"odom: header\.frame_id: got 'map'; expected 'odom'"
    ):
        read_odometry(message)
    np.testing.assert_array_equal(read_odometry(message, "").position, [1.0, -2.0, 0.5])


def test_orientation_that_is_no_rotation_is_refused_with_its_norm():
    told = r"odom: pose\.pose\.orientation has norm {}; expected 0\.95 to 1\.05"
    for norm in (0.0, 0.55, 0.949, 1.051, 1.45):
        message = messages.odometry_message(base_state(), "torso", 1)
        message.pose.pose.orientation.w = norm
        with pytest.raises(ObservationError, match=told.format(re.escape(f"{norm:g}"))):
            read_odometry(message)


@pytest.mark.parametrize("norm", [0.951, 1.0, 1.049])
def test_orientation_is_a_unit_quaternion_once_it_is_read(norm):
    unit = np.array([0.5, -0.5, 0.5, 0.5])
    odom = messages.odometry_message(base_state(unit), "torso", 1)
    imu = messages.imu_message(base_state(unit), "imu_link", 1)
    for message, q in ((odom, odom.pose.pose.orientation), (imu, imu.orientation)):
        q.w, q.x, q.y, q.z = (unit * norm).tolist()
        read = read_odometry if message is odom else read_imu
        np.testing.assert_allclose(read(message).orientation, unit, rtol=1e-15)
    # Turned by the same rotation, whatever its norm.
    np.testing.assert_allclose(read_odometry(odom).linear_velocity, [1, 2, 3], rtol=1e-14)


def test_simulated_orientation_is_sent_as_the_unit_quaternion_that_it_stands_for():
    state = base_state((0.55, -0.55, 0.55, 0.55))
    for q in (
        messages.odometry_message(state, "torso", 1).pose.pose.orientation,
        messages.imu_message(state, "imu_link", 1).orientation,
    ):
        np.testing.assert_allclose([q.w, q.x, q.y, q.z], [0.5, -0.5, 0.5, 0.5], rtol=1e-15)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1e300])
@pytest.mark.parametrize(
    "field",
    [
        "pose.pose.position.z",
        "pose.pose.orientation.x",
        "twist.twist.linear.y",
        "twist.twist.angular.z",
    ],
)
def test_field_of_odometry_that_is_no_number_is_named_and_no_other(field, value):
    message = messages.odometry_message(base_state((0.5, -0.5, 0.5, 0.5)), "torso", 1)
    put(message, field, value)
    with pytest.raises(ObservationError) as refused:
        read_odometry(message)
    assert str(refused.value) == (
        f"odom: {field} = {value:g}; expected a finite number of single precision"
    )


@pytest.mark.parametrize("field", ["orientation.x", "angular_velocity.y"])
def test_field_of_an_imu_that_is_no_number_is_named_and_no_other(field):
    message = messages.imu_message(base_state(), "imu_link", 1)
    put(message, field, float("nan"))
    with pytest.raises(ObservationError) as refused:
        read_imu(message)
    assert str(refused.value) == (
        f"imu: {field} = nan; expected a finite number of single precision"
    )


def test_number_of_the_base_that_no_entry_needs_may_be_none():
    """Ant does not observe where it is in the plane, and what an IMU tells needs no odometry."""
    assert "pose.pose.position.x" not in messages.needed_fields("odom", load_task("ant"))
    message = messages.odometry_message(base_state(), "torso", 1)
    put(message, "pose.pose.position.x", float("nan"))
    read = messages.state_reader("odom", Binding(load_task("ant")))(message)
    np.testing.assert_array_equal(read.position, [np.nan, -2.0, 0.5])
    assert not messages.needed_fields("imu", load_task("ant"))


def test_all_of_a_vector_is_needed_where_it_is_turned():
    task = load_task("ant").model_copy(
        update={
            "observation": (
                BaseLinearVelocity(term="base_linear_velocity", frame="body"),
                BaseAngularVelocity(term="base_angular_velocity", frame="world", source="imu"),
            )
        }
    )
    assert messages.needed_fields("odom", task) == tuple(f"twist.twist.linear.{a}" for a in "xyz")
    assert messages.needed_fields("imu", task) == tuple(f"angular_velocity.{a}" for a in "xyz")


def test_command_says_which_observation_it_answers():
    values = np.array([0.1, -1 / 3])
    message = messages.command_message(values, 7_000_000_009)
    read, answers = messages.read_command(message, 2)
    np.testing.assert_array_equal(read, values)
    assert answers == 7_000_000_009


def test_command_of_another_sender_is_taken_without_a_label():
    read, answers = messages.read_command(Float64MultiArray(data=[0.5]), 1)
    np.testing.assert_array_equal(read, [0.5])
    assert answers is None


@pytest.mark.parametrize(
    ("data", "reason"),
    [([1.0], "1 values; expected 2"), ([1.0, float("nan")], "not finite"), ([], "0 values")],
)
def test_command_that_does_not_fit_is_refused(data, reason):
    with pytest.raises(CommandError, match=reason):
        messages.read_command(Float64MultiArray(data=data), 2)


def test_plan_is_efforts_over_time():
    binding = Binding(load_task("half_cheetah"))
    actions = np.linspace(-1, 1, 18, dtype=np.float32).reshape(3, 6)
    message = messages.plan_message(actions, binding, 0.05, 1_000)
    assert message.joint_names == ["bthigh", "bshin", "bfoot", "fthigh", "fshin", "ffoot"]
    assert [p.time_from_start.nanosec for p in message.points] == [0, 50_000_000, 100_000_000]
    np.testing.assert_allclose(message.points[0].effort[:2], [-120.0, actions[0, 1] * 90])


def test_plan_tells_of_each_joint_what_it_is_commanded(tmp_path):
    binding = Binding(servo_robot.load(tmp_path))
    message = messages.plan_message(np.array([[2.0, 0.7, 0.05]]), binding, 0.02, 1_000)
    assert message.joint_names == ["wheel", "shoulder", "slide"]
    (point,) = message.points
    np.testing.assert_array_equal(point.positions, [np.nan, 0.7, 0.05])
    np.testing.assert_array_equal(point.velocities, [2.0, np.nan, np.nan])
    assert not point.effort


WALK = Goal(term="goal", source="cmd_vel", ranges={"angular_z": (-1, 1), "linear_x": (0, 2)})
REACH = Goal(term="goal", source="goal", ranges={"elbow": (-1, 1), "wrist": (0, 2)})


@pytest.mark.parametrize(
    ("goal", "read"),
    [
        (WALK, lambda message, goal: messages.read_twist(message.twist, goal)),
        (REACH, messages.read_named_goal),
    ],
)
def test_goal_survives_its_message(goal, read):
    message = messages.goal_message(np.array([0.25, 1.5]), goal, 3_000_000_007)
    assert messages.stamp_to_ns(message.header.stamp) == 3_000_000_007
    np.testing.assert_array_equal(read(message, goal), [0.25, 1.5])


def test_velocity_command_is_read_by_component():
    twist = messages.goal_message(np.array([0.25, 1.5]), WALK, 1).twist
    assert (twist.angular.z, twist.linear.x, twist.linear.y) == (0.25, 1.5, 0.0)


def test_goal_is_read_by_name():
    message = joint_state(["thumb", "wrist", "elbow"], [9.0, 1.5, 0.25])
    np.testing.assert_array_equal(messages.read_named_goal(message, REACH), [0.25, 1.5])


@pytest.mark.parametrize(
    ("names", "position", "reason"),
    [
        (["elbow"], [0.0], "'wrist' is missing; the message has 'elbow'"),
        (["elbow", "wrist"], [0.0], "'position' has 1 values for 2 names"),
        (["elbow", "wrist"], [0.0, float("nan")], "^goal: wrist = nan; expected a finite number$"),
        (["elbow", "wrist", "elbow"], [0.0, 0.0, 1.0], "goal: names listed more than once: elbow"),
    ],
)
def test_goal_that_cannot_be_used_is_refused(names, position, reason):
    with pytest.raises(ObservationError, match=reason):
        messages.read_named_goal(joint_state(names, position), REACH)


def test_velocity_command_that_is_not_finite_is_refused():
    twist = messages.goal_message(np.array([0.25, np.inf]), WALK, 1).twist
    twist.linear.y = float("nan")  # which nobody asks for
    with pytest.raises(
        ObservationError, match=r"^cmd_vel: linear_x = inf; expected a finite number$"
    ):
        messages.read_twist(twist, WALK)


def test_imu_survives_its_message_and_names_what_it_does_not_give():
    state = base_state(orientation=(0.5, -0.5, 0.5, 0.5))
    message = messages.imu_message(state, "imu_link", 9)
    reading = read_imu(message)
    np.testing.assert_array_equal(reading.orientation, state.base_orientation)
    np.testing.assert_array_equal(reading.angular_velocity, state.base_angular_velocity)
    assert message.linear_acceleration_covariance[0] == -1.0
    with pytest.raises(ObservationError, match="frame_id: got 'imu_link'; expected 'trunk'"):
        read_imu(message, "trunk")
    message.orientation_covariance[0] = -1.0
    with pytest.raises(ObservationError, match="orientation is not given"):
        read_imu(message)
    message = messages.imu_message(base_state(), "imu_link", 9)
    message.orientation.w = 0.5
    with pytest.raises(
        ObservationError, match=r"imu: orientation has norm 0\.5; expected 0\.95 to 1\.05"
    ):
        read_imu(message)
