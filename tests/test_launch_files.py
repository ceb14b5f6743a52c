"""The launch files, where ``launch`` and ``launch_ros`` are installed; without them test_graph.py has to do."""

import importlib.util
import os

import pytest

REASON = "launch_ros comes with a ROS 2 distribution, not from a package index"
pytest.importorskip("launch_ros", reason=REASON)

from launch import LaunchContext  # noqa: E402
from launch.actions import DeclareLaunchArgument, OpaqueFunction  # noqa: E402
from launch_ros.utilities import evaluate_parameters  # noqa: E402

from maac_ros.graph import GRAPHS, ROBOT  # noqa: E402
from maac_ros.resources import share_directory  # noqa: E402


def description(name):
    path = share_directory() / "launch" / f"{name}.launch.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.generate_launch_description()


def nodes(name, **given):
    context = LaunchContext()
    context.launch_configurations.update(given)
    found = []
    for entity in description(name).entities:
        if isinstance(entity, DeclareLaunchArgument):
            entity.execute(context)
        elif isinstance(entity, OpaqueFunction):
            found.extend(entity.execute(context))
    return context, found


@pytest.mark.parametrize("name", GRAPHS)
def test_arguments_are_those_of_the_graph(name):
    declared = description(name).get_launch_arguments()
    assert [a.name for a in declared] == [a.name for a in GRAPHS[name].arguments]
    for argument, expected in zip(declared, GRAPHS[name].arguments, strict=True):
        assert argument.description.startswith(expected.description)  # launch adds the choices
        assert (argument.default_value is None) == expected.required


def test_simulator_and_policy_get_their_parameters():
    context, found = nodes("sim_deploy", bundle="007", seed="4", use_mpc="true")
    assert [node.node_executable for node in found] == ["sim_node", "policy_node"]
    (parameters,) = evaluate_parameters(context, found[1]._Node__parameters)
    assert parameters["bundle"] == "007"  # not the number 7
    assert parameters["seed"] == 4
    assert parameters["use_mpc"] is True
    assert parameters["max_observation_age_ms"] == 0.0


def test_camera_is_there_where_pictures_are_wanted():
    _, found = nodes("sim_deploy", bundle="b", camera_hz="20")
    assert [node.node_executable for node in found][2:] == ["camera_node"]


def test_robot_runs_the_policy_alone():
    _, found = nodes("robot", bundle="b", namespace="left")
    assert [node.node_executable for node in found] == [n.executable for n in ROBOT.nodes]


def test_a_file_of_parameters_comes_last(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("/**:\n  ros__parameters: {use_mpc: true}\n", encoding="utf-8")
    context, (node,) = nodes("robot", bundle="b", params_file=str(file), log_level="debug")
    first, last = evaluate_parameters(context, node._Node__parameters)
    assert first["use_mpc"] is False
    assert str(last) == str(file)


def test_wrong_value_is_refused():
    with pytest.raises(Exception, match="mode"):
        nodes("sim_deploy", bundle="b", mode="slow")


def test_environment_is_untouched():
    before = dict(os.environ)
    nodes("sim_train")
    assert dict(os.environ) == before
