"""``maac evaluate --through-ros``: the same episodes through the real nodes, as processes, and without them."""

import json

import pytest

from maac_learning.cli import main


def evaluated(tmp_path, *options):
    file = tmp_path / "evaluation.json"
    arguments = [
        "evaluate",
        "two_joint_arm",
        "--episodes",
        "2",
        "--through-ros",
        "--json",
        str(file),
    ]
    assert main([*arguments, *options]) == 0
    return json.loads(file.read_text(encoding="utf-8"))["results"]["through_ros"]


def test_noise_delay_and_masses_are_the_same_through_the_nodes(tmp_path):
    hard = [
        "--robot.delay-steps",
        "1",
        "--robot.noise.joint-position",
        "0.02",
        "--robot.mass",
        "1.3",
    ]
    own, other = evaluated(tmp_path), evaluated(tmp_path, *hard)
    for played in (own, other):
        assert len(played["nodes"]) == 2
        assert played["nodes"] == played["without"]
    assert min(own["nodes"]) > max(other["nodes"])


def test_noise_that_the_nodes_do_not_make_is_refused(tmp_path, capsys):
    options = ["--through-ros", "--episodes", "1", "--robot.noise.base-position", "0.1"]
    assert main(["evaluate", "two_joint_arm", *options]) == 2
    assert "robot.noise.base_position: the nodes have noise on" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--robot.mass=0", "--robot.delay-steps=-1"])
def test_a_robot_that_cannot_be_is_refused(option):
    with pytest.raises(SystemExit):
        main(["evaluate", "two_joint_arm", option])
