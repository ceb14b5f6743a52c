"""``maac check``: every mismatch at once, and no alarm where there is none."""

import pytest
import servo_robot

from maac_ros.binding import load_robot
from maac_ros.check import check, compare, table
from maac_ros.task import load_task


def verdicts(task, robot, bundle=None):
    return {f.what: (f.verdict, f.told) for f in compare(task, load_robot(robot), bundle)}


def test_what_goes_together_is_ok(capsys):
    assert (
        check(["--task", "two_joint_arm", "--robot", "reaching_arm", "--bundle", "two_joint_arm"])
        == 0
    )
    lines = capsys.readouterr().out.splitlines()
    assert all(line.startswith("ok") for line in lines[:-1])
    assert lines[-1] == "everything that could be told goes together"


def test_all_that_is_wrong_is_told_at_once(capsys, robot_file):
    def change(robot):
        robot["joints"]["wrist"] = {}
        robot["joints"]["elbow"]["limits"]["effort"] = 3
        robot["controller"]["joints"] = ["elbow_joint"]
        robot["rates_hz"]["joint_states"] = 5

    arguments = ["--task", "reaching_arm", "--robot", str(robot_file(change)), "--bundle", "hopper"]
    assert check(arguments) == 1
    told = capsys.readouterr().out
    assert "5 mismatches" in told
    for said in (
        "MISMATCH  bundle",
        "MISMATCH  joints.wrist",
        "MISMATCH  controller.joints",
        "[-4, 4] N·m may be commanded; the robot's limits are [-3, 3] N·m",
        "5 Hz; the policy acts at 50 Hz, and calls a message of 5 periods stale",
    ):
        assert said in told


def test_limits_are_compared_in_the_robots_signs_and_units(tmp_path, robot_file):
    task = servo_robot.load(tmp_path)

    def change(robot):
        robot["joints"] = {
            "shoulder": {"limits": {"position": [-1, 2]}},
            "slide": {"sign": -1, "offset": 0.5, "limits": {"position": [0.45, 0.5]}},
            "wheel": {"limits": {"velocity": 6}},
        }
        robot["controller"] = {}

    found = verdicts(task, robot_file(change))
    assert found["joint shoulder: position"] == (
        "ok",
        "[-1, 1.5] rad may be commanded; the robot's limits are [-1, 2] rad",
    )
    assert found["joints.slide.limits.position"] == (
        "MISMATCH",
        "[0.4, 0.5] m may be commanded; the robot's limits are [0.45, 0.5] m",
    )
    assert found["joint wheel: velocity"][0] == "ok"


def test_frames_of_a_floating_base_are_told(robot_file):
    def change(frame):
        return lambda robot: robot.update(
            joints={}, controller={}, base_frame="trunk", odom_frame=frame
        )

    task = load_task("ant")
    for frame, told in (
        ("map", "odom's header.frame_id is to be 'map'"),
        ("", "odom's header.frame_id may be any"),
    ):
        found = verdicts(task, robot_file(change(frame)))
        assert found["base frame"] == ("ok", "odom's child_frame_id is to be 'trunk'")
        assert found["odom frame"] == ("ok", told)
        assert "imu frame" not in found


def test_what_is_not_given_is_noted(robot_file):
    def change(robot):
        del robot["rates_hz"], robot["joints"]["elbow"]["limits"]

    found = verdicts(load_task("reaching_arm"), robot_file(change))
    assert found["rate of joint_states"] == ("note", "not given; the policy acts at 50 Hz")
    assert found["joint elbow: effort"][0] == "note"
    slow = verdicts(
        load_task("reaching_arm"), robot_file(lambda r: r["rates_hz"].update(joint_states=25))
    )
    assert slow["rate of joint_states"][0] == "note"
    assert "some ticks on an old message" in slow["rate of joint_states"][1]


def test_nothing_to_compare_with_is_refused(capsys):
    with pytest.raises(SystemExit):
        check(["--task", "hopper"])
    assert "give --robot, --bundle or --live" in capsys.readouterr().err


def test_lines_of_a_longer_reason_stand_below_each_other(tmp_path, robot_file):
    lines = table(compare(load_task("hopper"), load_robot(robot_file()), None)).splitlines()
    assert all(line[:9].strip() in {"ok", "note", "MISMATCH", ""} for line in lines)
