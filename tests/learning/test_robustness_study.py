"""``maac study robustness`` and ``maac evaluate`` on robots other than the task's own."""

import json

import pytest
import yaml

from maac_learning.cli import main
from maac_learning.studies import robustness
from maac_ros.errors import ConfigError


@pytest.fixture
def few(monkeypatch):
    changes = [robustness.CHANGES[0], ("force x 0.3", {"gain": 0.3})]
    monkeypatch.setattr(robustness, "CHANGES", tuple(changes))


def test_each_robot_is_a_row_beside_the_own_one(few, tmp_path, capsys):
    file = tmp_path / "robustness.json"
    arguments = [
        "--bundles",
        "two_joint_arm",
        "--episodes",
        "3",
        "--jobs",
        "2",
        "--json",
        str(file),
    ]
    assert main(["study", "robustness", *arguments]) == 0
    document = json.loads(file.read_text(encoding="utf-8"))
    own, weak = document["rows"]
    assert (own["robot"], own["share_of_own"]) == ("as learned", 1.0)
    assert own["return"] > 150
    assert weak["return"] < 0.8 * own["return"]
    assert weak["share_of_own"] == pytest.approx(weak["return"] / own["return"])
    assert [len(each) for each in document["details"]["returns"]] == [3, 3]
    assert "force x 0.3" in capsys.readouterr().out


def test_nothing_to_play_is_refused():
    with pytest.raises(ConfigError, match="--episodes: got 0"):
        robustness.robustness(["--episodes", "0"])


def test_evaluate_plays_on_the_robot_that_is_asked_for(tmp_path):
    returns = {}
    for name, options in {
        "own": [],
        "weak": ["--robot.gain", "0.3"],
        "blind": ["--robot.noise.joint-position", "3"],
    }.items():
        file = tmp_path / f"{name}.json"
        assert (
            main(["evaluate", "two_joint_arm", "--episodes", "2", "--json", str(file), *options])
            == 0
        )
        document = yaml.safe_load(file.read_text(encoding="utf-8"))
        returns[name] = document["results"]["policy"]["return_mean"]
    assert document["robot"]["noise"]["joint_position"] == 3
    assert returns["weak"] < 0.8 * returns["own"]
    assert returns["blind"] < 0.8 * returns["own"]
