"""An episode through the two nodes is the episode of the same policy in the task's environment."""

from dataclasses import dataclass

import numpy as np
import pytest
import servo_robot
import yaml
from nav_msgs.msg import Odometry
from sensor_msgs.msg import Imu, JointState
from std_msgs.msg import Float64

from maac_learning.export import export_untrained_bundle
from maac_ros.binding import Binding
from maac_ros.nodes import messages
from maac_ros.nodes.common import profile
from maac_ros.nodes.inbox import Inbox
from maac_ros.nodes.messages import stamp_to_ns
from maac_ros.simulation import TaskEnv
from maac_ros.task import load_task

SEED = 11
STEPS = 200
EPISODES = 2
ALL = profile(depth=10_000)


@dataclass
class Play:
    """Actions (T, A) and the observations (T, O) they answer, over all episodes; and each return."""

    observations: np.ndarray
    actions: np.ndarray
    returns: list


def play_in_process(bundle, task):
    """The policy in the environment, without any of the runtime."""
    env = TaskEnv(task)
    low, high = env.action_space.low, env.action_space.high
    observations, actions, returns = [], [], []
    observation, _ = env.reset(seed=SEED)
    for _ in range(EPISODES):
        total, over = 0.0, False
        while not over:
            action, _ = bundle.policy(observation=observation.astype(np.float32)[None])
            command = np.clip(action[0].astype(np.float64), low, high)
            observations.append(observation)
            actions.append(command)
            observation, reward, terminated, truncated, _ = env.step(command)
            total += reward
            over = terminated or truncated
        returns.append(total)
        observation, _ = env.reset()
    return Play(np.array(observations), np.array(actions), returns)


def replay_in_process(actions, task):
    """The environment under given actions."""
    env = TaskEnv(task)
    observations, returns = [], []
    observation, _ = env.reset(seed=SEED)
    total = 0.0
    for action in actions:
        observations.append(observation)
        observation, reward, terminated, truncated, _ = env.step(action)
        total += reward
        if terminated or truncated:
            returns.append(total)
            total = 0.0
            observation, _ = env.reset()
    return Play(np.array(observations), actions, returns)


def play_through_nodes(bench, bundle, path, task):
    """The same over DDS, in lockstep; observations are read back from the topics."""
    states = bench.listen(JointState, "joint_states", ALL)
    odometry = bench.listen(Odometry, "odom", ALL)
    inertial = bench.listen(Imu, "imu", ALL)
    returns = bench.listen(Float64, "/sim_node/episode_return", ALL)
    commands = bench.commands()
    node = bench.policy(
        bundle=str(bundle.path),
        task=str(path),
        trigger="observation",
        goals="drawn",
        tick_limit_ms=60_000.0,  # a busy machine must not have a tick overruled
        reliable_sensors=True,
        use_sim_time=True,
    )
    assert node.autostart()
    bench.simulator(task=str(path), mode="lockstep", seed=SEED, episodes=EPISODES)
    bench.until(lambda: bench.leave.asked, "end of the last episode")
    bench.until(lambda: len(returns) == EPISODES, "returns")

    answers = {}
    for message in commands:
        command, stamp = messages.read_command(message, len(task.action_entries()))
        # A state that comes again gets the same answer again.
        np.testing.assert_array_equal(command, answers.setdefault(stamp, command))
    stamps = sorted(stamp for stamp in answers if stamp)
    readings = {
        source: {stamp_to_ns(m.header.stamp): read(m) for m in heard}
        for source, heard in {"joint_states": states, "odom": odometry, "imu": inertial}.items()
        for read in [messages.state_reader(source, Binding(task))]
    }
    observations = []
    for stamp in stamps:
        inbox = Inbox(task, wake_on_match=True)
        for source in inbox.sources:
            inbox.put(source, stamp, readings[source][stamp])
        observations.append(inbox.newest().observation)
    return Play(
        np.array(observations),
        np.array([answers[stamp] for stamp in stamps]),
        [message.data for message in returns],
    )


@pytest.mark.parametrize(
    "name", ["inverted_pendulum", "hopper", "half_cheetah", "walker2d", "two_joint_arm"]
)
def test_actions_and_return_are_bit_for_bit_the_same(bench, short_task, untrained_bundle, name):
    bundle, path = untrained_bundle(name), short_task(name, STEPS)
    task = load_task(path)
    expected = play_in_process(bundle, task)
    got = play_through_nodes(bench, bundle, path, task)
    assert len(got.actions) > 5
    np.testing.assert_array_equal(got.observations, expected.observations)
    np.testing.assert_array_equal(got.actions, expected.actions)
    assert got.returns == expected.returns


def test_targets_of_position_and_velocity_are_the_same_too(bench, tmp_path, untrained_bundle):
    path, bundle = servo_robot.write(tmp_path), untrained_bundle("servo_robot")
    task = load_task(path)
    expected = play_in_process(bundle, task)
    got = play_through_nodes(bench, bundle, path, task)
    assert len(got.actions) == EPISODES * 40
    np.testing.assert_array_equal(got.actions, expected.actions)
    assert got.returns == expected.returns


def test_goals_that_the_simulator_draws_reach_the_policy_with_their_states(
    bench, short_task, untrained_bundle
):
    bundle, path = untrained_bundle("reaching_arm"), short_task("reaching_arm", 40)
    task = load_task(path)
    expected = play_in_process(bundle, task)
    asked = bench.listen(JointState, "goal", ALL)
    got = play_through_nodes(bench, bundle, path, task)
    assert len(got.actions) == EPISODES * 40
    np.testing.assert_array_equal(got.actions, expected.actions)
    assert got.returns == expected.returns
    # Another one in each episode.
    goals = {tuple(message.position) for message in asked}
    assert goals == {tuple(o[-2:]) for o in expected.observations}
    assert len(goals) == EPISODES


@pytest.mark.parametrize("source", ["odom", "imu"])
def test_floating_base_agrees_along_the_same_trajectory(bench, short_task, source):
    """The base passes through odometry's frames, so that the last bits of its velocity may differ.

    An episode begins with a quaternion that is not of norm 1, and messages tell the rotation that it stands for.
    """
    path = short_task("ant", STEPS)
    data = yaml.safe_load(path.read_text(encoding="utf-8"))
    for term in data["observation"]:
        if term["term"] in {"base_orientation", "base_angular_velocity"}:
            term["source"] = source
    path.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
    task = load_task(path)
    assert task.sources() == {"joint_states", "odom", source}
    bundle = export_untrained_bundle(task, path.parent / "bundle")
    got = play_through_nodes(bench, bundle, path, task)
    assert len(got.actions) > 50
    expected = replay_in_process(got.actions, task)
    names = [entry.name for entry in task.observation_entries()]
    turned = [names.index(f"base/orientation_{part}") for part in "wxyz"]
    norms = np.linalg.norm(expected.observations[:, turned], axis=1, keepdims=True)
    assert not np.allclose(norms, 1.0, rtol=0, atol=1e-3)
    expected.observations[:, turned] /= norms
    np.testing.assert_allclose(got.observations, expected.observations, rtol=0, atol=1e-6)
    assert got.returns == expected.returns
    answers = np.concatenate(
        [bundle.policy(observation=o.astype(np.float32)[None])[0] for o in got.observations]
    )
    np.testing.assert_array_equal(got.actions, np.clip(answers.astype(np.float64), -1, 1))
