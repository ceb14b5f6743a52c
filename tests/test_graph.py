"""The node graphs: every argument reaches a node, and a wrong one is named."""

import importlib
import subprocess
import sys

import pytest

from maac_ros import up
from maac_ros.errors import ConfigError
from maac_ros.graph import GRAPHS, ROBOT, SIM_DEPLOY, SIM_TRAIN, Ref, resolve

BUNDLE = {"bundle": "runs/b"}


@pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS)
def test_every_argument_is_described_and_used(graph):
    used = set()
    for node in graph.nodes:
        values = [
            *node.parameters.values(),
            *node.remappings.values(),
            node.namespace,
            node.enclaves,
            node.params_file,
            node.log_level,
        ]
        used |= {value.name for value in values if isinstance(value, Ref)}
    assert used == {argument.name for argument in graph.arguments}
    assert all(argument.description for argument in graph.arguments)


@pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS)
def test_every_parameter_is_one_of_the_node_s(graph):
    pytest.importorskip("rclpy", reason="ROS 2 is not installed")
    for node in resolve(graph, BUNDLE if graph is not SIM_TRAIN else {}):
        module = importlib.import_module(f"maac_ros.nodes.{node.executable}")
        specs = module.SPECS if hasattr(module, "SPECS") else {s.name: s for s in module.PARAMETERS}
        for name, value in node.parameters.items():
            if name != "use_sim_time":
                assert type(value) is type(specs[name].default), name


def test_defaults_and_given_values():
    sim, policy = resolve(SIM_DEPLOY, {**BUNDLE, "use_mpc": "True", "episodes": "3"})
    assert (sim.executable, policy.executable) == ("sim_node", "policy_node")
    assert sim.parameters == {
        "task": "inverted_pendulum",
        "seed": 0,
        "mode": "realtime",
        "realtime_factor": 1.0,
        "episodes": 3,
        "mass_factor": 1.0,
        "friction_factor": 1.0,
        "gain_factor": 1.0,
        "delay_steps": 0,
        "joint_position_noise": 0.0,
        "joint_velocity_noise": 0.0,
        "robot": "",
        "goals": "drawn",
    }
    assert policy.parameters["use_mpc"] is True
    assert policy.parameters["bundle"] == "runs/b"
    assert sim.ends_graph
    assert not policy.ends_graph


def test_robot_topics_are_remapped():
    (policy,) = resolve(ROBOT, {**BUNDLE, "command_topic": "/arm/commands", "namespace": "left"})
    assert policy.remappings["policy_controller/commands"] == "/arm/commands"
    assert policy.namespace == "left"


@pytest.mark.parametrize(
    ("graph", "given", "reason"),
    [
        (
            SIM_DEPLOY,
            {"bundel": "x"},
            "unknown argument 'bundel' .value 'x'.; expected one of: task",
        ),
        (ROBOT, {}, "bundle: required"),
        (SIM_DEPLOY, {**BUNDLE, "use_mpc": "1"}, "use_mpc: got '1'; expected true or false"),
        (SIM_DEPLOY, {**BUNDLE, "seed": "1.5"}, "seed: got '1.5'; expected a whole number"),
        (SIM_DEPLOY, {**BUNDLE, "realtime_factor": "fast"}, "realtime_factor: got 'fast'"),
        (SIM_DEPLOY, {**BUNDLE, "realtime_factor": "nan"}, "expected a finite number"),
        (SIM_DEPLOY, {**BUNDLE, "mode": "slow"}, "mode: got 'slow'; expected one of: realtime, lo"),
        (ROBOT, {**BUNDLE, "log_level": "all"}, "log_level: got 'all'; expected one of: debug, in"),
        (ROBOT, {**BUNDLE, "params_file": "/no.yaml"}, "params_file: got '/no.yaml'; expected a Y"),
    ],
)
def test_wrong_argument_is_named(graph, given, reason):
    with pytest.raises(ConfigError, match=reason):
        resolve(graph, given)


def test_string_that_looks_like_a_number_stays_a_string():
    (trainer,) = resolve(SIM_TRAIN, {"run_dir": "007", "task": "1e3"})
    assert trainer.parameters["run_dir"] == "007"
    assert trainer.parameters["task"] == "1e3"


def test_up_shows_arguments_without_starting_anything(capsys):
    assert up.main(["sim_deploy", "--show-args"]) == 0
    shown = capsys.readouterr().out
    for argument in SIM_DEPLOY.arguments:
        assert argument.name in shown
        assert argument.description in shown


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["sim_deploy", "bundle=x"], "got 'bundle=x'; expected key:=value"),
        (["sim_deploy", "bundle:=x", "bundle:=y"], "bundle: given twice, 'x' and 'y'"),
        (["sim_deploy", "bundle:=x", "seed:=a"], "seed: got 'a'"),
    ],
)
def test_up_names_what_is_wrong(words, reason, capsys):
    assert up.main(words) == 2
    assert reason in capsys.readouterr().err


def test_process_that_does_not_listen_is_killed(monkeypatch, capsys):
    monkeypatch.setattr(up, "PATIENCE_SECONDS", 0.3)
    deaf = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); "
        "signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); sys.stdin.read()"
    )
    popen = subprocess.Popen(
        [sys.executable, "-c", deaf],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert popen.stdout.readline() == "deaf\n"
    output = up.threading.Thread(target=up._relay, args=("deaf", popen))
    output.start()
    process = up._Process("deaf", popen, output, ends_graph=False)
    up._stop([process])
    assert popen.returncode == -9
    assert up._first_failure([process]) == 137
    assert "deaf still running: SIGTERM" in capsys.readouterr().err
    popen.stdin.close()


def test_enclaves_are_named_as_their_nodes():
    assert {node.enclave for node in resolve(SIM_DEPLOY, BUNDLE)} == {""}
    nodes = resolve(SIM_DEPLOY, {**BUNDLE, "enclaves": "/maac/"})
    assert [node.enclave for node in nodes] == ["/maac/sim_node", "/maac/policy_node"]
