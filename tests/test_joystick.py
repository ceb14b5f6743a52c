"""What a joystick asks for."""

import numpy as np
import pytest
import yaml

from maac_ros.binding import Binding, load_robot
from maac_ros.check import compare
from maac_ros.errors import ConfigError, ObservationError
from maac_ros.joystick import Joystick
from maac_ros.observation_terms import Goal
from maac_ros.task import load_task

GOAL = Goal(
    term="goal",
    source="cmd_vel",
    ranges={"linear_x": (-0.5, 1.0), "linear_y": (-1.0, 1.0), "angular_z": (0.2, 0.8)},
)
"""Rests at 0, 0 and 0.2."""


def joystick(**changes):
    fields = {"axes": {"angular_z": 0, "linear_x": {"axis": 2, "sign": -1}}, "deadband": 0.1}
    return Joystick.model_validate(fields | changes)


@pytest.mark.parametrize(
    ("axes", "asked"),
    [
        ([0.0, 1.0, 0.0], [0.0, 0.0, 0.2]),  # the second axis asks for nothing
        ([1.0, 0.0, -1.0], [1.0, 0.0, 0.8]),
        ([-1.0, 0.0, 1.0], [-0.5, 0.0, 0.2]),  # at rest it is at that end already
        ([0.09, 0.0, -0.1], [0.0, 0.0, 0.2]),
        ([0.55, 0.0, -0.55], [0.5, 0.0, 0.5]),
        ([0.1, 0.0, 0.55], [-0.25, 0.0, 0.2]),
        ([7.0, 0.0, -9.0], [1.0, 0.0, 0.8]),
    ],
)
def test_each_end_of_an_axis_is_an_end_of_the_range_and_its_middle_rests(axes, asked):
    np.testing.assert_allclose(joystick().goal(axes, [], GOAL), asked, atol=1e-12)


def test_all_rests_while_the_button_is_not_held():
    """Whatever the axes say."""
    held = joystick(hold_button=1)
    assert held.goal([np.nan], [1, 0], GOAL).tolist() == [0.0, 0.0, 0.2]
    assert held.goal([1.0, 0.0, 0.0], [1, 0], GOAL).tolist() == [0.0, 0.0, 0.2]
    assert held.goal([1.0, 0.0, 0.0], [0, 1], GOAL).tolist() == pytest.approx([0.0, 0.0, 0.8])


@pytest.mark.parametrize(
    ("axes", "buttons", "said"),
    [
        ([0.0, 0.0], [0, 1], r"joy: axis 2 \(linear_x\) is missing; the message has 2 axes"),
        ([0.0, 0.0, 0.0], [0], "joy: button 1 is missing; the message has 1 buttons"),
        ([np.nan, 0.0, 0.0], [0, 1], r"joy: axis 0 \(angular_z\) = nan; expected a finite number"),
        ([0.0, 0.0, np.inf], [0, 1], r"joy: axis 2 \(linear_x\) = -inf; expected a finite number"),
    ],
)
def test_message_that_lacks_something_asks_for_nothing(axes, buttons, said):
    with pytest.raises(ObservationError, match=said):
        joystick(hold_button=1).goal(axes, [*buttons], GOAL)


def bound(robot_file, task, **fields):
    def change(robot):
        robot["joystick"] = {"axes": {"shoulder": 0}} | fields

    return load_task(task), load_robot(robot_file(change))


def test_joystick_is_part_of_the_binding(robot_file):
    task, robot = bound(robot_file, "reaching_arm", axes={"elbow": 3}, hold_button=5)
    assert Binding(task, robot).joystick.axes["elbow"].axis == 3
    (finding,) = [each for each in compare(task, robot, None) if each.what == "goal"]
    assert (finding.verdict, finding.told) == ("ok", "elbow from joy")


@pytest.mark.parametrize(
    ("task", "fields", "said"),
    [
        (
            "reaching_arm",
            {"axes": {"wrist": 0}},
            "joystick.axes.wrist: task 'reaching_arm' cannot be asked for that; expected some of: "
            "shoulder, elbow",
        ),
        (
            "two_joint_arm",
            {},
            "joystick.axes.shoulder: task 'two_joint_arm' cannot be asked for that; expected some "
            "of: none, it has no goal",
        ),
    ],
)
def test_what_cannot_be_asked_for_is_told(robot_file, task, fields, said):
    task, robot = bound(robot_file, task, **fields)
    with pytest.raises(ConfigError) as raised:
        Binding(task, robot)
    assert said in str(raised.value)
    assert any(f"{each.what}: {each.told}" == said for each in compare(task, robot, None))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"axes": {}}, "joystick.axes"),
        ({"axes": {"shoulder": -1}}, "joystick.axes.shoulder.axis"),
        ({"deadband": 1}, "joystick.deadband"),
        ({"timeout_s": 0}, "joystick.timeout_s"),
    ],
)
def test_malformed_ones_are_refused(robot_file, fields, said):
    with pytest.raises(ConfigError, match=said):
        bound(robot_file, "reaching_arm", **fields)


def test_file_stays_readable(robot_file):
    """An axis is its place alone, or place and sign."""
    _, robot = bound(
        robot_file, "reaching_arm", axes={"shoulder": 1, "elbow": {"axis": 0, "sign": -1}}
    )
    again = yaml.safe_load(yaml.safe_dump(robot.model_dump(mode="json")))
    assert again["joystick"]["axes"] == {
        "shoulder": {"axis": 1, "sign": 1},
        "elbow": {"axis": 0, "sign": -1},
    }
