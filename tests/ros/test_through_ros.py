"""``maac evaluate --through-ros``: the same episodes through the real nodes, as processes, and without them."""

import json

import pytest
import yaml

from maac_learning.cli import main
from maac_learning.export import export_untrained_bundle
from maac_ros.resources import named_file
from maac_ros.task import load_task


def evaluated(tmp_path, *options, bundle="two_joint_arm"):
    file = tmp_path / "evaluation.json"
    arguments = [
        "evaluate",
        bundle,
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


def test_what_is_recalled_is_the_same_through_the_nodes(tmp_path):
    """Also at the beginning of the second episode, of which nobody tells the controller."""
    data = yaml.safe_load(named_file("tasks", "two_joint_arm", "task").read_text(encoding="utf-8"))
    data["observation"][0]["history"] = 2
    data["observation"].append({"term": "last_command", "joints": ["shoulder", "elbow"]})
    file = tmp_path / "task.yaml"
    file.write_text(yaml.safe_dump(data), encoding="utf-8")
    export_untrained_bundle(load_task(file), tmp_path / "bundle")
    noise = "--robot.noise.joint-position", "0.02"
    played = evaluated(tmp_path, *noise, bundle=str(tmp_path / "bundle"))
    assert len(played["nodes"]) == 2
    assert played["nodes"] == played["without"]


def test_noise_that_the_nodes_do_not_make_is_refused(tmp_path, capsys):
    options = ["--through-ros", "--episodes", "1", "--robot.noise.base-position", "0.1"]
    assert main(["evaluate", "two_joint_arm", *options]) == 2
    assert "robot.noise.base_position: the nodes have noise on" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--robot.mass=0", "--robot.delay-steps=-1"])
def test_a_robot_that_cannot_be_is_refused(option):
    with pytest.raises(SystemExit):
        main(["evaluate", "two_joint_arm", option])
