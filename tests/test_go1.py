"""The quadruped: it stands where its commands are in their middle, and its task is as symmetric as the robot."""

import numpy as np
import pytest
import quadruped
import yaml

from maac_learning.config import ModelConfig
from maac_learning.symmetry import check_symmetry
from maac_ros.command_range import CommandRange
from maac_ros.errors import TaskError
from maac_ros.resources import named_file
from maac_ros.simulation import Simulation
from maac_ros.task import load_task


@pytest.fixture(params=["standing in", "of the menagerie"])
def menagerie(request, tmp_path, monkeypatch):
    if request.param == "of the menagerie":
        quadruped.require_menagerie()
    else:
        pytest.importorskip("mujoco_menagerie", reason="mujoco-menagerie is not installed")
        monkeypatch.setenv("MENAGERIE_ROOT", str(quadruped.stand_in(tmp_path / "menagerie")))


@pytest.mark.usefixtures("menagerie")
def test_it_stands_in_the_middle_of_its_commands_and_is_paid_for_what_it_is_asked():
    task = load_task("go1")
    simulation, commands = Simulation(task), CommandRange(task)
    middle = 0.5 * (commands.low + commands.high)
    returns = []
    for goal in ([0.0, 0.0], [1.0, 0.0], [1.0, 0.8]):
        simulation.reset(seed=1)
        simulation.ask(np.array(goal))
        results = [simulation.step(middle) for _ in range(200)]
        assert not any(result.terminated for result in results)
        assert results[-1].state.base_position[2] > 0.22
        returns.append(np.mean([result.reward for result in results]))
    # 0.5 for standing, 1.5 for being as fast as it is asked to; 1/17 and 1/3.56 of it for standing still.
    assert returns == pytest.approx([2.0, 1.06, 0.74], abs=0.06)


@pytest.mark.usefixtures("menagerie")
def test_left_and_right_can_be_exchanged(tmp_path):
    check_symmetry(load_task("go1"), ModelConfig())
    data = yaml.safe_load(named_file("tasks", "go1", "task").read_text(encoding="utf-8"))
    data["robot"]["mirror"]["flip"] = []
    path = tmp_path / "go1.yaml"
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    with pytest.raises(TaskError, match=r"robot\.mirror"):
        check_symmetry(load_task(path), ModelConfig())


@pytest.mark.usefixtures("menagerie")
def test_one_that_lies_on_its_side_ends_the_episode():
    task = load_task("go1")
    simulation, commands = Simulation(task), CommandRange(task)
    state = simulation.reset(seed=0)
    state.base_orientation = np.array([np.cos(0.6), np.sin(0.6), 0.0, 0.0])  # 69 degrees
    simulation.place(state)
    assert simulation.step(0.5 * (commands.low + commands.high)).terminated
