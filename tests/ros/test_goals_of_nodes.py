"""What the nodes make of goals: which one holds when, and what comes on the topics."""

import time

import numpy as np
import pytest
from geometry_msgs.msg import Twist, TwistStamped
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray

from maac_learning.export import export_untrained_bundle
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
    inbox.ask(SECOND, np.array([1.0, -1.0]))
    assert observed(inbox) == [1.0, -1.0]
    deadline = time.monotonic() + 10
    while observed(inbox) != [0.0, 0.5]:
        assert time.monotonic() < deadline


def test_a_goal_without_a_time_limit_stays_and_is_brought_within_its_range(reaching):
    inbox = Inbox(reaching, wake_on_match=False)
    inbox.ask(SECOND, np.array([1.0, -9.0]))
    inbox.put("joint_states", 500 * SECOND, READING)
    assert observed(inbox) == [1.0, -1.8]


def test_a_state_waits_for_its_goal_where_the_simulator_draws_it(reaching):
    inbox = Inbox(reaching, wake_on_match=True, drawn_goals=True)
    inbox.put("joint_states", SECOND, READING)
    assert inbox.wait(0.0) is Wake.DEADLINE
    inbox.ask(SECOND, np.array([1.0, -1.0]))
    assert inbox.wait(0.0) is Wake.MATCH
    inbox.ask(2 * SECOND, np.array([0.5, -1.0]))
    assert inbox.wait(0.0) is Wake.DEADLINE
    inbox.put("joint_states", 2 * SECOND, READING)
    assert inbox.wait(0.0) is Wake.MATCH
    assert observed(inbox) == [0.5, -1.0]


def test_a_state_does_not_wait_for_what_somebody_may_ask_for(reaching):
    inbox = Inbox(reaching, wake_on_match=True)
    inbox.put("joint_states", SECOND, READING)
    assert inbox.wait(0.0) is Wake.MATCH
    # And a goal is no reason to act again on the same state.
    inbox.ask(7, np.array([1.0, -1.0]))
    assert inbox.wait(0.0) is Wake.DEADLINE
    assert observed(inbox) == [1.0, -1.0]


@pytest.mark.parametrize("stamped", [True, False])
def test_policy_node_takes_velocity_commands_with_and_without_stamps(
    bench, joints, reaching, tmp_path, stamped
):
    """Two untrained answers differ as their goals do, and a goal that is not finite changes nothing."""
    task = with_goal(reaching, source="cmd_vel", ranges=VELOCITIES, timeout_s=0.3)
    task = task.model_copy(
        update={
            "reward": task.reward.model_copy(update={"analytic": (task.reward.analytic[-1],)}),
            "name": "walking_arm",
        }
    )
    bundle = export_untrained_bundle(task, tmp_path / "bundle")
    commands = bench.commands()
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
        publisher.publish(message)

    state = {"names": ("shoulder", "elbow"), "position": (0.1, -0.2), "velocity": (0.0, 0.0)}

    def commanded(goal):
        return commands and np.array_equal(commands[-1].data, answer(goal))

    joints.until(lambda: commanded([0.0, 0.0]), "answer to the resting goal", **state)
    bench.until(lambda: publisher.get_subscription_count() == 1, "subscription")

    def asking(goal):
        ask(*goal)
        return commanded(np.clip(goal, [-1, -2], [1, 2]))

    joints.until(lambda: asking([0.5, -9.0]), "answer to a goal", **state)
    ask(float("nan"), 0.0)
    joints.until(lambda: asking([0.25, 1.0]), "answer to the next goal", **state)
    joints.until(lambda: commanded([0.0, 0.0]), "answer once nobody asks", **state)


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
