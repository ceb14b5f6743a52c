"""Nodes as real processes: signals, exit codes, and a whole graph."""

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import yaml
from node_bench import parameters
from rcl_interfaces.srv import GetParameters
from std_msgs.msg import Float64, Float64MultiArray, String

from maac_learning.cli import main
from maac_ros.bundle import load_bundle
from maac_ros.controller import Controller, ControllerSettings
from maac_ros.evaluation import run_episode
from maac_ros.nodes.common import LATCHED, profile
from maac_ros.nodes.telemetry import COLUMNS, MODES
from maac_ros.simulation import TaskEnv
from maac_ros.task import load_task


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_sends_the_safe_command_last_and_exits_with_0(
    bench, joints, start, untrained_bundle, number
):
    commands = bench.commands()
    process = start(
        "maac_ros.nodes.policy_node",
        *parameters(bundle=str(untrained_bundle("inverted_pendulum").path), autostart=True),
    )
    joints.until(lambda: len(commands) > 5 and commands[-1].data[0] != 0.0, "commands")
    os.killpg(process.pid, number)
    output, _ = process.communicate(timeout=10)
    assert process.returncode == 0, output
    seen = -1
    while seen != len(commands):  # what was under way
        seen = len(commands)
        bench.executor.spin_once(timeout_sec=0.1)
    assert list(commands[-1].data) == [0.0]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"bundle": "/nowhere", "autostart": True}, "bundle '/nowhere' is not a folder"),
        ({"bundle": "", "mpc.horizon": 101}, "mpc.horizon"),
        ({"bundle": "", "providers": ["NoSuchProvider"]}, "unknown 'NoSuchProvider'"),
    ],
)
def test_bad_start_ends_with_1_and_a_reason(start, arguments, reason):
    process = start("maac_ros.nodes.policy_node", *parameters(**arguments))
    output, _ = process.communicate(timeout=20)
    assert process.returncode == 1
    assert reason in output
    assert "Traceback" not in output


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--bundle", "hopper"], "arguments: got '--bundle hopper'; expected those of ROS only, after --ros-args"),
        (["--ros-args", "-p", "use_mpc"], "parse parameter override rule: '-p use_mpc'"),
        (["--ros-args", "--params-file", "/nowhere.yaml"], "parse params file: '--params-file /nowhere.yaml'"),
        (["--ros-args", "-x"], "arguments: ROS does not know ['-x']"),
    ],
)  # fmt: skip
def test_arguments_that_nobody_reads_are_refused(start, arguments, reason):
    process = start("maac_ros.nodes.policy_node", *arguments)
    output, _ = process.communicate(timeout=20)
    assert process.returncode == 1
    assert (
        f"error: {reason}" in output
        or f"error: ROS 2 did not start: failed to initialize rcl: Couldn't {reason}" in output
    )
    assert "Traceback" not in output


def test_security_that_cannot_be_had_is_not_done_without(start, monkeypatch, tmp_path):
    """A node whose enclave has no keys must not run unprotected."""
    monkeypatch.setenv("ROS_SECURITY_KEYSTORE", str(tmp_path))
    monkeypatch.setenv("ROS_SECURITY_ENABLE", "true")
    monkeypatch.setenv("ROS_SECURITY_STRATEGY", "Enforce")
    arguments = ["--ros-args", "--enclave", "/maac/policy_node"]
    for reason in (f"'{tmp_path}/enclaves/maac/policy_node' does not exist", "error creating node"):
        process = start("maac_ros.nodes.policy_node", *arguments)
        output, _ = process.communicate(timeout=20)
        assert process.returncode == 1
        assert "error: ROS 2 did not start" in output
        assert reason in output
        assert "Traceback" not in output
        # An enclave without keys: whether or not this ROS 2 has security, there is nothing to join with.
        (tmp_path / "enclaves/maac/policy_node").mkdir(parents=True, exist_ok=True)


def test_simulator_stops_on_a_signal_with_0(bench, start):
    process = start("maac_ros.nodes.sim_node", *parameters(mode="realtime"))
    bench.until(lambda: bench.probe.count_publishers("/joint_states"), "simulator")
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=10)
    assert process.returncode == 0, output


def test_whole_graph_in_lockstep_plays_the_episode_of_the_environment(
    start, short_task, untrained_bundle
):
    bundle, path = untrained_bundle("half_cheetah"), short_task("half_cheetah", 100)
    words = [f"task:={path}", f"bundle:={bundle.path}", "mode:=lockstep", "seed:=5", "episodes:=1"]
    words += ["tick_limit_ms:=60000"]  # a busy machine must not have a tick overruled
    output, _ = start("maac_ros.up", "sim_deploy", *words).communicate(timeout=30)
    settings = ControllerSettings(bundle.task.planner, mpc_budget_s=np.inf)
    expected = run_episode(Controller(bundle, settings), TaskEnv(load_task(path)), seed=5)
    assert f"episode 1: return {expected.episode_return:g} in 100 steps" in output
    assert "[policy_node] " in output


def test_whole_graph_in_real_time_plans_stops_on_a_signal_and_can_be_replayed(
    bench, start, untrained_bundle, tmp_path, capsys
):
    bundle = untrained_bundle("half_cheetah").path
    ticks = bench.listen(Float64MultiArray, "/policy_node/telemetry", profile(depth=1000))
    words = ["task:=half_cheetah", f"bundle:={bundle}", "use_mpc:=true", f"record:={tmp_path}"]
    process = start("maac_ros.up", "sim_deploy", *words)
    bench.until(
        lambda: any(row.data[COLUMNS.index("mode")] == MODES.index("mpc") for row in ticks), "plan"
    )
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=15)
    assert process.returncode == 0, output
    assert "still running" not in output
    (recording,) = tmp_path.iterdir()
    assert (recording / "metadata.yaml").is_file()
    assert main(["replay", str(recording)]) == 0
    assert "every command is repeated" in capsys.readouterr().out


def test_a_file_of_parameters_counts_for_more_than_the_arguments(
    bench, start, untrained_bundle, tmp_path
):
    """As `ros2 param dump` writes it, or for all nodes; and loggers say as much as they are told to."""
    file = tmp_path / "robot.yaml"
    own = {"use_mpc": True, "mpc": {"horizon": 3}}
    file.write_text(
        yaml.safe_dump(
            {
                "/policy_node": {"ros__parameters": own},
                "/**": {"ros__parameters": {"engage_ms": 70.0}},
            }
        ),
        encoding="utf-8",
    )
    words = [f"bundle:={untrained_bundle('inverted_pendulum').path}", f"params_file:={file}"]
    process = start("maac_ros.up", "robot", *words, "engage_ms:=5", "log_level:=warn")
    request = GetParameters.Request(names=["use_mpc", "mpc.horizon", "engage_ms", "recovery_ticks"])
    values = bench.call(GetParameters, "/policy_node/get_parameters", request).values
    assert values[0].bool_value
    assert (values[1].integer_value, values[2].double_value) == (3, 70.0)
    assert values[3].integer_value == 5  # what the file does not name
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=15)
    assert process.returncode == 0, output
    assert "[INFO]" not in output


def test_graph_ends_when_a_node_fails(start, untrained_bundle):
    process = start(
        "maac_ros.up",
        "sim_deploy",
        "task:=hopper",
        f"bundle:={untrained_bundle('inverted_pendulum').path}",
    )
    output, _ = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "does not fit task 'hopper'" in output
    assert "policy_node has ended with code 1; ending the others" in output


def test_a_node_that_ends_without_the_graph_is_told(bench, start, untrained_bundle):
    ticks = bench.listen(Float64MultiArray, "/policy_node/telemetry", profile(depth=1000))
    bundle = untrained_bundle("inverted_pendulum").path
    process = start("maac_ros.up", "sim_deploy", f"bundle:={bundle}")
    bench.until(lambda: ticks, "ticks")
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    (node,) = (c for c in children if b"policy_node" in Path(f"/proc/{c}/cmdline").read_bytes())
    os.kill(int(node), signal.SIGTERM)
    bench.until(lambda: not Path(f"/proc/{node}").exists(), "end of the policy node")
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=15)
    assert process.returncode == 0, output
    assert output.count("policy_node has ended; the others go on without it") == 1


PRESET = """
schema_version: 1
description: As little learning as possible.
settings:
  random_steps: 60
  threads: 1
  planning: {steps: 5}
  model: {members: 2, hidden: [8], first_fit_steps: 5, fit_steps: 2, batch_size: 16, validate_every: 5}
  rollout: {length: 2, batch: 20}
  agent: {hidden: [8], batch_size: 16, critic_warmup: 1, horizon: 1, first_updates: 0}
  evaluation: {every: 50, episodes: 1}
"""


@pytest.fixture
def train(start, tmp_path):
    """``train(env_steps)``: the graph sim_train with hardly any learning, and its run folder."""

    def make(env_steps):
        preset, run = tmp_path / "tiny.yaml", tmp_path / "run"
        preset.write_text(PRESET, encoding="utf-8")
        words = [f"preset:={preset}", f"run_dir:={run}", f"env_steps:={env_steps}", "seed:=3"]
        return start("maac_ros.up", "sim_train", *words), run

    return make


def test_training_reports_progress_and_ends_with_a_bundle(bench, train):
    evaluations = bench.listen(
        Float64, "/trainer_node/progress/evaluation_return", profile(depth=100)
    )
    process, run = train(120)
    output, _ = process.communicate(timeout=100)
    assert process.returncode == 0, output
    bench.until(lambda: evaluations, "evaluation")
    bundle = load_bundle(run / "bundle")
    assert bundle.manifest.provenance.env_steps == 120
    assert bundle.manifest.provenance.seed == 3


def test_training_stopped_by_a_signal_leaves_a_checkpoint(bench, train):
    process, run = train(1_000_000)
    diagnostics = bench.diagnostics()
    bench.until(lambda: any("step" in text for _, text, _ in diagnostics), "progress")
    assert bench.trigger("/trainer_node/export").success
    bench.until((run / "bundle" / "bundle.yaml").is_file, "bundle")
    assert bench.trigger("/trainer_node/checkpoint").success
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=20)
    assert process.returncode == 0, output
    assert list((run / "checkpoints").iterdir())
    assert load_bundle(run / "bundle").manifest.provenance.env_steps < 1_000_000


def test_episode_report_is_there_for_a_late_listener(bench, start, untrained_bundle):
    bundle = untrained_bundle("inverted_pendulum").path
    start("maac_ros.up", "sim_deploy", f"bundle:={bundle}", "mode:=lockstep")
    bench.until(lambda: bench.probe.count_publishers("/sim_node/episode"), "simulator")
    reports = bench.listen(String, "/sim_node/episode", LATCHED)
    bench.until(lambda: reports, "report")
    assert set(json.loads(reports[0].data)) == {"episode", "steps", "return", "terminated"}
