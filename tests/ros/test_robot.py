"""The nodes on a robot's own topics, names and units, the simulator in its place."""

import dataclasses

import numpy as np
import pytest
import quadruped
import servo_robot
import yaml
from sensor_msgs.msg import Imu, JointState
from std_msgs.msg import Float64, Float64MultiArray
from trajectory_msgs.msg import JointTrajectory

from maac_learning.export import export_untrained_bundle
from maac_ros.evaluation import evaluate
from maac_ros.graph import SIM_DEPLOY, resolve
from maac_ros.nodes.common import LATCHED, profile
from maac_ros.task import load_task

SEED = 4
ALL = profile(depth=10_000)


def play(bench, bundle, path, robot):
    """The return of one episode through both nodes, in lockstep."""
    returns = bench.listen(Float64, "/sim_node/episode_return", ALL)
    node = bench.policy(
        bundle=str(bundle.path),
        robot=robot,
        trigger="observation",
        goals="drawn",
        tick_limit_ms=60_000.0,  # a busy machine must not have a tick overruled
        reliable_sensors=True,
        use_sim_time=True,
    )
    assert node.autostart()
    bench.simulator(task=str(path), robot=robot, mode="lockstep", seed=SEED, episodes=1)
    bench.until(lambda: returns, "return")
    return returns[0].data


def bound(tmp_path, **fields):
    """Path of a binding of the servo robot."""
    path = tmp_path / "robot.yaml"
    data = {"schema_version": 1, "name": "servos", "description": "Known to this test.", **fields}
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    return str(path)


def test_episode_on_the_robots_topics_is_the_simulators(bench, short_task, untrained_bundle):
    path = short_task("reaching_arm", 60)
    bundle = untrained_bundle("reaching_arm")
    bundle = dataclasses.replace(
        bundle, manifest=bundle.manifest.model_copy(update={"task": load_task(path)})
    )
    ((expected, _),) = evaluate(bundle, 1, SEED, use_mpc=False)
    states = bench.listen(JointState, "joint_states", ALL)
    commands = bench.listen(Float64MultiArray, "effort_controller/commands", ALL)
    got = play(bench, bundle, path, "reaching_arm")
    # Newton metres and back: the last bits may differ.
    assert got == pytest.approx(expected.episode_return, rel=1e-9)
    assert states[0].name == ["shoulder_joint", "elbow_joint"]
    largest = np.abs([message.data for message in commands]).max(axis=0)
    assert (largest <= [4.0, 12.0]).all()
    assert (largest > [1.0 / 100, 3.0 / 100]).all()
    assert not bench.probe.count_publishers("policy_controller/commands")


def test_position_targets_go_to_a_trajectory_controller(bench, tmp_path):
    def only_positions(task):
        task["action"] = task["action"][1:]

    mjcf = servo_robot.MJCF.replace('<velocity joint="wheel" kv="0.05"/>', "")
    path = servo_robot.write(tmp_path, only_positions, mjcf)
    bundle = export_untrained_bundle(load_task(path), tmp_path / "bundle")
    robot = bound(
        tmp_path,
        joints={"slide": {"name": "rail", "sign": -1, "offset": 0.25}},
        controller={"interface": "trajectory", "topic": "arm/joint_trajectory"},
    )
    ((expected, _),) = evaluate(bundle, 1, SEED, use_mpc=False)
    trajectories = bench.listen(JointTrajectory, "arm/joint_trajectory", ALL)
    got = play(bench, bundle, path, robot)
    assert got == pytest.approx(expected.episode_return, rel=1e-9)
    assert trajectories[0].joint_names == ["shoulder", "rail"]
    (point,) = trajectories[0].points
    assert point.time_from_start.nanosec == 20_000_000
    assert 0.15 <= point.positions[1] <= 0.25


def test_efforts_and_sensors_come_by_the_names_of_the_robot(bench, tmp_path):
    def feeling(task):
        task["observation"] += [
            {"term": "joint_effort", "joints": ["shoulder", "wheel"]},
            {"term": "sensor", "sensors": ["pull_z", "touch"], "unit": "N"},
        ]

    sensors = """
  <sensor>
    <touch name="touch" site="tip"/>
    <force name="pull" site="tip"/>
  </sensor>
</mujoco>"""
    mjcf = servo_robot.MJCF.replace("</mujoco>", sensors).replace(
        '<geom type="cylinder"', '<site name="tip" size="0.1"/><geom type="cylinder"'
    )
    path = servo_robot.write(tmp_path, feeling, mjcf)
    bundle = export_untrained_bundle(load_task(path), tmp_path / "bundle")
    robot = bound(
        tmp_path,
        joints={"wheel": {"name": "disc", "sign": -1}},
        topics={"sensors": "feelers"},
    )
    ((expected, _),) = evaluate(bundle, 1, SEED, use_mpc=False)
    states = bench.listen(JointState, "joint_states", ALL)
    felt = bench.listen(JointState, "feelers", ALL)
    got = play(bench, bundle, path, robot)
    assert got == pytest.approx(expected.episode_return, rel=1e-9)
    assert states[0].name == ["shoulder", "slide", "disc"]
    assert all(len(message.effort) == 3 for message in states)
    assert len({message.effort[2] for message in states}) > 5
    assert felt[0].name == ["pull_z", "touch"]
    assert len({message.position[0] for message in felt}) > 5


def test_the_quadruped_is_told_positions_in_the_order_of_its_controller(
    bench, short_task, tmp_path, monkeypatch
):
    pytest.importorskip("mujoco_menagerie", reason="mujoco-menagerie is not installed")
    monkeypatch.setenv("MENAGERIE_ROOT", str(quadruped.stand_in(tmp_path / "menagerie")))
    path = short_task("go1", 30)
    bundle = export_untrained_bundle(load_task(path), tmp_path / "bundle")
    ((expected, _),) = evaluate(bundle, 1, SEED, use_mpc=False)
    states = bench.listen(JointState, "joint_states", ALL)
    readings = bench.listen(Imu, "imu_sensor_broadcaster/imu", ALL)
    commands = bench.listen(Float64MultiArray, "forward_position_controller/commands", ALL)
    got = play(bench, bundle, path, "go1")
    assert got == pytest.approx(expected.episode_return, rel=1e-9)
    assert states[0].name == quadruped.JOINTS
    assert readings[0].header.frame_id == "imu_link"
    # Hip, thigh and calf, leg by leg; those of the left first.
    for message in commands:
        hip, thigh, calf = np.reshape(message.data, (4, 3)).T
        assert (abs(hip) <= 0.3).all()
        assert (abs(thigh - 0.9) <= 0.6).all()
        assert (abs(calf + 1.8) <= 0.6).all()
    assert len(commands) >= 30


def test_two_robots_run_beside_each_other(bench, short_task, untrained_bundle):
    """The nodes of sim_deploy, twice, in namespaces of their own."""
    path, bundle = short_task("two_joint_arm", 30), untrained_bundle("two_joint_arm")
    manifest = bundle.manifest.model_copy(update={"task": load_task(path)})
    short = dataclasses.replace(bundle, manifest=manifest)
    seeds = {"left": 3, "right": 8}
    expected, returns, simulators = {}, {}, []
    for name, seed in seeds.items():
        ((episode, _),) = evaluate(short, 1, seed, use_mpc=False)
        expected[name] = episode.episode_return
        returns[name] = bench.listen(Float64, f"/{name}/sim_node/episode_return", LATCHED)
        given = {"task": path, "bundle": bundle.path, "mode": "lockstep", "episodes": 1}
        given |= {"tick_limit_ms": 60_000, "namespace": name, "seed": seed}
        simulator, policy = resolve(SIM_DEPLOY, {key: str(value) for key, value in given.items()})
        simulators.append(simulator)
        assert bench.launch(policy).autostart()
    for simulator in simulators:
        bench.launch(simulator)
    bench.until(lambda: all(returns.values()), "returns")
    assert {name: heard[0].data for name, heard in returns.items()} == expected
    assert expected["left"] != expected["right"]
    assert not bench.probe.count_publishers("/clock")
    assert bench.probe.count_publishers("/left/clock") == 1


def test_robot_that_does_not_go_with_the_task_is_refused(bench, untrained_bundle):
    node = bench.policy(bundle=str(untrained_bundle("hopper").path), robot="reaching_arm")
    statuses = bench.diagnostics()
    assert not node.autostart()
    said = "joints.shoulder: task 'hopper' has no such joint"
    bench.until(lambda: statuses and said in statuses[-1][1], said)
