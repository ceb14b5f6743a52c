"""The study of planning: the same episodes both ways, and an interval that means what it says."""

import numpy as np
import pytest

from maac_learning import evidence
from maac_learning.cli import main
from maac_learning.studies.planning import Comparison
from maac_ros.evaluation import evaluate
from maac_ros.simulation import Simulation
from maac_ros.task import load_task


def comparison(gain):
    policy = np.linspace(0.0, 500.0, len(gain))
    nothing = np.zeros(len(gain))
    return Comparison("b", None, "hopper", 1, None, policy, policy + gain, nothing, nothing)


def test_verdict_follows_the_pairs_and_not_the_spread_of_returns():
    random = np.random.default_rng(1)
    noise = random.standard_normal(30)
    assert comparison(noise + 3.0).verdict() == "better"
    assert comparison(noise - 3.0).verdict() == "worse"
    assert comparison(noise - noise.mean()).verdict() == "no difference"


def test_interval_holds_the_mean_about_as_often_as_it_says():
    random = np.random.default_rng(2)
    held = 0
    for _ in range(100):
        low, high = comparison(random.standard_normal(20) + 0.5).interval()
        held += low <= 0.5 <= high
    assert 85 <= held <= 99


def test_a_heavier_robot_moves_less():
    task = load_task("inverted_pendulum")

    def speed(mass):
        simulation = Simulation(task)
        simulation.reset(seed=0)
        simulation.alter(mass=mass)
        before = simulation.state().joint_velocity[0]
        return simulation.step(np.array([1.0])).state.joint_velocity[0] - before

    assert speed(4.0) == pytest.approx(speed(1.0) / 4.0, rel=0.1)


def test_command_compares_in_pairs_and_writes_evidence(tmp_path, capsys, untrained_bundle):
    bundle = untrained_bundle("inverted_pendulum")
    planners = [tmp_path / "few.yaml", tmp_path / "more.yaml"]
    for planner, count in zip(planners, (9, 12), strict=True):
        planner.write_text(f"{{candidates: {count}, horizon: 2, iterations: 1}}")
    result = tmp_path / "planning.json"
    options = ["--bundles", str(bundle.path), "--episodes", "3", "--planner", *map(str, planners)]
    options += ["--mismatch", "--jobs", "1", "--json", str(result)]
    assert main(["study", "planning", *options]) == 0
    assert "with MPC" in capsys.readouterr().out
    found = evidence.read(result)
    robots = ["as learned", "mass x 0.8", "mass x 1.2", "friction x 0.8", "friction x 1.2"]
    assert [(row["planner"], row["robot"]) for row in found.rows] == [
        (planner, robot) for planner in ("few", "more") for robot in robots
    ]
    alone = [e.episode_return for e, _ in evaluate(bundle, 3, seed=1000, use_mpc=False)]
    assert found.details["returns"][0]["policy"] == alone
    tried = found.details["planner"]
    assert [(each["planner"], each["candidates"]) for each in tried] == [("few", 9), ("more", 12)]


@pytest.mark.parametrize(
    ("text", "message"),
    [("[1]", "expected a mapping of planner settings"), ("{horizon: 0}", "horizon: ")],
)
def test_bad_planner_settings_are_refused(tmp_path, capsys, text, message):
    path = tmp_path / "planner.yaml"
    path.write_text(text)
    assert main(["study", "planning", "--planner", str(path)]) != 0
    assert message in capsys.readouterr().err
