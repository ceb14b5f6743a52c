"""``maac check --live`` beside a robot that is there, and beside one that is not what was described."""

import pytest
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64

from maac_ros.binding import Binding, load_robot
from maac_ros.check import check
from maac_ros.nodes.common import RELIABLE, listening_node
from maac_ros.nodes.live_check import listen
from maac_ros.task import load_task


@pytest.fixture
def arm():
    return Binding(load_task("reaching_arm"), load_robot("reaching_arm"))


def by_topic(findings):
    return {finding.what: (finding.verdict, finding.told) for finding in findings}


def test_a_robot_as_described_has_no_mismatch(bench, capsys):
    bench.simulator(task="reaching_arm", robot="reaching_arm")
    arguments = ["--task", "reaching_arm", "--robot", "reaching_arm", "--live", "2"]
    assert check(arguments) == 0, capsys.readouterr().out
    told = capsys.readouterr().out
    for said in (
        "live joint_states: type",
        "sensor_msgs/msg/JointState of sim_node",
        "all that the task needs is there",
        "live arm/goal: type",
        "live effort_controller/commands: type",
    ):
        assert said in told
    # The simulator's time is its own.
    assert "is time simulated?" in told


def test_a_listening_node_ends_with_what_it_was_for(bench):
    used = []

    def fail():
        with listening_node("for_nothing") as (node, _):
            used.append(node.context.ok())
            used.append(node.context)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    was_there, context = used
    assert was_there
    assert not context.ok()


def test_what_is_not_there_is_told_by_topic(bench, arm):
    found = by_topic(listen(arm, 0.3))
    assert found["live joint_states"] == ("MISMATCH", "no message came")
    assert found["live joint_states: type"] == (
        "MISMATCH",
        "nobody is there; expected sensor_msgs/msg/JointState",
    )
    assert found["live effort_controller/commands: type"][0] == "MISMATCH"
    assert found["live arm/goal"][0] == "note"


def test_a_robot_that_is_not_as_described_is_told_how(bench, arm):
    """Other names, no stamps, and another type where the controller should be."""
    publisher = bench.probe.create_publisher(JointState, "joint_states", RELIABLE)
    bench.probe.create_subscription(
        Float64, "effort_controller/commands", lambda message: None, RELIABLE
    )
    stamp = bench.probe.get_clock().now().to_msg()
    message = JointState(name=["shoulder", "elbow"], position=[0.0, 0.0], velocity=[0.0, 0.0])
    message.header.stamp = stamp

    from threading import Event, Thread

    over = Event()

    def talk():
        while not over.wait(0.02):
            publisher.publish(message)

    talker = Thread(target=talk)
    talker.start()
    try:
        found = by_topic(listen(arm, 2.0))
    finally:
        over.set()
        talker.join()
    assert found["live joint_states: content"][0] == "MISMATCH"
    assert (
        "joint 'shoulder_joint', 'elbow_joint' is missing" in found["live joint_states: content"][1]
    )
    assert found["live joint_states: rate"][0] == "ok"
    assert found["live effort_controller/commands: type"] == (
        "MISMATCH",
        "probe has std_msgs/msg/Float64; expected std_msgs/msg/Float64MultiArray",
    )
