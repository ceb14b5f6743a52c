"""What the nodes make of goals: which one holds when, and what comes on the topics."""

import re
import time

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from geometry_msgs.msg import Twist, TwistStamped
from sensor_msgs.msg import JointState, Joy
from std_msgs.msg import Float64MultiArray

from maac_learning.export import export_untrained_bundle
from maac_ros.errors import ObservationError
from maac_ros.nodes.common import RELIABLE
from maac_ros.nodes.inbox import Inbox, Wake
from maac_ros.observation import JointReading
from maac_ros.observation_terms import Goal
from maac_ros.task import load_task

SECOND = 1_000_000_000
READING = JointReading(np.array([0.1, -0.2]), np.zeros(2))
VELOCITIES = {"linear_x": (-1.0, 1.0), "angular_z": (-2.0, 2.0)}


@pytest.fixture(scope="module")
def reaching():
    return load_task("reaching_arm")


def with_goal(task, **fields):
    """``task`` with a goal term whose fields are changed."""
    goal = Goal.model_validate(task.goal.model_dump() | fields)
    return task.model_copy(update={"observation": (*task.observation[:-1], goal)})


def observed(inbox):
    """The goal in the newest observation."""
    return inbox.newest().observation[-2:].tolist()


def test_a_goal_holds_for_its_time_and_the_resting_one_before_and_after(reaching):
    inbox = Inbox(with_goal(reaching, timeout_s=0.2, rest={"elbow": 0.5}), wake_on_match=False)
    inbox.put("joint_states", SECOND, READING)
    assert observed(inbox) == [0.0, 0.5]
    assert inbox.goal_concerns() == []
    assert inbox.ask(SECOND, np.array([1.0, -1.0]), SECOND) == ""
    assert observed(inbox) == [1.0, -1.0]
    deadline = time.monotonic() + 10
    while observed(inbox) != [0.0, 0.5]:
        assert time.monotonic() < deadline
    (told,) = inbox.goal_concerns()
    assert re.fullmatch(r"goal: no goal for \d+ ms; limit 200 ms; the resting goal holds", told)


def test_a_goal_without_a_time_limit_stays_and_is_brought_within_its_range(reaching):
    inbox = Inbox(reaching, wake_on_match=False)
    # However long ago it was asked for.
    assert inbox.ask(SECOND, np.array([1.0, -1e300]), 500 * SECOND) == ""
    inbox.put("joint_states", 500 * SECOND, READING)
    assert observed(inbox) == [1.0, -1.8]
    assert inbox.goal_concerns() == ["goal: elbow = -1e+300 rad, clipped to -1.8"]
    inbox.ask(2 * SECOND, np.array([3.0, -9.0]), 500 * SECOND)
    assert inbox.goal_concerns() == [
        "goal: shoulder = 3 rad, clipped to 2; elbow = -9 rad, clipped to -1.8"
    ]
    inbox.ask(3 * SECOND, np.array([2.0, -1.8]), 500 * SECOND)
    assert inbox.goal_concerns() == []


@pytest.fixture
def walking(reaching):
    """An inbox whose goal is that of a walking robot, in force since second 100."""
    task = with_goal(reaching, source="cmd_vel", ranges=VELOCITIES, timeout_s=60.0)
    inbox = Inbox(task, wake_on_match=False)
    inbox.put("joint_states", 100 * SECOND, READING)
    assert inbox.ask(100 * SECOND, FIRST, 100 * SECOND) == ""
    return inbox


FIRST, SECOND_GOAL = np.array([0.5, -1.0]), np.array([-0.5, 1.0])


@pytest.mark.parametrize(
    ("stamp_s", "now_s", "said"),
    [
        (100.5, 160.6, "cmd_vel: header.stamp is 60100 ms old; limit 60000 ms"),
        (
            102.0,
            100.9,
            "cmd_vel: header.stamp is 1100 ms in the future; limit 1000 ms; are the clocks synchronised?",
        ),
        (98.9, 100.0, "cmd_vel: header.stamp went back by 1.1 s"),
    ],
)
def test_a_goal_that_is_not_of_now_is_refused_until_a_good_one_comes(walking, stamp_s, now_s, said):
    stamp_ns, now_ns = round(stamp_s * SECOND), round(now_s * SECOND)
    assert walking.ask(stamp_ns, SECOND_GOAL, now_ns) == said
    assert observed(walking) == FIRST.tolist()
    assert walking.goal_concerns() == [said]
    assert walking.ask(101 * SECOND, SECOND_GOAL, 101 * SECOND) == ""
    assert observed(walking) == SECOND_GOAL.tolist()
    assert walking.goal_concerns() == []
    assert walking.overtaken.total() == 0


@pytest.mark.parametrize(("stamp_s", "now_s"), [(100.5, 160.4), (101.0, 100.1), (100.0, 100.0)])
def test_a_goal_of_about_now_is_taken(walking, stamp_s, now_s):
    assert walking.ask(round(stamp_s * SECOND), SECOND_GOAL, round(now_s * SECOND)) == ""
    assert observed(walking) == SECOND_GOAL.tolist()


def test_a_goal_that_was_overtaken_by_a_newer_one_is_dropped_and_counted(walking):
    assert walking.ask(99 * SECOND + 1, SECOND_GOAL, 100 * SECOND) == ""
    assert observed(walking) == FIRST.tolist()
    assert walking.goal_concerns() == []
    assert walking.overtaken == {"joint_states": 0, "cmd_vel": 1}


def test_once_the_clock_of_who_asks_went_back_the_new_one_counts(walking):
    assert "went back by 2 s" in walking.ask(98 * SECOND, SECOND_GOAL, 100 * SECOND)
    assert walking.ask(98 * SECOND + 1, SECOND_GOAL, 100 * SECOND) == ""
    assert observed(walking) == SECOND_GOAL.tolist()


def test_another_simulator_begins_another_time(reaching):
    task = with_goal(reaching, source="cmd_vel", ranges=VELOCITIES, timeout_s=60.0)
    inbox = Inbox(task, wake_on_match=False, simulated=lambda: True)
    inbox.put("joint_states", 100 * SECOND, READING)
    assert inbox.ask(100 * SECOND, FIRST, 100 * SECOND) == ""
    assert inbox.ask(3 * SECOND, SECOND_GOAL, 3 * SECOND) == ""
    assert observed(inbox) == SECOND_GOAL.tolist()
    assert inbox.overtaken.total() == 0


def test_a_goal_without_a_stamp_is_of_the_moment_at_which_it_comes(walking):
    assert walking.ask(0, SECOND_GOAL, 100 * SECOND) == ""
    assert observed(walking) == SECOND_GOAL.tolist()
    # Nothing is known of when it was asked for, so that nothing is older.
    assert walking.ask(99 * SECOND, FIRST, 100 * SECOND) == ""
    assert observed(walking) == FIRST.tolist()


def test_a_goal_that_cannot_be_read_leaves_the_one_before_in_force(walking):
    reason = ObservationError("cmd_vel: linear_x = nan; expected a finite number")
    assert walking.ask(101 * SECOND, reason, 101 * SECOND) == str(reason)
    assert observed(walking) == FIRST.tolist()
    assert walking.goal_concerns() == [str(reason)]


def test_a_state_waits_for_its_goal_where_the_simulator_draws_it(reaching):
    inbox = Inbox(reaching, wake_on_match=True, drawn_goals=True)
    inbox.put("joint_states", SECOND, READING)
    assert inbox.wait(0.0) is Wake.DEADLINE
    inbox.ask(SECOND, np.array([1.0, -1.0]), 0)
    assert inbox.wait(0.0) is Wake.MATCH
    inbox.ask(2 * SECOND, np.array([0.5, -1.0]), 0)
    assert inbox.wait(0.0) is Wake.DEADLINE
    inbox.put("joint_states", 2 * SECOND, READING)
    assert inbox.wait(0.0) is Wake.MATCH
    assert observed(inbox) == [0.5, -1.0]
    # It belongs to its state, and time that goes back to another simulator.
    inbox.ask(SECOND, np.array([1.0, -1.0]), 3600 * SECOND)
    assert observed(inbox) == [1.0, -1.0]
    assert inbox.goal_concerns() == []


def test_a_state_does_not_wait_for_what_somebody_may_ask_for(reaching):
    inbox = Inbox(reaching, wake_on_match=True)
    inbox.put("joint_states", SECOND, READING)
    assert inbox.wait(0.0) is Wake.MATCH
    # And a goal is no reason to act again on the same state.
    inbox.ask(7, np.array([1.0, -1.0]), SECOND)
    assert inbox.wait(0.0) is Wake.DEADLINE
    assert observed(inbox) == [1.0, -1.0]


@pytest.mark.parametrize("stamped", [True, False])
def test_policy_node_takes_velocity_commands_with_and_without_stamps(
    bench, joints, reaching, tmp_path, stamped
):
    """Two untrained answers differ as their goals do, and what is wrong with a goal is told."""
    task = with_goal(reaching, source="cmd_vel", ranges=VELOCITIES, timeout_s=0.3)
    task = task.model_copy(
        update={
            "reward": task.reward.model_copy(update={"analytic": (task.reward.analytic[-1],)}),
            "name": "walking_arm",
        }
    )
    bundle = export_untrained_bundle(task, tmp_path / "bundle")
    commands, statuses = bench.commands(), bench.diagnostics()
    kind = TwistStamped if stamped else Twist
    publisher = bench.probe.create_publisher(kind, "cmd_vel", RELIABLE)
    node = bench.policy(bundle=str(bundle.path), stamped_cmd_vel=stamped, autostart=False)
    assert node.autostart()

    def answer(goal):
        observation = np.array([0.1, -0.2, 0.0, 0.0, *goal], np.float32)[None]
        return bundle.policy(observation=observation)[0][0].astype(np.float64)

    def ask(linear_x, angular_z):
        message = kind()
        twist = message.twist if stamped else message
        twist.linear.x, twist.angular.z = linear_x, angular_z
        if stamped:
            message.header.stamp = bench.probe.get_clock().now().to_msg()
        publisher.publish(message)

    state = {"names": ("shoulder", "elbow"), "position": (0.1, -0.2), "velocity": (0.0, 0.0)}

    def commanded(goal):
        return commands and np.array_equal(commands[-1].data, answer(goal))

    joints.until(lambda: commanded([0.0, 0.0]), "answer to the resting goal", **state)
    bench.until(lambda: publisher.get_subscription_count() == 1, "subscription")

    def asking(goal):
        ask(*goal)
        return commanded(np.clip(goal, [-1, -2], [1, 2]))

    def told(said):
        return statuses and said in statuses[-1][1] and statuses[-1][0] == DiagnosticStatus.WARN

    joints.until(lambda: asking([0.5, -9.0]), "answer to a goal", **state)
    clipped = "policy; cmd_vel: angular_z = -9 rad/s, clipped to -2"
    joints.until(lambda: asking([0.5, -9.0]) and told(clipped), clipped, **state)
    ask(float("nan"), 0.0)
    refused = "policy; cmd_vel: linear_x = nan; expected a finite number"
    joints.until(lambda: told(refused), refused, **state)
    joints.until(lambda: asking([0.25, 1.0]), "answer to the next goal", **state)
    statuses.clear()
    joints.until(lambda: commanded([0.0, 0.0]), "answer once nobody asks", **state)
    joints.until(lambda: told("policy; cmd_vel: no goal for "), "silence", **state)
    assert "nan" not in statuses[-1][1]


JOYSTICK = """
schema_version: 1
name: arm_with_joystick
description: The arm, and a joystick.
joystick:
  axes: {shoulder: 1, elbow: {axis: 0, sign: -1}}
  hold_button: 2
  timeout_s: 0.3
"""


def test_nodes_take_a_joystick_for_who_asks(bench, joints, untrained_bundle, tmp_path):
    """While its button is held, and for as long as it is heard."""
    bundle = untrained_bundle("reaching_arm")
    robot = tmp_path / "robot.yaml"
    robot.write_text(JOYSTICK, encoding="utf-8")
    commands, statuses = bench.commands(), bench.diagnostics()
    publisher = bench.probe.create_publisher(Joy, "joy", RELIABLE)
    node = bench.policy(bundle=str(bundle.path), robot=str(robot), autostart=False)
    assert node.autostart()
    bench.until(lambda: publisher.get_subscription_count() == 1, "subscription")
    state = {"names": ("shoulder", "elbow"), "position": (0.1, -0.2), "velocity": (0.0, 0.0)}

    def commanded(goal):
        """With efforts in N·m, as behind any binding."""
        observation = np.array([0.1, -0.2, 0.0, 0.0, *goal], np.float32)[None]
        efforts = bundle.policy(observation=observation)[0][0].astype(np.float64) * [12.0, 4.0]
        return commands and np.allclose(commands[-1].data, efforts, atol=1e-5)

    def moved(axes, held, goal):
        message = Joy(axes=axes, buttons=[0, 0, held])
        message.header.stamp = bench.probe.get_clock().now().to_msg()
        publisher.publish(message)
        return commanded(goal)

    def told(said):
        return statuses and said in statuses[-1][1]

    joints.until(lambda: commanded([0.0, 0.0]), "answer to the resting goal", **state)
    joints.until(lambda: moved([-1.0, 1.0], 1, [2.0, 1.8]), "answer to the joystick", **state)
    joints.until(lambda: moved([-1.0, 1.0], 0, [0.0, 0.0]), "rest once it is let go", **state)
    joints.until(lambda: moved([1.0, 0.0], 1, [0.0, -1.8]), "answer to the joystick", **state)
    # The task itself keeps a goal until the next one; a joystick that says nothing is gone.
    joints.until(lambda: commanded([0.0, 0.0]), "rest once it is silent", **state)
    joints.until(lambda: told("policy; joy: no goal for "), "silence", **state)
    lacking = "policy; joy: axis 1 (shoulder) is missing; the message has 1 axes"
    joints.until(lambda: moved([1.0], 1, [0.0, 0.0]) and told(lacking), lacking, **state)


def test_simulator_takes_a_joystick_too_unless_it_asks_itself(bench, tmp_path):
    robot = tmp_path / "robot.yaml"
    robot.write_text(JOYSTICK, encoding="utf-8")
    publisher = bench.probe.create_publisher(Joy, "joy", RELIABLE)
    given = {"task": "reaching_arm", "robot": str(robot), "mode": "lockstep"}
    node = bench.simulator(**given, goals="topic")
    bench.until(lambda: publisher.get_subscription_count() == 1, "subscription")
    publisher.publish(Joy(axes=[0.0, -1.0], buttons=[0, 0, 1]))
    bench.until(lambda: node._simulation.state().goal.tolist() == [-2.0, 0.0], "goal")
    assert bench.probe.count_publishers("goal") == 0


def test_simulator_rewards_what_others_ask_for_when_told_to(bench):
    publisher = bench.probe.create_publisher(JointState, "goal", RELIABLE)
    sender = bench.probe.create_publisher(Float64MultiArray, "policy_controller/commands", RELIABLE)
    node = bench.simulator(task="reaching_arm", goals="topic", mode="lockstep")
    assert node._simulation.state().goal.tolist() == [0.0, 0.0]
    bench.until(lambda: publisher.get_subscription_count() == 1, "subscription")
    publisher.publish(JointState(name=["elbow", "shoulder"], position=[-0.5, float("inf")]))
    publisher.publish(JointState(name=["elbow", "shoulder"], position=[-0.5, 1.25]))
    bench.until(lambda: node._simulation.state().goal.tolist() == [1.25, -0.5], "goal")
    # Nothing but what others say is on the topic.
    assert bench.probe.count_publishers("goal") == 1
    bench.until(lambda: sender.get_subscription_count() == 1, "subscription")
    node._robot.restart()
    assert node._robot.state.goal.tolist() == [1.25, -0.5]
