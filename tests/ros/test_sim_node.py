"""The simulator node: one state, one command, one step."""

import json

import numpy as np
import pytest
from nav_msgs.msg import Odometry
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64, Float64MultiArray, String
from std_srvs.srv import SetBool

from maac_ros.errors import ConfigError
from maac_ros.nodes import messages
from maac_ros.nodes.common import LATCHED, RELIABLE, profile
from maac_ros.nodes.messages import stamp_to_ns
from maac_ros.nodes.simulated_robot import SimulatedRobot
from maac_ros.simulation import Simulation
from maac_ros.task import load_task

PERIOD_NS = 40_000_000


class Player:
    """Plays the policy node."""

    def __init__(self, bench, actions=1):
        self._bench = bench
        self._publisher = bench.probe.create_publisher(
            Float64MultiArray, "policy_controller/commands", RELIABLE
        )
        self.states = bench.listen(JointState, "joint_states", profile(depth=1000))
        self.safe = np.zeros(actions)

    def ready(self):
        self._bench.until(
            lambda: self.states and self._publisher.get_subscription_count() > 0, "simulator"
        )
        return self

    @property
    def stamp(self):
        return stamp_to_ns(self.states[-1].header.stamp)

    def answer(self, values=(0.1,), stamp=None):
        command = np.array(values, dtype=np.float64)
        stamp = self.stamp if stamp is None else stamp
        self._publisher.publish(messages.command_message(command, stamp))

    def send(self, values):
        self._publisher.publish(Float64MultiArray(data=list(values)))

    def until_stamp(self, stamp):
        self._bench.until(lambda: self.stamp >= stamp, f"state {stamp}")
        assert self.stamp == stamp

    def until_repeated(self):
        seen = len(self.states)
        self._bench.until(lambda: len(self.states) > seen, "repeated state")


def test_time_never_goes_back_and_each_state_has_its_own_stamp():
    robot = SimulatedRobot(Simulation(load_task("inverted_pendulum")), seed=3)
    stamps = [robot.stamp_ns]
    assert stamps[0] > 0
    summaries = []
    for _ in range(40):
        summaries.append(robot.step(np.array([3.0])))
        stamps.append(robot.stamp_ns)
    robot.hold()
    stamps.append(robot.stamp_ns)
    robot.restart()
    stamps.append(robot.stamp_ns)
    assert robot.episode_stamp_ns == robot.stamp_ns
    assert np.diff(stamps).tolist() == [PERIOD_NS] * 42
    finished = [s for s in summaries if s]
    assert [s.episode for s in finished] == list(range(1, len(finished) + 1))
    assert sum(s.steps for s in finished) <= 40


def test_holding_keeps_the_state():
    robot = SimulatedRobot(Simulation(load_task("inverted_pendulum")), seed=3)
    before = robot.state.flat().copy()
    robot.hold()
    np.testing.assert_array_equal(robot.state.flat(), before)


def test_lockstep_moves_once_for_each_state(bench):
    bench.simulator(mode="lockstep")
    player = Player(bench).ready()
    for step in range(1, 4):
        player.until_stamp(step * PERIOD_NS)
        player.answer()
    player.until_stamp(4 * PERIOD_NS)
    player.answer(stamp=3 * PERIOD_NS)  # late, repeated or safe: it answers no present state
    player.answer(stamp=0)
    player.until_repeated()
    assert player.stamp == 4 * PERIOD_NS


def test_lockstep_takes_commands_without_a_label(bench):
    bench.simulator(mode="lockstep")
    player = Player(bench).ready()
    player.send([0.5])
    player.until_stamp(2 * PERIOD_NS)


def test_lockstep_repeats_a_state_that_has_no_answer(bench):
    bench.simulator(mode="lockstep")
    player = Player(bench).ready()
    player.until_repeated()
    first, again = player.states[0], player.states[-1]
    assert first == again


@pytest.mark.parametrize("values", [(), (0.1, 0.2), (float("nan"),), (float("inf"),)])
def test_command_that_does_not_fit_is_not_applied(bench, values):
    bench.simulator(mode="lockstep")
    player = Player(bench).ready()
    player.send(values)
    player.until_repeated()
    assert player.stamp == PERIOD_NS


def test_realtime_keeps_still_until_a_command_comes(bench):
    bench.simulator(mode="realtime", realtime_factor=4.0)
    player = Player(bench).ready()
    bench.until(lambda: len(player.states) > 5, "states")
    assert len({tuple(state.position) for state in player.states}) == 1
    stamps = [stamp_to_ns(state.header.stamp) for state in player.states]
    assert np.diff(stamps).tolist() == [PERIOD_NS] * (len(stamps) - 1)
    player.answer()
    bench.until(lambda: player.states[-1].position != player.states[0].position, "motion")


def test_realtime_keeps_still_at_the_start_of_an_episode(bench):
    """A command for the past episode must not start the next one."""
    node = bench.simulator(mode="realtime", realtime_factor=10.0)
    episodes = bench.listen(String, "/sim_node/episode", LATCHED)
    player = Player(bench).ready()
    player.answer((3.0,))
    bench.until(lambda: episodes, "end of the episode")
    began = node._robot.episode_stamp_ns
    player.answer((3.0,), stamp=began - PERIOD_NS)
    bench.until(lambda: player.stamp > began + 5 * PERIOD_NS, "time to pass")
    still = {tuple(s.position) for s in player.states if stamp_to_ns(s.header.stamp) >= began}
    assert len(still) == 1
    player.answer((3.0,))
    bench.until(lambda: len(episodes) == 2, "end of the second episode")


def test_episodes_are_reported_and_end_the_node(bench):
    bench.simulator(mode="lockstep", episodes=2)
    episodes = bench.listen(String, "/sim_node/episode", profile(depth=10))
    returns = bench.listen(Float64, "/sim_node/episode_return", profile(depth=10))
    player = Player(bench).ready()
    answered = set()

    def play():
        if player.stamp not in answered:
            answered.add(player.stamp)
            player.answer((3.0,))
        return bench.leave.asked

    bench.until(play, "end")
    bench.until(lambda: len(episodes) == 2 and len(returns) == 2, "reports")
    reports = [json.loads(message.data) for message in episodes]
    assert [report["episode"] for report in reports] == [1, 2]
    assert [report["return"] for report in reports] == [message.data for message in returns]
    assert all(report["terminated"] and report["steps"] > 1 for report in reports)
    assert bench.leave.code == 0


def test_clock_and_odometry_carry_the_state_s_stamp(bench):
    bench.simulator(task="ant", mode="lockstep")
    clocks = bench.listen(Clock, "/clock")
    odometry = bench.listen(Odometry, "odom")
    player = Player(bench).ready()
    bench.until(lambda: clocks and odometry, "clock and odometry")
    assert stamp_to_ns(clocks[-1].clock) == player.stamp
    assert odometry[-1].header.stamp == player.states[-1].header.stamp
    assert odometry[-1].child_frame_id == "torso"
    assert list(player.states[-1].name) == list(load_task("ant").robot.joints)


def test_reset_begins_another_episode(bench):
    bench.simulator(mode="lockstep")
    player = Player(bench).ready()
    assert bench.trigger("/sim_node/reset").success
    player.until_stamp(2 * PERIOD_NS)
    assert player.states[-1].position != player.states[0].position


def test_pause_and_step(bench):
    bench.simulator(mode="lockstep")
    player = Player(bench).ready()
    assert not bench.trigger("/sim_node/step").success
    assert bench.call(SetBool, "/sim_node/pause", SetBool.Request(data=True)).success
    assert "no command" in bench.trigger("/sim_node/step").message
    player.answer()
    player.until_repeated()
    assert player.stamp == PERIOD_NS
    assert bench.trigger("/sim_node/step").success
    player.until_stamp(2 * PERIOD_NS)
    player.answer()
    assert bench.call(SetBool, "/sim_node/pause", SetBool.Request(data=False)).success
    player.until_stamp(3 * PERIOD_NS)


def test_realtime_pause_stops_time(bench):
    bench.simulator(mode="realtime", realtime_factor=10.0)
    player = Player(bench).ready()
    player.answer()
    bench.call(SetBool, "/sim_node/pause", SetBool.Request(data=True))
    player.until_repeated()
    stamp = player.stamp
    player.until_repeated()
    assert player.stamp == stamp
    assert bench.trigger("/sim_node/step").success
    bench.until(lambda: player.stamp == stamp + PERIOD_NS, "step")


def test_unknown_task_is_refused(bench):
    with pytest.raises(ConfigError, match="unknown task 'unicycle'"):
        bench.simulator(task="unicycle")


def test_the_robot_is_made_heavier_and_light_again_while_it_runs(bench):
    node = bench.simulator(mode="lockstep", mass_factor=2.0)
    player = Player(bench).ready()
    own = Simulation(load_task("inverted_pendulum")).model.body_mass
    np.testing.assert_array_equal(node._simulation.model.body_mass, 2.0 * own)
    before = player.states[-1].position
    for factor in (3.0, 1.0):
        assert bench.set_parameter(node, "mass_factor", factor).successful
        np.testing.assert_array_equal(node._simulation.model.body_mass, factor * own)
    refused = bench.set_parameter(node, "friction_factor", -1.0)
    assert not refused.successful
    assert "Min: 0" in refused.reason
    player.until_repeated()
    assert player.states[-1].position == before
