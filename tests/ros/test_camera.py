"""Pictures of a robot that its topics tell of, and the window on it."""

import numpy as np
import pytest
from node_bench import parameters
from sensor_msgs.msg import Image, JointState

from maac_learning.cli import main
from maac_ros.errors import ConfigError
from maac_ros.nodes.common import BEST_EFFORT, profile
from maac_ros.rendering import choose_backend


@pytest.fixture
def renders():
    try:
        choose_backend()
    except ConfigError as reason:
        pytest.skip(str(reason))


def seconds(message):
    return message.header.stamp.sec + 1e-9 * message.header.stamp.nanosec


def pixels(image):
    return np.frombuffer(image.data, np.uint8).reshape(image.height, image.width, 3)


@pytest.mark.parametrize(
    ("task", "robot"),
    [("inverted_pendulum", ""), ("hopper", ""), ("late_pendulum", "late_pendulum")],
)
def test_a_robot_that_moves_is_seen_to_move(bench, start, renders, untrained_bundle, task, robot):
    states = bench.listen(JointState, "/joint_states", profile(depth=5000))
    images = bench.listen(Image, "/camera_node/image")
    words = [f"task:={task}", f"robot:={robot}", f"bundle:={untrained_bundle(task).path}"]
    start("maac_ros.up", "sim_deploy", *words, "camera_hz:=50")

    def moved():
        return len(images) > 1 and (pixels(images[0]) != pixels(images[-1])).any()

    bench.until(moved, "picture that differs from the first")
    first = images[0]
    assert (first.encoding, first.step, first.header.frame_id) == (
        "rgb8",
        3 * first.width,
        "camera",
    )
    assert pixels(first).std() > 5.0

    def told():
        """Pictures of moments from which on this test has heard the states."""
        return {seconds(i) for i in images if states and seconds(i) >= seconds(states[0])}

    bench.until(told, "picture of a state that was heard")
    shown = told()
    bench.until(lambda: shown <= {seconds(state) for state in states}, "states that are shown")


def test_nothing_is_drawn_that_nobody_looks_at_or_that_was_drawn_already(bench, start, renders):
    start("maac_ros.nodes.camera_node", *parameters(task="inverted_pendulum", rate_hz=100.0))
    publisher = bench.probe.create_publisher(JointState, "/joint_states", BEST_EFFORT)
    bench.until(lambda: publisher.get_subscription_count() == 1, "camera")
    images = bench.listen(Image, "/camera_node/image")

    def shown(stamp_s, hinge):
        message = JointState(name=["hinge", "slider"], position=[hinge, 0.0], velocity=[0.0, 0.0])
        message.header.stamp.sec = stamp_s

        def arrived():
            publisher.publish(message)
            return images and images[-1].header.stamp.sec == stamp_s

        bench.until(arrived, "picture")
        return pixels(images[-1])

    upright, leaning = shown(1, 0.0), shown(2, 0.5)
    assert (upright != leaning).any()
    # Told again and again, and drawn once.
    assert len(images) == 2
    np.testing.assert_array_equal(shown(3, 0.0), upright)


def test_a_machine_without_a_screen_is_told_so(monkeypatch, capsys):
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    assert main(["view", "--task", "hopper"]) == 2
    assert (
        "there is no screen to show the robot on; camera_node needs none" in capsys.readouterr().err
    )


def test_a_camera_of_another_robot_is_refused(start):
    process = start("maac_ros.nodes.camera_node", *parameters(task="hopper", robot="late_pendulum"))
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "task 'hopper' has no such joint" in output
    assert "Traceback" not in output
