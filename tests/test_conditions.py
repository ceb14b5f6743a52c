"""Robots that differ from the task's, act late and are seen badly: as told, and as drawn for each episode."""

import numpy as np
import pytest
import servo_robot
import yaml

from maac_ros.conditions import Conditions, Noise
from maac_ros.errors import ConfigError, TaskError
from maac_ros.resources import named_file
from maac_ros.simulation import Simulation
from maac_ros.task import load_task

ARM = yaml.safe_load(named_file("tasks", "two_joint_arm", "task").read_text(encoding="utf-8"))


@pytest.fixture
def make(tmp_path):
    """``make(**randomize)``: the arm's simulation with these drawn for each episode."""

    def make(**randomize):
        data = yaml.safe_load(yaml.safe_dump(ARM, sort_keys=False))
        data["simulation"]["randomize"] = randomize
        data["action"][0]["safe"] = 0.0
        path = tmp_path / "task.yaml"
        path.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
        return Simulation(load_task(path))

    return make


def roll(simulation, commands, seed=0):
    """Joint positions (T, J) seen under ``commands`` (T, A)."""
    simulation.reset(seed)
    return np.array([simulation.step(command).state.joint_position for command in commands])


COMMANDS = np.random.default_rng(5).uniform(-1, 1, (30, 2))


def test_conditions_are_drawn_anew_for_each_episode_from_their_ranges_and_the_seed(make):
    simulation = make(mass=[0.8, 1.25], gain=[0.9, 1.1], delay_steps=[0, 3])
    own = simulation.model.body_mass.copy()
    seen = []
    for episode in range(60):
        simulation.reset(7 if episode == 0 else None)
        conditions = simulation.conditions
        np.testing.assert_allclose(simulation.model.body_mass, own * conditions.mass)
        seen.append((conditions.mass, conditions.gain, conditions.delay_steps))
    masses, gains, delays = (np.array(each) for each in zip(*seen, strict=True))
    assert 0.8 <= masses.min() < 0.85 < 1.2 < masses.max() <= 1.25
    assert 0.9 <= gains.min() < gains.max() <= 1.1
    assert set(delays) == {0, 1, 2, 3}
    again = make(mass=[0.8, 1.25], gain=[0.9, 1.1], delay_steps=[0, 3])
    again.reset(7)
    assert (again.conditions.mass, again.conditions.gain, again.conditions.delay_steps) == seen[0]


def test_commands_act_late_and_nothing_is_commanded_before(make):
    late, prompt = make(delay_steps=[2, 2]), make()
    shifted = np.vstack((np.zeros((2, 2)), COMMANDS[:-2]))
    np.testing.assert_array_equal(roll(late, COMMANDS), roll(prompt, shifted))


def test_a_servo_that_acts_late_first_stays_where_it_is(tmp_path):
    simulation = Simulation(servo_robot.load(tmp_path))
    simulation.alter(delay_steps=3)
    state = simulation.reset(2)
    for _ in range(3):
        simulation.step(np.array([0.0, 1.4, 0.1]))
        np.testing.assert_array_equal(
            simulation.data.ctrl[[0, 1]], np.clip(state.joint_position[:2], [-1, 0], [1.5, 0.1])
        )
    simulation.step(np.array([0.0, 1.4, 0.1]))
    np.testing.assert_array_equal(simulation.data.ctrl[[0, 1]], [1.4, 0.1])


def test_gain_is_the_force_for_the_same_command(make):
    strong = make(gain=[2.0, 2.0001])
    strong.alter(gain=2.0)
    np.testing.assert_allclose(
        roll(strong, COMMANDS / 2), roll(make(), COMMANDS), rtol=0, atol=1e-12
    )


def test_noise_is_on_what_is_seen_and_nowhere_else(make):
    noisy, clear = make(noise={"joint_position": 0.1, "joint_velocity": 2.0}), make()
    noisy.reset(3)
    clear.reset(3)
    errors = []
    for command in COMMANDS:
        seen, true = noisy.step(command), clear.step(command)
        assert seen.reward == true.reward
        np.testing.assert_array_equal(noisy.state().joint_position, true.state.joint_position)
        np.testing.assert_array_equal(seen.state.joint_effort, true.state.joint_effort)
        errors.append(np.concatenate(seen.state.joints[:2]) - np.concatenate(true.state.joints[:2]))
    position, velocity = np.split(np.array(errors), 2, axis=1)
    assert position.std() == pytest.approx(0.1, rel=0.3)
    assert velocity.std() == pytest.approx(2.0, rel=0.3)
    assert len(np.unique(position)) == position.size


def test_what_is_altered_holds_in_later_episodes_and_the_rest_is_drawn(make):
    simulation = make(mass=[0.8, 0.9], friction=[0.5, 0.6])
    simulation.reset(0)
    simulation.alter(mass=3.0)
    for _ in range(3):
        simulation.reset()
        assert simulation.conditions.mass == 3.0
        assert 0.5 <= simulation.conditions.friction <= 0.6


def test_a_delay_waits_for_the_next_episode_whatever_else_is_altered(make):
    simulation = make()
    simulation.reset(0)
    simulation.alter(delay_steps=3)
    assert simulation.conditions.delay_steps == 0
    simulation.alter(mass=2.0)
    simulation.reset()
    assert (simulation.conditions.delay_steps, simulation.conditions.mass) == (3, 2.0)


def test_a_snapshot_goes_on_exactly_under_all_conditions(make):
    ranges = {
        "mass": [0.8, 1.2],
        "gain": [0.8, 1.2],
        "delay_steps": [2, 4],
        "noise": {"joint_position": 0.1},
    }
    one, other = make(**ranges), make(**ranges)
    roll(one, COMMANDS[:10], seed=4)
    other.restore(one.snapshot())
    for command in COMMANDS[10:]:
        mine, theirs = one.step(command), other.step(command)
        np.testing.assert_array_equal(mine.state.flat(), theirs.state.flat())
        assert mine.reward == theirs.reward
    np.testing.assert_array_equal(one.reset().flat(), other.reset().flat())
    assert one.conditions == other.conditions


@pytest.mark.parametrize(
    ("randomize", "said"),
    [
        ({"mass": [0, 1]}, "mass"),
        ({"mass": [2, 1]}, "low < high"),
        ({"delay_steps": [3, 1]}, r"low <= high, got \[3, 1\]"),
        ({"delay_steps": [0, 1000]}, "delay_steps"),
        ({"noise": {"joint_position": -1}}, "joint_position"),
        ({"noise": {"colour": 1}}, "colour"),
    ],
)
def test_conditions_that_make_no_sense_are_refused(make, randomize, said):
    with pytest.raises(TaskError, match=said):
        make(**randomize)


def test_altering_what_there_is_not_is_refused(make):
    with pytest.raises(ConfigError, match="conditions: mass: got -1"):
        make().alter(mass=-1)
    with pytest.raises(ConfigError, match="colour: unknown key"):
        make().alter(colour=1)


def test_the_tasks_own_robot_has_no_conditions(make):
    simulation = make()
    simulation.reset(0)
    assert simulation.conditions == Conditions(noise=Noise())
